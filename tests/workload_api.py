"""A SPIFFE Workload API of our own for fast tests: on a Unix socket, streaming, and as wrong as a test wants it.

with WorkloadApi(ca, "/gateway", federated=[partner]) as api:      # a thread pool of grpc: for tests with and without asyncio
    WorkloadApiClient(api.address)                                 # "unix:/tmp/…"
    api.rotate()                                                   # new SVIDs; every open stream is told
    ca.prepare_x509(); api.push()                                  # what the authorities know by now goes to every stream

Failures:
    WorkloadApi(..., listening=False), api.stop(), api.start()     the socket is missing, and comes (back)
    api.fail(StatusCode.PERMISSION_DENIED)                         every stream ends and every call is refused, until api.recover()
    api.reset_streams()                                            open streams end once; the next call is served
    api.svids = [other.x509_svid("/gateway")]; api.push()          an SVID of the wrong trust domain; [] is an empty list
    api.svid_ttl_seconds = 5; api.rotate()                         an SVID that lives for five seconds
    api.tamper = lambda answer: ...                                changes every answer of X.509-SVIDs or bundles before it is sent

Who does not send the metadata `workload.spiffe.io: true` is refused with INVALID_ARGUMENT (SPIFFE Workload Endpoint, section 3).
Real agents are in tests/spire.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import jwt
from google.protobuf.message import Message
from spiffe._proto import workload_pb2 as pb
from spiffe._proto import workload_pb2_grpc

from tests.spiffe_ca import IssuedX509Svid, SpiffeCa

THREADS = 32
"""Open streams keep one each."""
NO_IDENTITY = "no identity issued"


class WorkloadApi:
    """One socket that gives the workload who asks the identities `paths` of `ca`, and the bundles of `ca` and `federated`."""

    def __init__(self, ca: SpiffeCa, *paths: str, federated: Sequence[SpiffeCa] = (), listening: bool = True, ttl_seconds: float = 3600):
        self.ca = ca
        self.paths = paths or ("/workload",)
        self.federated = list(federated)
        self.svid_ttl_seconds = ttl_seconds
        self.svids: list[IssuedX509Svid] = self._issue()
        self.tamper: Callable[[Message], object] = lambda _answer: None
        self.calls: Counter[str] = Counter()
        self.open_streams = 0
        self._listening = listening
        self._directory = Path(tempfile.mkdtemp(prefix="wla-"))  # short: a Unix socket's path has 107 characters
        self._changed = threading.Condition()
        self._epoch = 0  # raised by push
        self._resets = 0  # raised by whatever ends open streams
        self._reset_code = grpc.StatusCode.UNAVAILABLE
        self._failure: tuple[grpc.StatusCode, str] | None = None
        self._grpc_server: grpc.Server | None = None
        self._threads: ThreadPoolExecutor | None = None

    @property
    def socket_path(self) -> Path:
        return self._directory / "api.sock"

    @property
    def address(self) -> str:
        """What SPIFFE_ENDPOINT_SOCKET would say."""
        return f"unix:{self.socket_path}"

    def __enter__(self) -> WorkloadApi:
        if self._listening:
            self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self._directory, ignore_errors=True)

    # -- what tests do --

    def start(self) -> None:
        """Listen."""
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="workload-api")
        server = grpc.server(self._threads)
        workload_pb2_grpc.add_SpiffeWorkloadAPIServicer_to_server(_Servicer(self), server)  # type: ignore[no-untyped-call]
        assert server.add_insecure_port(f"unix:{self.socket_path}")
        server.start()
        self._grpc_server = server

    def stop(self) -> None:
        """End every stream, take the socket away, and see every thread end."""
        server, self._grpc_server = self._grpc_server, None
        threads, self._threads = self._threads, None
        if server is not None and threads is not None:
            self.reset_streams()
            server.stop(grace=None).wait()
            threads.shutdown()
        self.socket_path.unlink(missing_ok=True)

    def rotate(self) -> list[IssuedX509Svid]:
        """New SVIDs of the same paths, signed by whatever authority `ca` uses now; every open stream is told."""
        self.svids = self._issue()
        self.push()
        return self.svids

    def push(self) -> None:
        """Every open stream is told what is true now."""
        with self._changed:
            self._epoch += 1
            self._changed.notify_all()

    def fail(self, code: grpc.StatusCode, details: str = NO_IDENTITY) -> None:
        """End every stream and refuse every call with this status."""
        self._failure = (code, details)
        self.reset_streams(code)

    def recover(self) -> None:
        """Serve again."""
        self._failure = None

    def reset_streams(self, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> None:
        """End every open stream once, with this status; with OK it just ends."""
        with self._changed:
            self._resets += 1
            self._reset_code = code
            self._changed.notify_all()

    def wait_for_streams(self, count: int, *, seconds: float = 60.0) -> None:
        """Wait until at least `count` streams are open."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.open_streams >= count, seconds), f"{self.open_streams} streams are open"

    def _issue(self) -> list[IssuedX509Svid]:
        return [self.ca.x509_svid(path, ttl_seconds=self.svid_ttl_seconds) for path in self.paths]

    # -- answers --

    def x509_answer(self) -> pb.X509SVIDResponse:
        """What FetchX509SVID says now."""
        answer = pb.X509SVIDResponse(federated_bundles={ca.id: ca.bundle_der() for ca in self.federated})
        for svid in self.svids:
            answer.svids.add(spiffe_id=svid.spiffe_id, x509_svid=svid.chain_der, x509_svid_key=svid.key_der, bundle=self.ca.bundle_der())
        return answer

    def x509_bundles_answer(self) -> pb.X509BundlesResponse:
        """What FetchX509Bundles says now."""
        return pb.X509BundlesResponse(bundles={ca.id: ca.bundle_der() for ca in (self.ca, *self.federated)})

    def jwt_bundles_answer(self) -> pb.JWTBundlesResponse:
        """What FetchJWTBundles says now."""
        return pb.JWTBundlesResponse(bundles={ca.id: ca.jwt_bundle() for ca in (self.ca, *self.federated)})

    def jwt_svid_answer(self, audience: Sequence[str], spiffe_id: str) -> pb.JWTSVIDResponse:
        """What FetchJWTSVID says: one token for each identity, or for the one that is asked for."""
        paths = [path for path in self.paths if spiffe_id in {"", self.ca.id + path}]
        tokens = {self.ca.id + path: self.ca.jwt_svid(path, audience=list(audience), ttl_seconds=self.svid_ttl_seconds) for path in paths}
        return pb.JWTSVIDResponse(svids=[pb.JWTSVID(spiffe_id=name, svid=token) for name, token in tokens.items()])

    def validated(self, audience: str, token: str) -> pb.ValidateJWTSVIDResponse:
        """What ValidateJWTSVID says. Raises jwt.PyJWTError when the token is not good."""
        keys = [key for ca in (self.ca, *self.federated) for key in json.loads(ca.jwt_bundle())["keys"]]
        key = next((jwt.PyJWK(key) for key in keys if key["kid"] == jwt.get_unverified_header(token).get("kid")), None)
        if key is None:
            raise jwt.InvalidTokenError("key not found")
        claims = jwt.decode(token, key.key, algorithms=["ES256"], audience=audience, options={"require": ["exp", "sub", "aud"]})
        answer = pb.ValidateJWTSVIDResponse(spiffe_id=claims["sub"])
        answer.claims.update(claims)
        return answer


class _Servicer(workload_pb2_grpc.SpiffeWorkloadAPIServicer):
    """The wire side: metadata, scripted failures, streams that wait for the next push."""

    def __init__(self, api: WorkloadApi) -> None:
        self._api = api

    def FetchX509SVID(self, _request: Any, context: grpc.ServicerContext) -> Iterator[Message]:  # noqa: N802
        return self._stream("FetchX509SVID", context, self._api.x509_answer)

    def FetchX509Bundles(self, _request: Any, context: grpc.ServicerContext) -> Iterator[Message]:  # noqa: N802
        return self._stream("FetchX509Bundles", context, self._api.x509_bundles_answer)

    def FetchJWTBundles(self, _request: Any, context: grpc.ServicerContext) -> Iterator[Message]:  # noqa: N802
        return self._stream("FetchJWTBundles", context, self._api.jwt_bundles_answer)

    def FetchJWTSVID(self, request: pb.JWTSVIDRequest, context: grpc.ServicerContext) -> Message:  # noqa: N802
        self._admit("FetchJWTSVID", context)
        if not request.audience:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "audience must be specified")
        answer = self._api.jwt_svid_answer(request.audience, request.spiffe_id)
        if not answer.svids:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, NO_IDENTITY)
        return answer

    def ValidateJWTSVID(self, request: pb.ValidateJWTSVIDRequest, context: grpc.ServicerContext) -> Message:  # noqa: N802
        self._admit("ValidateJWTSVID", context)
        try:
            return self._api.validated(request.audience, request.svid)
        except jwt.PyJWTError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))

    def _admit(self, name: str, context: grpc.ServicerContext) -> None:
        if ("workload.spiffe.io", "true") not in context.invocation_metadata():
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "security header missing from request")
        self._api.calls[name] += 1
        if self._api._failure is not None:
            context.abort(*self._api._failure)

    def _stream(self, name: str, context: grpc.ServicerContext, answer: Callable[[], Message]) -> Iterator[Message]:
        api, changed = self._api, self._api._changed
        self._admit(name, context)
        with changed:
            epoch, resets = api._epoch, api._resets
            api.open_streams += 1
            changed.notify_all()
        if not context.add_callback(self._closed):  # it has ended meanwhile, and nobody would wake us
            self._closed()
            return
        while True:
            message = answer()
            api.tamper(message)
            yield message
            with changed:
                while api._epoch == epoch and api._resets == resets and context.is_active():
                    changed.wait()
                epoch = api._epoch
                if not context.is_active():
                    return
                if api._resets != resets:
                    break
        if api._reset_code is not grpc.StatusCode.OK:
            context.abort(api._reset_code, "scripted")

    def _closed(self) -> None:
        with self._api._changed:
            self._api.open_streams -= 1
            self._api._changed.notify_all()

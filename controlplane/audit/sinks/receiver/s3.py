"""Puts objects into an S3-compatible store: one signed request each, to the bucket's path below the endpoint."""

from __future__ import annotations

from controlplane.audit.aws_signature import S3Access, signed_headers
from controlplane.audit.sinks.receiver.http import ReceiverHttp, check_status
from controlplane.registry.audit_sink_spec import S3Spec


class S3Store:
    """One bucket."""

    def __init__(self, spec: S3Spec, *, secret_access_key: str, http: ReceiverHttp) -> None:
        self._spec = spec
        self._access = S3Access(
            access_key_id=spec.access_key_id, secret_access_key=secret_access_key, region=spec.region, endpoint_url=spec.endpoint
        )
        self._http = http

    async def put(self, name: str, content: bytes, *, content_type: str) -> None:
        """Put (or replace) one object below the prefix. Raises as `check_status`."""
        key = f"{self._spec.prefix}/{name}" if self._spec.prefix else name
        url = self._access.object_url(self._spec.bucket, key)
        headers = signed_headers(self._access, "PUT", url, content, {"content-type": content_type})
        check_status(await self._http.request("PUT", url, body=content, headers=headers), taken=1)

    async def close(self) -> None:
        """Close connections."""
        await self._http.close()

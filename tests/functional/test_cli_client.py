"""The API client against a real HTTP server: answers, problems, lost connections, streams."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from controlplane.client import ApiClient, ApiError, UnreachableError, entry_path, etag_of
from extauthz.errors import ConfigurationError
from tests.functional.scripted_api import ScriptedApi, scripted_api


@pytest.fixture
def api() -> Iterator[ScriptedApi]:
    with scripted_api() as script:
        yield script


def client_of(api: ScriptedApi, token: str = "secret-token") -> ApiClient:
    return ApiClient(api.url, lambda: token)


@contextmanager
def raw_server(*answers: bytes) -> Iterator[str]:
    """A TCP server that reads one request on each connection, sends the written bytes, and hangs up."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        for answer in answers:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    thread.join()
    listener.close()


def test_a_read_carries_the_token_and_the_query(api: ScriptedApi):
    api.answer("GET /v1/nodes", {"revision": 4, "items": []})

    with client_of(api) as client:
        assert client.get("/v1/nodes", {"limit": 3, "follow": True, "empty": "", "text": "a b&c"}) == {"revision": 4, "items": []}

    assert api.seen[0]["headers"]["Authorization"] == "Bearer secret-token"
    assert api.seen[0]["query"] == "limit=3&follow=true&text=a+b%26c"


def test_reads_share_a_connection_and_writes_get_their_own(api: ScriptedApi):
    api.answer("GET /v1/nodes", {})
    api.answer("POST /v1/apply", {})

    with client_of(api) as client:
        client.get("/v1/nodes")
        client.get("/v1/nodes")
        client.post("/v1/apply", b"kind: X", content_type="application/yaml")

    first, second, third = (request["client"] for request in api.seen)
    assert first == second != third
    assert api.seen[2]["headers"]["Content-Type"] == "application/yaml"
    assert api.seen[2]["body"] == "kind: X"


def test_writes_say_what_they_expect(api: ScriptedApi):
    api.answer("PUT /v1/x", {"metadata": {"resourceRevision": 7}})
    api.answer("DELETE /v1/x", {"revision": 8})

    with client_of(api) as client:
        created = client.put("/v1/x", {"a": 1})
        client.put("/v1/x", {"a": 2}, if_match=etag_of(created))
        assert client.delete("/v1/x", if_match='"7"') == {"revision": 8}

    assert api.seen[0]["headers"]["If-None-Match"] == "*"
    assert api.seen[1]["headers"]["If-Match"] == '"7"'
    assert json.loads(api.seen[1]["body"]) == {"a": 2}
    assert api.seen[2]["headers"]["If-Match"] == '"7"'


def test_a_problem_becomes_an_error_with_its_fields(api: ScriptedApi):
    api.problem(
        "POST /v1/apply",
        status=422,
        code="invalid_document",
        detail="one fault",
        errors=[{"document": 0, "path": "spec", "message": "is missing"}],
    )

    with client_of(api) as client, pytest.raises(ApiError, match="one fault") as caught:
        client.post("/v1/apply", b"")

    error = caught.value
    assert (error.status, error.code, error.errors[0]["path"]) == (422, "invalid_document", "spec")


def test_an_answer_that_is_no_problem_document_is_still_an_error(api: ScriptedApi):
    api.answer("GET /v1/nodes", b"upstream connect error", status=503, content_type="text/plain")
    api.answer("GET /v1/list", b"[1", status=500)
    api.answer("GET /v1/redirect", b"", status=302)

    with client_of(api) as client:
        for path, status in (("/v1/nodes", 503), ("/v1/list", 500), ("/v1/redirect", 302)):
            with pytest.raises(ApiError) as caught:
                client.get(path)
            assert (caught.value.status, caught.value.code) == (status, "")


def test_something_else_than_a_gateway_is_said(api: ScriptedApi):
    api.answer("GET /v1/nodes", b"<html>", content_type="text/html")

    with client_of(api) as client, pytest.raises(UnreachableError, match="is this a Legation gateway"):
        client.get("/v1/nodes")


def test_nobody_listening_and_hanging_up_are_unreachable():
    with pytest.raises(UnreachableError, match=r"nothing listens at http://127\.0\.0\.1:9"):
        ApiClient("http://127.0.0.1:9", lambda: "t").get("/v1/nodes")
    with raw_server(b"") as url, pytest.raises(UnreachableError, match="cannot talk to"):
        ApiClient(url, lambda: "t").get("/v1/nodes")


def test_a_slow_answer_ends_in_time():
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"

    with listener, ApiClient(url, lambda: "t") as client, pytest.raises(UnreachableError, match="did not answer in time"):
        client.get("/v1/nodes", timeout_seconds=0.1)


def test_a_kept_connection_that_died_is_replaced_for_a_read():
    answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"

    with raw_server(answer, answer) as url, ApiClient(url, lambda: "t") as client:
        assert client.get("/v1/nodes") == {}
        assert client.get("/v1/nodes") == {}


@pytest.mark.parametrize("token", ["", "two\nlines", "with space", "x\r\nHost: evil"])
def test_a_token_that_is_none_is_refused_without_being_shown(api: ScriptedApi, token: str):
    with client_of(api, token) as client, pytest.raises(ConfigurationError) as caught:
        client.get("/v1/nodes")

    assert "evil" not in str(caught.value)
    assert not api.seen


@pytest.mark.parametrize("url", ["ftp://x", "127.0.0.1:8080", "http://", "http://u:p@x", "http://x:99999", "http://x?y"])
def test_an_url_that_is_no_gateway_is_refused(url: str):
    with pytest.raises(ConfigurationError):
        ApiClient(url, lambda: "t")


def test_paths_of_entries():
    assert entry_path("namespaces", "", "demo") == "/v1/namespaces/demo"
    assert entry_path("mcp-servers", "") == "/v1/mcp-servers"
    assert entry_path("mcp-servers", "demo") == "/v1/namespaces/demo/mcp-servers"
    assert entry_path("mcp-servers", "demo", "../x", "tools") == "/v1/namespaces/demo/mcp-servers/..%2Fx/tools"

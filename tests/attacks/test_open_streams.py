"""Attack group D77: who opened a stream with a token that was good goes on reading it when the token is no longer.

How streams of revoked callers (78) end, and how both look over HTTP/2 and in the modern era: tests/e2e/test_open_streams.py.
"""

from __future__ import annotations

import time

import pytest

from tests.attacks.test_sessions import Caller
from tests.attacks.wire import request_bytes
from tests.attacks.world import World

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="package"), pytest.mark.timeout(300)]

TOKEN_SECONDS = 5
USUAL_BOUND_SECONDS = 300
"""`LEGATION_MAX_STREAM_SECONDS`, which this deployment has by default: longer than this test would wait for the end of a stream."""


async def test_d77_a_stream_ends_when_the_access_token_does_that_opened_it(world: World) -> None:
    if "sdk" not in world.upstreams:
        pytest.skip(world.missing["sdk"])
    session_id = await Caller(world=world).opened()
    lasting = Caller(world=world, claims={"seconds": TOKEN_SECONDS})
    headers = [pair for pair in lasting.headers(session_id) if pair[0] != "content-type"]
    expires_at = int(time.time()) + TOKEN_SECONDS - 1  # signed in this second or the one before
    get = request_bytes("GET", world.path("sdk"), headers)

    async with world.connection() as connection:
        await connection.send(get)
        received = await connection.closed(seconds=USUAL_BOUND_SECONDS / 3)

    assert received.startswith(b"HTTP/1.1 200"), received
    assert time.time() >= expires_at
    assert not received.endswith(b"0\r\n\r\n"), "it looks as if the server had ended it"
    before = await world.mark()
    again = await world.send(get)
    await world.refused(before, again, status=401, reason="access_token_expired", code=40100)

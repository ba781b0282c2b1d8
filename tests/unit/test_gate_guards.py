"""Each guard of the gate by itself: the case that passes through exactly one of them. `make mutate-gate` takes them away."""

from __future__ import annotations

import pytest

from extauthz.errors import MessageError
from extauthz.mcp.document import MAX_DEPTH, MAX_NODES, parse_document


def refusal(body: bytes) -> str:
    """The sentence of the refusal."""
    with pytest.raises(MessageError) as refused:
        parse_document(body)
    return refused.value.sentence


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "the body is not one JSON document"),
        (b"\xef\xbb\xbf{}", "the body starts with a byte order mark"),
        (b'"\xff"', "the body is not UTF-8"),
        (b'"\\ud800"', "the body is not one JSON document"),
        (b'"\\udc00\\ud800"', "the body is not one JSON document"),
        (b'{"a":1,"a":2}', "an object holds the same key twice"),
        (b'[{"a":{"b":1,"\\u0062":2}}]', "an object holds the same key twice"),
        (b'{"__proto__":1}', "a key is __proto__, which JavaScript does not take for a key"),
        (b'[{"\\u005f_proto__":1}]', "a key is __proto__, which JavaScript does not take for a key"),
        (b"1" * 41, "a number has more than 40 digits"),
        (b"-" + b"1" * 41, "a number has more than 40 digits"),
        (b"9" * 5000, "a number has more than 40 digits"),
        (b"[1e309]", "a number is too large for any receiver to agree on"),
        (b"[-1E+400]", "a number is too large for any receiver to agree on"),
        (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "the body is nested deeper than 64 levels"),
        (b'{"a":' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1), "the body is nested deeper than 64 levels"),
        (b"[" * 3000, "the body is nested deeper than 64 levels"),
        (b"[" + b"1," * MAX_NODES + b"1]", "the body holds more than 20000 values"),
        (b"[" + b"{}," * MAX_NODES + b"1]", "the body holds more than 20000 values"),
        (b"[NaN]", "the body is not one JSON document"),
        (b"[-Infinity]", "the body is not one JSON document"),
        (b"{} {}", "the body is not one JSON document"),
    ],
)
def test_a_document_that_parsers_read_differently_is_refused_for_what_it_is(body: bytes, sentence: str) -> None:
    assert refusal(body) == sentence


@pytest.mark.parametrize(
    "body",
    [
        b"9" * 40, b"-" + b"9" * 40, b"[1e308]", b"[1e+0300]", b"[1e-400]", b"[" * MAX_DEPTH + b"]" * MAX_DEPTH,
        b"[" + b"1," * (MAX_NODES - 2) + b"1]", b'["__proto__","\\u005f_proto__"]', b'{"proto":1}',
    ],
)  # fmt: skip
def test_what_is_just_within_the_limits_is_read(body: bytes) -> None:
    parse_document(body)

"""SPIFFE IDs: one canonical form, everything else is refused (SPIFFE-ID section 2)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extauthz.identity.spiffe_id import SpiffeId, claims_spiffe, parse_spiffe_id

IDS = [
    "spiffe://prod.example/agents/buyer",
    "spiffe://prod.example/a",
    "spiffe://prod_1.example-2/A.b_c-9/...",
    "spiffe://10.0.0.1/x",
    f"spiffe://{'a' * 255}/x",
    f"spiffe://a/{'x' * (2048 - 11)}",
]
NO_IDS = [
    "",
    "spiffe",
    "spiffe:prod.example/a",
    "spiffe:/prod.example/a",
    "spiffe://",
    "spiffe:///a",
    "SPIFFE://prod.example/a",
    "Spiffe://prod.example/a",
    " spiffe://prod.example/a",
    "spiffe://prod.example/a ",
    "spiffe://prod.example/a\n",
    "https://prod.example/a",
    "spiffe://PROD.example/a",
    "spiffe://prod.Example/a",
    "spiffe://prod.example:443/a",
    "spiffe://user@prod.example/a",
    "spiffe://user:pw@prod.example/a",
    "spiffe://prod,example/a",
    "spiffe://pröd.example/a",
    "spiffe://prod%2eexample/a",
    "spiffe://[::1]/a",
    "spiffe://prod.example",
    "spiffe://prod.example/",
    "spiffe://prod.example//a",
    "spiffe://prod.example/a/",
    "spiffe://prod.example/a//b",
    "spiffe://prod.example/./a",
    "spiffe://prod.example/a/..",
    "spiffe://prod.example/../a",
    "spiffe://prod.example/a?b",
    "spiffe://prod.example/a#b",
    "spiffe://prod.example?/a",
    "spiffe://prod.example/a%62",
    "spiffe://prod.example/a;b",
    "spiffe://prod.example/a*",
    "spiffe://prod.example/a\x00/b",
    "spiffe://prod.example/ä",
    "spiffe://prod.example/\u0661",
    "spiffe://prod.example\\a",
    f"spiffe://{'a' * 256}/x",
    f"spiffe://a/{'x' * 2048}",
]


@pytest.mark.parametrize("text", IDS)
def test_a_spiffe_id_is_read_as_it_is_written(text: str) -> None:
    assert parse_spiffe_id(text) == SpiffeId(text, text.removeprefix("spiffe://").partition("/")[0])


@pytest.mark.parametrize("text", NO_IDS)
def test_what_is_not_in_the_one_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"SPIFFE ID|trust domain"):
        parse_spiffe_id(text)


def test_a_trust_domain_alone_is_told_to_have_no_path() -> None:
    with pytest.raises(ValueError, match="has a path"):
        parse_spiffe_id("spiffe://prod.example")


@given(st.text(alphabet="spife:/.aA-_%?#@*\x00 \n", max_size=40))
def test_what_is_read_is_made_of_parts_that_give_the_same_text(text: str) -> None:
    try:
        found = parse_spiffe_id("spiffe://" + text)
    except ValueError:
        return
    name, _, path = text.partition("/")
    assert (found.text, found.trust_domain) == (f"spiffe://{name}/{path}", name)
    assert name == name.lower()
    assert not set(path) & set("%?#@*\x00 \n:")


@pytest.mark.parametrize("uri", ["spiffe://a/b", "SPIFFE://A/b", " spiffe://a/b", "spiffe:b", "sPiFfE:"])
def test_whatever_begins_like_a_spiffe_id_claims_to_be_one(uri: str) -> None:
    assert claims_spiffe(uri)


@pytest.mark.parametrize("uri", ["", "https://a/spiffe://b", "spiff://a/b", "urn:spiffe:a", "spiffe//a"])
def test_other_uris_claim_nothing(uri: str) -> None:
    assert not claims_spiffe(uri)

"""Forms of SPIFFE IDs: which ones a pattern fits, and which patterns there are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extauthz.identity.spiffe_pattern import parse_spiffe_pattern

TD = "spiffe://prod.example"

FITS = [
    (f"{TD}/agents/buyer", f"{TD}/agents/buyer"),
    (f"{TD}/agents/*", f"{TD}/agents/buyer"),
    (f"{TD}/*/buyer", f"{TD}/agents/buyer"),
    (f"{TD}/**", f"{TD}/agents"),
    (f"{TD}/**", f"{TD}/agents/buyer/1"),
    (f"{TD}/agents/**", f"{TD}/agents/buyer"),
    (f"{TD}/*/buyer/**", f"{TD}/agents/buyer/1"),
    (f"{TD}/ns/*/sa/*", f"{TD}/ns/finance/sa/reports"),
]
FITS_NOT = [
    (f"{TD}/agents/buyer", f"{TD}/agents/buyer2"),
    (f"{TD}/agents/buyer", f"{TD}/agents/Buyer"),
    (f"{TD}/agents/buyer", f"{TD}/agents"),
    (f"{TD}/agents/*", f"{TD}/agents"),
    (f"{TD}/agents/*", f"{TD}/agents/buyer/1"),
    (f"{TD}/agents/*", f"{TD}/agents-evil/buyer"),
    (f"{TD}/agents/**", f"{TD}/agents"),
    (f"{TD}/agents/**", f"{TD}/agentsx/buyer"),
    (f"{TD}/**", TD),
    (f"{TD}/**", f"{TD}.evil.example/agents"),
    (f"{TD}/**", "spiffe://other.example/agents"),
    (f"{TD}/**", "spiffe://PROD.example/agents"),
    (f"{TD}/**", "https://prod.example/agents"),
    (f"{TD}/**", "prod.example/agents"),
]
NOT_PATTERNS = [
    "",
    "agents/*",
    "SPIFFE://prod.example/agents",
    "spiffe://",
    "spiffe:///agents",
    TD,
    f"{TD}/",
    f"{TD}/agents/",
    f"{TD}//agents",
    f"{TD}/agents/../admin",
    f"{TD}/./agents",
    f"{TD}/agents*",
    f"{TD}/***",
    f"{TD}/**/agents",
    f"{TD}/a%62c",
    f"{TD}/agents?x",
    f"{TD}/agents#x",
    f"{TD}/agents\n",
    f"{TD}/agénts",
    f"{TD}:443/agents",
    "spiffe://user@prod.example/agents",
    "spiffe://*/agents",
    "spiffe://*.example/agents",
    "spiffe://PROD.example/agents",
    f"{TD}/{'a' * 2048}",
]


@pytest.mark.parametrize(("pattern", "spiffe_id"), FITS)
def test_a_pattern_fits_ids_of_its_form(pattern: str, spiffe_id: str) -> None:
    assert parse_spiffe_pattern(pattern).matches(spiffe_id)


@pytest.mark.parametrize(("pattern", "spiffe_id"), FITS_NOT)
def test_a_pattern_fits_no_other_id(pattern: str, spiffe_id: str) -> None:
    assert not parse_spiffe_pattern(pattern).matches(spiffe_id)


@pytest.mark.parametrize("text", NOT_PATTERNS)
def test_what_is_no_pattern_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"must|needs|segments|can only"):
        parse_spiffe_pattern(text)


@pytest.mark.parametrize(
    ("text", "told"), [(TD, "a trust domain alone is no workload"), (f"{TD}/**/a", "can only be the last"), (f"{TD}//a", "none is empty")]
)
def test_a_refusal_says_what_to_do(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        parse_spiffe_pattern(text)


def test_only_a_pattern_without_wildcards_is_exact() -> None:
    assert [parse_spiffe_pattern(f"{TD}/{path}").exact for path in ("a/b", "a/*", "*/b", "a/**")] == [True, False, False, False]


_SEGMENTS = st.lists(st.from_regex(r"[a-c]{1,2}", fullmatch=True), min_size=1, max_size=4)


@given(_SEGMENTS, _SEGMENTS)
def test_a_pattern_without_wildcards_fits_itself_alone(pattern: list[str], path: list[str]) -> None:
    assert parse_spiffe_pattern(f"{TD}/{'/'.join(pattern)}").matches(f"{TD}/{'/'.join(path)}") == (pattern == path)


@given(_SEGMENTS, st.integers(0, 3))
def test_each_star_stands_for_one_segment_and_the_last_two_for_the_rest(path: list[str], at: int) -> None:
    starred = ["*" if index == at else segment for index, segment in enumerate(path)]
    assert parse_spiffe_pattern(f"{TD}/{'/'.join(starred)}").matches(f"{TD}/{'/'.join(path)}")
    assert parse_spiffe_pattern(f"{TD}/{'/'.join([*path[:at], '**'])}").matches(f"{TD}/{'/'.join(path)}") == (at < len(path))

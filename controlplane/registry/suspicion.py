"""Whether a text of a definition tries to steer a model or to hide something. Pure.

Heuristics, and told as such: what they find is held for a person, and what they miss is still not served while the accepted text is.
"""

from __future__ import annotations

import re
import unicodedata

_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_JOINERS = frozenset("\u200c\u200d")
_SELECTORS = frozenset("\ufe0e\ufe0f")
_IGNORED = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u3164\uffa0") | frozenset(
    map(chr, (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)))
)
"""Letters and marks by Unicode's word, and invisible."""
_UNSEEN = frozenset({"Cc", "Cf", "Cn", "Co", "Cs"})
_ALPHABETS = frozenset({"ARMENIAN", "CHEROKEE", "CYRILLIC", "GREEK", "LATIN"})
_LATIN_WORD = re.compile(r"[a-z']+")
_ENCODED = re.compile(r"[A-Za-z0-9+/]{120,}")
_WORD = re.compile(r"[^\W\d_]{3,}")


def suspicions(text: str) -> list[str]:
    """Why somebody should look at this text before a model does."""
    cues = _cues_of(text)
    found = [
        *_hidden(text),
        *(sentence for needed, pattern, sentence in _SUSPICIOUS if not needed.isdisjoint(cues) and pattern.search(text)),
    ]
    if _ENCODED.search(text):
        found.append("a long text that cannot be read as it stands")
    if not text.isascii() and any(_mixes_alphabets(word) for word in _WORD.findall(text)):
        found.append("a word mixes letters of several alphabets")
    return list(dict.fromkeys(found))


def _cues_of(text: str) -> set[str]:
    """Words and signs of a text: cheap to have, and most texts have none that matter."""
    lowered = text.lower()
    return {*_LATIN_WORD.findall(lowered), *(sign for sign in _SIGNS if sign in lowered)}


def _hidden(text: str) -> list[str]:
    if text.isascii() and text.isprintable():
        return []
    found: list[str] = []
    for number, character in enumerate(text):
        if character in "\n\r\t" or (character.isascii() and character.isprintable()):
            continue
        before, after = text[max(0, number - 1) : number], text[number + 1 : number + 2]
        if 0xE0000 <= ord(character) <= 0xE007F:
            found.append("tag characters, which nobody sees and models read")
        elif character in _BIDI:
            found.append("characters that change the direction of writing")
        elif (character in _JOINERS and _joins(before, after)) or (character in _SELECTORS and _selects(before)):
            continue
        elif character in _IGNORED or unicodedata.category(character) in _UNSEEN:
            found.append("characters that nobody sees")
    return list(dict.fromkeys(found))


def _joins(before: str, after: str) -> bool:
    """A joiner within an emoji, or within a word of a script that needs it."""
    if not before or not after:
        return False
    if unicodedata.category(after) == "So":
        return unicodedata.category(before) in {"So", "Sk"} or before in _SELECTORS
    return all(unicodedata.category(one)[0] in "LM" and ord(one) > 0x0590 for one in (before, after))


def _selects(before: str) -> bool:
    """A variation selector behind what has an emoji's form and a text's."""
    return bool(before) and unicodedata.category(before) in {"So", "Sm", "Po", "Nd", "Pd"}


def _mixes_alphabets(word: str) -> bool:
    if word.isascii():
        return False
    return len({unicodedata.name(letter, "").split(" ", 1)[0] for letter in word} & _ALPHABETS) > 1


def _words(*words: str) -> str:
    return rf"\b(?:{'|'.join(words)})\b"


def _near(*parts: str, within: int = 40) -> str:
    return f".{{0,{within}}}".join(parts)


_FETCHED = r"!\[[^\]]{0,200}\]\(|<(?:img|script|iframe|svg|object|embed|style|link|meta)\b|data:text/html|javascript:"
_COMMENT = r"<!--|-->|<!\[CDATA|\[//\]:|\[comment\]:|<\?xml|/\*.{0,200}?\*/"
_TAG = r"</?(?:important|system|instructions?|secret|hidden|assistant|user|prompt|rules?|thinking|admin)\b[^>]{0,80}>"
_DISREGARD = _words("ignore", "disregard", "forget", "override", "bypass")
_TOLD = _words("instructions?", "rules?", "prompts?", "guidelines?", "polic(?:y|ies)", "previous", "prior", "above", "earlier")
_NOT = _words("do not", "don't", "never", "without", "must not")
_TELL = _words("(?:tell|mention|inform|reveal|show|ask|notify|confirm)(?:ing)?", "disclos(?:e|ing)", "confirmation")
_PEOPLE = _words("users?", "humans?", "person", "people", "anyone", "anybody", "operators?")
_MODEL = r"\bsystem prompt\b|\byou are an? (?:ai|assistant|language model)\b|\bas an ai\b|\bllm\b|\blanguage model\b"
_AROUND = _words("before", "after", "prior to", "whenever", "(?:every|each) time")
_CALL = _words("us(?:e|ing)", "call(?:ing)?", "invok(?:e|ing)", "run(?:ning)?")
_MUST = rf"{_words('you', 'assistant', 'agent', 'model')}\s+{_words('must', 'should', 'shall', 'have to', 'need to', 'are required to')}"
_ALWAYS = rf"{_words('always', 'first', 'must')}\s+{_words('call', 'use', 'run', 'invoke', 'read', 'include', 'send', 'pass')}"
_INSTEAD = r"\binstead of (?:calling|using)\b"
_PLACES = r"(?:~|\$home|/home/\w+|/root|c:\\users)[/\\]|/etc/(?:passwd|shadow)|\.(?:ssh|env|aws|netrc|kube)\b"
_KEYS = r"\bid_(?:rsa|ed25519)\b|\bmcp\.json\b"
_GIVE = _words("send", "forward", "post", "upload", "copy", "bcc", r"exfiltrat\w+", "leak", "transmit", "append", "include", "pass")
_SECRETS = _words(
    "passwords?",
    "secrets?",
    "credentials?",
    "api[ _-]?keys?",
    "private keys?",
    "access tokens?",
    "conversation",
    "chat history",
    "context window",
    "environment variables",
)

_ASKED_FOR = (
    "password passwords secret secrets credential credentials key keys apikey apikeys token tokens conversation history window variables"
)

_SUSPICIOUS = tuple(
    (frozenset(cues.split()), re.compile(pattern, re.IGNORECASE | re.DOTALL), sentence)
    for cues, pattern, sentence in (
        ("< > [ /*", _COMMENT, "a comment of a markup language, which readers do not see"),
        ("<", _TAG, "a tag that addresses a model"),
        ("< ![ data: javascript:", _FETCHED, "something that is fetched or run where it is shown"),
        ("ignore disregard forget override bypass", _near(_DISREGARD, _TOLD), "it tells a model to disregard what it was told"),
        ("not don't never without", _near(_NOT, _TELL, _PEOPLE), "it tells a model to keep something from people"),
        ("system assistant language llm ai", _MODEL, "it addresses a model"),
        (
            "tool tools function functions",
            _near(_AROUND, _CALL, _words("tools?", "functions?")),
            "it tells a model what to do around other calls",
        ),
        ("you assistant agent model always first must instead", f"{_MUST}|{_ALWAYS}|{_INSTEAD}", "it gives orders to a model"),
        ("/ . id_ \\", f"{_PLACES}|{_KEYS}", "it names files that hold secrets"),
        (
            _ASKED_FOR,
            _near(_GIVE, _SECRETS, within=60),
            "it asks for secrets, or for the conversation",
        ),
    )
)
"""What must be in a text for a pattern to be looked for at all (a word of it, or the sign), the pattern, and what it means."""
_SIGNS = tuple(
    cue
    for cue in dict.fromkeys(cue for cues, _, _ in _SUSPICIOUS for cue in sorted(cues))
    if not cue.replace("'", "").replace("_", "").isalpha()
)

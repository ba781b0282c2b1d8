"""Whether somebody asks to be told something, or wants something done: by the form of the sentences, in four languages.

    "who is on call?"  "show me the log"  "status of build 7"  "I want to know why"     to be told
    "cancel it"  "could you cancel it?"  "the invoice has to go out"                    done, as far as anybody can tell

A polite question ("could you ...?") is what stands behind it. Vocabulary is not looked at here; concepts are for that.
"""

from __future__ import annotations

import re

_BEFORE = (
    r"(?:(?:please|pls|hi|hello|hey|ok|okay|so|and|but|then|now|morning|quick one|dear \w+|bitte|alors|et|y|und|por favor)[,:!]?\s+){0,4}"
)
_ASKING = (
    r"who|whose|whom|what|whats|which|how|where|when|why|is|are|am|does|did|was|were|has|had|any|anything|anybody|anyone|"
    r"wer|welche\w*|wie\w*|wo|woher|wann|warum|hat|ist|sind|gibt|quel\w*|combien|qui|que|quoi|o\u00f9|pourquoi|est-ce|"
    r"cu[a\u00e1]\w+|qu[e\u00e9]|qui[e\u00e9]n\w*|d[o\u00f3]nde|hay"
)
_TELLING = (
    r"show|tell|find|list|look|see|search|check|read|explain|compare|give|pull up|bring up|dig|remind|describe|walk me|say|query|know|"
    r"get (?:me|us) (?:the|all|a list)|fetch|retrieve|lookup|display|summari[sz]e|identify|zeig\w*|sag\w*|such\w*|finde?|montre\w*|"
    r"donne\w*|cherch\w*|trouv\w*|dis|muestra\w*|busca\w*|dime|encuentra\w*|dame"
)
_MAY_YOU = r"(?:can|could|would|will|may|might) (?:you|we|i|somebody|someone|anyone)(?: please| kindly| just| quickly)?\s+"
_MAY_YOU_ELSEWHERE = r"(?:kannst du|k\u00f6nnen sie|k\u00f6nnten sie|peux-tu|pouvez-vous|puedes|podr\u00edas)(?: bitte| mir)?\s+"
_WISH = r"i (?:want|need|would like|wanted) to |i'd like to |let me |let's |we need to "
_THINGS = (
    r"all|every|each|status|state|inventory|overview|latest|newest|recent|current|remaining|open|unresolved|unread|number of|count of|"
    r"details|history|summary|report|everything|everyone|everybody|statistics|figures"
)

_SENTENCES = re.compile(r"(?<=[.!?;:])\s+|\s[\u2013-]\s|\n")
_IS_ASKED = re.compile(rf"\s*{_BEFORE}(?:{_ASKING})\b", re.IGNORECASE)
_IS_TO_BE_TOLD = re.compile(rf"\s*{_BEFORE}(?:{_MAY_YOU}|{_MAY_YOU_ELSEWHERE}|{_WISH})?(?:{_TELLING})\b", re.IGNORECASE)
_IS_POLITE = re.compile(
    rf"\s*{_BEFORE}(?:can|could|would|will|may|might|shall|kannst|k\u00f6nn\w*|peux|pouvez|pourr\w+|puedes|podr\w+)\b", re.IGNORECASE
)
_IS_CURIOUS = re.compile(
    r"\b(?:wants?|needs?|like|love|curious|trying|try|have|has) to (?:know|see|find out|understand|check|look)\b|\bwonder|\bfind out\b|"
    r"\b(?:tell|show) me\b|\blook (?:it |him |her |them )?up\b|\b(?:any|no) idea\b|\bremind me (?:what|who|how)\b",
    re.IGNORECASE,
)
_IS_POLITE_IN_THE_END = re.compile(r",\s*(?:and |but )?(?:could|can|would|will) (?:you|we|somebody)\b", re.IGNORECASE)
_IS_A_THING = re.compile(rf"\s*{_BEFORE}(?:{_THINGS})\b", re.IGNORECASE)
_HAS_THE_WORD_OF_A_LIST = re.compile(
    r"\b(?:lookup|look-up|overview|inventory|mentioning|containing|summary|options|audit)\b|\b(?:assignee|status)=", re.IGNORECASE
)


def wants_to_know(text: str) -> bool | None:
    """True: to be told something. False: to have something done. None: some of both."""
    told = done = 0.0
    for sentence in filter(str.strip, _SENTENCES.split(text.strip())):
        polite = _IS_POLITE.match(sentence) is not None
        if _IS_TO_BE_TOLD.match(sentence) or (_IS_ASKED.match(sentence) and not polite):
            told += 1
        elif sentence.rstrip().endswith("?"):
            told, done = (told, done + 1) if polite else (told + 1, done)
        elif _IS_CURIOUS.search(sentence):
            told += 0.5
        elif _IS_POLITE_IN_THE_END.search(sentence):
            done += 1
    if not told and not done:
        return _IS_A_THING.match(text) is not None or _HAS_THE_WORD_OF_A_LIST.search(text) is not None
    if told > done:
        return True
    return None if told else False

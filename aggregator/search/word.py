"""Words of a definition or a query, in the one form in which they are compared.

Names fall apart at `_ - . /` and where their case changes, accents are taken off, and a light English stemmer takes off the commonest
endings. Other languages keep their endings: concepts (`aggregator.search.concept`) know their words by their beginnings.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

MAX_WORD = 64
"""Longer words are cut: nobody means them, and their cost is bounded."""

_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z]{2})")
_WORD = re.compile(r"[^\W_]+")
_EMAIL = re.compile(r"\be-mail", re.IGNORECASE)
_APOSTROPHE = re.compile(r"(?<=\w)['\u2019](?:s|re|ve|ll|d|m|t)?\b", re.IGNORECASE)

SHAPES = (
    ("<address>", re.compile(r"[^\s@]+@[\w-]+(\.[\w-]+)+")),
    ("<channel>", re.compile(r"(?<![\w&])#(?!\d+\b)\w+")),
    ("<number>", re.compile(r"(?<![\w&])[#!]\d+\b")),
    ("<incident>", re.compile(r"\bINC-?\d+\b")),
    ("<invoice>", re.compile(r"\b(?:INV|RE|RG|RN|FA|FAC|BILL)-?\s?\d{2,}\b")),
    ("<key>", re.compile(r"\b(?!(?:INC|INV|RE|RG|RN|FA|FAC|BILL)-)[A-Z][A-Z0-9]{1,9}-\d+\b")),
    ("<percent>", re.compile(r"\d\s?(?:%|percent\b|per cent\b|pour cent\b|prozent\b|por ciento\b)", re.IGNORECASE)),
    ("<url>", re.compile(r"\bhttps?://")),
    ("<money>", re.compile(r"[$\u20ac\u00a3]\s?\d|\d\s?(?:[$\u20ac\u00a3]|(?:euros?|dollars?|pounds?|usd|eur|gbp|chf)\b)", re.IGNORECASE)),
    ("<file>", re.compile(r"\b[\w-]+\.(?:docx?|xlsx?|pptx?|pdf|csv|txt|md|odt|ods|png|jpe?g|zip)\b", re.IGNORECASE)),
    (
        "<source>",
        re.compile(r"\b(?:[\w-]+\.(?:json|ya?ml|toml|py|jsx?|tsx?|go|rs|java|cfg|ini|lock|sh|sql|tf|rb|cs)|Dockerfile|Makefile|README)\b"),
    ),
    ("<time>", re.compile(r"\b\d{1,2}(?::\d\d|[.:]?\d{0,2}\s?(?:am|pm|uhr|o.clock)\b)|\b\d{1,2}\s?h\d{0,2}\b", re.IGNORECASE)),
    ("<slash>", re.compile(r"(?<![\w/:.-])[A-Za-z][\w-]+/[\w-][\w./-]*")),
    ("<path>", re.compile(r"\b[\w-]+/[\w./-]*\.\w{1,5}\b")),
    ("<env>", re.compile(r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b")),
    ("<identifier>", re.compile(r"(?<![\w.@/-])[a-z][a-z0-9]*(?:_[a-z0-9]+)+(?![\w@-])")),
    ("<coupon>", re.compile(r"\b[A-Z]{4,16}\d{2}\b")),
    ("<binary>", re.compile(r"\.(?:apk|ipa|msi|exe|dmg|deb|rpm|jar|war|whl|tgz|iso|bin)\b")),
    ("<yaml>", re.compile(r"\.ya?ml\b")),
    (
        "<host>",
        re.compile(
            r"(?<![@\w.-])(?:\*\.)?(?:[a-z0-9-]+\.)+"
            r"(?:com|net|org|io|dev|app|de|fr|es|eu|uk|co|ch|at|it|nl|example|internal|test)\b(?!@)"
        ),
    ),
    ("<ip>", re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}\b")),
    ("<s3>", re.compile(r"\b(?:s3|gs|az)://")),
    ("<instance>", re.compile(r"\bi-[0-9a-f]{3,}\b|\bvm-[\w-]+")),
    ("<volume>", re.compile(r"\bvol-\w+")),
    ("<version>", re.compile(r"\bv\d+(?:\.\d+)+\b|(?<![\w.,])\d+\.\d+\.\d+(?![\w.])")),
    ("<hex>", re.compile(r"\b(?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{7,32}\b")),
    (
        "<group>",
        re.compile(
            r"(?<![\w-])(?:(?:grp|sg|gg|role)-[\w-]+|[a-z]+(?:-[a-z]+)*-(?:admins?|users|editors|readers|team|members|owners|all)\b)"
        ),
    ),
    ("<login>", re.compile(r"(?<![\w.@])(?:[a-z]{1,2}\.[a-z]{3,}|[a-z]{3,}\.[a-z])(?![\w.@(])")),
    ("<mailname>", re.compile(r"(?<![\w.-])[\w.-]+@(?=[\s,.;]|$)")),
    ("<flagname>", re.compile("[\"'\u201c\u2018][a-z][a-z0-9]*(?:-[a-z0-9]+)+[\"'\u201d\u2019]")),
    ("<route>", re.compile(r"\bfrom [A-Z][\w-]+(?: [A-Z]\w+)? to [A-Z]\w+|\b[A-Z]\w+ to [A-Z]\w+ (?:on|and|by|return)\b")),
    ("<airports>", re.compile(r"\b[A-Z]{3}(?:\s?[-/\u2013]\s?|\sto\s)[A-Z]{3}\b|\b[A-Z]{3} [A-Z]{3}(?= \d)")),
)
"""What a query shows without saying its kind: `#general` is a channel, `PAY-12` the key of an issue. Concepts may name these."""

_CLAUSE = re.compile(r"(?<=[.!?;:,])\s+|\s[\u2013-]\s|\s(?=(?:and|then|but|und|et|y) )")

_VALUES = frozenset({"<address>", "<channel>", "<number>", "<incident>", "<key>", "<url>", "<file>", "<source>", "<path>"})

STOPWORDS = frozenset(
    _WORD.findall(
        # English; then German, French, Spanish: what stands in nearly every sentence
        "a about all also am an and any anybody anyone anything are as at away be because been before being between both but by can "
        "could did do does doing done down each either else ever every everybody everyone everything exactly few for from further get "
        "gets getting give go goes going got had has have having he her here hers him his how i if in into is it its just keep least "
        "less let like ll lot make many may me might mine more most much must my myself need needs neither no nobody none nor not "
        "nothing now of off on once one only or other others our ours out over own per please put quite rather re really same shall "
        "she should since so some somebody someone something soon still such take tell than thanks that the their theirs them then "
        "there these they thing things this those though through to together too under until up upon us use using ve very via want "
        "wants was way we well were what when where whether which while who whole whom whose why will with within without would yes "
        "yet you your yours aber als am an auf aus bei bin bis bitte da das dass dem den der des die ein eine einem einen einer eines "
        "er es fur hab habe haben hat ich ihm ihn ihr im ist ja kann kein keine mein meine meinem meinen meiner mich mir mit muss nach "
        "nicht noch nur ob oder schon sein seine sich sie sind so soll um und uns unser unsere vom von vor war was wer wie wir wird wo "
        "zu zum zur au aux avec ce ces cet cette dans de des du elle en est et il ils je la le les leur lui ma mes moi mon ne nos "
        "notre nous on ou par pas pour qu que quel quelle quels qui sa se ses son sont sur ta te toi tu un une vos votre vous al algo "
        "como con cual cuando del donde ella el ellos esta este esto hay la las lo los mas me mi mis muy no nos nuestra nuestro para "
        "pero por que quien se ser si sin sobre son su sus te tiene todo una uno unos y ya yo"
    )
)
"""Words that say nothing of what is looked for. Concepts may have them in their phrases."""


def split(text: str) -> list[str]:
    """The words of a text in their order, lower case, without accents, neither stemmed nor thinned out."""
    plain = _APOSTROPHE.sub(" ", _EMAIL.sub("email", _without_accents(text)))
    found: list[str] = []
    for word in _WORD.findall(plain):
        if word.islower() and len(word) <= MAX_WORD:
            found.append(word)
            continue
        parts = _CAMEL.split(word[: 2 * MAX_WORD])
        found.extend(part.casefold()[:MAX_WORD] for part in parts)
        if len(parts) > 1:
            found.append("".join(parts).casefold()[:MAX_WORD])
    return found


def clauses(text: str) -> list[str]:
    """A text in its clauses, as far as signs and the commonest conjunctions tell; together they have the words of the text."""
    return _CLAUSE.split(text)


def shapes(text: str) -> list[str]:
    """Marks of the `SHAPES` that stand in a text."""
    return [mark for mark, pattern in SHAPES if pattern.search(text)]


def without_values(text: str) -> str:
    """A text without what stands for one thing only: the words in an address or a path say nothing of a tool."""
    for mark, pattern in SHAPES:
        if mark in _VALUES:
            text = pattern.sub(" ", text)
    return text


def _without_accents(text: str) -> str:
    if text.isascii():
        return text
    decomposed = unicodedata.normalize("NFKD", text.replace("\u00df", "ss"))
    return "".join(character for character in decomposed if not unicodedata.combining(character))


@lru_cache(maxsize=16_384)
def stem(word: str) -> str:
    """A word without the commonest English endings: plural, -ed, -ing, -er of verbs and -ly are as the word itself."""
    if len(word) <= 3 or not word.isascii():
        return word
    word = _singular(word)
    for ending in ("ing", "ed"):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and re.search(r"[aeiouy]", word[: -len(ending)]):
            word = _undouble(word[: -len(ending)])
            break
    if word.endswith("ly") and len(word) > 5:
        word = word[:-2]
    if word.endswith("e") and len(word) > 3:
        word = word[:-1]
    if word.endswith("y") and len(word) > 3:
        word = word[:-1] + "i"
    return word


def _singular(word: str) -> str:
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("sses", "shes", "ches", "xes", "zes")):
        return word[:-2]
    if word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


def _undouble(word: str) -> str:
    if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "lsz":
        return word[:-1]
    return word

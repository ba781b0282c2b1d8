"""What of a call's arguments stands on its record: as much as the AuditPolicy says, and no more.

    arguments ──▶ `kept_content(arguments, treatment)` ──▶ digest and JSON for auditors
              └─▶ `replayed_arguments(arguments, declared, treatment)` ──▶ what policies may read, for `what-if`

In the JSON a member whose name begins with `$` is a mark of ours, and a name of the caller's that begins with `$` has one more of them:

    {"$redacted": "string", "length": 11}     a value of which only type and size are kept
    {"$hashed": "sha256:…"}                   SHA-256 of the value as JSON with sorted keys and no white space
    {"$secret": "string"}                     what looks like a credential, whatever the policy says
    {"$cut": "Dear Ann, ", "length": 70000}   a text that is too long, and how it begins
    "$cut": 12                                so many members (of an object) or elements (the last of a list, as an object) are left out
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from extauthz.catalog.audit_policy import Keep, PathStep, Treatment, advanced
from extauthz.catalog.server import ArgumentType
from extauthz.policy.arguments import MAX_READABLE_CHARACTERS

MAX_KEPT_CHARACTERS = 64 * 1024
"""Of the arguments of one call, about; what is beyond is cut."""
MAX_TEXT_CHARACTERS = 8 * 1024
CUT_TEXT_CHARACTERS = 1024
MAX_NAME_CHARACTERS = 200
MAX_REPLAYED_CHARACTERS = 32 * 1024
MAX_WITHHELD = 100
EVERYTHING_ELSE = "*"
"""In `withheld`: there are more arguments than can be named."""

_SORTED_JSON = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)
_CREDENTIAL = re.compile(
    r"eyJ[\w-]{8,}\.[\w-]{8,}[\w.-]*"  # a JSON web token
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----"
    r"|\b(?:Bearer|Basic|DPoP) +[\w+/=.~-]{12,}"
    r"|\b(?:gh[pousr]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|xox[abeprs]-[\w-]{10,}|sk-[\w-]{20,}|AKIA[0-9A-Z]{16}|AIza[\w-]{30,})",
    re.ASCII,
)
_CREDENTIAL_NAMES = frozenset(
    ("password", "passwd", "passphrase", "pwd", "secret", "clientsecret", "privatekey", "apikey", "accesskey", "secretkey")
    + ("token", "accesstoken", "refreshtoken", "idtoken", "authtoken", "bearertoken", "authorization", "cookie", "setcookie", "credentials")
)
_TYPES: Mapping[type, str] = {
    bool: "boolean",
    int: "number",
    float: "number",
    str: "string",
    type(None): "null",
    dict: "object",
    list: "array",
}
_ABSENT = object()

Rules = Sequence[tuple[Sequence[PathStep], Keep]]
Reached = tuple[frozenset[int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptContent:
    """What stands on the record: `json` and `digest` are empty where there is nothing to say; `kept` is a `Keep`, `,cut` behind it."""

    json: str = ""
    digest: str = ""
    kept: str = ""


def kept_content(content: Mapping[str, object], treatment: Treatment) -> KeptContent:
    """Arguments (or a result), treated. No credential that looks like one stands in it; whole digests may be of some."""
    if not treatment.rules and treatment.keep is Keep.HASHED:  # what there is without an AuditPolicy
        return KeptContent(digest=digest_of(content), kept=treatment.keep.value)
    walk = _Walk(treatment.rules)
    keep = walk.keep_of(walk.start) or treatment.keep
    if not walk.leads_below(walk.start) and keep in (Keep.OFF, Keep.HASHED):
        return KeptContent(digest=digest_of(content) if keep is Keep.HASHED else "", kept=keep.value)
    document = walk.treated(content, keep, walk.start)
    text = "" if document is _ABSENT or document == {} else _SORTED_JSON.encode(document)
    return KeptContent(
        json=text, digest=_digest_of_kept(content, keep, treatment.rules), kept=keep.value + (",cut" if walk.was_cut else "")
    )


def digest_of(value: object) -> str:
    """SHA-256 of a value as JSON with sorted keys and no white space: equal values, equal digest."""
    return "sha256:" + hashlib.sha256(_SORTED_JSON.encode(value).encode("utf-8")).hexdigest()


def replayed_arguments(
    arguments: Mapping[str, object], declared: Mapping[str, ArgumentType], treatment: Treatment
) -> tuple[str, tuple[str, ...]]:
    """What decides again as the arguments did, as JSON, and the names of those that would, but are not kept.

    A declared argument stands there unless the AuditPolicy redacts it, leaves it out, or treats it by a rule of its own in any other way
    than `full`. Of others policies see the names only. A value that no policy can read is replaced by another such value, an empty object.
    """
    kept: dict[str, object] = {}
    withheld: list[str] = []
    walk = _Walk(treatment.rules) if treatment.rules else None
    whole = (walk.keep_of(walk.start) if walk is not None else None) or treatment.keep
    left = MAX_REPLAYED_CHARACTERS
    for name, value in arguments.items():
        left -= len(name) + (len(value) if isinstance(value, str) else 16)
        if left < 0:
            withheld.append(EVERYTHING_ELSE)
            break
        if name not in declared or value is None:
            kept[name] = None if value is None else True
        elif _is_withheld(name, value, walk, whole):
            withheld.append(name)
        else:
            kept[name] = _readable(value)
    text = _SORTED_JSON.encode(kept) if kept else ""
    if len(withheld) > MAX_WITHHELD:
        withheld = [*withheld[: MAX_WITHHELD - 1], EVERYTHING_ELSE]
    return text, tuple(withheld)


def _is_withheld(name: str, value: object, walk: _Walk | None, whole: Keep) -> bool:
    keep: Keep = Keep.FULL if whole is Keep.HASHED else whole
    if walk is not None:
        reached = walk.step(walk.start, name)
        keep = walk.keep_of(reached) or keep
        if walk.leads_below(reached):
            return True
    if keep is not Keep.FULL or _is_credential_name(name):
        return True
    if isinstance(value, str):
        return _CREDENTIAL.search(value) is not None
    return isinstance(value, list) and any(isinstance(text, str) and _CREDENTIAL.search(text) for text in value)


def _readable(value: object) -> object:
    """The value if a policy could read it; else what no policy can read either."""
    if isinstance(value, str):
        return value if len(value) <= MAX_READABLE_CHARACTERS else {}
    if isinstance(value, list):
        texts = [item for item in value if isinstance(item, str)]
        return value if len(texts) == len(value) and sum(map(len, texts)) + len(texts) <= MAX_READABLE_CHARACTERS else {}
    return value if isinstance(value, bool | int | float) else {}


def _digest_of_kept(content: Mapping[str, object], keep: Keep, rules: Rules) -> str:
    """The digest of what is left when what is `off` is left out and what is `redacted` is replaced."""
    if all(one in (Keep.FULL, Keep.HASHED) for one in (keep, *(of_rule for _, of_rule in rules))):
        return digest_of(content)
    if keep is Keep.REDACTED and not rules:
        return ""
    walk = _Walk(rules, for_digest=True)
    document = walk.treated(content, keep, walk.start)
    return "" if document is _ABSENT or document == {} else digest_of(document)


class _Walk:
    """One walk through a document, by the rules. `for_digest`: values that are kept or hashed stay as they are."""

    def __init__(self, rules: Rules, *, for_digest: bool = False) -> None:
        self._rules = rules
        self._for_digest = for_digest
        self._left = MAX_KEPT_CHARACTERS
        self.start: Reached = tuple(frozenset((0,)) for _ in rules)
        self.was_cut = False

    def step(self, reached: Reached, key: str | int) -> Reached:
        """How far each rule's path is made at the member or element `key`."""
        return tuple(advanced(path, at, key) for (path, _), at in zip(self._rules, reached, strict=True))

    def keep_of(self, reached: Reached) -> Keep | None:
        """What the first rule that means this very place says."""
        return next((keep for (path, keep), at in zip(self._rules, reached, strict=True) if len(path) in at), None)

    def leads_below(self, reached: Reached) -> bool:
        """Whether a rule may mean a place inside of this one."""
        return any(made < len(path) for (path, _), at in zip(self._rules, reached, strict=True) for made in at)

    def treated(self, value: object, keep: Keep, reached: Reached) -> object:
        """What is kept of a value; `_ABSENT`: nothing. `keep` is that of what holds it."""
        keep = self.keep_of(reached) or keep
        is_open = isinstance(value, dict | list) and (keep in (Keep.FULL, Keep.REDACTED) or self.leads_below(reached))
        if is_open:
            return self._object(value, keep, reached) if isinstance(value, dict) else self._array(value, keep, reached)  # type: ignore[arg-type]
        if keep is Keep.OFF:
            return _ABSENT
        if keep is Keep.REDACTED:
            return self._redacted(value)
        if self._for_digest:
            return value
        if keep is Keep.HASHED:
            self._left -= 84
            return {"$hashed": digest_of(value)}
        return self._text(value) if isinstance(value, str) else self._counted(value)

    def _object(self, members: Mapping[str, object], keep: Keep, reached: Reached) -> object:
        kept: dict[str, object] = {}
        for number, (name, value) in enumerate(members.items()):
            if self._is_used_up():
                kept["$cut"] = len(members) - number
                break
            shown = self._name(name)
            below = self.step(reached, name)
            treated = self.treated(value, keep, below)
            if treated is _ABSENT:
                continue
            self._left -= len(shown) + 4
            if not self._for_digest and _is_credential_name(name) and not isinstance(value, bool | None):
                treated = {"$secret": _TYPES.get(type(value), "value")}
            kept[shown] = treated
        return kept if kept or keep in (Keep.FULL, Keep.REDACTED) else _ABSENT

    def _array(self, elements: Sequence[object], keep: Keep, reached: Reached) -> object:
        kept: list[object] = []
        for number, value in enumerate(elements):
            if self._is_used_up():
                kept.append({"$cut": len(elements) - number})
                break
            treated = self.treated(value, keep, self.step(reached, number))
            if treated is not _ABSENT:
                self._left -= 1
                kept.append(treated)
        return kept if kept or keep in (Keep.FULL, Keep.REDACTED) else _ABSENT

    def _is_used_up(self) -> bool:
        used_up = self._left <= 0 and not self._for_digest
        self.was_cut = self.was_cut or used_up
        return used_up

    def _name(self, name: str) -> str:
        if self._for_digest:
            return name
        name = "$" + name if name.startswith("$") else name
        if len(name) > MAX_NAME_CHARACTERS:
            self.was_cut = True
            name = f"{name[:MAX_NAME_CHARACTERS]}… ({len(name)} characters)"
        return _CREDENTIAL.sub("[secret]", name)

    def _redacted(self, value: object) -> object:
        self._left -= 40
        mark: dict[str, object] = {"$redacted": _TYPES.get(type(value), "value")}
        if isinstance(value, str):
            mark["length"] = len(value)
        return mark

    def _text(self, text: str) -> object:
        most = min(MAX_TEXT_CHARACTERS, max(self._left, CUT_TEXT_CHARACTERS))
        # of a text that is cut nothing behind that is kept, and looking through megabytes takes a second
        if _CREDENTIAL.search(text[:MAX_TEXT_CHARACTERS]):
            self._left -= 24
            return {"$secret": "string"}
        if len(text) <= most:
            self._left -= len(text) + 2
            return text
        self.was_cut = True
        self._left -= CUT_TEXT_CHARACTERS + 32
        return {"$cut": text[:CUT_TEXT_CHARACTERS], "length": len(text)}

    def _counted(self, value: object) -> object:
        self._left -= 20
        return value


def _is_credential_name(name: str) -> bool:
    return name.lower().replace("_", "").replace("-", "") in _CREDENTIAL_NAMES

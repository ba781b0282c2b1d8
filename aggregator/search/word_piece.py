"""How the sentence model reads words: WordPiece of uncased BERT, by the vocabulary that comes with the model.

Text falls apart at spaces, punctuation and CJK characters, in lower case and without accents; then each word into the longest pieces that
the vocabulary knows, `##` before those that go on with a word.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping

from extauthz.errors import ConfigurationError

UNKNOWN, BEGIN, END = "[UNK]", "[CLS]", "[SEP]"
MAX_WORD_CHARACTERS = 100
"""Longer words are unknown, as the model was taught."""
_CJK = ((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F))


class WordPieces:
    """One vocabulary."""

    def __init__(self, vocabulary: str) -> None:
        """`vocabulary`: a piece a line. ConfigurationError where the three pieces are missing that every text needs."""
        pieces = vocabulary.removesuffix("\n").split("\n")
        self._ids: Mapping[str, int] = {piece.rstrip("\r"): number for number, piece in enumerate(pieces)}
        if missing := [piece for piece in (UNKNOWN, BEGIN, END) if piece not in self._ids]:
            raise ConfigurationError(f"the vocabulary of the search model has no {missing[0]}")

    def __len__(self) -> int:
        return len(self._ids)

    def known(self, *words: str) -> frozenset[int]:
        """The numbers of words that are one piece each; others are left out."""
        return frozenset(self._ids[word] for word in words if word in self._ids)

    def read(self, text: str, *, at_most: int) -> list[int]:
        """The numbers of a text's pieces between those of beginning and end; the text is cut after so many in all."""
        found = [self._ids[BEGIN]]
        for word in _words(text):
            found += self._pieces(word)
            if len(found) >= at_most:
                break
        return [*found[: at_most - 1], self._ids[END]]

    def _pieces(self, word: str) -> list[int]:
        if len(word) > MAX_WORD_CHARACTERS:
            return [self._ids[UNKNOWN]]
        found: list[int] = []
        start = 0
        while start < len(word):
            prefix = "##" if start else ""
            ends = range(len(word), start, -1)
            end = next((end for end in ends if prefix + word[start:end] in self._ids), None)
            if end is None:
                return [self._ids[UNKNOWN]]
            found.append(self._ids[prefix + word[start:end]])
            start = end
        return found


def _words(text: str) -> Iterator[str]:
    word: list[str] = []
    for character in unicodedata.normalize("NFD", text.lower()):
        category = unicodedata.category(character)
        apart = character.isspace() or category == "Zs"
        alone = _is_punctuation(character, category) or _is_cjk(character)
        if category == "Mn" or character == "\ufffd" or (category in {"Cc", "Cf"} and not apart):
            continue
        if not apart and not alone:
            word.append(character)
            continue
        if word:
            yield "".join(word)
            word = []
        if alone:
            yield character
    if word:
        yield "".join(word)


def _is_punctuation(character: str, category: str) -> bool:
    return category.startswith("P") or (character.isascii() and character.isprintable() and not character.isalnum() and character != " ")


def _is_cjk(character: str) -> bool:
    return any(first <= ord(character) <= last for first, last in _CJK)

"""Merkle trees as RFC 6962 §2.1 defines them: one hash says what an ordered list holds, and a short path that one of them is in it.

Leaves and nodes are hashed with different first bytes, so that no node can be shown as a leaf. Pure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()
"""Of a list that holds nothing (RFC 6962 §2.1)."""


class MerklePathError(ValueError):
    """A path that does not fit the tree it is said to be of."""


def leaf_hash(content: bytes) -> bytes:
    """The hash of one entry of the list: SHA-256(0x00 || content)."""
    return hashlib.sha256(b"\x00" + content).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of what stands above two hashes: SHA-256(0x01 || left || right)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def tree_root(leaves: Iterable[bytes]) -> bytes:
    """The root over leaf hashes, in their order. Level by level; one without a neighbour goes up as it is."""
    level = list(leaves)
    while len(level) > 1:
        pairs = iter(level)
        above = [node_hash(left, right) for left, right in zip(pairs, pairs, strict=False)]
        level = [*above, level[-1]] if len(level) % 2 else above
    return level[0] if level else EMPTY_ROOT


def inclusion_path(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """The audit path of the leaf at `index` (RFC 6962 §2.1.1), from the leaf up. Raises `IndexError` where there is no such leaf."""
    if not 0 <= index < len(leaves):
        raise IndexError(f"there is no leaf {index} among {len(leaves)}")
    path: list[bytes] = []
    low, high = 0, len(leaves)
    while high - low > 1:
        middle = low + _split(high - low)
        if index < middle:
            path.append(tree_root(leaves[middle:high]))
            high = middle
        else:
            path.append(tree_root(leaves[low:middle]))
            low = middle
    path.reverse()
    return path


def root_of_path(leaf: bytes, *, index: int, size: int, path: Sequence[bytes]) -> bytes:
    """The root that a path leads to (RFC 9162 §2.1.3.2). Raises `MerklePathError` for a path of another length than the place needs."""
    if not 0 <= index < size:
        raise MerklePathError(f"there is no leaf {index} in a tree of {size}")
    at, last, current = index, size - 1, leaf
    for step in path:
        if last == 0:
            raise MerklePathError("the path is longer than the tree is high")
        if at % 2 == 1 or at == last:
            current = node_hash(step, current)
            while at % 2 == 0 and at != 0:
                at, last = at >> 1, last >> 1
        else:
            current = node_hash(current, step)
        at, last = at >> 1, last >> 1
    if last != 0:
        raise MerklePathError("the path is shorter than the tree is high")
    return current


def _split(size: int) -> int:
    """The largest power of two that is less than `size`."""
    return 1 << ((size - 1).bit_length() - 1)

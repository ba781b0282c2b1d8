"""Merkle trees: the known answers of RFC 6962's reference, and every tree up to 70 leaves against the definition."""

from __future__ import annotations

import contextlib
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.audit.merkle import EMPTY_ROOT, MerklePathError, inclusion_path, leaf_hash, root_of_path, tree_root

# The inputs and roots that certificate-transparency implementations share as their reference.
REFERENCE = [b"", b"\x00", b"\x10", b"\x20\x21", b"\x30\x31", b"\x40\x41\x42\x43", bytes(range(0x50, 0x58)), bytes(range(0x60, 0x70))]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def _leaves(count: int) -> list[bytes]:
    return [leaf_hash(str(number).encode()) for number in range(count)]


def _defined_root(leaves: list[bytes]) -> bytes:
    """RFC 6962 §2.1, word for word."""
    if len(leaves) <= 1:
        return leaves[0] if leaves else hashlib.sha256(b"").digest()
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hashlib.sha256(b"\x01" + _defined_root(leaves[:split]) + _defined_root(leaves[split:])).digest()


def _defined_path(index: int, leaves: list[bytes]) -> list[bytes]:
    """RFC 6962 §2.1.1, word for word."""
    if len(leaves) <= 1:
        return []
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    if index < split:
        return [*_defined_path(index, leaves[:split]), _defined_root(leaves[split:])]
    return [*_defined_path(index - split, leaves[split:]), _defined_root(leaves[:split])]


@pytest.mark.parametrize("count", range(1, 9))
def test_the_roots_of_the_reference(count: int):
    assert tree_root(leaf_hash(content) for content in REFERENCE[:count]).hex() == ROOTS[count - 1]


def test_the_root_of_nothing():
    assert tree_root([]) == EMPTY_ROOT == bytes.fromhex("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")


def test_a_path_of_the_reference():
    leaves = [leaf_hash(content) for content in REFERENCE]

    path = inclusion_path(leaves, 5)

    assert [step.hex() for step in path] == [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]


@pytest.mark.parametrize("count", range(1, 71))
def test_every_leaf_of_every_tree_is_proven(count: int):
    leaves = _leaves(count)
    root = tree_root(leaves)
    assert root == _defined_root(leaves)

    for index, leaf in enumerate(leaves):
        path = inclusion_path(leaves, index)
        assert path == _defined_path(index, leaves)
        assert root_of_path(leaf, index=index, size=count, path=path) == root


@given(count=st.integers(1, 70), data=st.data())
def test_no_other_leaf_place_or_path_leads_to_the_root(count: int, data: st.DataObject):
    leaves = _leaves(count)
    root, index = tree_root(leaves), data.draw(st.integers(0, count - 1))
    path = inclusion_path(leaves, index)

    assert root_of_path(leaf_hash(b"another"), index=index, size=count, path=path) != root
    for elsewhere in set(range(count)) - {index}:
        with contextlib.suppress(MerklePathError):  # a path of another length
            assert root_of_path(leaves[index], index=elsewhere, size=count, path=path) != root
    if path:
        at = data.draw(st.integers(0, len(path) - 1))
        changed = [*path[:at], bytes(32), *path[at + 1 :]]
        assert root_of_path(leaves[index], index=index, size=count, path=changed) != root
        with pytest.raises(MerklePathError):
            root_of_path(leaves[index], index=index, size=count, path=path[:-1])
    with pytest.raises(MerklePathError):
        root_of_path(leaves[index], index=index, size=count, path=[*path, bytes(32)])


def test_a_node_is_no_leaf():
    leaves = _leaves(4)
    node = hashlib.sha256(b"\x01" + leaves[0] + leaves[1]).digest()

    assert leaf_hash(leaves[0] + leaves[1]) != node
    assert tree_root([leaf_hash(node), leaf_hash(node)]) != tree_root(leaves)


def test_places_that_no_tree_has():
    with pytest.raises(IndexError):
        inclusion_path(_leaves(3), 3)
    with pytest.raises(MerklePathError):
        root_of_path(bytes(32), index=3, size=3, path=[])
    with pytest.raises(MerklePathError):
        root_of_path(bytes(32), index=0, size=0, path=[])

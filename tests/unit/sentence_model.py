"""A sentence model that is small enough for tests: real files of the real form, with weights by chance, always the same."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from aggregator.search.sentence_model import VOCABULARY, WEIGHTS, SentenceModel, read_sentence_model

WIDTH, HEADS, LAYERS, INNER, POSITIONS = 8, 2, 2, 16, 128
LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = ("invoice", "bill", "cancel", "void", "pod", "pods", "list", "person", "contact", "delete", "who", "is", "the", "on", "call")
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS, *LETTERS, *".,?", *(f"##{letter}" for letter in LETTERS)]


def weights() -> dict[str, Any]:
    random = np.random.default_rng(7)
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (len(PIECES), WIDTH),
        "embeddings.position_embeddings.weight": (POSITIONS, WIDTH),
        "embeddings.token_type_embeddings.weight": (2, WIDTH),
        **normal("embeddings.LayerNorm"),
    }
    for layer in range(LAYERS):
        of = f"encoder.layer.{layer}"
        for name in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
            shapes |= linear(f"{of}.{name}", WIDTH, WIDTH)
        shapes |= normal(f"{of}.attention.output.LayerNorm") | linear(f"{of}.intermediate.dense", INNER, WIDTH)
        shapes |= linear(f"{of}.output.dense", WIDTH, INNER) | normal(f"{of}.output.LayerNorm")
    return {name: random.normal(0, 0.5, shape).astype("<f4") for name, shape in shapes.items()}


def normal(name: str) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (WIDTH,), f"{name}.bias": (WIDTH,)}


def linear(name: str, out: int, into: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def write_model(directory: Path) -> dict[str, str]:
    """Both files, and their digests."""
    unread = {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}, "embeddings.position_ids": unread}
    data = bytes(8)
    for name, tensor in weights().items():
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [len(data), len(data) + tensor.nbytes]}
        data += tensor.tobytes()
    head = json.dumps(header).encode()
    (directory / WEIGHTS).write_bytes(len(head).to_bytes(8, "little") + head + data)
    (directory / VOCABULARY).write_text("\n".join(PIECES) + "\n", encoding="utf-8")
    return {name: hashlib.sha256((directory / name).read_bytes()).hexdigest() for name in (WEIGHTS, VOCABULARY)}


def small_model(directory: Path) -> SentenceModel:
    return read_sentence_model(directory, digests=write_model(directory), heads=HEADS)

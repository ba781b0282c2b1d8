"""all-MiniLM-L6-v2, read from a directory and computed here: what the words of a text mean beside each other.

    read_sentence_model(directory)       checks the files, then a SentenceModel
    SentenceModel.token_vectors(text)    a row of length 1 for each piece of the text

A transformer (BERT, 6 layers) in some lines of numpy, which is loaded only here: who sets no model needs neither. One text at a time, so
that the vectors of a text are the same whatever else is computed.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from aggregator.search.word_piece import WordPieces
from extauthz.errors import ConfigurationError

WEIGHTS, VOCABULARY = "model.safetensors", "vocab.txt"
ALL_MINILM_L6_V2: Mapping[str, str] = MappingProxyType(
    {
        WEIGHTS: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        VOCABULARY: "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
    }
)
"""SHA-256 of the two files of `sentence-transformers/all-MiniLM-L6-v2` that are read. Another model was not measured, and is refused."""
HEADS = 12
MAX_PIECES = 96
"""Of a text, with beginning and end. What stands later in a long description is left to BM25."""
_EPSILON = 1e-12

Array = Any  # numpy.ndarray: mypy checks without numpy, too


class SentenceModel:
    """The network. Safe to use from several threads: nothing in it changes."""

    def __init__(self, *, numpy: Any, pieces: WordPieces, weights: Mapping[str, Array], heads: int) -> None:  # noqa: ANN401 - a module
        self._np = numpy
        self.pieces = pieces
        self._weights = weights
        self._heads = heads
        self._layers = len({name.split(".")[2] for name in weights if name.startswith("encoder.layer.")})

    def token_vectors(self, text: str) -> tuple[list[int], Array]:
        """The numbers of a text's pieces without beginning and end, and a float32 row of length 1 for each."""
        np = self._np
        numbers = self.pieces.read(text, at_most=MAX_PIECES)
        states = self._states(numbers)[1:-1]
        return numbers[1:-1], states / np.maximum(np.linalg.norm(states, axis=1, keepdims=True), np.float32(_EPSILON))

    def _states(self, numbers: list[int]) -> Array:
        weights = self._weights
        states = weights["embeddings.word_embeddings.weight"][numbers] + weights["embeddings.position_embeddings.weight"][: len(numbers)]
        states = self._normal(states + weights["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
        for layer in range(self._layers):
            of = f"encoder.layer.{layer}"
            seen = self._linear(self._attention(states, f"{of}.attention.self"), f"{of}.attention.output.dense")
            states = self._normal(states + seen, f"{of}.attention.output.LayerNorm")
            thought = self._linear(self._gelu(self._linear(states, f"{of}.intermediate.dense")), f"{of}.output.dense")
            states = self._normal(states + thought, f"{of}.output.LayerNorm")
        return states

    def _attention(self, states: Array, of: str) -> Array:
        np = self._np
        count, width = states.shape
        size = width // self._heads
        query, key, value = (
            self._linear(states, f"{of}.{name}").reshape(count, self._heads, size).transpose(1, 0, 2) for name in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 2, 1) / np.float32(size**0.5)
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
        return (shares @ value).transpose(1, 0, 2).reshape(count, width)

    def _linear(self, states: Array, of: str) -> Array:
        return states @ self._weights[f"{of}.weight"].T + self._weights[f"{of}.bias"]

    def _normal(self, states: Array, of: str) -> Array:
        centred = states - states.mean(axis=-1, keepdims=True)
        spread = self._np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + self._np.float32(_EPSILON))
        return centred / spread * self._weights[f"{of}.weight"] + self._weights[f"{of}.bias"]

    def _gelu(self, states: Array) -> Array:
        """By the error function, in the approximation 7.1.26 of Abramowitz and Stegun, which errs by less than 2e-7."""
        np = self._np
        scaled = np.abs(states) * np.float32(0.5**0.5)
        share = 1 / (1 + np.float32(0.3275911) * scaled)
        series = np.float32(1.061405429)
        for factor in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
            series = series * share + np.float32(factor)
        error = np.sign(states) * (1 - series * share * np.exp(-scaled * scaled))
        return states * np.float32(0.5) * (1 + error)


def read_sentence_model(directory: Path, *, digests: Mapping[str, str] = ALL_MINILM_L6_V2, heads: int = HEADS) -> SentenceModel:
    """The model in a directory. ConfigurationError where numpy or a file is missing, or a file is another one than `digests` say."""
    numpy = _numpy()
    files = {name: _checked(directory / name, digest) for name, digest in digests.items()}
    pieces = WordPieces(files[VOCABULARY].decode())
    return SentenceModel(numpy=numpy, pieces=pieces, weights=_tensors(numpy, files[WEIGHTS]), heads=heads)


def _numpy() -> Any:  # noqa: ANN401 - a module
    """Loaded only where a model is set. One thread for each product of matrices: requests have the other cores."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        return importlib.import_module("numpy")
    except ModuleNotFoundError as error:
        raise ConfigurationError("LEGATION_SEARCH_MODEL needs numpy: pip install 'legation[embeddings]'") from error


def _checked(path: Path, digest: str) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"LEGATION_SEARCH_MODEL: cannot read {path}: {os.strerror(error.errno or 0)}") from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise ConfigurationError(f"LEGATION_SEARCH_MODEL: {path} is not the file of all-MiniLM-L6-v2: its SHA-256 must be {digest}")
    return content


def _tensors(numpy: Any, content: bytes) -> dict[str, Array]:  # noqa: ANN401 - a module
    """Tensors of a safetensors file: the header's length, the header as JSON, the data. Only those of 32-bit floats are taken."""
    begin = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:begin])
    tensors = {}
    for name, tensor in header.items():
        if name != "__metadata__" and tensor["dtype"] == "F32":
            first, last = tensor["data_offsets"]
            flat = numpy.frombuffer(content, dtype="<f4", count=(last - first) // 4, offset=begin + first)
            tensors[name] = flat.reshape(tensor["shape"])
    return tensors

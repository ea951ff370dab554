"""An encoder without a model: the vector of a text comes out of its hash."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

import numpy as np

from annotator.signals.chunking import unit
from annotator.signals.encoder import Encoded

WINDOW_WORDS = 8


class FakeEncoder:
    """Deterministic unit vectors; remembers what it was asked for."""

    def __init__(
        self,
        *,
        name: str = "fake",
        fingerprint: str = "weights-1",
        dimension: int = 5,
        salt: str = "",
    ) -> None:
        self.name = name
        self.fingerprint = fingerprint
        self.chunking = f"{WINDOW_WORDS}-word chunks"
        self.dimension = dimension
        self.salt = salt
        self.asked: list[list[str]] = []

    @property
    def texts(self) -> list[str]:
        return [text for batch in self.asked for text in batch]

    def encode(self, texts: Sequence[str]) -> Encoded:
        self.asked.append(list(texts))
        vectors = np.stack([self.vector(text) for text in texts])
        words = np.array([len(text.split()) for text in texts], dtype=np.int64)
        return Encoded(vectors, np.maximum(-(-words // WINDOW_WORDS), 1))

    def vector(self, text: str) -> np.ndarray:
        seed = int.from_bytes(
            sha256(f"{self.fingerprint}{self.salt} {text}".encode()).digest()[:8], "big"
        )
        draw = np.random.default_rng(seed).standard_normal((1, self.dimension))
        return unit(draw.astype(np.float32))[0]

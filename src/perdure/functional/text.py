"""A fixed vector for a short text without any downloaded model: hashed words and word pieces, randomly projected."""

from __future__ import annotations

import hashlib
import re
import struct
from functools import lru_cache

import torch
from torch import Tensor

__all__ = ["hashed_words"]


def hashed_words(text: str, width: int) -> Tensor:
    """Unit vector (width,) of a text: the sum of one pseudo-random Gaussian vector per word and per letter trigram.

    The same text gives the same vector on every machine: the vectors come from BLAKE2 digests, not from a generator.
    Words weigh 1, trigrams 0.3. Texts that share words have a positive inner product; an empty text gives zeros.
    """
    return _vector(text, width).clone()


@lru_cache(maxsize=1024)  # task k is described beside the k - 1 before it, whenever a model is loaded
def _vector(text: str, width: int) -> Tensor:
    total = torch.zeros(width, dtype=torch.float64)
    for word in re.findall(r"\w+", text.lower()):
        marked = f"^{word}$"
        pieces = [(word, 1.0), *((marked[i : i + 3], 0.3) for i in range(len(marked) - 2))]
        for piece, weight in pieces:
            total += weight * _gaussian(piece, width)
    norm = total.norm()
    return (total / norm if norm > 0 else total).float()  # (width,)


def _gaussian(piece: str, width: int) -> Tensor:
    """(width,) nearly Gaussian numbers: sums of four uniform 16-bit values from a digest of the piece."""
    values: list[float] = []
    block = 0
    while len(values) < width:
        digest = hashlib.blake2b(f"{block}:{piece}".encode()).digest()  # 64 bytes
        u = struct.unpack("<32H", digest)
        values += [(sum(u[i : i + 4]) - 2 * 65535) / 65535 for i in range(0, 32, 4)]
        block += 1
    return torch.tensor(values[:width], dtype=torch.float64)

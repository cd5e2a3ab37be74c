"""What do codecs keep that learn nothing? Two bytes a number, or one."""

from collections.abc import Sequence

import numpy as np

from memory.ports.codecs import GoesOn
from memory.ports.models import Vectors


class Float16:
    """As the segments' rows have it: the baseline of the measurements."""

    name = "float16"
    least = 0

    def learn(self, stretches: Sequence[Vectors], goes_on: GoesOn) -> bytes:
        return b""

    def load(self, body: bytes, dimensions: int) -> "_Float16":
        return _Float16(dimensions)


class _Float16:
    def __init__(self, dimensions: int) -> None:
        self._dimensions = dimensions

    def encode(self, stretch: Vectors) -> bytes:
        return stretch.astype("<f2").tobytes()

    def decode(self, payload: bytes, count: int) -> Vectors:
        return np.frombuffer(payload, "<f2").reshape(count, self._dimensions).astype(np.float32)


class Int8:
    """One byte a number; each vector has a step of its own, 1/127 of its largest number."""

    name = "int8"
    least = 0

    def learn(self, stretches: Sequence[Vectors], goes_on: GoesOn) -> bytes:
        return b""

    def load(self, body: bytes, dimensions: int) -> "_Int8":
        return _Int8(dimensions)


class _Int8:
    """No step is stored: vectors have unit length, so their direction says it all."""

    def __init__(self, dimensions: int) -> None:
        self._dimensions = dimensions

    def encode(self, stretch: Vectors) -> bytes:
        largest = np.maximum(np.abs(stretch).max(axis=1, keepdims=True), 1e-12)
        return bytes(np.rint(stretch * (127 / largest)).astype(np.int8).tobytes())

    def decode(self, payload: bytes, count: int) -> Vectors:
        return np.frombuffer(payload, np.int8).reshape(count, self._dimensions).astype(np.float32)

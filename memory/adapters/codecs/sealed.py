"""How is it noticed that a codebook or a code is damaged, or that they don't belong together?

    codebook = "STCB" · format · length of the name · name · dimensions · body · CRC-32 of all before
    code     = the codebook's CRC-32 · number of vectors · payload · CRC-32 of all before

Nine bytes a code; the checks come before any parser sees the bytes.
"""

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from memory.domain.errors import CodebookDamaged, CodeUnreadable
from memory.ports.codecs import GoesOn
from memory.ports.models import Vectors

_MAGIC = b"STCB"
_FORMAT = 1
_HEAD = struct.Struct("<4sBB")
_DIMENSIONS = struct.Struct("<I")
_SUM = struct.Struct("<I")
_CODE_HEAD = struct.Struct("<IB")
MOST_VECTORS = 255


class Method(Protocol):
    """What a codec does between the seals. It never sees damaged bytes."""

    @property
    def name(self) -> str: ...
    @property
    def least(self) -> int: ...

    def learn(self, stretches: Sequence[Vectors], goes_on: GoesOn) -> bytes: ...

    def load(self, body: bytes, dimensions: int) -> "Payloads":
        """Raises ValueError."""


class Payloads(Protocol):
    def encode(self, stretch: Vectors) -> bytes: ...

    def decode(self, payload: bytes, count: int) -> Vectors:
        """Need not be of unit length. Raises ValueError."""


@dataclass(frozen=True, slots=True)
class SealedCodec:
    method: Method

    @property
    def name(self) -> str:
        return self.method.name

    @property
    def least(self) -> int:
        return self.method.least

    def train(self, stretches: Sequence[Vectors], goes_on: GoesOn) -> bytes:
        name = self.name.encode()
        head = _HEAD.pack(_MAGIC, _FORMAT, len(name)) + name + _DIMENSIONS.pack(stretches[0].shape[1])
        return _with_sum(head + self.method.learn(stretches, goes_on))

    def open(self, codebook: bytes, dimensions: int) -> "SealedCoder":
        body = _checked(codebook, self.name.encode(), dimensions)
        try:
            payloads = self.method.load(body, dimensions)
        except ValueError as error:
            raise CodebookDamaged(f"a codebook of {self.name} can't be read: {error}", codec=self.name) from error
        return SealedCoder(payloads, dimensions, *_SUM.unpack(codebook[-_SUM.size :]))


@dataclass(frozen=True, slots=True)
class SealedCoder:
    """`codebook`: the CRC-32 at its end, which every code names (that of all its bytes is the same for all)."""

    payloads: Payloads
    dimensions: int
    codebook: int

    def encode(self, stretch: Vectors) -> bytes:
        if stretch.ndim != 2 or stretch.shape[1] != self.dimensions or not 0 < len(stretch) <= MOST_VECTORS:
            raise ValueError(f"{stretch.shape} is not [1 to {MOST_VECTORS}, {self.dimensions}]")
        if not np.isfinite(stretch).all():
            raise ValueError("a vector has values that are not finite")
        vectors = np.ascontiguousarray(stretch, np.float32)
        return _with_sum(_CODE_HEAD.pack(self.codebook, len(vectors)) + self.payloads.encode(vectors))

    def decode(self, code: bytes) -> Vectors:
        if len(code) < _CODE_HEAD.size + _SUM.size or not _sum_is_right(code):
            raise CodeUnreadable("a code is damaged: it is made again from the vectors")
        codebook, count = _CODE_HEAD.unpack_from(code)
        if codebook != self.codebook:
            raise CodeUnreadable("a code was made with another codebook")
        try:
            found = self.payloads.decode(code[_CODE_HEAD.size : -_SUM.size], count)
        except ValueError as error:
            raise CodeUnreadable(f"a code can't be read: {error}") from error
        lengths = np.linalg.norm(found, axis=1, keepdims=True)
        return np.asarray(found / np.maximum(lengths, 1e-12), np.float32)


def _checked(codebook: bytes, name: bytes, dimensions: int) -> bytes:
    """The body. Raises CodebookDamaged."""
    start = _HEAD.size + len(name) + _DIMENSIONS.size
    if len(codebook) < start + _SUM.size or not _sum_is_right(codebook):
        raise CodebookDamaged("a codebook is damaged: it is trained anew", codec=name.decode())
    if codebook[: start - _DIMENSIONS.size] != _HEAD.pack(_MAGIC, _FORMAT, len(name)) + name:
        raise CodebookDamaged("a codebook of another codec or format", codec=name.decode())
    if _DIMENSIONS.unpack_from(codebook, start - _DIMENSIONS.size) != (dimensions,):
        raise CodebookDamaged("a codebook for vectors of other dimensions", codec=name.decode())
    return codebook[start : -_SUM.size]


def _with_sum(data: bytes) -> bytes:
    return data + _SUM.pack(zlib.crc32(data))


def _sum_is_right(data: bytes) -> bool:
    return _SUM.unpack(data[-_SUM.size :]) == (zlib.crc32(data[: -_SUM.size]),)

"""In which bytes is the KV of a block kept, and what does it cost in accuracy?

`exact` keeps every bit. `int8` and `int4` are asymmetric: a value is step * (q + zero / fraction), with the step as
bfloat16 (rounded up, so its range always suffices) and the zero point as int16: 4 bytes for each group of values that
share them, no value out of reach, and an error of at most half a step. Groups follow the outliers: keys along the
tokens of one channel, values along the channels of one token (after KIVI, Liu et al. 2024).

The last byte of a quantised layer says how it was quantised: with `int4` the layers near both ends, and the sink block
that all queries attend to, stay int8. Quantise once, from the original: decoding and encoding again adds up errors.
"""

import math
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from model_runtime.kv.shape import BLOCK, KVShape

if TYPE_CHECKING:
    import torch

_GROUP = 64
_END_LAYERS = 2
_LARGEST = 1e37  # so that neither a range nor a decoded value overflows
_SMALLEST_STEP = 1e-30


class Codec(Protocol):
    """Stateless: any number of threads may use one. Decoding the same bytes gives the same numbers."""

    name: str

    def encode(self, block: "torch.Tensor", *, sink: bool = False) -> list[bytes]:
        """One bytes per layer of `block` [layers, kv_heads, 2, BLOCK, head_dim]; `sink` is true for block 0.

        Raises ValueError for another shape or dtype, and where numbers that are not finite can't be kept.
        """
        ...

    def decode(self, layer: int, data: bytes | memoryview, into: "torch.Tensor") -> None:
        """Writes into [kv_heads, 2, BLOCK, head_dim] of any device. Raises ValueError, with nothing written."""
        ...


class Exact:
    """Bit for bit, NaN payloads included."""

    name = "exact"

    def __init__(self, shape: KVShape) -> None:
        self._shape = shape

    def encode(self, block: "torch.Tensor", *, sink: bool = False) -> list[bytes]:
        import torch

        _check_block(self._shape, block)
        return [layer.contiguous().view(torch.uint8).numpy().tobytes() for layer in block.detach().cpu()]

    def decode(self, layer: int, data: bytes | memoryview, into: "torch.Tensor") -> None:
        import torch

        _check_layer(self._shape, layer, into)
        if len(data) != self._shape.layer_bytes or into.dtype != self._shape.torch_dtype:
            raise ValueError(f"{len(data)} bytes are not a layer of {self._shape} for {into.dtype}")
        if into.device.type == "cpu" and into.is_contiguous():
            into.view(torch.uint8).numpy().reshape(-1)[:] = np.frombuffer(data, np.uint8)
        else:
            into.copy_(_bytes(data).view(into.dtype).view(into.shape))


class _Quantised:
    name: str

    def __init__(self, shape: KVShape) -> None:
        self._shape = shape

    def encode(self, block: "torch.Tensor", *, sink: bool = False) -> list[bytes]:
        _check_block(self._shape, block)
        return [self._form(i, sink).encode(layer) for i, layer in enumerate(block)]

    def decode(self, layer: int, data: bytes | memoryview, into: "torch.Tensor") -> None:
        _check_layer(self._shape, layer, into)
        form = self._tagged(data[-1]) if len(data) else None
        if form is None or len(data) != form.nbytes:
            raise ValueError(f"{len(data)} bytes are not a layer of {self._shape} as {self.name}")
        form.decode(data, into)

    def _form(self, layer: int, sink: bool) -> "_Form":
        raise NotImplementedError

    def _tagged(self, tag: int) -> "_Form | None":
        raise NotImplementedError


class Int8(_Quantised):
    """One byte per number; a key group is a channel over the block, a value group a token."""

    name = "int8"

    def _form(self, layer: int, sink: bool) -> "_Form":
        return _int8(self._shape)

    def _tagged(self, tag: int) -> "_Form | None":
        return _int8(self._shape) if tag == _int8(self._shape).bits else None


class Int4(_Quantised):
    """Half a byte per number in groups of 64 (head dimensions that 64 does not divide: values in groups of a token)."""

    name = "int4"

    def _form(self, layer: int, sink: bool) -> "_Form":
        near_an_end = min(layer, self._shape.layers - 1 - layer) < _END_LAYERS
        return _int8(self._shape) if sink or near_an_end else _int4(self._shape)

    def _tagged(self, tag: int) -> "_Form | None":
        return {8: _int8(self._shape), 4: _int4(self._shape)}.get(tag)


NAMES = ("exact", "int8", "int4")


def codec(name: str, shape: KVShape) -> Codec:
    """Raises ValueError for a name that is not exact, int8 or int4."""
    kinds: dict[str, type[Exact] | type[Int8] | type[Int4]] = {kind.name: kind for kind in (Exact, Int8, Int4)}
    if name not in kinds:
        raise ValueError(f"{name!r} is no codec; there are {', '.join(kinds)}")
    return kinds[name](shape)


class _Groups(NamedTuple):
    """One of K and V: how [kv_heads, BLOCK, head_dim] is cut, and along which axis a group lies."""

    cut: tuple[int, ...]
    axis: int

    @property
    def groups(self) -> int:
        return math.prod(self.cut) // self.cut[self.axis]


class _Form(NamedTuple):
    """q of K, q of V, then step and zero of K, step and zero of V, then the tag (`bits`)."""

    bits: int
    fraction: int
    """Zero points are multiples of step / fraction: half a step lost is nothing in 255, but 3 % of 15."""
    halves: tuple[_Groups, _Groups]

    @property
    def nbytes(self) -> int:
        numbers = sum(math.prod(half.cut) for half in self.halves)
        return numbers * self.bits // 8 + 4 * sum(half.groups for half in self.halves) + 1

    def encode(self, layer: "torch.Tensor") -> bytes:
        parts = [self._quantise(layer[:, i], half) for i, half in enumerate(self.halves)]
        return b"".join([*(q for q, _ in parts), *(scales for _, scales in parts), bytes([self.bits])])

    def decode(self, data: bytes | memoryview, into: "torch.Tensor") -> None:
        raw = _bytes(data[:-1]).to(into.device)
        at, scales_at = 0, sum(math.prod(half.cut) for half in self.halves) * self.bits // 8
        for i, half in enumerate(self.halves):
            end, scales_end = at + math.prod(half.cut) * self.bits // 8, scales_at + 4 * half.groups
            self._values(raw[at:end], raw[scales_at:scales_end], half, into[:, i])
            at, scales_at = end, scales_end

    def _quantise(self, numbers: "torch.Tensor", half: _Groups) -> tuple[bytes, bytes]:
        import torch

        x = numbers.detach().to("cpu", torch.float32).reshape(half.cut)
        if not bool(x.abs().max() < _LARGEST):  # false for NaN too
            raise ValueError("numbers that are not finite, or huge, can't be quantised")
        low, high = x.amin(half.axis, keepdim=True), x.amax(half.axis, keepdim=True)
        top = 2**self.bits - 1
        # The second bound keeps the zero point inside int16 where all of a group is nearly the same large number.
        furthest = torch.maximum(low.abs(), high.abs())
        step = torch.maximum((high - low) / (top - 1 / self.fraction), furthest * (self.fraction / 32_000))
        step = _bfloat16_above(step.clamp_(min=_SMALLEST_STEP))
        zero = (low / step * self.fraction).floor_()
        q = (x / step).sub_(zero / self.fraction).round_().clamp_(0, top).to(torch.uint8).reshape(-1)
        if self.bits == 4:
            first, second = q.chunk(2)
            q = first | (second << 4)
        scales = [step.to(torch.bfloat16).reshape(-1).view(torch.uint8), zero.to(torch.int16).reshape(-1)]
        return q.numpy().tobytes(), b"".join(scale.numpy().tobytes() for scale in scales)

    def _values(self, q: "torch.Tensor", scales: "torch.Tensor", half: _Groups, into: "torch.Tensor") -> None:
        import torch

        if self.bits == 4:
            q = torch.cat([q & 15, q >> 4])
        kept = list(half.cut)
        kept[half.axis] = 1
        # Cloned: an odd offset into the bytes can't be viewed as numbers of two bytes.
        step = scales[: 2 * half.groups].clone().view(torch.bfloat16).float().view(kept)
        zero = scales[2 * half.groups :].clone().view(torch.int16).float().view(kept)
        target = into.view(half.cut)
        if into.dtype is torch.float32:  # written where it is wanted: three passes over the numbers fewer
            target.copy_(q.view(half.cut))
            target.add_(zero / self.fraction).mul_(step)
            return
        limit = torch.finfo(into.dtype).max
        target.copy_(q.view(half.cut).float().add_(zero / self.fraction).mul_(step).clamp_(-limit, limit))


def _int8(shape: KVShape) -> _Form:
    whole = (shape.kv_heads, BLOCK, shape.head_dim)
    return _Form(8, 1, (_Groups(whole, 1), _Groups(whole, 2)))


def _int4(shape: KVShape) -> _Form:
    group = shape.head_dim if shape.head_dim % _GROUP else _GROUP
    keys = _Groups((shape.kv_heads, BLOCK // _GROUP, _GROUP, shape.head_dim), 2)
    return _Form(4, 16, (keys, _Groups((shape.kv_heads, BLOCK, shape.head_dim // group, group), 3)))


def _bfloat16_above(x: "torch.Tensor") -> "torch.Tensor":
    """The smallest bfloat16 numbers that are not below positive float32 `x`, as float32."""
    import torch

    return ((x.contiguous().view(torch.int32) + 0xFFFF) & ~0xFFFF).view(torch.float32)


def _bytes(data: bytes | memoryview) -> "torch.Tensor":
    """A copy: torch shares memory only with buffers that may be written to."""
    import torch

    copy = torch.empty(len(data), dtype=torch.uint8)
    copy.numpy()[:] = np.frombuffer(data, np.uint8)
    return copy


def _check_block(shape: KVShape, block: "torch.Tensor") -> None:
    if tuple(block.shape) != shape.block_shape or block.dtype != shape.torch_dtype:
        raise ValueError(f"{list(block.shape)} of {block.dtype} is not a block of {shape}")


def _check_layer(shape: KVShape, layer: int, into: "torch.Tensor") -> None:
    if not 0 <= layer < shape.layers or tuple(into.shape) != shape.layer_shape:
        raise ValueError(f"layer {layer} into {list(into.shape)} does not fit {shape}")

"""How does a forward pass read blocks that do not lie on the device? Two small buffers: one is read, one is filled.

The bytes come through the codec as into a slot, so what is computed with them has the same bits. A block that can't be
read in time, or is not what it should be, raises BlockLost: doubt is a miss.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from model_runtime.kv.codecs import Codec
from model_runtime.kv.shape import KVShape

if TYPE_CHECKING:
    import torch

    from model_runtime.kv.nodes import Node

_READERS = 4
_SHARE = 8
"""The buffers take at most this part of the device's budget, as long as that is enough for one block each."""


class BlockLost(Exception):
    """What is left of `node` outside the device can't be read. It is known to nobody outside the engine.

    `damaged`: what was read is not the block, and would not be the next time.
    """

    def __init__(self, node: "Node", *, damaged: bool = False) -> None:
        super().__init__("a block could not be read")
        self.node = node
        self.damaged = damaged


class Source(NamedTuple):
    """`read(layer)` gives the bytes of a layer, in any thread; raises BlockLost."""

    node: "Node"
    codec: Codec
    read: Callable[[int], bytes]


class _Buffer(Protocol):
    """One layer of some blocks: [blocks, kv_heads, 2, BLOCK, head_dim]."""

    nbytes: int
    """On the device."""

    def begin(self) -> "torch.Tensor":
        """Where to write, in any thread: on the CPU. Waits until nothing reads it any more."""
        ...

    def ready(self, blocks: int) -> "torch.Tensor":
        """What was written, for the device's next computations."""
        ...

    def done(self) -> None:
        """All computations that read it have been asked for."""
        ...


class Staging:
    """`blocks`: of one layer, in each of the two buffers. One thread only, which is the engine's."""

    def __init__(self, shape: KVShape, blocks: int, device: str = "cpu") -> None:
        self.blocks = blocks
        self._buffers = _buffers((blocks, *shape.layer_shape), shape.torch_dtype, device)
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="kv-staging")

    @property
    def nbytes(self) -> int:
        """On the device."""
        return sum(buffer.nbytes for buffer in self._buffers)

    def stream(self, layer: int, loads: Sequence[Sequence[Source]]) -> Iterator["torch.Tensor"]:
        """For each of `loads`, at most `blocks` each, their KV: valid until the next one is asked for.

        Raises BlockLost.
        """
        filling = self._fill(0, layer, loads[0]) if loads else []
        try:
            for at, load in enumerate(loads):
                for filled in filling:
                    filled.result()
                buffer = self._buffers[at % 2]
                kv = buffer.ready(len(load))
                filling = self._fill(at + 1, layer, loads[at + 1]) if at + 1 < len(loads) else []
                yield kv
                buffer.done()
        finally:
            wait(filling)  # nobody writes into a buffer that is used anew
            for buffer in self._buffers:
                buffer.done()

    def _fill(self, at: int, layer: int, load: Sequence[Source]) -> list[Future[None]]:
        into = self._buffers[at % 2].begin()
        return [self._readers.submit(_read, source, layer, into[place]) for place, source in enumerate(load)]

    def close(self) -> None:
        self._readers.shutdown(wait=False, cancel_futures=True)


def staging_blocks(shape: KVShape, budget_bytes: int, most: int) -> int:
    """How many blocks of one layer a buffer has room for, from 1 to `most`."""
    return max(1, min(most, budget_bytes // _SHARE // (2 * shape.layer_bytes)))


def _read(source: Source, layer: int, into: "torch.Tensor") -> None:
    try:
        source.codec.decode(layer, source.read(layer), into)
    except ValueError as error:  # a block of another model
        raise BlockLost(source.node, damaged=True) from error


def _buffers(size: tuple[int, ...], dtype: "torch.dtype", device: str) -> list[_Buffer]:
    import torch

    if device == "cpu":
        return [_CPUBuffer(size, dtype) for _ in range(2)]
    cuda: Any = torch.cuda
    copies = cuda.Stream(device)
    return [_CUDABuffer(size, dtype, device, copies) for _ in range(2)]


class _CPUBuffer:
    def __init__(self, size: tuple[int, ...], dtype: "torch.dtype") -> None:
        import torch

        self._kv = torch.empty(size, dtype=dtype)
        self.nbytes = self._kv.nbytes

    def begin(self) -> "torch.Tensor":
        return self._kv

    def ready(self, blocks: int) -> "torch.Tensor":
        return self._kv[:blocks]

    def done(self) -> None:
        pass


class _CUDABuffer:
    """Written in pinned memory, copied on a stream of its own while the device computes with the other buffer.

    Three waits keep it right: a copy starts after the last computation that read the device's side, a computation after
    the copy that it reads, and the pinned side is written again after the copy that left it.
    """

    def __init__(self, size: tuple[int, ...], dtype: "torch.dtype", device: str, copies: Any) -> None:
        import torch

        self._pinned = torch.empty(size, dtype=dtype, pin_memory=True)
        self._kv = torch.empty(size, dtype=dtype, device=device)
        self._copies = copies
        cuda: Any = torch.cuda
        self._copied, self._read = cuda.Event(), cuda.Event()
        self.nbytes = self._kv.nbytes

    def begin(self) -> "torch.Tensor":
        self._copied.synchronize()
        return self._pinned

    def ready(self, blocks: int) -> "torch.Tensor":
        import torch

        with torch.cuda.stream(self._copies):
            self._copies.wait_event(self._read)
            self._kv[:blocks].copy_(self._pinned[:blocks], non_blocking=True)
            self._copied.record(self._copies)
        torch.cuda.current_stream().wait_event(self._copied)
        return self._kv[:blocks]

    def done(self) -> None:
        import torch

        self._read.record(torch.cuda.current_stream())

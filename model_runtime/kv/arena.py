"""Where does the KV lie that the model reads? Slots of one block each on the device, a fixed number of them."""

import heapq
from typing import TYPE_CHECKING

from model_runtime.kv.shape import BLOCK, KVShape

if TYPE_CHECKING:
    import torch


class ArenaFull(Exception):
    """No slot is free: let go of a block first."""


class Arena:
    """`layers[l]` [slots, kv_heads, 2 (K, V), BLOCK, head_dim]: blocks in slots beside each other are one view.

    One thread only. Who takes a slot owns it; nobody clears it.
    """

    def __init__(self, shape: KVShape, slots: int, device: str = "cpu") -> None:
        import torch

        size = (slots, shape.kv_heads, 2, BLOCK, shape.head_dim)
        self.shape = shape
        self.slots = slots
        # Pages of memory are not touched, so not taken, before a block is written to them.
        self.layers = [torch.empty(size, dtype=shape.torch_dtype, device=device) for _ in range(shape.layers)]
        self._free = list(range(slots))

    @property
    def free(self) -> int:
        return len(self._free)

    def take(self) -> int:
        """The lowest free slot, so that a sequence's blocks tend to lie in a row. Raises ArenaFull."""
        if not self._free:
            raise ArenaFull(f"all {self.slots} slots are in use")
        return heapq.heappop(self._free)

    def give_back(self, slot: int) -> None:
        heapq.heappush(self._free, slot)

    def block(self, slot: int) -> "torch.Tensor":
        """A copy on the CPU: [layers, kv_heads, 2, BLOCK, head_dim]."""
        import torch

        return torch.stack([layer[slot] for layer in self.layers]).cpu()

    def copy(self, source: int, target: int, tokens: int) -> None:
        """The first `tokens` of a block."""
        for layer in self.layers:
            layer[target, :, :, :tokens].copy_(layer[source, :, :, :tokens])

"""How much can a block matter to a query at most? By the least and largest keys of each 32 tokens, without the keys.

After Quest (Tang et al. 2024): the score of a key is at most the sum over its channels of the larger of query x least
and query x largest. One pair for 512 tokens is too coarse, so a block has 16. A block of summaries has the layout of a
block of KV, the least in place of K and the largest in place of V: one slot holds those of 32 blocks.
"""

from typing import TYPE_CHECKING

from model_runtime.kv.arena import Arena
from model_runtime.kv.shape import BLOCK, SUBPAGE

if TYPE_CHECKING:
    import torch

SUBPAGES = BLOCK // SUBPAGE
_BLOCKS = BLOCK // SUBPAGES
"""Whose summaries one slot holds."""


def summarise(kv: "torch.Tensor") -> "torch.Tensor":
    """One layer of a block [kv_heads, 2, BLOCK, head_dim] -> [kv_heads, 2 (least, largest), SUBPAGES, head_dim]."""
    import torch

    keys = kv[:, 0].reshape(len(kv), SUBPAGES, SUBPAGE, -1)
    return torch.stack([keys.amin(2), keys.amax(2)], 1)


def bounds(q: "torch.Tensor", summaries: "torch.Tensor") -> "torch.Tensor":
    """What no query of a group scores more than: q [kv_heads, group, head_dim], summaries [kv_heads, 2, n, head_dim].

    float32 [kv_heads, n]; unscaled.
    """
    import torch

    least, largest = summaries[:, 0].float(), summaries[:, 1].float()
    q = q.float()
    found = torch.matmul(q.clamp(min=0), largest.mT) + torch.matmul(q.clamp(max=0), least.mT)
    return found.amax(1)


class Summaries:
    """Those of a sequence's first `count` blocks, in slots of the device. Who asks for the slots gives them back."""

    def __init__(self, arena: Arena) -> None:
        self.slots: list[int] = []
        self.count = 0
        self._arena = arena

    @property
    def room(self) -> int:
        """Blocks that have room in the slots."""
        return len(self.slots) * _BLOCKS - self.count

    def add(self, summary: "torch.Tensor") -> None:
        """Of the next block: [layers, kv_heads, 2, SUBPAGES, head_dim] of any device."""
        page, place = divmod(self.count, _BLOCKS)
        rows = slice(place * SUBPAGES, (place + 1) * SUBPAGES)
        for layer, part in zip(self._arena.layers, summary, strict=True):
            layer[self.slots[page]][:, :, rows].copy_(part)
        self.count += 1

    def truncate(self, count: int) -> None:
        self.count = min(self.count, count)

    def scores(self, layer: int, q: "torch.Tensor") -> "torch.Tensor":
        """float32 [kv_heads, count] for q [kv_heads, group, head_dim]: of a block the bound of its best page."""
        import torch

        pages = torch.cat([bounds(q, self._arena.layers[layer][slot]) for slot in self.slots], 1)
        return pages.view(len(pages), -1, SUBPAGES).amax(2)[:, : self.count]

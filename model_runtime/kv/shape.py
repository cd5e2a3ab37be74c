"""How large is the KV of one block of tokens, and how do its numbers lie?

A block is one tensor [layers, kv_heads, 2, BLOCK, head_dim]; of the two, 0 is K (rotated: post-RoPE) and 1 is V. One
layer of it is contiguous, so a layer can be read, checked and used before the next one.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

BLOCK = 512
"""Tokens of a block. Only full blocks are named, shared and stored."""
SUBPAGE = 32
"""Tokens that one min/max summary of the keys covers."""

_ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, slots=True)
class KVShape:
    """`dtype` is float32, bfloat16 or float16. Raises ValueError for another one, or where a number is not positive."""

    layers: int
    kv_heads: int
    head_dim: int
    dtype: str

    def __post_init__(self) -> None:
        if self.dtype not in _ITEM_BYTES:
            raise ValueError(f"KV is kept as {', '.join(_ITEM_BYTES)}, not as {self.dtype!r}")
        if min(self.layers, self.kv_heads, self.head_dim) < 1:
            raise ValueError(f"a shape needs positive numbers: {self}")

    @property
    def layer_shape(self) -> tuple[int, int, int, int]:
        """[kv_heads, 2, BLOCK, head_dim]"""
        return (self.kv_heads, 2, BLOCK, self.head_dim)

    @property
    def block_shape(self) -> tuple[int, int, int, int, int]:
        """[layers, kv_heads, 2, BLOCK, head_dim]"""
        return (self.layers, *self.layer_shape)

    @property
    def layer_bytes(self) -> int:
        return self.kv_heads * 2 * BLOCK * self.head_dim * _ITEM_BYTES[self.dtype]

    @property
    def block_bytes(self) -> int:
        return self.layers * self.layer_bytes

    @property
    def torch_dtype(self) -> "torch.dtype":
        import torch

        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[self.dtype]

    def empty_block(self) -> "torch.Tensor":
        """A new CPU tensor of `block_shape`; its content is undefined."""
        import torch

        return torch.empty(self.block_shape, dtype=self.torch_dtype)

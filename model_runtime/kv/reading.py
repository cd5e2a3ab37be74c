"""How is a block read where it lies? On the device as it is; elsewhere through the staging buffers, layer by layer."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from model_runtime.kv.arena import Arena
from model_runtime.kv.disk import DiskTier
from model_runtime.kv.host import HostTier
from model_runtime.kv.nodes import Counts, Node
from model_runtime.kv.staging import BlockLost, Source, Staging
from model_runtime.kv.summaries import summarise

if TYPE_CHECKING:
    import torch


class Reading:
    """One thread: the engine's."""

    def __init__(self, arena: Arena, host: HostTier, disk: DiskTier | None, staging: Staging, counts: Counts) -> None:
        self._arena = arena
        self._host = host
        self._disk = disk
        self._staging = staging
        self._counts = counts

    @property
    def at_once(self) -> int:
        """Blocks that one run of a stream may have."""
        return self._staging.blocks

    def stream(self, layer: int, runs: Sequence[Sequence[Node]]) -> Iterator["torch.Tensor"]:
        """The KV of blocks that are in no slot, run by run, each valid until the next. Raises BlockLost."""
        return self._staging.stream(layer, [[self._source(node) for node in run] for run in runs])

    def summary(self, node: Node) -> "torch.Tensor":
        """[layers, kv_heads, 2, SUBPAGES, head_dim] on the CPU, made where it is asked for first. Raises BlockLost."""
        import torch

        if node.summary is None:
            layers = range(len(self._arena.layers))
            node.summary = torch.stack([summarise(self._layer(node, layer)).cpu() for layer in layers])
            self._counts.summary_bytes += node.summary.nbytes
        return node.summary

    def _layer(self, node: Node, layer: int) -> "torch.Tensor":
        if node.slot is not None:
            return self._arena.layers[layer][node.slot]
        (kv,) = [kv[0].clone() for kv in self.stream(layer, [[node]])]
        return kv

    def _source(self, node: Node) -> Source:
        assert node.token_ids is not None
        tokens, disk = node.token_ids, self._disk
        kept = self._host.get(node.block_id, tokens)
        self._counts.streamed["disk" if kept is None else "host"] += self._arena.shape.layer_bytes

        def read(layer: int) -> bytes:
            if kept is not None:
                return kept.layers[layer]
            stored = None if disk is None else disk.get(node.block_id, tokens, [layer])
            if stored is None or stored.codec != node.codec.name:
                raise BlockLost(node, damaged=stored is not None)
            return stored.layers[0]

        return Source(node, node.codec, read)

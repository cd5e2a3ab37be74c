"""Which blocks are there, in which tiers do they lie, and who reads them?

One thread owns a cache: the engine's. A block's name is a chain over all tokens from the start, so a prompt finds the
blocks of its longest known prefix, whoever computed them; the stored token ids are compared on every hit. A block that
is read keeps its last copy, wherever that is: from the device it may move down, and is then streamed.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from model_runtime.kv.arena import Arena, ArenaFull
from model_runtime.kv.codecs import NAMES, Codec
from model_runtime.kv.disk import DiskTier
from model_runtime.kv.eviction import Candidate, choose
from model_runtime.kv.gate import Gate
from model_runtime.kv.host import HostTier
from model_runtime.kv.identity import block_id
from model_runtime.kv.shape import BLOCK
from model_runtime.kv.staging import BlockLost, Source, Staging
from model_runtime.kv.stored import StoredBlock
from model_runtime.kv.summaries import summarise

if TYPE_CHECKING:
    import torch

FILE_EXTRA = 65_536
"""Bytes of a file beyond the block's: header, token ids."""
_LEFT_FREE = 1
"""Slots that reading leaves to what is computed next."""


@dataclass(eq=False, slots=True)
class Node:
    """A block that some tier holds. `slot`: where it lies on the device. `refs`: sequences that read it."""

    block_id: bytes
    parent: bytes | None
    index: int
    namespace: bytes
    token_ids: tuple[int, ...] | None
    """None of a block that an earlier process wrote: the disk compares them when it is read."""
    codec: Codec
    seconds: float
    """What computing it took."""
    slot: int | None = None
    refs: int = 0
    uses: int = 0
    last_use: float = 0.0
    pinned_until: float = 0.0
    summary: "torch.Tensor | None" = None
    """Of its keys, on the CPU, once it was asked for: 1/32 of its bytes, wherever it lies."""


@dataclass(slots=True)
class Lease:
    """Blocks that can be read until they are released, and the tier each came from or is streamed from."""

    nodes: list[Node] = field(default_factory=list)
    tiers: list[str] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(slots=True)
class Counts:
    """Since the start. `hits`: tokens by tier; the others are blocks."""

    hits: dict[str, int] = field(default_factory=lambda: {"device": 0, "host": 0, "disk": 0})
    evicted: dict[str, int] = field(default_factory=dict)
    lost: int = 0
    """Blocks that were known and could not be read: damaged, late, or gone."""
    streamed: dict[str, int] = field(default_factory=lambda: {"host": 0, "disk": 0})
    """Bytes that were read where they are, because the device had no room for them."""


class KVCache:
    def __init__(
        self,
        arena: Arena,
        host: HostTier,
        disk: DiskTier | None,
        *,
        staging: Staging,
        gate: Gate,
        codecs: Callable[[str], Codec],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.counts = Counts()
        self._arena = arena
        self._host = host
        self._disk = disk
        self._staging = staging
        self._gate = gate
        self._codecs = codecs
        self._clock = clock
        self._nodes: dict[bytes, Node] = {}
        self._summary_bytes = 0
        self._unwritten: deque[bytes] = deque()
        self._adopt_disk()

    def match(self, namespace: bytes, token_ids: Sequence[int], codec: Codec, after: Node | None = None) -> list[Node]:
        """The known blocks of the longest prefix, first to last; `after`: of what follows that block.

        `codec`: that of the namespace's policy.
        """
        found: list[Node] = []
        parent, begin = (None, 0) if after is None else (after.block_id, (after.index + 1) * BLOCK)
        for start in range(begin, len(token_ids) - BLOCK + 1, BLOCK):
            tokens = tuple(token_ids[start : start + BLOCK])
            parent = block_id(namespace, parent, tokens)
            node = self._nodes.get(parent)
            if node is None or not self._is(node, namespace, tokens):
                break
            if node.codec is not codec:  # a file may say what it likes
                self._lose(node)
                break
            found.append(node)
        return found

    def lease(self, nodes: Sequence[Node]) -> Lease:
        """Holds them, first to last, until one can't be had or is quicker computed again.

        As many as there is room for are brought to the device: the first, and the last ones.
        """
        lease = Lease()
        for node in nodes:  # so that none of them leaves for another
            node.refs += 1
        try:
            brought = self._worth_bringing(nodes)
            for node in nodes:
                begun = time.perf_counter()
                tier = self._bring(node) if node in brought else self._where(node)
                if tier is None:
                    break
                lease.seconds += time.perf_counter() - begun if tier != "device" else 0.0
                node.uses += 1
                node.last_use = self._clock()
                lease.nodes.append(node)
                lease.tiers.append(tier)
        except Exception:
            self.release(lease.nodes)
            raise
        finally:
            self.release(nodes[len(lease.nodes) :])
        for tier in lease.tiers:
            self.counts.hits[tier] += BLOCK
        return lease

    def _worth_bringing(self, nodes: Sequence[Node]) -> set[Node]:
        idle = sum(node.slot is not None and not node.refs for node in self._nodes.values())
        room = max(0, self._arena.free + idle - _LEFT_FREE)
        absent = [node for node in nodes if node.slot is None]
        return set(absent if len(absent) <= room else [*absent[:1], *absent[len(absent) - room + 1 :]][:room])

    def release(self, nodes: Iterable[Node]) -> None:
        for node in nodes:
            node.refs -= 1
            if not node.refs and node.slot is not None and self._nodes.get(node.block_id) is not node:
                self._arena.give_back(node.slot)  # dropped while it was read
                node.slot = None

    def slot(self) -> int:
        """A free slot; a block that nobody reads leaves the device for it. Raises ArenaFull."""
        if not self._arena.free:
            self._evict_from_device()
        return self._arena.take()

    def move_down(self, nodes: Iterable[Node]) -> bool:
        """The first of these that another tier has room for leaves the device, though it is read: False: none can."""
        for node in nodes:
            if self._store(node):
                self._vacate(node)
                self._count_eviction("moved_down")
                return True
        return False

    @property
    def streamed_at_once(self) -> int:
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
            self._summary_bytes += node.summary.nbytes
        return node.summary

    def _layer(self, node: Node, layer: int) -> "torch.Tensor":
        if node.slot is not None:
            return self._arena.layers[layer][node.slot]
        (kv,) = [kv[0].clone() for kv in self.stream(layer, [[node]])]
        return kv

    def bring(self, node: Node, others: Iterable[Node]) -> None:
        """To the device, if need be in place of the first of `others` that can move down; or it stays where it is."""
        self._bring(node)
        if node.slot is None and self.move_down(others):
            self._bring(node)

    def lost(self, node: Node) -> None:
        """It could not be streamed. Unless it was only late, nobody finds it any more."""
        if self._where(node) is None:
            self._lose(node)

    def _where(self, node: Node) -> str | None:
        """The tier that it is read from."""
        if node.slot is not None:
            return "device"
        if self._host.has(node.block_id):
            return "host"
        return "disk" if self._disk is not None and self._disk.has(node.block_id) else None

    def _source(self, node: Node) -> Source:
        assert node.token_ids is not None
        tokens, disk = node.token_ids, self._disk
        kept = self._host.get(node.block_id, tokens)
        self.counts.streamed["disk" if kept is None else "host"] += self._arena.shape.layer_bytes

        def read(layer: int) -> bytes:
            if kept is not None:
                return kept.layers[layer]
            stored = None if disk is None else disk.get(node.block_id, tokens, [layer])
            if stored is None or stored.codec != node.codec.name:
                raise BlockLost(node)
            return stored.layers[0]

        return Source(node, node.codec, read)

    def give_back(self, slot: int) -> None:
        self._arena.give_back(slot)

    def seal(
        self,
        namespace: bytes,
        parent: Node | None,
        token_ids: Sequence[int],
        slot: int,
        *,
        codec: Codec,
        seconds: float,
    ) -> Node:
        """The block in `slot` is full: from now on it is shared and never written. It is leased to who sealed it.

        When the same block is on the device already, the slot is given back and the known one taken.
        """
        tokens = tuple(token_ids)
        name = block_id(namespace, None if parent is None else parent.block_id, tokens)
        known = self._nodes.get(name)
        if known is not None and self._is(known, namespace, tokens) and known.codec is codec:
            if known.slot is None:
                known.slot = slot
                self._quantise_once(known)
            else:
                self._arena.give_back(slot)
            known.refs += 1
            return known
        index = 0 if parent is None else parent.index + 1
        node = Node(name, None if parent is None else parent.block_id, index, namespace, tokens, codec, seconds, slot)
        node.refs, node.last_use = 1, self._clock()
        self._quantise_once(node)
        if known is None:  # else another block has its name, and keeps it: this one goes when it is released
            self._nodes[name] = node
            self._unwritten.append(name)
        return node

    def _quantise_once(self, node: Node) -> None:
        """From the original, or as it was the first time: from now on everybody reads the same."""
        if node.codec.name == "exact":
            return
        assert node.token_ids is not None
        assert node.slot is not None
        stored = self._host.get(node.block_id, node.token_ids) or self._encode(node)
        self._decode(node, stored, node.slot)
        self._make_room_on_host(stored.nbytes)
        if not self._host.put(stored):
            self._put_on_disk(stored)

    def write_behind(self) -> bool:
        """Copies one new block to the host and the disk. False: none waits."""
        while self._unwritten:
            node = self._nodes.get(self._unwritten.popleft())
            if node is not None and node.slot is not None:
                self._store(node)
                return True
        return False

    @property
    def unwritten(self) -> int:
        """New blocks that are on the device only."""
        return len(self._unwritten)

    def leave_device(self) -> int:
        """Moves every block that nobody reads, and that another tier has room for, off the device; how many."""
        left = 0
        for node in [node for node in self._nodes.values() if node.slot is not None and not node.refs]:
            if self._store(node):
                self._vacate(node)
                left += 1
        return left

    def drop(self, node: Node, reason: str) -> int:
        """Forgets it everywhere; bytes freed outside the device. A block that is read stays readable until released."""
        freed = self._host.drop(node.block_id) + (self._disk.drop(node.block_id) if self._disk else 0)
        self._nodes.pop(node.block_id, None)
        if node.summary is not None:
            self._summary_bytes -= node.summary.nbytes
            node.summary = None
        if node.slot is not None and not node.refs:
            self._arena.give_back(node.slot)
            node.slot = None
        self._count_eviction(reason)
        return freed

    def forget(self, namespaces: frozenset[bytes]) -> int:
        """Drops every block of these namespaces, and what lies in quarantine, whosever it is; the number of blocks."""
        gone = [node for node in self._nodes.values() if node.namespace in namespaces]
        for node in gone:
            self.drop(node, "purged")
        if self._disk is not None:
            self._disk.empty_quarantine()
            for block_id in self._disk.ids():  # what no prompt can find may be anybody's
                if block_id not in self._nodes and not self._disk.drop(block_id) and self._disk.has(block_id):
                    raise OSError("a block's file can't be deleted")
        return len(gone)

    def stats(self) -> dict[str, Any]:
        """From any thread."""
        disk = self._disk.stats() if self._disk is not None else None
        on_device = self._arena.slots - self._arena.free
        return {
            "reused_tokens": dict(self.counts.hits),
            "evicted": dict(self.counts.evicted),
            "lost": self.counts.lost,
            "streamed_bytes": dict(self.counts.streamed),
            "quarantined": disk.quarantined if disk else 0,
            "blocks": {"device": on_device, "host": len(self._host), "disk": disk.blocks if disk else 0},
            "bytes": {
                "device": on_device * self._arena.shape.block_bytes,
                "host": self._host.bytes,
                "disk": disk.bytes if disk else 0,
                "summaries": self._summary_bytes,
            },
        }

    def _is(self, node: Node, namespace: bytes, tokens: tuple[int, ...]) -> bool:
        if node.token_ids is None and node.namespace == namespace:
            node.token_ids = tokens  # by its name these; the disk compares what is written there
        return node.namespace == namespace and node.token_ids == tokens

    def _bring(self, node: Node) -> str | None:
        """The tier it came from; None when it must be computed. Stays there when the device is full after all."""
        source = self._where(node)
        if source == "device":
            return source
        if source is None:
            self._lose(node)
            return None
        if not self._gate.load(source, self._arena.shape.block_bytes, BLOCK):
            return None
        try:
            slot = self.slot()
        except ArenaFull:
            return source
        try:
            return source if self._load(node, source, slot) else None
        finally:
            if node.slot is None:
                self._arena.give_back(slot)  # half a block is none

    def _load(self, node: Node, source: str, slot: int) -> bool:
        begun = time.perf_counter()
        stored = self._read(node, source)
        if stored is None and source == "disk" and self._where(node) == "disk":
            return False  # late, not damaged
        if stored is None or stored.codec != node.codec.name:
            self._lose(node)
            return False
        try:
            self._decode(node, stored, slot)
        except ValueError:  # whole, but not of this codec or model
            self._lose(node)
            return False
        node.slot = slot
        self._gate.measured_load(source, stored.nbytes, time.perf_counter() - begun)
        return True

    def _read(self, node: Node, source: str) -> StoredBlock | None:
        assert node.token_ids is not None
        if source == "host":
            return self._host.get(node.block_id, node.token_ids)
        return None if self._disk is None else self._disk.get(node.block_id, node.token_ids)

    def _encode(self, node: Node) -> StoredBlock:
        assert node.slot is not None
        assert node.token_ids is not None
        layers = tuple(node.codec.encode(self._arena.block(node.slot), sink=node.index == 0))
        return StoredBlock(
            node.block_id, node.parent, node.index, node.namespace, node.token_ids, node.codec.name, layers
        )

    def _decode(self, node: Node, stored: StoredBlock, slot: int) -> None:
        if len(stored.layers) != len(self._arena.layers):
            raise ValueError("a block of another model")
        for layer, data in enumerate(stored.layers):
            node.codec.decode(layer, data, self._arena.layers[layer][slot])

    def _store(self, node: Node) -> bool:
        """True when a copy is outside the device."""
        assert node.token_ids is not None
        kept = self._host.get(node.block_id, node.token_ids)
        if kept is None and node.codec.name != "exact":
            return self._on_disk(node)  # what was quantised once is not quantised again
        if kept is not None and (self._on_disk(node) or self._disk is None):
            return True
        stored = kept or self._encode(node)
        if kept is None:
            self._make_room_on_host(stored.nbytes)
        on_host = self._host.put(stored)
        return self._put_on_disk(stored) or on_host

    def _put_on_disk(self, stored: StoredBlock) -> bool:
        if self._disk is None:
            return False
        need = self._disk.lacks(stored.nbytes + FILE_EXTRA)
        if need:
            now = self._clock()
            there = [node for node in self._nodes.values() if self._disk.has(node.block_id)]
            for choice in choose([self._candidate(n, now, self._above_disk(n)) for n in there], need, now):
                self._disk.drop(choice.block_id)
                node = self._nodes[choice.block_id]
                if not self._above_disk(node):
                    self.drop(node, choice.reason)
                else:
                    self._count_eviction(choice.reason)
        return self._disk.put(stored)

    def _evict_from_device(self) -> None:
        there = [node for node in self._nodes.values() if node.slot is not None]
        now = self._clock()
        for choice in choose([self._candidate(n, now) for n in there], self._arena.shape.block_bytes, now):
            node = self._nodes[choice.block_id]
            if not self._store(node):
                self.drop(node, "no tier has room")
                continue
            self._vacate(node)
            self._count_eviction(choice.reason)

    def _vacate(self, node: Node) -> None:
        assert node.slot is not None
        self._arena.give_back(node.slot)
        node.slot = None

    def _make_room_on_host(self, nbytes: int) -> None:
        need = self._host.lacks(nbytes)
        if not need:
            return
        now = self._clock()
        there = [node for node in self._nodes.values() if self._host.has(node.block_id)]
        for choice in choose([self._candidate(n, now, self._on_disk(n)) for n in there], need, now):
            node = self._nodes[choice.block_id]
            self._host.drop(node.block_id)
            if node.slot is None and not self._on_disk(node):
                self.drop(node, "no tier has room")
            else:
                self._count_eviction(choice.reason)

    def _on_disk(self, node: Node) -> bool:
        return self._disk is not None and self._disk.has(node.block_id)

    def _above_disk(self, node: Node) -> bool:
        return node.slot is not None or self._host.has(node.block_id)

    def _candidate(self, node: Node, now: float, kept_elsewhere: bool = False) -> Candidate:
        """`kept_elsewhere`: who reads it would find another copy where this one can go."""
        return Candidate(
            block_id=node.block_id,
            parent=node.parent,
            tenant=node.namespace.hex(),  # the salt in it is the tenant's, or its share group's
            bytes=self._arena.shape.block_bytes,
            last_use=node.last_use,
            uses=node.uses,
            recompute_seconds=node.seconds,
            pinned=node.pinned_until > now,
            superseded=False,
            refs=0 if kept_elsewhere else node.refs,
        )

    def _block_seconds(self) -> float:
        rate = self._gate.tokens_per_second()
        return 1.0 if rate is None else BLOCK / rate

    def _lose(self, node: Node) -> None:
        """It was known, and can't be used."""
        self.counts.lost += 1
        self.drop(node, "lost")

    def _count_eviction(self, reason: str) -> None:
        self.counts.evicted[reason] = self.counts.evicted.get(reason, 0) + 1

    def _adopt_disk(self) -> None:
        """What an earlier process wrote is found again; its content is checked when it is read."""
        if self._disk is None:
            return
        for header in self._disk.scan():
            if header.codec not in NAMES:
                self._disk.drop(header.block_id)
                continue
            node = Node(
                header.block_id,
                header.parent,
                header.index,
                header.namespace,
                None,
                self._codecs(header.codec),
                self._block_seconds(),
            )
            self._nodes[node.block_id] = node

"""Which blocks are there, in which tiers do they lie, and who reads them?

One thread owns a cache: the engine's. A block's name is a chain over all tokens from the start, so a prompt finds the
blocks of its longest known prefix, whoever computed them; the stored token ids are compared on every hit. A block that
is read keeps its last copy, wherever that is: from the device it may move down, and is then streamed.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from model_runtime.kv.arena import Arena, ArenaFull
from model_runtime.kv.codecs import Codec
from model_runtime.kv.departures import Departures
from model_runtime.kv.disk import DiskTier
from model_runtime.kv.gate import Gate
from model_runtime.kv.holdings import Holdings
from model_runtime.kv.host import HostTier
from model_runtime.kv.identity import block_id
from model_runtime.kv.nodes import Counts, Lease, Node, adopted
from model_runtime.kv.reading import Reading
from model_runtime.kv.residency import worth_bringing
from model_runtime.kv.shape import BLOCK
from model_runtime.kv.shares import ShareOptions, Shares
from model_runtime.kv.staging import Staging
from model_runtime.kv.stored import StoredBlock

if TYPE_CHECKING:
    pass

FILE_EXTRA = 65_536
"""Bytes of a file beyond the block's: header, token ids."""


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
        shares: Shares | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.counts = Counts()
        self.departures = Departures(clock)
        self._arena = arena
        self._host = host
        self._disk = disk
        self._gate = gate
        self._codecs = codecs
        self._clock = clock
        self._nodes: dict[bytes, Node] = {}
        self.reading = Reading(arena, host, disk, staging, self.counts)
        self.holdings = Holdings(self._nodes, arena, host, disk, shares or Shares(ShareOptions()), clock)
        self._unwritten: deque[bytes] = deque()
        for node in adopted(disk, codecs) if disk is not None else ():
            self._nodes[node.block_id] = node

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
            if node.codec is not codec or node.index != start // BLOCK:  # a file may say what it likes
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
            idle = sum(node.slot is not None and not node.refs for node in self._nodes.values())
            brought = worth_bringing(nodes, self._arena.free + idle)
            for node in nodes:
                begun = time.perf_counter()
                tier = self._bring(node) if node in brought else self.holdings.where(node)
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
            if self.store(node):
                self._vacate(node)
                self._left(node, "device", "moved_down")
                return True
        return False

    def bring(self, node: Node, others: Iterable[Node]) -> None:
        """To the device, if need be in place of the first of `others` that can move down; or it stays where it is."""
        self._bring(node)
        if node.slot is None and self.move_down(others):
            self._bring(node)

    def lost(self, node: Node, *, damaged: bool) -> None:
        """It could not be streamed. Unless it was only late, nobody finds it any more."""
        if damaged or self.holdings.where(node) is None:
            self._lose(node)

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
        index = 0 if parent is None else parent.index + 1
        same = known is not None and known.index == index and known.codec is codec
        if known is not None and same and self._is(known, namespace, tokens):
            if known.slot is None:
                known.slot = slot
                self._quantise_once(known)
            else:
                self._arena.give_back(slot)
            known.refs += 1
            return known
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
                self.store(node)
                return True
        return False

    @property
    def unwritten(self) -> int:
        """New blocks that are on the device only."""
        return len(self._unwritten)

    def leave_device(self) -> int:
        """Moves every block that nobody reads, and that another tier has room for, off the device; how many."""
        return sum(self.lower(node) for node in self.nodes())

    def lower(self, node: Node) -> bool:
        """Moves one off the device. False where it is not there, is read, or no other tier has room."""
        if node.slot is None or node.refs or not self.store(node):
            return False
        self._vacate(node)
        self._moved(node, "device", self.holdings.where(node), "laid_to_rest", self.holdings.block_bytes)
        return True

    def bring_up(self, node: Node) -> str | None:
        """To the device: the tier it came from. None where it can't be had or is quicker computed, or has no room."""
        tier = self._bring(node)
        return None if node.slot is None else tier

    def get(self, block_id: bytes) -> Node | None:
        return self._nodes.get(block_id)

    def nodes(self) -> list[Node]:
        """Of all tiers; from any thread."""
        return list(self._nodes.values())

    def drop(self, node: Node, reason: str) -> int:
        """Forgets it everywhere; bytes freed outside the device. A block that is read stays readable until released."""
        for tier, nbytes in self.holdings.of(node).items():
            if nbytes:
                self._count(tier, reason)
                self._moved(node, tier, None, reason, nbytes)
        freed = self._host.drop(node.block_id) + (self._disk.drop(node.block_id) if self._disk else 0)
        self._nodes.pop(node.block_id, None)
        if node.summary is not None:
            self.counts.summary_bytes -= node.summary.nbytes
            node.summary = None
        if node.slot is not None and not node.refs:
            self._arena.give_back(node.slot)
            node.slot = None
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
        stats = self.holdings.stats() | self.counts.stats()
        stats["bytes"]["summaries"] = self.counts.summary_bytes
        return stats

    def _is(self, node: Node, namespace: bytes, tokens: tuple[int, ...]) -> bool:
        if node.token_ids is None and node.namespace == namespace:
            node.token_ids = tokens  # by its name these; the disk compares what is written there
        return node.namespace == namespace and node.token_ids == tokens

    def _bring(self, node: Node) -> str | None:
        """The tier it came from; None when it must be computed. Stays there when the device is full after all."""
        source = self.holdings.where(node)
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
        if stored is None and source == "disk" and self.holdings.where(node) == "disk":
            return False  # late, not damaged
        if stored is None or stored.codec != node.codec.name:
            self._lose(node)
            return False
        try:
            self._decode(node, stored, slot)
        except ValueError:  # whole, but not of this codec or model
            self._lose(node)
            return False
        node.token_ids = stored.token_ids
        node.slot = slot
        self._moved(node, source, "device", "read", self.holdings.block_bytes)
        self._gate.measured_load(source, stored.nbytes, time.perf_counter() - begun)
        return True

    def _read(self, node: Node, source: str) -> StoredBlock | None:
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

    def store(self, node: Node) -> bool:
        """True when a copy is outside the device."""
        kept = self._host.get(node.block_id, node.token_ids)
        if kept is None and (node.codec.name != "exact" or node.slot is None):
            return self.holdings.on_disk(node)  # what was quantised once is not quantised again
        if kept is not None and (self.holdings.on_disk(node) or self._disk is None):
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
            for choice in self.holdings.leaving("disk", need):
                node = self._nodes[choice.block_id]
                if node.slot is None and not self._host.has(node.block_id):
                    self.drop(node, choice.reason)
                else:
                    self._left(node, "disk", choice.reason, self._disk.drop(choice.block_id))
        return self._disk.put(stored)

    def _evict_from_device(self) -> None:
        for choice in self.holdings.leaving("device", self.holdings.block_bytes):
            node = self._nodes[choice.block_id]
            if not self.store(node):
                self.drop(node, "no_room_below")
                continue
            self._vacate(node)
            self._left(node, "device", choice.reason)

    def _vacate(self, node: Node) -> None:
        assert node.slot is not None
        self._arena.give_back(node.slot)
        node.slot = None

    def _make_room_on_host(self, nbytes: int) -> None:
        need = self._host.lacks(nbytes)
        if not need:
            return
        for choice in self.holdings.leaving("host", need):
            node = self._nodes[choice.block_id]
            if node.slot is None and not self.holdings.on_disk(node):
                self.drop(node, choice.reason)
            else:
                self._left(node, "host", choice.reason, self._host.drop(node.block_id))

    def _lose(self, node: Node) -> None:
        """It was known, and can't be used."""
        self.counts.lost += 1
        self.drop(node, "lost")

    def _left(self, node: Node, tier: str, reason: str, nbytes: int | None = None) -> None:
        """It has left a tier, and another has it. `nbytes`: there; of a slot when not said."""
        self._count(tier, reason)
        self._moved(node, tier, self.holdings.where(node), reason, nbytes or self.holdings.block_bytes)

    def _moved(self, node: Node, origin: str, target: str | None, reason: str, nbytes: int) -> None:
        self.departures.note(self.holdings.shares.owner(node.namespace), origin, target, reason, nbytes)

    def _count(self, tier: str, reason: str) -> None:
        self.counts.evicted[tier][reason] = self.counts.evicted[tier].get(reason, 0) + 1

"""How is a session's KV brought up, laid to rest, pinned or dropped when somebody asks for it?

Each is done block by block (a step up to each `yield`), so that answers go on between two blocks. What a step finds
gone or in use is left alone. The results are plain data. None: nothing is kept of this session.
"""

import time
from collections import Counter
from collections.abc import Generator
from typing import TypeAlias, TypeVar

from model_runtime.kv.cache import KVCache
from model_runtime.kv.holdings import TIERS
from model_runtime.kv.manifests import SessionManifest, SessionName
from model_runtime.kv.nodes import Node
from model_runtime.kv.reports import Described, Dropped, Moved, NotPinned, Prefetched, Report, Suspended
from model_runtime.kv.sessions import PinRefused, Sessions
from model_runtime.kv.tails import TailKey, Tails

T = TypeVar("T")
Steps: TypeAlias = Generator[None, None, T]


class Moves:
    """One thread: the engine's."""

    def __init__(self, cache: KVCache, sessions: Sessions, tails: Tails) -> None:
        self._cache = cache
        self._sessions = sessions
        self._tails = tails

    def ask(self, what: str, name: SessionName, until: float | None = None) -> Steps[Report | None]:
        """`what`: one of reports.QUESTIONS. `until`: of a pin, seconds since 1970; None: it ends. Raises OSError."""
        match what:
            case "pin":
                return self.pin(name, until)
            case "prefetch":
                return self.prefetch(name)
            case "suspend":
                return self.suspend(name)
            case "drop":
                return self.drop(name)
            case "moves":
                return self.moved(name)
            case _:
                return self.describe(name)

    def describe(self, name: SessionName) -> Steps[Described]:
        yield
        manifest = self._sessions.get(name)
        tail = self._tails.where(tail_key(manifest)) if manifest is not None and manifest.tail else None
        return Described(self._sessions.describe(name), tail, self._sessions.tenant(name[0]))

    def moved(self, name: SessionName) -> Steps[Moved]:
        """Of all blocks of the session's tenant."""
        yield
        return Moved(self._cache.departures.of(name[0]))

    def pin(self, name: SessionName, until: float | None) -> Steps[Described | NotPinned | None]:
        try:
            manifest = self._sessions.pin(name, until)
        except PinRefused as refused:
            return refused.report
        if manifest is None:
            return None
        for node in self._sessions.nodes(manifest):
            if self._there(node):
                self._cache.store(node)
            yield
        return (yield from self.describe(name))

    def prefetch(self, name: SessionName) -> Steps[Prefetched | None]:
        """As far as the tenant's share of the device goes, from the first block on."""
        manifest = self._sessions.get(name)
        if manifest is None:
            return None
        seconds, brought, there = 0.0, Counter[str](), 0
        nodes = self._sessions.nodes(manifest)
        for node in nodes:
            if node.slot is None and not self._has_room(name[0]):
                break
            begun = time.perf_counter()
            tier = self._cache.bring_up(node) if self._there(node) else None
            if tier is None:
                break
            there += tier == "device"
            if tier != "device":
                brought[tier] += 1
                seconds += time.perf_counter() - begun
                self._cache.counts.prefetched[tier] += 1
            yield
        begun = time.perf_counter()
        tail = self._tails.find(tail_key(manifest)) if manifest.tail else None
        seconds += time.perf_counter() - begun
        if tail is not None:
            tail.tier = "device"  # who asks next restores nothing
        left = len(manifest.block_ids) - there - brought.total()
        counts = {tier: brought[tier] for tier in TIERS if tier != "device"}
        return Prefetched(counts, there, left, 0 if tail is None else len(tail.tokens), round(1_000 * seconds, 2))

    def suspend(self, name: SessionName) -> Steps[Suspended | None]:
        """Off the device: blocks to the other tiers, the tail to a file."""
        manifest = self._sessions.get(name)
        if manifest is None:
            return None
        moved = freed = 0
        nodes = self._sessions.nodes(manifest)
        for node in reversed(nodes):
            if self._there(node) and not self._sessions.shared(node.block_id, name):
                on_device = self._cache.holdings.of(node)["device"]
                if self._cache.lower(node):
                    moved += 1
                    freed += on_device
            yield
        tail = self._tails.rest(tail_key(manifest)) if manifest.tail else 0
        return Suspended(moved, sum(node.slot is not None for node in nodes), freed, tail)

    def drop(self, name: SessionName) -> Steps[Dropped | None]:
        """Blocks that only this session has, and its tail. Raises OSError."""
        yield
        sizes = Counter[str]()
        manifest = self._sessions.get(name)
        if manifest is None:
            return None
        if not any(self._sessions.shared(block_id, name) for block_id in manifest.block_ids[-1:]):
            self._tails.drop(tail_key(manifest))
        gone = self._sessions.only_of(name)
        for node in gone:
            sizes.update(self._cache.holdings.of(node))
        self._sessions.drop(name)
        for node in gone:
            self._cache.drop(node, "dropped")
        kept = sum(self._cache.get(block_id) is not None for block_id in manifest.block_ids)
        return Dropped(len(gone), kept, {tier: sizes[tier] for tier in TIERS})

    def _there(self, node: Node) -> bool:
        """It was not dropped between two steps."""
        return self._cache.get(node.block_id) is node

    def _has_room(self, tenant: str) -> bool:
        holdings = self._cache.holdings
        quota = holdings.shares.quota(holdings.capacity()["device"])
        return holdings.used_by(tenant)["device"] + holdings.block_bytes <= quota


def tail_key(manifest: SessionManifest) -> TailKey:
    return manifest.namespace, manifest.block_ids[-1] if manifest.block_ids else None

"""Which blocks does each session count on, and what follows from it: what is pinned, superseded, moved or dropped?

A session has the blocks of its last answer (or of what was computed ahead for its next one): its manifest. A block that
only manifests of the past named is superseded, and the first to go. Blocks are shared by content, so what belongs to
one session only is what no other manifest names. One thread owns this: the engine's.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from model_runtime.kv.cache import KVCache
from model_runtime.kv.holdings import TIERS
from model_runtime.kv.identity import BlockId
from model_runtime.kv.manifests import ManifestsBehind, SessionManifest, SessionName
from model_runtime.kv.nodes import Node
from model_runtime.kv.reports import NotPinned, SessionKV, TenantKV

_MOST = 10_000
"""Sessions; of more, those that were written longest ago are forgotten, their blocks are not."""


class PinRefused(Exception):
    def __init__(self, report: NotPinned) -> None:
        super().__init__(f"{report.wanted} bytes would be pinned where {report.left} are left")
        self.report = report


@dataclass(frozen=True, slots=True)
class _Room:
    """Bytes that may still be pinned; `of_all`: the pins of all tenants together leave no more."""

    bytes: int
    of_all: bool


class Sessions:
    def __init__(
        self,
        cache: KVCache,
        behind: ManifestsBehind | None,
        *,
        tokenizer: str = "",
        template: str = "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`behind` None: manifests end with the process. `tokenizer`, `template`: fingerprints."""
        self._cache = cache
        self._holdings = cache.holdings
        self._behind = behind
        self._texts = (tokenizer, template)
        self._clock = clock
        self._manifests: dict[SessionName, SessionManifest] = {}
        self._named: dict[BlockId, set[SessionName]] = {}

    def adopt(self, found: Iterable[SessionManifest]) -> None:
        """Manifests of an earlier process. Those of another tokenizer or template would name what nobody asks for."""
        for manifest in found:
            if (manifest.tokenizer, manifest.template) != self._texts:
                self._erase(manifest.name)
                continue
            self._manifests[manifest.name] = manifest
            self._holdings.shares.claim(manifest.namespace, manifest.tenant)
            self._name(manifest)

    def __len__(self) -> int:
        return len(self._manifests)

    def get(self, name: SessionName) -> SessionManifest | None:
        return self._manifests.get(name)

    def record(
        self, name: SessionName, namespace: bytes, codec: str, nodes: Sequence[Node], tail: Sequence[int]
    ) -> None:
        """The session's KV is this from now on. Written behind."""
        old = self._manifests.pop(name, None)
        tokenizer, template = self._texts
        new = SessionManifest(
            tenant=name[0],
            memory_key=name[1],
            namespace=namespace,
            codec=codec,
            block_ids=tuple(node.block_id for node in nodes),
            tail=tuple(tail),
            tokenizer=tokenizer,
            template=template,
            pinned_until=old.pinned_until if old is not None and self._lives(old.pinned_until) else None,
            generation=old.generation + 1 if old is not None else 1,
        )
        self._manifests[name] = new
        if old is not None:
            self._unname(old, set(new.block_ids))
        self._name(new)
        self._save(new)
        self._forget_the_oldest()

    def pin(self, name: SessionName, until: float | None) -> SessionManifest | None:
        """Its blocks stay until then (None: no longer), in the lowest tier at least. None: there is no such session.

        What the session adds meanwhile is pinned as far as the budget goes. Raises PinRefused.
        """
        manifest = self._manifests.get(name)
        if manifest is None:
            return None
        if until is not None:
            self._check_budget(manifest)
        manifest = replace(manifest, pinned_until=until, generation=manifest.generation + 1)
        self._manifests[name] = manifest
        self._settle_pins(manifest.block_ids)
        self._save(manifest)
        return manifest

    def nodes(self, manifest: SessionManifest) -> list[Node]:
        """Those of its blocks that some tier has, from the first to the last before a gap."""
        found: list[Node] = []
        for block_id in manifest.block_ids:
            node = self._cache.get(block_id)
            if node is None:
                break
            found.append(node)
        return found

    def shared(self, block_id: BlockId, name: SessionName) -> bool:
        """Whether another session names it too."""
        return bool(self._named.get(block_id, set()) - {name})

    def only_of(self, name: SessionName) -> list[Node]:
        """The blocks that no other session names, with all that nobody names after them; parents first."""
        manifest = self._manifests.get(name)
        below = self._below(manifest.block_ids) if manifest is not None else []
        return [node for node in below if not self._named.get(node.block_id, set()) - {name}]

    def drop(self, name: SessionName) -> None:
        """Forgets the manifest; its blocks are not touched. Raises OSError."""
        manifest = self._manifests.pop(name, None)
        if manifest is not None:
            self._unname(manifest, set())
            self._erase(name)

    def forget(self, namespaces: frozenset[bytes]) -> None:
        """A purge. Raises OSError."""
        for name in [name for name, manifest in self._manifests.items() if manifest.namespace in namespaces]:
            self._unname(self._manifests.pop(name), set())
            self._erase(name)
        if self._behind is not None:
            self._behind.empty_quarantine()

    def describe(self, name: SessionName) -> SessionKV | None:
        manifest = self._manifests.get(name)
        if manifest is None:
            return None
        blocks, sizes = Counter[str](), Counter[str]()
        nodes = [node for node in map(self._cache.get, manifest.block_ids) if node is not None]
        for node in nodes:
            for tier, nbytes in self._holdings.of(node).items():
                blocks[tier] += nbytes > 0
                sizes[tier] += nbytes
        return SessionKV(
            codec=manifest.codec,
            namespace=manifest.namespace.hex(),
            last_block=manifest.block_ids[-1].hex() if manifest.block_ids else None,
            tokens=manifest.tokens,
            tail_tokens=len(manifest.tail),
            generation=manifest.generation,
            pinned_until=manifest.pinned_until if self._lives(manifest.pinned_until) else None,
            pinned_blocks=sum(self._lives(node.pinned_until) for node in nodes),
            blocks={tier: blocks[tier] for tier in TIERS},
            bytes={tier: sizes[tier] for tier in TIERS},
            lost=len(manifest.block_ids) - len(nodes),
        )

    def tenant(self, tenant: str) -> TenantKV:
        """From any thread."""
        holdings, capacity = self._holdings, self._holdings.capacity()
        return TenantKV(
            used=holdings.used_by(tenant),
            quota={tier: holdings.shares.quota(nbytes) for tier, nbytes in capacity.items()},
            pinned=holdings.pinned(tenant),
            pin_budget=holdings.shares.pin_budget(capacity[holdings.lowest]),
        )

    def _name(self, manifest: SessionManifest) -> None:
        for block_id in manifest.block_ids:
            self._named.setdefault(block_id, set()).add(manifest.name)
            node = self._cache.get(block_id)
            if node is not None:
                node.superseded = 0.0
        if self._lives(manifest.pinned_until):
            self._settle_pins(manifest.block_ids)

    def _unname(self, manifest: SessionManifest, kept: set[BlockId]) -> None:
        """`kept`: blocks that the session goes on with."""
        left = [block_id for block_id in manifest.block_ids if block_id not in kept]
        for block_id in left:
            names = self._named.get(block_id, set())
            names.discard(manifest.name)
            node = self._cache.get(block_id)
            if not names:
                self._named.pop(block_id, None)
                if node is not None:
                    node.superseded = self._clock()
        if manifest.pinned_until is not None:
            self._settle_pins(left)

    def _settle_pins(self, block_ids: Sequence[BlockId]) -> None:
        """Each is pinned as long as one that names it is; first to last, so that the budget goes to whole prefixes."""
        now, room = self._clock(), None
        for node in filter(None, map(self._cache.get, block_ids)):
            until = max((self._manifests[n].pinned_until or 0.0 for n in self._named.get(node.block_id, ())), default=0)
            if until > now >= node.pinned_until:
                room = self._room(self._holdings.shares.owner(node.namespace)).bytes if room is None else room
                room -= self._holdings.kept_bytes(node)
                if room < 0:
                    return
            node.pinned_until = until

    def _check_budget(self, manifest: SessionManifest) -> None:
        now, room = self._clock(), self._room(manifest.tenant)
        wanted = sum(self._holdings.kept_bytes(node) for node in self.nodes(manifest) if node.pinned_until <= now)
        if wanted > room.bytes:
            raise PinRefused(NotPinned(wanted, max(0, room.bytes), room.of_all))

    def _room(self, tenant: str) -> "_Room":
        holdings = self._holdings
        size = holdings.capacity()[holdings.lowest]
        own = holdings.shares.pin_budget(size) - holdings.pinned(tenant)
        everybody_s = holdings.shares.most_pinned(size) - holdings.pinned(None)
        return _Room(min(own, everybody_s), of_all=everybody_s < own)

    def _below(self, block_ids: Iterable[BlockId]) -> list[Node]:
        """These and all that follow from them, parents first."""
        children: dict[BlockId | None, list[Node]] = {}
        for node in self._cache.nodes():
            children.setdefault(node.parent, []).append(node)
        found, seen = [], set(block_ids)
        queue = [node for node in map(self._cache.get, block_ids) if node is not None]
        while queue:
            node = queue.pop()
            found.append(node)
            fresh = [child for child in children.get(node.block_id, ()) if child.block_id not in seen]
            seen.update(child.block_id for child in fresh)
            queue += fresh
        return found

    def _lives(self, until: float | None) -> bool:
        return until is not None and until > self._clock()

    def _forget_the_oldest(self) -> None:
        while len(self._manifests) > _MOST:
            name = next((n for n, m in self._manifests.items() if not self._lives(m.pinned_until)), None)
            if name is None:
                return
            self._unname(self._manifests.pop(name), set())
            if self._behind is not None:
                self._behind.drop_soon(name)

    def _save(self, manifest: SessionManifest) -> None:
        if self._behind is not None:
            self._behind.put(manifest)

    def _erase(self, name: SessionName) -> None:
        if self._behind is not None:
            self._behind.drop(name)

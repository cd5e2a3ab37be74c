"""What does a process need to generate? A checkpoint, its KV in three tiers, and the engine between them."""

import hashlib
import json
import secrets
import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from model_runtime.generators.chat import ChatTokenizer
from model_runtime.generators.checkpoint import Checkpoint, load
from model_runtime.generators.engine import Engine
from model_runtime.generators.places import PlaceOptions
from model_runtime.kv.arena import Arena
from model_runtime.kv.cache import FILE_EXTRA, KVCache
from model_runtime.kv.codecs import NAMES, Codec, codec
from model_runtime.kv.disk import DiskTier
from model_runtime.kv.gate import Gate
from model_runtime.kv.host import HostTier
from model_runtime.kv.identity import NamespaceFacts
from model_runtime.kv.manifests import Manifests, ManifestsBehind, SessionManifest
from model_runtime.kv.moves import Moves
from model_runtime.kv.reports import Report
from model_runtime.kv.retrieval import SparseCounts, SparsePolicy
from model_runtime.kv.sequence import GROUP
from model_runtime.kv.sessions import Sessions
from model_runtime.kv.shape import BLOCK
from model_runtime.kv.shares import ShareOptions, Shares
from model_runtime.kv.staging import Staging, staging_blocks
from model_runtime.kv.tails import TailFiles

SPARSE = "sparse"
POLICIES = (*NAMES, SPARSE)
"""How exactly KV is kept and read: the codecs, and steps that leave blocks out. Each has its own namespaces."""

_FORMAT = 1
_TAILS = 16
"""One part in so many of the disk is for unfinished blocks."""
_GRID = BLOCK
"""Prompts are computed on an absolute grid, so that a resumed prompt is the same computation as a cold one."""


@dataclass(frozen=True, slots=True)
class RuntimeOptions:
    """Bytes of KV by tier. `disk_bytes` 0: no KV on disk. `threads`: of the computation; None: torch's own choice."""

    model: str
    folder: Path
    device_bytes: int = 2 << 30
    host_bytes: int = 1 << 30
    disk_bytes: int = 16 << 30
    threads: int | None = None
    dtype: str | None = None
    sparse: SparsePolicy = field(default_factory=SparsePolicy)
    shares: ShareOptions = field(default_factory=ShareOptions)
    places: PlaceOptions = field(default_factory=PlaceOptions)


class Runtime:
    """Owns its engine's thread and its files: `close()` ends them."""

    def __init__(self, options: RuntimeOptions, checkpoint: Checkpoint) -> None:
        shape = checkpoint.shape
        self.checkpoint = checkpoint
        self._instance = secrets.token_hex(8)
        self.chat = ChatTokenizer(checkpoint.tokenizer)
        self.gate = Gate()
        self._codecs: Callable[[str], Codec] = lru_cache(maxsize=None)(lambda name: codec(name, shape))
        self._stored_bytes: Callable[[str], int] = lru_cache(maxsize=None)(self._bytes_as)
        self.staging = Staging(shape, staging_blocks(shape, options.device_bytes, GROUP), checkpoint.device)
        slots = (options.device_bytes - self.staging.nbytes) // shape.block_bytes
        self.arena = Arena(shape, max(2, slots), checkpoint.device)
        self.host = HostTier(options.host_bytes)
        self.disk, self._manifests, tails = None, None, None
        found: list[SessionManifest] = []
        if options.disk_bytes:
            folder = self._own_folder(options)
            self.disk = DiskTier(folder, quota_bytes=options.disk_bytes - options.disk_bytes // _TAILS)
            tails = TailFiles(folder / "tails", options.disk_bytes // _TAILS)
            manifests = Manifests(folder / "sessions")
            found = list(manifests.all())
            self._manifests = ManifestsBehind(manifests)
        self.cache = KVCache(
            self.arena,
            self.host,
            self.disk,
            staging=self.staging,
            gate=self.gate,
            codecs=self._codecs,
            shares=Shares(options.shares),
        )
        self.sparse = options.sparse
        texts = {"tokenizer": checkpoint.facts["tokenizer"], "template": self.chat.template}
        self.sessions = Sessions(self.cache, self._manifests, **texts)
        self.sessions.adopt(found)
        self.engine = Engine(
            checkpoint,
            self.arena,
            self.cache,
            self.gate,
            self._codecs,
            sessions=self.sessions,
            tail_files=tails,
            places=options.places,
            threads=options.threads,
            sparse=self.sparse,
        )
        self.moves = Moves(self.cache, self.sessions, self.engine.tails)
        self.engine.start()

    def kv(self, what: str, tenant: str, memory_key: str, until: float | None = None) -> "Future[Report | None]":
        """`what`: one of reports.QUESTIONS. Raises OSError, and RuntimeError at the end."""
        if what == "drop":  # what is computed ahead would be there again
            self.engine.errands.put(lambda: self.engine.overtake((tenant, memory_key)))
        return self.engine.errands.run(self.moves.ask(what, (tenant, memory_key), until))

    @property
    def block(self) -> int:
        """Tokens of a block."""
        return BLOCK

    @property
    def max_tokens(self) -> int:
        """What the model reads and all tiers together hold."""
        return min(self.checkpoint.max_tokens, self.capacity("exact"))

    def capacity(self, codec: str) -> int:
        """Tokens of one session that all tiers together hold, when nothing else is kept."""
        stored = self._stored_bytes(codec)
        below = self.host.quota_bytes // stored
        if self.disk is not None:
            below += self.disk.quota_bytes // (stored + FILE_EXTRA)
        # What was quantised has its only full copy below; one slot is always the private block's.
        return BLOCK * (below + (self.arena.slots - 1 if codec == "exact" else 0))

    def _bytes_as(self, codec: str) -> int:
        if codec == "exact":
            return self.checkpoint.shape.block_bytes
        return sum(map(len, self._codecs(codec).encode(self.checkpoint.shape.empty_block().zero_())))

    def namespace(self, salt: str, policy: str) -> bytes:
        """Everything but the tokens that decides what KV is computed, and who may share it.

        `policy`: one of POLICIES.
        """
        facts = self.checkpoint.facts
        return NamespaceFacts(
            format_version=_FORMAT,
            weights=facts["weights"],
            architecture=facts["architecture"],
            kv_dtype=self.checkpoint.shape.dtype,
            block_size=BLOCK,
            policy=self.sparse.facts() if policy == SPARSE else policy,
            chunk_grid=_GRID,
            libraries=facts["libraries"],
            adapter="",
            salt=salt,
        ).namespace()

    def namespaces(self, salt: str) -> frozenset[bytes]:
        """Of all policies: where KV of this salt may be."""
        return frozenset(self.namespace(salt, policy) for policy in POLICIES)

    def moment(self) -> str:
        """Asked for before a prompt is put together: what is forgotten from then on may be in it."""
        return f"{self._instance}:{time.monotonic():.9f}"

    def since(self, moment: str) -> float | None:
        """Monotonic seconds of a moment; None for one of an earlier runtime: nobody knows what that one forgot."""
        instance, _, seconds = moment.partition(":")
        return float(seconds) if instance == self._instance else None

    def stats(self) -> dict[str, Any]:
        """From any thread: counts of one moment, or of two moments close to each other."""
        gate, engine, cache = self.gate.stats(), self.engine, self.cache.stats()
        hits, computed = cache["reused_tokens"], engine.computed_tokens
        return cache | {
            "missed_tokens": {  # each tier is asked for what those above it do not have
                "device": computed + hits["disk"] + hits["host"],
                "host": computed + hits["disk"],
                "disk": computed,
            },
            "computed_tokens": computed,
            "written_tokens": engine.written_tokens,
            "sparse": _sparse_counts(engine.sparse),
            "coverage": engine.sparse.coverage,
            "seconds": {"prefill": round(engine.prefill_seconds, 3), "decode": round(engine.decode_seconds, 3)},
            "sessions": len(self.sessions),
            "gate": {"load": gate.loads, "recompute": gate.recomputes},
            "answers": {"running": engine.answering, "waiting": engine.waiting},
        }

    def forget(self, namespaces: frozenset[bytes], tenant: str | None = None) -> "Future[int]":
        """Drops every block of these namespaces, and of this tenant, on every tier; the number, once it is done."""
        self.chat.forget()
        return self.engine.errands.ask(lambda: self.engine.forget(namespaces, tenant))

    def _own_folder(self, options: RuntimeOptions) -> Path:
        """Blocks of another model, dtype, library or sparse policy are not used again, and no purge would find them."""
        known = [self.checkpoint.facts, self.checkpoint.shape.dtype, _FORMAT, _GRID, options.sparse.facts()]
        facts = json.dumps(known, sort_keys=True)
        mine = options.folder / "blocks" / hashlib.sha256(facts.encode()).hexdigest()[:16]
        for other in (options.folder / "blocks").glob("*"):
            if other != mine:
                shutil.rmtree(other, ignore_errors=True)
        return mine

    def close(self) -> None:
        ended = self.engine.stop()
        if self._manifests is not None:
            self._manifests.close()
        if ended:
            self.staging.close()
            if self.disk is not None:
                self.disk.close()


def _sparse_counts(counts: SparseCounts) -> dict[str, int]:
    return {
        "steps": counts.steps,
        "dense_steps": counts.dense_steps,
        "fallbacks": counts.fallbacks,
        "blocks_read": counts.read,
        "blocks_there": counts.there,
        "blocks_sampled": counts.sampled,
    }


def open_runtime(options: RuntimeOptions) -> Runtime:
    """Blocks for seconds. Raises UnusableModel, and OSError where the folder can't be used."""
    options.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return Runtime(options, load(options.model, cache_dir=options.folder, dtype=options.dtype))

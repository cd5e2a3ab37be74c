"""Memories over any database, with a clock that stands still and quick stand-ins for the models; no index, no tier."""

from dataclasses import dataclass, field
from datetime import timedelta

from memory.adapters.jobs.recording import RecordingQueue
from memory.domain.memories import MemoryKind, MemoryVisibility, NewMemory
from memory.domain.operations import UNFINISHED
from memory.domain.principals import Principal
from memory.ports.storage import Storage
from memory.services.clusters import Clusters
from memory.services.consolidation import Consolidation
from memory.services.duplicates import Duplicates
from memory.services.history import History
from memory.services.memories import Memories
from memory.services.policies import Policies
from memory.services.secrets import TenantSecrets
from memory.services.spaces import TenantSpaces
from memory.services.summaries import Summaries
from memory.services.usage import Usage
from memory.testing import SettableClock, WordHashEmbedder, WordTokenizer
from memory.tiers.semantic.settings import SemanticSettings
from memory.tiers.semantic.tier import SemanticTier
from tests.services import forgetting

ME = Principal("acme", agent_id="ann")
LEASE = timedelta(minutes=1)


def memory(text, **options):
    kind = options.pop("kind", MemoryKind.FACT)
    return NewMemory(text, kind, options.pop("visibility", MemoryVisibility.TENANT), **options)


@dataclass
class Models:
    embedder: WordHashEmbedder
    tokenizer: WordTokenizer


@dataclass
class World:
    storage: Storage
    clock: SettableClock = field(default_factory=SettableClock)

    embedder: WordHashEmbedder = field(default_factory=lambda: WordHashEmbedder(384))

    def __post_init__(self):
        secrets, tokenizer = TenantSecrets(self.storage, self.clock), WordTokenizer()
        self.spaces = TenantSpaces(Models(self.embedder, tokenizer))
        self.jobs = RecordingQueue()
        self.usage = Usage(self.storage, self.clock)
        self.memories = Memories(self.storage, tokenizer, self.jobs, secrets, self.clock, self.usage)
        self.history = History(self.storage, tokenizer, self.jobs, secrets, self.clock)
        self.erasure, self.forgetting = forgetting(self.storage, self.jobs, self.clock, lease=LEASE)
        self.policies = Policies(
            storage=self.storage,
            spaces=self.spaces,
            erasure=self.erasure,
            usage=self.usage,
            jobs=self.jobs,
            clock=self.clock,
            lease=LEASE,
        )
        self.duplicates = Duplicates(self.storage, self.spaces, self.clock, LEASE, 0.9)
        semantic = SemanticTier(storage=self.storage, spaces=self.spaces, settings=SemanticSettings(), clock=self.clock)
        self.consolidation = Consolidation(
            storage=self.storage,
            spaces=self.spaces,
            tiers=(),
            jobs=self.jobs,
            secrets=secrets,
            clock=self.clock,
            lease=LEASE,
            duplicates=self.duplicates,
            clusters=Clusters(self.storage, semantic, Summaries(self.storage, str.split), str.split),
        )

    async def add(self, *texts, **options):
        added = await self.memories.add(ME, [memory(text, **options) for text in texts])
        return [one.memory.memory_id for one in added]

    async def work(self):
        for _ in range(9):
            async with self.storage.read() as tx:
                left = await tx.operations.page("acme", states=UNFINISHED, after_id=None, limit=9)
            for operation in left:
                for step in (self.consolidation.consolidate, self.consolidation.embed, self.consolidation.evict):
                    await step(operation.operation_id)
            if not left:
                return

    async def get(self, memory_id):
        return await self.memories.get(ME, memory_id)

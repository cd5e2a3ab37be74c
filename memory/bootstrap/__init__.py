"""How does everything come together? The only place that knows every class.

`build(settings)` migrates the database, loads the models, opens the indexes and gives a container; leaving the block
closes what it opened, in reverse. `serving=False` is for workers: they write rows and own no index.
"""

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

from memory.adapters.clock import SystemClock
from memory.adapters.codecs.plain import Int8
from memory.adapters.codecs.quantised import product, residual
from memory.adapters.codecs.sealed import SealedCodec
from memory.adapters.jobs.celery_queue import CeleryQueue
from memory.adapters.kv.null import NullKVStore
from memory.adapters.lexical.analysis import Analyzer
from memory.adapters.lexical.scan import ScanIndex
from memory.adapters.lexical.tantivy_index import TantivyIndexes
from memory.adapters.models.runtime_http import RemoteRuntime
from memory.adapters.models.settings import GenerationSettings
from memory.adapters.models.vqvae import LearnedCodec
from memory.adapters.notices import LocalNotices
from memory.adapters.sql.notices import PostgresNotices
from memory.adapters.sql.storage import SqlStorage, is_sqlite
from memory.adapters.vectors.faiss_index import FaissIndexes
from memory.adapters.vectors.flat import FlatIndexes
from memory.adapters.vectors.milvus import MilvusIndexes
from memory.bootstrap import callers, embedders, engines, folders, purging
from memory.domain.recall import TierName
from memory.ports.identity import TokenVerifier
from memory.ports.indexes import VectorIndexes
from memory.ports.models import Embedder, Models, Tokenizer
from memory.ports.notices import Notices
from memory.services.abstracts import Abstracts
from memory.services.activity import Activity
from memory.services.admin import Admin
from memory.services.agents import Agents
from memory.services.audit import Audit
from memory.services.clusters import Clusters
from memory.services.codecs import Codecs
from memory.services.consolidation import Consolidation
from memory.services.context import Contexts
from memory.services.duplicates import Duplicates
from memory.services.embeddings import Embeddings
from memory.services.events import Events
from memory.services.evictions import Evictions
from memory.services.forgetting import Forgetting
from memory.services.generation import Generation
from memory.services.health import Health
from memory.services.history import History
from memory.services.indexes import Indexes
from memory.services.keys import Keys
from memory.services.kv import KV
from memory.services.log import Log
from memory.services.memories import Memories
from memory.services.operations import Operations
from memory.services.passages import Passages
from memory.services.past import FormerTexts
from memory.services.policies import Policies
from memory.services.quotas import Quotas, SessionQuota
from memory.services.recall import Recall
from memory.services.receipts import Receipts
from memory.services.reembedding import Reembedding
from memory.services.secrets import TenantSecrets
from memory.services.sessions import Sessions
from memory.services.spaces import TenantSpaces
from memory.services.streams import Streams
from memory.services.summaries import Summaries
from memory.services.tenants import Tenants
from memory.services.traffic import Traffic
from memory.services.turns import Turns
from memory.services.upkeep import Upkeep, flushed
from memory.services.usage import Usage
from memory.services.warming import Warming
from memory.settings import Settings
from memory.tiers.base import Tier
from memory.tiers.hot.tier import HotTier
from memory.tiers.longterm.settings import LongTermSettings
from memory.tiers.longterm.tier import LongTermTier
from memory.tiers.semantic.tier import SemanticTier

logger = logging.getLogger(__name__)

_FLUSH_EVERY = 5.0
_FLUSH_AUDIT_EVERY = 1.0


@dataclass(frozen=True, slots=True)
class Container:
    settings: Settings
    clock: SystemClock
    storage: SqlStorage
    jobs: CeleryQueue
    embedder: Embedder
    tokenizer: Tokenizer
    longterm: LongTermTier
    keys: Keys
    tokens: TokenVerifier | None
    quotas: Quotas
    tenants: Tenants
    receipts: Receipts
    audit: Audit
    health: Health
    sessions: Sessions
    agents: Agents
    events: Events
    streams: Streams
    recall: Recall
    context: Contexts
    embeddings: Embeddings
    generation: Generation
    kv: KV
    memories: Memories
    abstracts: Abstracts
    history: History
    operations: Operations
    forgetting: Forgetting
    policies: Policies
    consolidation: Consolidation
    reembedding: Reembedding
    former: Mapping[str, Models]
    indexes: Indexes
    codecs: Codecs
    upkeep: Upkeep
    admin: Admin
    evictions: Evictions
    traffic: Traffic


@asynccontextmanager
async def build(
    settings: Settings,
    models: Models | None = None,
    *,
    former: Mapping[str, Models] | None = None,
    traffic: Traffic | None = None,
    serving: bool = True,
) -> AsyncIterator[Container]:
    """Raises StorageUnavailable, EmbedderUnavailable, TierUnavailable when something can't be opened.

    `models`: those that are loaded already; they stay open, and so do those of other spaces (`former`). `traffic`: of
    the requests that are answered beside.
    """
    async with AsyncExitStack() as stack:
        clock = SystemClock()
        storage = SqlStorage(settings.storage_url, settings.database)
        stack.push_async_callback(storage.close)
        await storage.migrate()
        traffic = traffic or Traffic()
        given = models is not None
        remote = await engines.connected(stack, settings)
        if remote is not None:
            models = remote  # connections belong to one event loop: nobody shares them
        elif models is None:
            models = await embedders.configured(stack, settings, traffic, storage, clock)
        if former is None and not given:
            former = await embedders.former(stack, settings, traffic, storage, models)
        spaces = TenantSpaces(models, former)
        if serving:
            await folders.take(stack, settings)
        jobs = CeleryQueue(settings.broker_url, settings.jobs, settings.data_dir)
        stack.callback(jobs.close)
        yield await _wire(stack, settings, clock, storage, jobs, spaces, remote, traffic, serving)


async def _wire(
    stack: AsyncExitStack,
    settings: Settings,
    clock: SystemClock,
    storage: SqlStorage,
    jobs: CeleryQueue,
    spaces: TenantSpaces,
    remote: RemoteRuntime | None,
    traffic: Traffic,
    serving: bool,
) -> Container:
    embedder, tokenizer = spaces.current.embedder, spaces.current.tokenizer
    lease = timedelta(seconds=settings.jobs.lease)
    secrets = TenantSecrets(storage, clock)
    salt = engines.salt(await secrets.of_database())
    generator = await engines.generator(stack, settings, tokenizer, remote, salt) if serving else None
    kv = engines.kv(generator, remote, salt) if serving else NullKVStore()
    hot = HotTier(storage=storage, kv=kv, words=ScanIndex, spaces=spaces, settings=settings.hot, clock=clock)
    semantic = SemanticTier(storage=storage, spaces=spaces, settings=settings.semantic, clock=clock)
    reembedding = Reembedding(
        storage=storage,
        spaces=spaces,
        semantic=semantic,
        jobs=jobs,
        secrets=secrets,
        clock=clock,
        lease=lease,
        give_way=traffic.give_way,
    )
    summaries = Summaries(storage, Analyzer().terms)
    clusters = Clusters(storage, semantic, summaries, Analyzer().terms)
    consolidation = Consolidation(
        storage=storage,
        spaces=spaces,
        tiers=(hot, semantic),  # long-term follows the change feed by itself
        jobs=jobs,
        secrets=secrets,
        clock=clock,
        lease=lease,
        duplicates=Duplicates(storage, spaces, clock, lease, settings.memories.near_duplicate),
        clusters=clusters,
        give_way=traffic.give_way,
    )
    quotas = callers.quotas(stack, settings.limits)
    tenants = Tenants(storage, quotas)
    longterm = LongTermTier(
        storage=storage,
        spaces=spaces,
        embed_items=consolidation.embed_now,
        vectors=_vectors(settings.longterm),
        lexical=TantivyIndexes(),
        folder=settings.index_dir,
        node=settings.node_name,
        settings=settings.longterm,
        clock=clock,
        report=_report_rebuild,
        purged=folders.forgetting(kv, settings.data_dir.resolve(), tenants.forgotten),
    )
    indexes = Indexes(
        storage=storage,
        longterm=longterm,
        semantic=semantic,
        jobs=jobs,
        clock=clock,
        node=settings.node_name,
        lease=lease,
    )
    usage, activity = Usage(storage, clock), Activity()
    keys, audit = Keys(storage, clock), Audit(storage, clock)
    session_quota = SessionQuota(settings.limits.tenant_sessions)
    if serving:
        await reembedding.begin()
        stack.push_async_callback(longterm.close)
        await longterm.start()
        stack.push_async_callback(indexes.close)
        await indexes.start()
        await stack.enter_async_context(flushed(usage.flush, _FLUSH_EVERY))
        await stack.enter_async_context(flushed(keys.flush, _FLUSH_EVERY))
        await stack.enter_async_context(flushed(audit.flush, _FLUSH_AUDIT_EVERY))
    tiers: dict[TierName, Tier] = {TierName.HOT: hot, TierName.SEMANTIC: semantic, TierName.LONGTERM: longterm}
    recall = Recall(
        storage=storage,
        tiers=tiers,
        spaces=spaces,
        passages=Passages(storage, tokenizer, settings.recall.passage_tokens),
        usage=usage,
        activity=activity,
        former=FormerTexts(spaces, Analyzer().terms),
        window_begin=hot.window_begin,
        settings=settings.recall,
        clock=clock,
    )
    notices = await _notices(stack, settings) if serving else LocalNotices()
    log = Log(storage, jobs, clock, tokenizer.fingerprint, activity, notices, session_quota)
    events = Events(storage, log, tokenizer, secrets)
    receipts = purging.receipts(storage, settings)
    erasure = purging.erasure(storage, (hot, semantic, longterm), jobs, clock, lease, receipts, notices)
    forgetting = Forgetting(storage=storage, erasure=erasure, jobs=jobs, clock=clock, notices=notices)
    context = Contexts(storage, recall, summaries, tokenizer)
    memories = Memories(storage, tokenizer, jobs, secrets, clock, usage)
    warming = Warming(context, kv) if settings.generation.warm else None
    if warming is not None:
        stack.push_async_callback(warming.close)
    return Container(
        settings=settings,
        clock=clock,
        storage=storage,
        jobs=jobs,
        embedder=embedder,
        tokenizer=tokenizer,
        longterm=longterm,
        keys=keys,
        tokens=callers.tokens(stack, settings.oidc),
        audit=audit,
        quotas=quotas,
        tenants=tenants,
        receipts=receipts,
        health=Health(storage, jobs, embedder, longterm, generator, words_only=lambda: spaces.words_only),
        sessions=Sessions(storage, hot, clock, session_quota),
        agents=Agents(storage, clock, kv, notices),
        events=events,
        streams=Streams(storage, notices),
        recall=recall,
        context=context,
        embeddings=Embeddings(embedder, tokenizer),
        generation=Generation(
            generator,
            events,
            context,
            _turns(storage, clock, settings.generation),
            warming,
            context_tokens=settings.generation.context_tokens,
        ),
        kv=KV(storage, kv, clock, warming),
        memories=memories,
        abstracts=Abstracts(generator, storage, semantic, clusters, memories),
        history=History(storage, tokenizer, jobs, secrets, clock),
        operations=Operations(storage, jobs, clock),
        forgetting=forgetting,
        policies=Policies(
            storage=storage,
            spaces=spaces,
            erasure=erasure,
            usage=usage,
            jobs=jobs,
            clock=clock,
            lease=lease,
        ),
        consolidation=consolidation,
        reembedding=reembedding,
        former=spaces.former,
        indexes=indexes,
        codecs=_codecs(storage, embedder, jobs, clock, lease, settings),
        upkeep=Upkeep(
            storage,
            jobs,
            clock,
            idle=timedelta(seconds=settings.jobs.sweep_idle),
            retention=timedelta(days=settings.jobs.retention_days),
            audit_retention=timedelta(days=settings.audit.retention_days),
        ),
        admin=Admin(
            storage=storage,
            tiers=(hot, semantic, longterm),
            hot=hot,
            kv=kv,
            semantic=semantic,
            clusters=clusters,
            usage=usage,
            activity=activity,
        ),
        evictions=Evictions(storage=storage, hot=hot, semantic=semantic, kv=kv),
        traffic=traffic,
    )


async def _notices(stack: AsyncExitStack, settings: Settings) -> Notices:
    if is_sqlite(settings.storage_url):  # one process has it
        return LocalNotices()
    notices = PostgresNotices(settings.storage_url, settings.database)
    stack.push_async_callback(notices.close)
    await notices.start()
    return notices


def _vectors(settings: LongTermSettings) -> VectorIndexes:
    match settings.vectors:
        case "milvus":
            return MilvusIndexes(settings.milvus_uri, settings.milvus_token)
        case "flat":
            return FlatIndexes()
    return FaissIndexes()


def _turns(storage: SqlStorage, clock: SystemClock, wanted: GenerationSettings) -> Turns:
    lease = timedelta(seconds=wanted.turn_lease)
    return Turns(storage, clock, lease=lease, patience=wanted.turn_patience, waiting=wanted.turns_waiting)


def _codecs(
    storage: SqlStorage, embedder: Embedder, jobs: CeleryQueue, clock: SystemClock, lease: timedelta, settings: Settings
) -> Codecs:
    return Codecs(
        storage=storage,
        codecs=[SealedCodec(method) for method in (Int8(), product(), residual(), LearnedCodec())],
        space=embedder.space,
        dimensions=embedder.dimensions,
        jobs=jobs,
        clock=clock,
        lease=lease,
        settings=settings.codecs,
    )


def _report_rebuild(tenant_id: str, reason: str) -> None:
    logger.warning("the long-term index of tenant '%s' is rebuilt from the database: %s", tenant_id, reason)

"""Which codec keeps a tenant's cold segments small enough, and well enough? Measured before it is adopted.

One task, `codec`: looks at the codebooks, trains where there is none or the tenant has outgrown them, and makes codes
of what the semantic tier has let go of. Codes stand beside the segments' own vectors: whatever becomes of codes,
nothing is lost. A purge drops both, with the task that may be learning from what goes.
"""

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from typing import Any

import numpy as np

from memory.domain.codecs import CODE_SEGMENTS, Code, Codebook, ColdSegment, NewCodebook, stretches
from memory.domain.errors import CodebookDamaged, CodeUnreadable, Conflict
from memory.domain.operations import Operation, OperationKind, OperationState
from memory.domain.principals import SHARED, Principal
from memory.ports.codecs import Codec, Coder
from memory.ports.jobs import Clock, JobQueue
from memory.ports.models import Vectors
from memory.ports.storage import Storage, UnitOfWork
from memory.services.attempts import attempt
from memory.services.settings import CodecSettings
from memory.services.tasks import CODEC, SUBJECT_CODEC
from memory.services.training import Training

_PAGE = 2_000
"""Segments read, and turned into codes, in one transaction."""
_OUTGROWN = 2
"""A tenant with so many times the segments that were learned from is measured anew."""
_RENEW = 3
"""Times within a lease that a training which goes on says so."""


@dataclass(slots=True)
class Reading:
    """Vectors of a session's coded segments, float32 unit [d] by segment_key; `unreadable`: why some are not there."""

    vectors: dict[int, Vectors] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)


class Codecs:
    """`space`: of the vectors, with `dimensions`. Of `codecs` that keep enough, the smallest is adopted."""

    def __init__(
        self,
        *,
        storage: Storage,
        codecs: Sequence[Codec],
        space: str,
        dimensions: int,
        jobs: JobQueue,
        clock: Clock,
        lease: timedelta,
        settings: CodecSettings,
    ) -> None:
        self._storage = storage
        self._codecs: Mapping[str, Codec] = {codec.name: codec for codec in codecs}
        self._space = space
        self._dimensions = dimensions
        self._jobs = jobs
        self._clock = clock
        self._lease = lease
        self._settings = settings

    async def plan(self) -> int:
        """Promises the work that is due, tenant by tenant; how much. Run by upkeep."""
        if not self._settings.enabled:
            return 0
        async with self._storage.read() as tx:
            tenants = await tx.tenants.ids()
        promised = 0
        for tenant_id in tenants:
            if await self._due(tenant_id):
                await self._promise(tenant_id)
                promised += 1
        return promised

    async def train(self, principal: Principal) -> Operation:
        """The work on this tenant's codes, now. Raises Conflict where codecs are off."""
        if not self._settings.enabled:
            raise Conflict("codecs are off: set STRATAMEM_CODECS__ENABLED=true")
        operation_id = await self._promise(principal.tenant_id)
        async with self._storage.read() as tx:
            operation = await tx.operations.by_id(operation_id)
        assert operation is not None
        return operation

    async def overview(self, principal: Principal) -> dict[str, Any]:
        """Codebooks, newest first, what they keep, and what can't be read."""
        async with self._storage.read() as tx:
            known = await tx.codebooks.all(principal.tenant_id, self._space)
            cold = await tx.codebooks.cold(principal.tenant_id, self._space)
            damaged = await self._damaged(tx, known)
        return {
            "cold": cold | {"vector_bytes": 2 * self._dimensions * cold["segments"]},
            "codebooks": [_shown(codebook) for codebook in known],
            "degraded": [{"tier": "longterm", "reason": reason} for reason in damaged.values()],
        }

    async def read(self, session_key: int) -> Reading:
        """What a session's codes give back, of every version that they were made with."""
        reading = Reading()
        coders: dict[int, Coder | str] = {}
        async with self._storage.read() as tx:
            for code in await tx.codebooks.codes(session_key):
                if code.codebook_key not in coders:
                    coders[code.codebook_key] = await self._coder_of(tx, session_key, code.codebook_key)
                _decode(code, coders[code.codebook_key], reading)
        return reading

    async def work(self, operation_id: str) -> None:
        """May run twice, at once or one after the other: what is published is published once."""
        async with attempt(self._storage, self._clock, self._lease, operation_id) as operation:
            result = None if operation is None else await self._work(operation)
        if result is not None:
            async with self._storage.write() as tx:
                await tx.operations.finish(operation_id, OperationState.SUCCEEDED, self._clock.now(), result=result)

    async def _work(self, operation: Operation) -> dict[str, Any] | None:
        """None: the operation was taken away."""
        tenant_id = operation.tenant_id
        damaged = await self._drop_damaged(tenant_id)
        sample = await self._sample(tenant_id)
        result: dict[str, Any] = {"damaged": damaged, "trained_on": 0}
        if self._needs_training(await self._known(tenant_id), len(sample)):
            new = await self._trained(operation, sample)
            if new is None or not await self._publish(operation, new):
                return None
            result["trained_on"] = len(sample)
            result["measured"] = {n.codec: asdict(n.retention) for n in new}
        adopted = _current(await self._known(tenant_id))
        result["adopted"] = None if adopted is None else f"{adopted.codec} {adopted.version}"
        if adopted is not None and not await self._code_all(operation, adopted):
            return None
        async with self._storage.write() as tx:
            await tx.codebooks.remove_superseded(tenant_id, self._space)
        return result

    async def _due(self, tenant_id: str) -> bool:
        async with self._storage.read() as tx:
            known = await tx.codebooks.all(tenant_id, self._space)
            cold = await tx.codebooks.cold(tenant_id, self._space)
            if cold["segments"] < self._settings.least_segments:
                return False
            if await self._damaged(tx, known) or not known:
                return True
        waiting = cold["segments"] - cold["coded"]
        full = waiting >= CODE_SEGMENTS and _current(known) is not None
        return full or self._outgrown(known, cold["segments"])

    def _needs_training(self, known: Sequence[Codebook], sample: int) -> bool:
        return sample >= self._settings.least_segments and (not known or self._outgrown(known, sample))

    def _outgrown(self, known: Sequence[Codebook], segments: int) -> bool:
        return min(segments, self._settings.sample) >= _OUTGROWN * known[0].trained_on

    async def _promise(self, tenant_id: str) -> str:
        async with self._storage.write() as tx:
            operation_id, is_new = await tx.operations.enqueue(
                tenant_id, OperationKind.CODEC, SUBJECT_CODEC, self._clock.now(), total=0, unit="segments"
            )
        if is_new:
            self._jobs.send(CODEC, operation_id)
        return operation_id

    async def _known(self, tenant_id: str) -> list[Codebook]:
        async with self._storage.read() as tx:
            return await tx.codebooks.all(tenant_id, self._space)

    async def _sample(self, tenant_id: str) -> list[ColdSegment]:
        """Of what whole sessions see, never of private events: a codebook is the tenant's."""
        found: list[ColdSegment] = []
        while len(found) < self._settings.sample:
            after = found[-1].segment_key if found else 0
            limit = min(_PAGE, self._settings.sample - len(found))
            async with self._storage.read() as tx:
                page = await tx.codebooks.sample(tenant_id, self._space, SHARED, after, limit)
            found += page
            if len(page) < limit:
                break
        return found

    async def _trained(self, operation: Operation, sample: Sequence[ColdSegment]) -> list[NewCodebook] | None:
        """Each codec in turn, the one that is adopted with its codebook. None: the operation was taken away."""
        parts = [self._vectors(stretch) for stretch in stretches(sample, whole=False)]
        found: list[tuple[NewCodebook, bytes]] = []
        for codec in self._codecs.values():
            if len(sample) < codec.least:
                continue
            until = time.monotonic() + self._settings.train_seconds
            learned = await self._watched(operation, Training(codec, parts, self._dimensions, until))
            if learned is None:
                return None
            found.append(learned)
        async with self._storage.read() as tx:
            cold = await tx.codebooks.cold(operation.tenant_id, self._space)
        return _chosen(found, max(1, cold["segments"]), self._settings.least_recall)

    async def _watched(self, operation: Operation, job: Training) -> tuple[NewCodebook, bytes] | None:
        """Renews the lease while the job runs. None: the operation was taken away, and the job ends soon."""
        running = job.begin()
        try:
            while not running.done():
                await asyncio.wait([running], timeout=self._lease.total_seconds() / _RENEW)
                if not await self._alive(operation):
                    return None
            return running.result()
        finally:
            job.ended = True
            running.cancel()

    async def _publish(self, operation: Operation, new: Sequence[NewCodebook]) -> bool:
        """All or nothing, and not after a purge: that ends the operation."""
        now = self._clock.now()
        async with self._storage.write() as tx:
            if not await tx.operations.progress(operation.operation_id, 0, self._lease, now):
                return False
            await tx.codebooks.publish(operation.tenant_id, self._space, new, now)
        return True

    async def _code_all(self, operation: Operation, adopted: Codebook) -> bool:
        async with self._storage.read() as tx:
            coder = await self._coder(tx, adopted)
        after = 0
        while True:
            async with self._storage.read() as tx:
                keys = await tx.codebooks.sessions_with_uncoded(operation.tenant_id, self._space, after, _PAGE)
            for key in keys:
                if not await self._code_session(operation, adopted, coder, key):
                    return False
            if len(keys) < _PAGE:
                return True
            after = keys[-1]

    async def _code_session(self, operation: Operation, adopted: Codebook, coder: Coder, session_key: int) -> bool:
        """Full stretches only: the last segments wait for those that follow. False: the operation was taken away."""
        while True:
            async with self._storage.read() as tx:
                cold = await tx.codebooks.uncoded(session_key, self._space, _PAGE)
            parts = stretches(cold, whole=True)
            if not parts:
                return True
            made = await asyncio.to_thread(self._codes, coder, adopted, parts)
            async with self._storage.write() as tx:
                now = self._clock.now()
                if await tx.sessions.locked_by_key(session_key) is None:  # purged meanwhile
                    return True
                if not await tx.operations.progress(operation.operation_id, 0, self._lease, now):
                    return False
                await tx.codebooks.add_codes(operation.tenant_id, made)

    def _codes(self, coder: Coder, adopted: Codebook, parts: Sequence[Sequence[ColdSegment]]) -> list[Code]:
        return [
            Code(
                codebook_key=adopted.codebook_key,
                session_key=part[0].session_key,
                audience=part[0].audience,
                segment_keys=tuple(segment.segment_key for segment in part),
                code=coder.encode(self._vectors(part)),
            )
            for part in parts
        ]

    def _vectors(self, segments: Iterable[ColdSegment]) -> Vectors:
        joined = b"".join(segment.vector for segment in segments)
        return np.frombuffer(joined, "<f2").reshape(-1, self._dimensions).astype(np.float32)

    async def _drop_damaged(self, tenant_id: str) -> list[str]:
        """Reasons. One that is damaged takes all others along, with their codes: all is made again from the vectors."""
        async with self._storage.write() as tx:
            known = await tx.codebooks.all(tenant_id, self._space)
            damaged = await self._damaged(tx, known)
            for codebook in known if damaged else ():
                await tx.codebooks.remove(codebook.codebook_key)
        return list(damaged.values())

    async def _damaged(self, tx: UnitOfWork, known: Sequence[Codebook]) -> dict[int, str]:
        found = {}
        for codebook in known:
            if codebook.adopted:
                try:
                    await self._coder(tx, codebook)
                except CodebookDamaged as error:
                    found[codebook.codebook_key] = f"{codebook.codec} {codebook.version}: {error.detail}"
        return found

    async def _coder(self, tx: UnitOfWork, codebook: Codebook) -> Coder:
        """Raises CodebookDamaged."""
        codec = self._codecs.get(codebook.codec)
        if codec is None:
            raise CodebookDamaged(f"there is no codec {codebook.codec} any more", codec=codebook.codec)
        body = await tx.codebooks.body(codebook.codebook_key) or b""
        return await asyncio.to_thread(codec.open, body, self._dimensions)

    async def _coder_of(self, tx: UnitOfWork, session_key: int, codebook_key: int) -> Coder | str:
        """Or why there is none."""
        session = (await tx.sessions.by_keys([session_key])).get(session_key)
        known = [] if session is None else await tx.codebooks.all(session.tenant_id, self._space)
        for codebook in known:
            if codebook.codebook_key == codebook_key:
                try:
                    return await self._coder(tx, codebook)
                except CodebookDamaged as error:
                    return f"{codebook.codec} {codebook.version}: {error.detail}"
        return "codes of another vector space"

    async def _alive(self, operation: Operation) -> bool:
        async with self._storage.write() as tx:
            return await tx.operations.progress(operation.operation_id, 0, self._lease, self._clock.now())


def _chosen(found: Sequence[tuple[NewCodebook, bytes]], cold: int, least_recall: float) -> list[NewCodebook]:
    """With the smallest of those that keep enough adopted: codes of `cold` segments and the codebook together."""
    passed = [(new, body) for new, body in found if new.retention.recall >= least_recall]
    if not passed:
        return [new for new, _ in found]
    best, body = min(passed, key=lambda pair: pair[0].retention.bytes_per_segment * cold + len(pair[1]))
    return [*(new for new, _ in found if new is not best), replace(best, body=body)]


def _current(known: Sequence[Codebook]) -> Codebook | None:
    """The newest that was adopted; `known`: newest first."""
    return next((codebook for codebook in known if codebook.adopted), None)


def _decode(code: Code, coder: Coder | str, reading: Reading) -> None:
    if isinstance(coder, str):
        reading.unreadable.append(coder)
        return
    try:
        vectors = coder.decode(code.code)
    except CodeUnreadable as error:
        reading.unreadable.append(error.detail)
        return
    reading.vectors.update(zip(code.segment_keys, vectors, strict=True))


def _shown(codebook: Codebook) -> dict[str, Any]:
    return {
        "codec": codebook.codec,
        "version": codebook.version,
        "adopted": codebook.adopted,
        "recall_kept": round(codebook.retention.recall, 4),
        "asked": codebook.retention.asked,
        "bytes_per_segment": round(codebook.retention.bytes_per_segment, 2),
        "trained_on": codebook.trained_on,
        "codes": codebook.codes,
        "created_at": codebook.created_at,
    }

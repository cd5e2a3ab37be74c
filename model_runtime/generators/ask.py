"""How does an event loop ask the model's thread, and hear the answer as it is written?

The words wait in a small mailbox until they are read: who reads slowly gets larger pieces, who stops reading gets an
end.
"""

import asyncio
import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from model_runtime.generators.job import Done, Event, Failed, Job, Text
from model_runtime.generators.places import QueueFull
from model_runtime.generators.runtime import SPARSE, Runtime
from model_runtime.generators.sampling import SamplingOptions

AUTO = "auto"
"""Exact as long as the tenant's share has room for what a prompt adds, then int8."""
_AUTO_ELSE = "int8"
_MOST_UNREAD = 1 << 20
"""Characters of one answer that wait to be read: more than a model writes while a connection is slow."""
_NOT_READ = "nobody reads the answer"


class TooLong(Exception):
    """More tokens than the model reads, or than its KV has room for."""


class Busy(Exception):
    """Too many wait already, the thread has ended, or it was started anew while the prompt was put together."""


class TooMany(Busy):
    """So many of this tenant wait already."""


@dataclass(frozen=True, slots=True)
class Question:
    """`messages`: with role and content. `salt`: whose KV is shared. `policy`: how exactly it is kept, or AUTO.

    `tenant`: whose share of KV and places it takes. `memory_key`: the session that has the KV from then on.

    `moment`: what `Runtime.moment` said before the prompt was put together; None: nothing in it can be purged.
    """

    messages: Sequence[Mapping[str, str]]
    options: SamplingOptions
    salt: str
    policy: str
    moment: str | None = None
    tenant: str = ""
    memory_key: str | None = None


class Asked:
    """An answer in the making, for one reader in the event loop that made it. `cancel()` ends the work behind it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ready = asyncio.Event()
        self._unread: list[str] = []
        self._end: Event | None = None
        self._job: Job | None = None

    async def next(self) -> Event:
        """Text, or once Done or Failed; cancelling the wait for it loses nothing."""
        await self._ready.wait()
        if not self._unread:
            assert self._end is not None
            return self._end
        text = "".join(self._unread)
        self._unread.clear()
        if self._end is None:
            self._ready.clear()
        return Text(text)

    def cancel(self) -> None:
        if self._job is not None:
            self._job.cancelled.set()

    def submit(self, job: Job, runtime: Runtime) -> None:
        self._job = job
        runtime.engine.submit(job)

    def put(self, event: Event) -> None:
        """In the model's thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(self._take, event)

    def _take(self, event: Event) -> None:
        if self._end is not None:
            return
        if isinstance(event, Text):
            self._unread.append(event.text)
            if len(self._unread) > 1 and sum(map(len, self._unread)) > _MOST_UNREAD:
                self._unread, event = [], Failed(_NOT_READ)
                self.cancel()
        if not isinstance(event, Text):
            self._end = event
        self._ready.set()


async def ask(runtime: Runtime, question: Question) -> Asked:
    """Raises TooLong, Busy, UnfitMessages."""
    ids = await asyncio.to_thread(runtime.chat.ids, question.messages)
    return _submitted(runtime, question, ids, warm=False)


async def warm(runtime: Runtime, question: Question) -> int:
    """Computes what every prompt begins with that goes on after these messages: how many of its tokens.

    When there is nothing else to do; 0 where something came between. Raises TooLong, Busy, UnfitMessages.
    """
    ids = await asyncio.to_thread(runtime.chat.beginning, question.messages)
    if not ids:
        return 0
    asked = _submitted(runtime, question, ids, warm=True)
    try:
        ended = await asked.next()
    finally:
        asked.cancel()
    if not isinstance(ended, Done) or ended.reason != "warmed":
        return 0
    return ended.prompt_tokens - sum(ended.cached.values())


def _submitted(runtime: Runtime, question: Question, ids: Sequence[int], *, warm: bool) -> Asked:
    policy = "exact" if question.policy == AUTO else question.policy
    codec = "exact" if policy == SPARSE else policy
    _check_length(runtime, len(ids), codec)
    if not runtime.engine.running:
        raise Busy("the model's thread has ended: restart the service")
    prepared = math.inf if question.moment is None else runtime.since(question.moment)
    if prepared is None:
        raise Busy("the model was started anew while the prompt was put together: ask again")
    asked = Asked()
    instead = (runtime.namespace(question.salt, _AUTO_ELSE), _AUTO_ELSE) if question.policy == AUTO else None
    job = Job(
        tuple(ids),
        question.options,
        runtime.namespace(question.salt, policy),
        codec,
        asked.put,
        prepared,
        sparse=policy == SPARSE,
        tenant=question.tenant,
        memory_key=question.memory_key,
        warm=warm,
        instead=instead,
    )
    try:
        asked.submit(job, runtime)
    except QueueFull as full:
        advice = f"{full}: try again when some of them have ended"
        raise (TooMany if full.of_tenant else Busy)(advice) from full
    return asked


def _check_length(runtime: Runtime, tokens: int, codec: str) -> None:
    reads, holds = runtime.checkpoint.max_tokens, runtime.capacity(codec)
    if tokens >= reads:
        raise TooLong(f"the prompt has {tokens} tokens; the model reads {reads}")
    if tokens >= holds:
        raise TooLong(
            f"the prompt has {tokens} tokens; all tiers together hold the KV of {holds}:"
            " STRATAMEM_GENERATION__DEVICE_MIB, …__HOST_MIB and …__DISK_MIB say how much"
        )

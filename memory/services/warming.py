"""What is computed before it is asked for? What a session's next prompt begins with, as soon as a turn is kept.

The reply's KV is there as it was written, but the next prompt holds it elsewhere: without the memories that were
recalled for the last question, and behind the model's own marks. That is computed while the reader reads. The newest
turn of a session counts; of very many sessions those that wait longest go without.
"""

import asyncio
import logging
from collections import OrderedDict
from dataclasses import dataclass

from memory.domain.context import ContextRequest, Include
from memory.domain.errors import StratamemError
from memory.domain.generation import ChatMessage, Fidelity, Prompt, Sampling
from memory.domain.principals import Principal
from memory.ports.kv import KVStore
from memory.services.context import Contexts

_MOST = 64
"""Sessions at a time."""
_QUERY_CHARACTERS = 4_000

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class NextTurn:
    """What is known of a session's next prompt: it is asked for like the last one."""

    principal: Principal
    session_id: str
    budget: int
    top_k: int | None
    fidelity: Fidelity
    moment: str | None
    """The engine's, of the turn before: what is purged from then on is not computed ahead."""
    share_group: str


def context_request(budget: int, top_k: int | None, query: str | None) -> ContextRequest:
    """Of a turn: with the memories that its query recalls, unless it wants none."""
    if query is None or not query.strip() or top_k == 0:
        return ContextRequest(max_tokens=budget, include=Include(recall=False))
    wanted = ContextRequest(max_tokens=budget, query=query[:_QUERY_CHARACTERS])
    return wanted if top_k is None else ContextRequest(max_tokens=budget, query=wanted.query, top_k=top_k)


class Warming:
    """`close()` ends what is under way."""

    def __init__(self, contexts: Contexts, kv: KVStore) -> None:
        self._contexts = contexts
        self._kv = kv
        self._tasks: OrderedDict[tuple[str, str], asyncio.Task[None]] = OrderedDict()

    def after(self, turn: NextTurn) -> None:
        """Returns at once."""
        name = (turn.principal.tenant_id, turn.session_id)
        if (old := self._tasks.pop(name, None)) is not None:
            old.cancel()
        task = asyncio.create_task(self._warm(turn))
        self._tasks[name] = task
        task.add_done_callback(lambda done: self._over(name, done))
        if len(self._tasks) > _MOST:
            self._tasks.popitem(last=False)[1].cancel()

    async def stop(self, tenant_id: str, session_id: str) -> None:
        """Ends what is under way for this session: its KV is to go."""
        task = self._tasks.pop((tenant_id, session_id), None)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def close(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _over(self, name: tuple[str, str], task: asyncio.Task[None]) -> None:
        if self._tasks.get(name) is task:
            del self._tasks[name]

    async def _warm(self, turn: NextTurn) -> None:
        # The window as large as beside a query that recalls, but without either: they come after it.
        wanted = ContextRequest(max_tokens=turn.budget, include=Include(recall=turn.top_k != 0))
        try:
            context = await self._contexts.build(turn.principal, turn.session_id, wanted)
            prompt = Prompt(
                messages=tuple(ChatMessage(m.role, m.content, m.name) for m in context.messages),
                sampling=Sampling(),
                memory_key=turn.session_id,
                tenant_id=turn.principal.tenant_id,
                share_group=turn.share_group,
                fidelity=turn.fidelity,
                prepared=turn.moment,
            )
            if prompt.messages:
                await self._kv.warm(prompt)
        except StratamemError as error:  # a purged session, a model that is busy: the next turn computes it
            logger.info("a session's next prompt was not computed ahead: %s", error.code)

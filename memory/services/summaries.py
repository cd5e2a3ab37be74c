"""The summary of a session up to a place in its log. Kept for speed; what is missing is made again, the same."""

import asyncio

from memory.domain.events import Event
from memory.domain.sessions import Session
from memory.ports.storage import Storage, UnitOfWork
from memory.recall.summary import STEP_TOKENS, Terms, extend, sentences

_MOST_EVENTS = 100_000


class Summaries:
    """Made of session-visible events only."""

    def __init__(self, storage: Storage, terms: Terms) -> None:
        """`terms`: of a text, as the word index sees them."""
        self._storage = storage
        self._terms = terms

    async def lags(self, session: Session) -> bool:
        """Whether the log has grown by a step since the last summary: a window may begin there from now on."""
        step = session.shared_tokens // STEP_TOKENS
        async with self._storage.read() as tx:
            return step > 0 and (await self._newest(tx, session, step))[0] < step

    async def before(self, session: Session, token_start: int) -> list[str]:
        """The key sentences of the shared log before a place on its token axis, oldest first."""
        step = token_start // STEP_TOKENS
        if step == 0:
            return []
        async with self._storage.read() as tx:
            made, lines = await self._newest(tx, session, step)
        if made == step:
            return lines
        new: dict[int, list[str]] = {}
        async with self._storage.read() as tx:
            for following in range(made + 1, step + 1):
                stretch = await self._stretch(tx, session, following)
                lines = await asyncio.to_thread(extend, lines, stretch, self._terms)
                new[following] = lines
        async with self._storage.write() as tx:
            if await tx.sessions.locked_by_key(session.session_key) is not None:
                await tx.summaries.add(session.session_key, new)
        return lines

    def shortened(self, lines: list[str], words: int) -> list[str]:
        """What says most of it within so many words."""
        return extend([], lines, self._terms, words=words)

    async def _newest(self, tx: UnitOfWork, session: Session, step: int) -> tuple[int, list[str]]:
        """Of its own or, made of what a fork inherited alone, of the sessions before it."""
        for stretch in reversed(session.lineage.stretches):
            up_to = min(step, stretch.shared_tokens // STEP_TOKENS)
            made, lines = await tx.summaries.newest(stretch.session_key, up_to=up_to)
            if made:
                return made, lines
        return 0, []

    async def _stretch(self, tx: UnitOfWork, session: Session, step: int) -> list[str]:
        start, end = (step - 1) * STEP_TOKENS, step * STEP_TOKENS
        events = await tx.events.shared_from(session.lineage, start, below=end, limit=_MOST_EVENTS)
        return [line for event in events for line in sentences(author_of(event), event.content)]


def author_of(event: Event) -> str:
    return event.name or event.agent_id or event.role

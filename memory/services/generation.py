"""An answer with memory: the session's window is the prefix, what is recalled follows, then what is new.

A turn is stored whole or not at all: the new messages and the reply go into the log in one append, before the end of
the answer is told. Turns of one session follow each other; a reply whose prompt held private text is its agent's alone.
"""

import math
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, replace

from memory.domain.agents import AgentRole
from memory.domain.context import Context
from memory.domain.errors import InvalidInput, NoModelConfigured, NotFound, PromptTooLong, UnknownModel
from memory.domain.events import EventVisibility, NewEvent, Role
from memory.domain.generation import (
    WHOLE_TENANT,
    ChatMessage,
    Chunk,
    Delta,
    Finish,
    Finished,
    Prompt,
    RuntimeStats,
    TurnRequest,
    storable,
)
from memory.domain.principals import KeyScope, Principal
from memory.domain.sessions import DEFAULT_WINDOW_TOKENS, Session
from memory.ports.generation import Generator
from memory.recall.window import WINDOW_SHARE
from memory.services import access
from memory.services.context import Contexts
from memory.services.events import Events
from memory.services.turns import HeldTurn, Turns
from memory.services.warming import NextTurn, Warming, context_request

_ANSWER_TOKENS = 1_024
"""Kept free for the answer, and its bound where nobody gives one."""
_HALVINGS = 8


@dataclass(frozen=True, slots=True)
class Turn:
    """`chunks`: text, then `Finished` once. `session_tokens`, `recalled`: what memory added to the prompt."""

    model: str
    chunks: AsyncGenerator[Chunk, None]
    session_tokens: int
    recalled: int


@dataclass(frozen=True, slots=True)
class _Prepared:
    """`new`: those of the messages that the log does not have. `session_key`: which log; None: it is yet to be made.

    `budget`: of window and recall. `held`: the session's turn; None: there is no session.
    """

    messages: tuple[ChatMessage, ...]
    new: tuple[ChatMessage, ...]
    session_key: int | None = None
    budget: int = 0
    session_tokens: int = 0
    recalled: int = 0
    private: bool = False
    share_group: str = WHOLE_TENANT
    held: HeldTurn | None = None


class Generation:
    def __init__(
        self,
        generator: Generator | None,
        events: Events,
        contexts: Contexts,
        turns: Turns,
        warming: Warming | None = None,
        *,
        context_tokens: int | None = None,
    ) -> None:
        """`warming` None: nothing is computed ahead.

        `context_tokens`: the most that window and recall take, where the request does not say; None: what the session's
        window needs, as far as the model reads.
        """
        self._generator = generator
        self._warming = warming
        self._context_tokens = context_tokens
        self._events = events
        self._contexts = contexts
        self._turns = turns

    @property
    def model(self) -> str | None:
        """The name that clients ask for; None when generation is off."""
        return None if self._generator is None else self._generator.model

    @property
    def max_tokens(self) -> int | None:
        """What the model reads, prompt and answer together; None when generation is off."""
        return None if self._generator is None else self._generator.max_tokens

    def stats(self) -> RuntimeStats | None:
        return None if self._generator is None else self._generator.stats()

    @asynccontextmanager
    async def turn(self, principal: Principal, request: TurnRequest) -> AsyncIterator[Turn]:
        """Leaving the block cancels what is not finished. Raises NoModelConfigured, UnknownModel, PromptTooLong,
        Forbidden, GeneratorUnavailable, SessionBusy, TooManyTurns, StorageUnavailable; the chunks TurnLost, too."""
        generator, held = self._asked(request.model), None
        async with AsyncExitStack() as stack:
            if request.memory_key is not None:
                _check(principal, request)
                held = await stack.enter_async_context(self._turns.turn(principal.tenant_id, request.memory_key))
            begun = await generator.moment()
            prepared = replace(await self._prepared(principal, request, generator), held=held)
            chunks = self._answer(principal, request, generator, prepared, begun)
            await stack.enter_async_context(aclosing(chunks))
            yield Turn(generator.model, chunks, prepared.session_tokens, prepared.recalled)

    def _asked(self, model: str) -> Generator:
        if self._generator is None:
            raise NoModelConfigured
        if model != self._generator.model:
            raise UnknownModel(f"there is no model '{model}' here, only '{self._generator.model}'")
        return self._generator

    async def _prepared(self, principal: Principal, request: TurnRequest, generator: Generator) -> _Prepared:
        """Window and recall as large as the model still reads."""
        answer = request.sampling.max_tokens or _ANSWER_TOKENS
        room = generator.max_tokens - min(answer, generator.max_tokens // 2)
        session = None
        if request.memory_key is not None:
            needed = AgentRole.WRITER if request.store else AgentRole.READER
            session = await self._events.session(principal, request.memory_key, needed)
        budget = request.context_tokens or self._context_tokens or min(_whole_window(session), room)
        for _ in range(_HALVINGS):
            prepared = await self._with_memory(principal, request, budget)
            count = await generator.count(prepared.messages)
            if count <= room or not prepared.session_tokens:
                break
            # Counted by another tokenizer than the model's. Halved, not fitted: a budget that changed a little with
            # every turn would move the window each time, and its KV would be computed again.
            budget //= 2
        if count > generator.max_tokens - 1:
            raise PromptTooLong(f"the prompt has {count} tokens, the model reads {generator.max_tokens}")
        key = None if session is None else session.session_key
        return replace(prepared, session_key=key, share_group=access.share_group(session), budget=budget)

    async def _with_memory(self, principal: Principal, request: TurnRequest, budget: int) -> _Prepared:
        new = request.messages
        if request.memory_key is None or budget < 1:
            return _Prepared(new, new)
        query = next((m.content for m in reversed(new) if m.role == Role.USER), None)
        wanted = context_request(budget, request.top_k, query)
        try:
            context = await self._contexts.build(principal, request.memory_key, wanted)
        except (NotFound, InvalidInput):  # a new session; or a budget in which nothing has room
            return _Prepared(new, new)
        before = _without_query(context, wanted.query)
        known = {message.content for message in before if message.role == Role.SYSTEM}
        fresh = tuple(m for m in new if m.role != Role.SYSTEM or m.content not in known)
        return _Prepared(
            (*before, *fresh),
            fresh,
            session_tokens=context.tokens.window,
            recalled=len(context.sources),
            private=context.private,
        )

    async def _answer(
        self, principal: Principal, request: TurnRequest, generator: Generator, prepared: _Prepared, begun: str | None
    ) -> AsyncGenerator[Chunk, None]:
        prompt = Prompt(
            messages=_by_name(prepared, principal),
            sampling=replace(request.sampling, max_tokens=request.sampling.max_tokens or _ANSWER_TOKENS),
            memory_key=request.memory_key,
            tenant_id=principal.tenant_id,
            share_group=prepared.share_group,
            fidelity=request.fidelity,
            prepared=begun,
        )
        said: list[str] = []
        async with aclosing(generator.generate(prompt)) as chunks:
            async for chunk in chunks:
                if prepared.held is not None:
                    prepared.held.check()
                if isinstance(chunk, Delta):
                    said.append(chunk.text)
                elif request.memory_key is not None and request.store and chunk.reason is not Finish.CANCELLED:
                    await self._store(principal, request, prepared, "".join(said))
                    self._warm(principal, request, prepared, begun)
                yield chunk
                if isinstance(chunk, Finished):
                    return

    async def _store(self, principal: Principal, request: TurnRequest, prepared: _Prepared, reply: str) -> None:
        assert request.memory_key is not None
        assert prepared.held is not None
        events = [NewEvent(Role(m.role), m.content, name=m.name) for m in prepared.new if m.content.strip()]
        reply = storable(reply)
        if reply.strip():
            visibility = EventVisibility.PRIVATE if prepared.private else EventVisibility.SESSION
            events.append(NewEvent(Role.ASSISTANT, reply, visibility=visibility))
        if events:
            key, ticket = prepared.session_key, prepared.held.ticket
            await self._events.append(principal, request.memory_key, events, session_key=key, ticket=ticket)
            prepared.held.kept = True

    def _warm(self, principal: Principal, request: TurnRequest, prepared: _Prepared, moment: str | None) -> None:
        if self._warming is None or request.memory_key is None:
            return
        self._warming.after(
            NextTurn(
                principal,
                request.memory_key,
                prepared.budget,
                request.top_k,
                request.fidelity,
                moment,
                prepared.share_group,
            )
        )


def _check(principal: Principal, request: TurnRequest) -> None:
    assert request.memory_key is not None
    access.check_reach(principal, request.memory_key)
    access.require(principal, KeyScope.READ)
    if request.store:
        access.require(principal, KeyScope.WRITE)


def _without_query(context: Context, query: str | None) -> tuple[ChatMessage, ...]:
    messages: Sequence[ChatMessage] = [ChatMessage(m.role, m.content, m.name) for m in context.messages]
    return tuple(messages[:-1] if query is not None else messages)


def _whole_window(session: Session | None) -> int:
    """Tokens of a context that shows all of the session's window beside what it recalls."""
    window = DEFAULT_WINDOW_TOKENS if session is None else session.window_tokens
    return math.ceil(window / WINDOW_SHARE)


def _by_name(prepared: _Prepared, principal: Principal) -> tuple[ChatMessage, ...]:
    """New messages under the name of who says them, as the log will show them to the next turn."""
    kept, author = len(prepared.messages) - len(prepared.new), principal.agent_id
    return (*prepared.messages[:kept], *(replace(m, name=m.name or author) for m in prepared.new))

"""How do 100,000 events get into a store without an hour of embedding?

The turns of LoCoMo are embedded once. A store of any size repeats the conversations: the first time word for word,
then with three words in ten drawn anew from the words of the corpus and the vector moved to a cosine of 0.8, so that no
two events are equal and words stay as frequent as people use them. Everything is written through memory's own storage
layer, row for row what appending and indexing would have written.
"""

import asyncio
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate, count
from pathlib import Path

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.machine import SEED, out
from benchmarks.service import Event as Body
from benchmarks.service import Floats, StoringEmbedder
from benchmarks.sets import Scorers, Selection, Task, tasks_of
from memory.adapters.clock import SystemClock
from memory.adapters.models.inprocess import Models
from memory.adapters.sql.storage import SqlStorage, SqlUnitOfWork
from memory.domain.changes import ChangeKind, NewChange
from memory.domain.events import Event, EventVisibility, Role
from memory.domain.principals import DEFAULT_TENANT
from memory.domain.segments import SEGMENT_TOKENS, NewSegment, Span, cut
from memory.domain.sessions import NewSession
from memory.ports.models import Tokenizer
from memory.services.secrets import keyed_hash
from memory.services.spaces import TenantSpaces
from memory.settings import Settings
from memory.tiers.semantic.settings import SemanticSettings
from memory.tiers.semantic.tier import SemanticTier

REPLACED = 0.3
"""Share of a repeated turn's words that are drawn anew."""
COSINE = 0.8
"""Of a repeated turn's vector with the original's."""
LEAST_SESSIONS = 10
MOST_EVENTS = 500
"""Events of one session, about: LoCoMo's conversations have 370 to 690."""


@dataclass(frozen=True, slots=True)
class Turn:
    """`base`: the row of its original's vector. `exact`: said for the first time, so that vector is its own."""

    content: str
    speaker: str
    created_at: datetime
    base: int
    exact: bool


@dataclass(frozen=True, slots=True)
class Question:
    """`session_id`: one that holds the conversation it was asked about."""

    text: str
    session_id: str


@dataclass(frozen=True, slots=True)
class Corpus:
    """`sessions`: the turns by session id. `base`: float32 [n, d], the originals' vectors. `questions`: LoCoMo's."""

    sessions: dict[str, list[Turn]]
    base: Floats
    questions: list[Question]


def real_turns(scorers: Scorers) -> list[Task]:
    """LoCoMo's conversations. Ends the process when they are not there."""
    tasks = tasks_of("locomo", scorers, Selection())
    if not tasks:
        raise SystemExit(f"LoCoMo is not in {scorers.data}")
    return tasks


def distinct_events(scorers: Scorers, least_words: int = 1) -> list[Body]:
    """Real turns as they are appended, no text twice."""
    events = [item.event for task in real_turns(scorers) for item in task.items]
    once = {event["content"]: event for event in events if len(event["content"].split()) >= least_words}
    return [{name: event[name] for name in ("role", "content")} for event in once.values()]


def corpus(scorers: Scorers, models: Models, size: int) -> Corpus:
    """`size` turns in sessions of the same length."""
    tasks = real_turns(scorers)
    base = embedded(models, [item.event["content"] for task in tasks for item in task.items])
    number = max(LEAST_SESSIONS, size // MOST_EVENTS)
    length = size // number
    talks = [_endless(task, first) for task, first in zip(tasks, _firsts(tasks), strict=True)]
    words = [word for task in tasks for item in task.items for word in item.event["content"].split()]
    drawn = random.Random(SEED)
    sessions = {}
    for place in range(number):
        turns = [next(talks[place % len(talks)]) for _ in range(length)]
        sessions[f"talk-{place:04}"] = [_varied(turn, words, drawn) for turn in turns]
    questions = [
        Question(query["text"], f"talk-{place:04}")
        for place, task in enumerate(tasks[:number])
        for query in task.queries
    ]
    random.Random(SEED).shuffle(questions)
    return Corpus(sessions, base, questions)


def embedded(models: Models, texts: Sequence[str]) -> Floats:
    """float32 [n, d], in the order of `texts`; kept between runs."""
    with Progress(*_COLUMNS, console=out, transient=True) as progress:
        bar = progress.add_task("vectors", total=len(set(texts)))
        found = StoringEmbedder(models).embed(texts, lambda done: progress.advance(bar, done))
    return np.stack([found[text] for text in texts])


_COLUMNS = (TextColumn("{task.description:12}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())


def _firsts(tasks: Sequence[Task]) -> list[int]:
    """The row of each conversation's first turn among all turns."""
    return list(accumulate((len(task.items) for task in tasks[:-1]), initial=0))


def _endless(task: Task, first: int) -> Iterator[Turn]:
    for time_around in count():
        for place, item in enumerate(task.items):
            event = item.event
            moment = datetime.fromisoformat(event["created_at"])
            yield Turn(event["content"], event["agent_id"], moment, first + place, time_around == 0)


def _varied(turn: Turn, words: Sequence[str], drawn: random.Random) -> Turn:
    if turn.exact:
        return turn
    changed = [drawn.choice(words) if drawn.random() < REPLACED else word for word in turn.content.split()]
    return Turn(" ".join(changed), turn.speaker, turn.created_at, turn.base, exact=False)


@dataclass(frozen=True, slots=True)
class Loaded:
    """What is in the store, in one order: texts [n] and the vectors of their first segments, float16 [n, d]."""

    texts: list[str]
    vectors: np.ndarray[tuple[int, int], np.dtype[np.float16]]


class Loader:
    """Writes a corpus into an empty data folder. `load` once."""

    def __init__(self, storage: SqlStorage, models: Models) -> None:
        self._storage = storage
        self._tokenizer: Tokenizer = models.tokenizer
        self._space = models.embedder.space
        self._clock = SystemClock()
        self._noise = np.random.default_rng(SEED)
        self._semantic = SemanticTier(
            storage=storage, spaces=TenantSpaces(models), settings=SemanticSettings(), clock=self._clock
        )
        self._texts: list[str] = []
        self._vectors: list[np.ndarray[tuple[int, ...], np.dtype[np.float16]]] = []

    async def load(self, corpus: Corpus, progress: Callable[[int], None] = lambda done: None) -> Loaded:
        async with self._storage.write() as tx:
            secret = await tx.tenants.secret(DEFAULT_TENANT, self._clock.now())
        for session_id, turns in corpus.sessions.items():
            key = await self._session(session_id, turns, corpus.base, secret)
            await self._semantic.absorb(DEFAULT_TENANT, key)
            await self._semantic.evict(DEFAULT_TENANT, key)
            progress(len(turns))
        return Loaded(self._texts, np.stack(self._vectors))

    async def _session(self, session_id: str, turns: Sequence[Turn], base: Floats, secret: bytes) -> int:
        now = self._clock.now()
        async with self._storage.write() as tx:
            session = await tx.sessions.create(DEFAULT_TENANT, NewSession(session_id), now)
            assert session is not None, f"{session_id} is there already: the folder is not empty"
            key = session.session_key
            events = self._events(key, turns)
            await tx.events.add(events, self._tokenizer.fingerprint)
            await tx.sessions.advance([session.grown(events)], now)
            await tx.changes.add(NewChange(ChangeKind.EVENTS, DEFAULT_TENANT, key, 1, len(events)))
            stored = await tx.events.unsegmented(key, 0, len(events))
            segments = [segment for event in stored for segment in self._cut(event, secret)]
            await tx.segments.add(DEFAULT_TENANT, self._space, segments, now)
            await self._embed(tx, key, stored, turns, base)
            await tx.sessions.mark_segmented(key, len(events))
            await tx.changes.add(NewChange(ChangeKind.VECTORS, DEFAULT_TENANT, key, 1, len(events)))
        return key

    def _events(self, session_key: int, turns: Sequence[Turn]) -> list[Event]:
        """As Events.append numbers them; the first who speaks is the user."""
        tokens = self._tokenizer.count([turn.content for turn in turns])
        events, place, turn_number = [], 0, 0
        for seq, (turn, length) in enumerate(zip(turns, tokens, strict=True), 1):
            role = Role.USER if turn.speaker == turns[0].speaker else Role.ASSISTANT
            turn_number += role is Role.USER
            events.append(
                Event(
                    event_key=0,
                    session_key=session_key,
                    seq=seq,
                    event_id=f"e{seq}",
                    agent_id=turn.speaker,
                    role=role,
                    name=None,
                    content=turn.content,
                    metadata={},
                    visibility=EventVisibility.SESSION,
                    created_at=turn.created_at,
                    token_count=length,
                    token_start=place,
                    turn=turn_number,
                )
            )
            place += length
        return events

    def _cut(self, event: Event, secret: bytes) -> list[NewSegment]:
        text = event.content
        long = event.token_count > SEGMENT_TOKENS
        spans = cut(text, self._tokenizer.spans(text)) if long else [Span(0, len(text))]
        return [
            NewSegment(
                item=event.item,
                session_key=event.session_key,
                seq=event.seq,
                ordinal=ordinal,
                turn=event.turn,
                audience=event.audience,
                span=span,
                content_hash=keyed_hash(secret, text[span.start : span.end]),
            )
            for ordinal, span in enumerate(spans)
        ]

    async def _embed(
        self, tx: SqlUnitOfWork, session_key: int, events: Sequence[Event], turns: Sequence[Turn], base: Floats
    ) -> None:
        """Every segment of a turn gets a vector of its own around the turn's original."""
        by_item = {event.item: turn for event, turn in zip(events, turns, strict=True)}
        pending = await tx.segments.pending(DEFAULT_TENANT, self._space, session_key, 1 << 30)
        vectors: dict[int, bytes] = {}
        seen: set[int] = set()
        for segment in pending:
            turn = by_item[segment.item]
            vector = self._near(base[turn.base], exact=turn.exact).astype("<f2")
            vectors[segment.segment_key] = vector.tobytes()
            if segment.item not in seen:
                seen.add(segment.item)
                self._texts.append(f"{turn.speaker} {turn.content}")  # as the word index takes it
                self._vectors.append(vector)
        await tx.segments.set_vectors(vectors, self._clock.now())

    def _near(self, vector: Floats, *, exact: bool) -> Floats:
        if exact:
            return vector
        noise = self._noise.standard_normal(len(vector)).astype(np.float32)
        noise -= (noise @ vector) * vector
        moved = COSINE * vector + np.sqrt(1 - COSINE**2) * noise / np.linalg.norm(noise)
        return np.asarray(moved / np.linalg.norm(moved), np.float32)


def fill(folder: Path, corpus: Corpus, models: Models) -> Loaded:
    """Makes the embedded database of `folder`, the data folder of a service that does not run yet."""
    return asyncio.run(_fill(folder, corpus, models))


async def _fill(folder: Path, corpus: Corpus, models: Models) -> Loaded:
    settings = Settings(_env_file=None, data_dir=folder, database_url=None)
    storage = SqlStorage(settings.storage_url, settings.database)
    try:
        await storage.migrate()
        with Progress(*_COLUMNS, console=out, transient=True) as progress:
            bar = progress.add_task("store", total=sum(map(len, corpus.sessions.values())))
            return await Loader(storage, models).load(corpus, lambda done: progress.advance(bar, done))
    finally:
        await storage.close()

"""What does a bounded tier still hold when a question comes back? One conversation replayed, event by event."""

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from benchmarks.baselines import Baselines
from benchmarks.service import Floats, StoringEmbedder
from benchmarks.sets import Task
from memory.domain.moves import PolicyName
from memory.domain.principals import SHARED
from memory.domain.segments import TierSegment
from memory.tiers.semantic import policy, room

READ = 10
"""Events that a read brings up."""
_STEPS = 32
"""What exceeds the tier is given up after so many parts of its capacity have come in, as after a worker's page."""


@dataclass(frozen=True, slots=True)
class Ask:
    """vector: float32 [256]. gold: events that answer, by seq. first, second: the newest seq by then."""

    vector: Floats
    gold: frozenset[int]
    first: int
    second: int


@dataclass(frozen=True, slots=True)
class Stream:
    """A conversation. segments: in order, their keys are their places. seqs: theirs. vectors: float32 [n, 256].

    last: the newest seq.
    """

    segments: tuple[TierSegment, ...]
    seqs: NDArray[np.int64]
    vectors: Floats
    last: int

    def of_seq(self, seq: int) -> range:
        """The places of an event's segments."""
        begin, end = np.searchsorted(self.seqs, [seq, seq + 1])
        return range(int(begin), int(end))


@dataclass(frozen=True, slots=True)
class Question:
    vector: Floats
    gold: frozenset[int]


def stream_of(task: Task, baselines: Baselines, embedder: StoringEmbedder) -> tuple[Stream, list[Question]]:
    """As the service cuts, embeds and projects; questions whose evidence has no text are left out."""
    pieces = [(seq, text) for seq, item in enumerate(task.items, 1) for text in baselines.cut(item.event["content"])]
    vectors = embedder.embed([text for _, text in pieces] + [query["text"] for query in task.queries])
    onto = policy.projection(embedder.models.embedder.dimensions)
    place = {item.id: seq for seq, item in enumerate(task.items, 1) if baselines.cut(item.event["content"])}
    asked_for = [(query["text"], frozenset(place[k] for k in query["gold"] if k in place)) for query in task.queries]
    questions = [Question(policy.project(vectors[text][None, :], onto)[0], gold) for text, gold in asked_for if gold]
    segments = tuple(_segment(at, seq, len(text)) for at, (seq, text) in enumerate(pieces))
    stacked = np.stack([vectors[text] for _, text in pieces])
    seqs = np.array([seq for seq, _ in pieces], np.int64)
    return Stream(segments, seqs, policy.project(stacked, onto), len(task.items)), questions


def _segment(place: int, seq: int, characters: int) -> TierSegment:
    return TierSegment(
        segment_key=place,
        item=2 * seq,
        seq=seq,
        turn=seq,
        audience=SHARED,
        vector=b"",
        cluster_key=None,
        uses=0,
        last_use=0.0,
        used_seq=seq,
        characters=characters,
    )


def asked(stream: Stream, questions: Sequence[Question], seed: str) -> list[Ask]:
    """Each at two moments, drawn evenly from the time after the last of its evidence."""
    drawn = random.Random(seed)
    asks = []
    for question in questions:
        moments = sorted(drawn.randint(max(question.gold), stream.last) for _ in range(2))
        asks.append(Ask(question.vector, question.gold, *moments))
    return asks


def kept(stream: Stream, asks: Sequence[Ask], capacity: int, name: PolicyName) -> NDArray[np.float64]:
    """Of each ask: the share of its evidence that the tier holds at its second moment.

    Of a long event the share of its segments, for nobody knows in which of them the answer is. capacity: in segments.
    """
    tier = _Tier(stream, capacity, name)
    first, second = defaultdict[int, list[int]](list), defaultdict[int, list[int]](list)
    for at, ask in enumerate(asks):
        first[ask.first].append(at)
        second[ask.second].append(at)
    shares = np.zeros(len(asks))
    for seq in range(1, stream.last + 1):
        tier.take_in(seq)
        for at in first[seq]:
            tier.read(asks[at].vector)
        for at in second[seq]:
            shares[at] = tier.share(asks[at].gold)
    return shares


class _Tier:
    """Mutable: what is held, and what the service knows of its use."""

    def __init__(self, stream: Stream, capacity: int, name: PolicyName) -> None:
        self._stream = stream
        self._capacity = capacity
        self._name = name
        self._held: dict[int, TierSegment] = {}
        self._last = 0

    def take_in(self, seq: int) -> None:
        self._last = seq
        self._held |= {at: self._stream.segments[at] for at in self._stream.of_seq(seq)}
        if len(self._held) >= self._capacity + max(1, self._capacity // _STEPS):
            self._settle()

    def read(self, vector: Floats) -> None:
        """The nearest of all events that have come, as long-term finds them; those that are held are used."""
        come = int(np.searchsorted(self._stream.seqs, self._last, side="right"))
        order = np.argsort(-(self._stream.vectors[:come] @ vector), kind="stable")
        found = list(dict.fromkeys(self._stream.seqs[order].tolist()))[:READ]
        for at in (at for seq in found for at in self._stream.of_seq(seq)):
            if (segment := self._held.get(at)) is not None:
                self._held[at] = replace(segment, uses=segment.uses + 1, used_seq=self._last)

    def share(self, gold: frozenset[int]) -> float:
        places = [self._stream.of_seq(seq) for seq in gold]
        return sum(sum(at in self._held for at in of_one) / len(of_one) for of_one in places) / len(gold)

    def _settle(self) -> None:
        segments = list(self._held.values())
        vectors = self._stream.vectors[[segment.segment_key for segment in segments]]
        gone = room.departures(segments, vectors, last_seq=self._last, capacity=self._capacity, policy=self._name)
        for one in gone:
            del self._held[one.segment.segment_key]

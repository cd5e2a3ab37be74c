"""What becomes of a session's clusters as its turns complete and its window is compacted, and what is each about?

Summaries of clusters are kept nowhere: they are made of the members that the reader sees, so nothing has to be purged,
redacted or made anew with them, and a fork tells nothing that was said after it.
"""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from memory.domain.events import Event
from memory.domain.ids import ItemId, item_key
from memory.domain.principals import SHARED
from memory.domain.segments import Span, TierSegment
from memory.ports.storage import Storage
from memory.recall.summary import WORDS, Terms, extend, sentences
from memory.services.summaries import Summaries, author_of
from memory.tiers.semantic.tier import SemanticTier

_CLUSTER_WORDS = 40
"""Of the key sentences of one cluster: two or three, of eight segments."""


@dataclass(frozen=True, slots=True)
class KeySentence:
    """`text` with its author; `seq` and `event_id`: where it was said first."""

    text: str
    seq: int
    event_id: str


@dataclass(frozen=True, slots=True)
class About:
    """What says most: of each cluster (by cluster_key), and of all of them; in the order of the log."""

    session: tuple[KeySentence, ...]
    clusters: dict[int, tuple[KeySentence, ...]]


class Clusters:
    def __init__(self, storage: Storage, semantic: SemanticTier, summaries: Summaries, terms: Terms) -> None:
        """`terms`: of a text, as the word index sees them."""
        self._storage = storage
        self._semantic = semantic
        self._summaries = summaries
        self._terms = terms

    async def settle(self, session_key: int) -> None:
        """After segments came or went. A compaction is due until its summary is written, which comes last."""
        async with self._storage.read() as tx:
            session = (await tx.sessions.by_keys([session_key])).get(session_key)
        if session is None:
            return
        compacted = await self._summaries.lags(session)
        await self._semantic.arrange(session_key, compacted=compacted)
        if compacted:
            await self._summaries.before(session, session.shared_tokens)

    async def about(self, held: Sequence[TierSegment]) -> About:
        """Of session-visible text only."""
        shared = [segment for segment in held if segment.audience == SHARED]
        async with self._storage.read() as tx:
            spans = await tx.segments.spans_of([segment.segment_key for segment in shared])
            events = await tx.events.by_keys(sorted({item_key(segment.item) for segment in shared}))
        by_item = {event.item: event for event in events}
        of_cluster: dict[int, dict[ItemId, list[Span]]] = defaultdict(lambda: defaultdict(list))
        for segment in shared:
            span = spans.get(segment.segment_key)
            if span is not None and segment.item in by_item:  # else purged meanwhile
                of_cluster[segment.cluster_key or 0][segment.item].append(span)
        return await asyncio.to_thread(self._about, of_cluster, by_item)

    def _about(
        self, of_cluster: Mapping[int, Mapping[ItemId, Sequence[Span]]], by_item: Mapping[ItemId, Event]
    ) -> About:
        clusters = {
            key: self._said_most([(by_item[item], spans) for item, spans in members.items()])
            for key, members in of_cluster.items()
        }
        by_text: dict[str, KeySentence] = {}
        for sentence in sorted((one for chosen in clusters.values() for one in chosen), key=lambda one: one.seq):
            by_text.setdefault(sentence.text, sentence)
        chosen = extend([], list(by_text), self._terms, words=WORDS)
        return About(tuple(by_text[text] for text in chosen), clusters)

    def _said_most(self, members: Sequence[tuple[Event, Sequence[Span]]]) -> tuple[KeySentence, ...]:
        by_text: dict[str, KeySentence] = {}
        for event, spans in sorted(members, key=lambda member: member[0].seq):
            for text in sentences(author_of(event), event.content, spans):
                by_text.setdefault(text, KeySentence(text, event.seq, event.event_id))
        return tuple(by_text[text] for text in extend([], list(by_text), self._terms, words=_CLUSTER_WORDS))

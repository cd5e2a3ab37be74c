"""What does a sparse step do before and after its forward pass?"""

from collections.abc import Callable
from contextlib import suppress

from model_runtime.kv.arena import ArenaFull
from model_runtime.kv.cache import KVCache
from model_runtime.kv.residency import yielding
from model_runtime.kv.sequence import SequenceKV

_SUMMARIES = 64
"""Of blocks, at most, that are made in one step."""


def begin_sparse(kv: SequenceKV, cache: KVCache, room: Callable[[], int]) -> None:
    """Some summaries a step: to make those of blocks that are not on the device they are read once.

    `room()`: a slot; raises ArenaFull.
    """
    assert kv.retrieval is not None
    blocks, summaries = kv.blocks, kv.retrieval.summaries
    goal = min(len(blocks), summaries.count + _SUMMARIES) if kv.retrieval.due(kv.length) else 0
    with suppress(ArenaFull):
        while summaries.count < goal:
            if not summaries.room:
                summaries.slots.append(room())
            summaries.add(cache.reading.summary(blocks[summaries.count]))
    kv.retrieval.begin(len(blocks), kv.length)


def end_sparse(kv: SequenceKV, cache: KVCache) -> None:
    """A block that is retrieved again and again comes to the device, in place of one that is not."""
    assert kv.retrieval is not None
    kv.retrieval.end()
    place = kv.retrieval.worth_keeping_close()
    if place is not None:
        node = kv.blocks[place]
        idle = (other for other in yielding([kv.blocks]) if other.last_use < node.last_use)
        cache.bring(node, idle)

"""Which blocks are chosen, when steps are sparse, and what a low coverage does."""

import pytest
import torch

from model_runtime.kv.arena import Arena
from model_runtime.kv.retrieval import Retrieval, SparseCounts, SparsePolicy
from model_runtime.kv.shape import BLOCK, KVShape
from model_runtime.kv.summaries import summarise

SHAPE = KVShape(3, 2, 16, "float32")
BLOCKS = 40


def retrieval(keys=None, **policy):
    known = {"dense_tokens": 0, "window_tokens": 2 * BLOCK, "top_k": 4, "dense_layers": 1}
    arena = Arena(SHAPE, 2)
    found = Retrieval(SparsePolicy(**{**known, **policy}), arena, SparseCounts())
    found.summaries.slots += [arena.take(), arena.take()]
    for place in range(BLOCKS):
        block = torch.zeros(SHAPE.block_shape)
        if keys and place in keys:
            heads, value = keys[place]
            block[:, heads, 0, 17] = value
        found.summaries.add(torch.stack([summarise(layer) for layer in block]))
    return found


Q = torch.ones(2, 3, 16)
LENGTH = BLOCKS * BLOCK + 5


def test_the_first_the_latest_and_the_best_are_read_in_order():
    found = retrieval({7: (0, 3.0), 30: (0, 2.0), 12: (1, 0.1), 3: (1, 0.05)})
    found.begin(BLOCKS, LENGTH)
    assert found.choose(1, Q, BLOCKS, LENGTH) == [0, 3, 7, 12, 30, 38, 39]
    assert found.counts.read == 7
    assert found.counts.there == BLOCKS


def test_every_head_has_its_say_however_small_its_numbers():
    found = retrieval({place: (0, 10.0 + place) for place in range(1, 20)} | {25: (1, 1e-3), 26: (1, 2e-3)})
    found.begin(BLOCKS, LENGTH)
    assert {26, 25, 19, 18} < set(found.choose(1, Q, BLOCKS, LENGTH))


def test_what_was_read_before_stays_while_it_is_good():
    found = retrieval({place: ([0, 1], 14.0 - place) for place in range(5, 13)})
    found.begin(BLOCKS, LENGTH)
    found._before[1] = {9, 10, 20}
    assert found.choose(1, Q, BLOCKS, LENGTH)[1:5] == [5, 6, 9, 10]


def test_the_first_layers_and_short_sessions_read_everything():
    found = retrieval(dense_tokens=LENGTH)
    found.begin(BLOCKS, LENGTH)
    assert list(found.choose(1, Q, BLOCKS, LENGTH)) == list(range(BLOCKS))
    found = retrieval()
    found.begin(BLOCKS, LENGTH)
    assert list(found.choose(0, Q, BLOCKS, LENGTH)) == list(range(BLOCKS))
    assert found.counts.there == 0


def test_steps_are_dense_until_every_block_has_its_summary():
    found = retrieval()
    found.begin(BLOCKS + 1, LENGTH + BLOCK)
    assert list(found.choose(1, Q, BLOCKS + 1, LENGTH + BLOCK)) == list(range(BLOCKS + 1))
    assert (found.counts.steps, found.counts.dense_steps) == (0, 1)


@pytest.mark.parametrize(("share", "dense"), [(0.95, 0), (0.5, 3)])
def test_a_low_coverage_reads_everything_for_a_while(share, dense):
    found = retrieval(dense_steps=3, sample_every=2)
    found.begin(BLOCKS, LENGTH)
    assert found.samples(1)
    assert not found.samples(2)
    odds = torch.tensor([share / (1 - share)]).log()
    found.measured(odds, torch.zeros(1), 33)
    found.end()
    for _ in range(5):
        found.begin(BLOCKS, LENGTH)
    assert (found.counts.dense_steps, found.counts.fallbacks) == (dense, dense > 0)
    assert found.counts.coverage == pytest.approx(share)
    assert found.counts.sampled == 33


def test_layers_take_turns_in_being_measured():
    found = retrieval(sample_every=2)
    sampled = []
    for _ in range(6):
        found.begin(BLOCKS, LENGTH)
        sampled.append([layer for layer in range(3) if found.samples(layer)])
    assert sampled == [[1], [], [2], [], [1], []]


def test_the_numbers_of_the_policy_are_facts():
    assert SparsePolicy(top_k=1).facts() != SparsePolicy(top_k=2).facts()

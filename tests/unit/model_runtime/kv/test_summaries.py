"""A summary never promises less than a key gives, for keys of any scale, sign and type."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model_runtime.kv.arena import Arena
from model_runtime.kv.shape import BLOCK, SUBPAGE, KVShape
from model_runtime.kv.summaries import SUBPAGES, Summaries, bounds, summarise

SHAPE = KVShape(2, 2, 16, "float32")


def drawn(seed, *shape, scale=1.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    scale=st.sampled_from([1e-3, 1.0, 50.0]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def test_no_key_scores_more_than_the_bound_of_its_subpage(seed, scale, dtype):
    kv, q = drawn(seed, 2, 2, BLOCK, 16, scale=scale).to(dtype), drawn(seed + 1, 2, 3, 16).to(dtype)
    found = bounds(q, summarise(kv))
    scores = (q.double() @ kv[:, 0].double().mT).amax(1).view(2, SUBPAGES, SUBPAGE).amax(2)
    assert found.shape == (2, SUBPAGES)
    assert (found.double() >= scores - 1e-5 * scores.abs().clamp(min=scale)).all()


def test_the_bound_is_met_where_all_keys_of_a_subpage_are_one():
    kv = drawn(1, 1, 2, SUBPAGES, 16).repeat_interleave(SUBPAGE, 2)
    q = drawn(2, 1, 1, 16)
    expected = (q @ kv[:, 0, ::SUBPAGE].mT).amax(1)
    assert torch.allclose(bounds(q, summarise(kv)), expected, atol=1e-5)


@pytest.mark.parametrize("count", [1, 32, 33, 70])
def test_the_blocks_of_many_pages_keep_their_order(count):
    arena, q = Arena(SHAPE, 3), drawn(0, 2, 3, 16)
    summaries = Summaries(arena)
    blocks = [drawn(seed, *SHAPE.block_shape) for seed in range(count)]
    for block in blocks:
        if not summaries.room:
            summaries.slots.append(arena.take())
        summaries.add(torch.stack([summarise(layer) for layer in block]))
    for layer in range(2):
        expected = torch.stack([bounds(q, summarise(block[layer])).amax(1) for block in blocks], 1)
        assert torch.equal(summaries.scores(layer, q), expected)
    summaries.truncate(1)
    assert summaries.scores(0, q).shape == (2, 1)


def test_summaries_take_a_thirty_second_of_their_blocks():
    block = drawn(0, *SHAPE.block_shape)
    assert torch.stack([summarise(layer) for layer in block]).nbytes * 32 == SHAPE.block_bytes

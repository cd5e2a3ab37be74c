import itertools

import pytest
import torch

from model_runtime.kv.attention import causal, fold, masked, merge, over_batch, partial, unfold

HEADS, GROUP, SIZE, SCALE = 2, 3, 16, 0.25


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def plain(q, k, v, seen=None):
    """Softmax over all scores at once, in float64."""
    scores = q.double() @ k.double().transpose(-1, -2) * SCALE
    if seen is not None:
        scores = scores.masked_fill(~seen, float("-inf"))
    return scores.softmax(-1) @ v.double(), scores.logsumexp(-1)


def test_parts_of_the_keys_add_up_to_all_of_them():
    q, k, v = drawn(1, HEADS, 7, SIZE), drawn(1, HEADS, 300, SIZE, seed=1), drawn(1, HEADS, 300, SIZE, seed=2)
    cuts = [0, 1, 130, 257, 300]
    parts = [partial(q, k[:, :, a:b], v[:, :, a:b], SCALE) for a, b in itertools.pairwise(cuts)]
    out, lse = merge(parts)
    whole, whole_lse = plain(q, k, v)
    assert torch.allclose(out.double(), whole, atol=1e-6)
    assert torch.allclose(lse.double(), whole_lse, atol=1e-5)


def test_a_batch_of_blocks_adds_up_too():
    q, k, v = drawn(1, HEADS, 5, SIZE), drawn(4, HEADS, 64, SIZE, seed=1), drawn(4, HEADS, 64, SIZE, seed=2)
    found = over_batch(partial(q.expand(4, -1, -1, -1), k, v, SCALE))
    flat = [x.transpose(0, 1).reshape(1, HEADS, 256, SIZE) for x in (k, v)]
    assert torch.allclose(found.out.double(), plain(q, *flat)[0], atol=1e-6)


def test_who_sees_nothing_takes_nothing_and_says_so():
    q, k, v = drawn(1, HEADS, 2, SIZE), drawn(1, HEADS, 4, SIZE, seed=1), drawn(1, HEADS, 4, SIZE, seed=2)
    seen = torch.tensor([[False] * 4, [True] * 4])
    found = masked(q, k, v, SCALE, seen)
    assert found.lse[0, :, 0].isinf().all()
    assert not found.out[0, :, 0].any()
    other = partial(q, k, v, SCALE)
    assert torch.allclose(merge([found, other]).out[0, :, 0], other.out[0, :, 0], atol=1e-6)


@pytest.mark.parametrize("window", [None, 1, 3, 8, 20, 100])
@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (1, 9), (9, 9), (4, 20), (20, 20)])
def test_a_query_sees_itself_and_what_came_before_within_the_window(queries, keys, window):
    q = drawn(1, HEADS, GROUP, queries, SIZE)
    k, v = drawn(1, HEADS, keys, SIZE, seed=1), drawn(1, HEADS, keys, SIZE, seed=2)
    newest = torch.arange(keys - queries, keys).unsqueeze(1)
    seen = torch.arange(keys) <= newest
    if window is not None:
        seen &= torch.arange(keys) > newest - window
    expected, lse = plain(q, k.unsqueeze(2), v.unsqueeze(2), seen)
    found = causal(q, k, v, SCALE, window)
    assert torch.allclose(found.out.double(), expected, atol=1e-6)
    assert torch.allclose(found.lse.double(), lse, atol=1e-5)


def test_folding_a_group_is_undone():
    q = drawn(2, HEADS, GROUP, 5, SIZE)
    found = partial(fold(q), drawn(2, HEADS, 8, SIZE), drawn(2, HEADS, 8, SIZE, seed=1), SCALE)
    assert unfold(found, GROUP).out.shape == q.shape

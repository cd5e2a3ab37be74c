"""Sparse steps: the needle is found with few blocks, and where that can't work everything is read."""

import random

import pytest

from model_runtime.generators.job import Done
from model_runtime.generators.runtime import Runtime, RuntimeOptions
from model_runtime.generators.sampling import SamplingOptions
from model_runtime.kv.retrieval import SparsePolicy
from model_runtime.kv.shape import BLOCK
from tests.unit.model_runtime.generators.asking import MIB, Asked, in_engine

TOKENS = 32 * BLOCK + 20
NEEDLE = tuple(b" NQXZWYVKJ")
SIXTEENTH = SparsePolicy(dense_tokens=4_096, window_tokens=0, top_k=1, dense_layers=1)


@pytest.fixture
def started(checkpoint, tmp_path):
    opened = []

    def start(policy, *, device=64, host=64):
        options = RuntimeOptions("", tmp_path, device * MIB, host * MIB, 0, threads=1, sparse=policy)
        opened.append(Runtime(options, checkpoint))
        return opened[-1]

    yield start
    for runtime in opened:
        runtime.close()


def haystack(letters, depth, tokens=TOKENS):
    """Ends with the first byte of a needle that lies at `depth`; few letters, as in a text that repeats itself."""
    drawn = random.Random(f"{letters} {depth}")
    text = [drawn.randrange(letters) for _ in range(tokens - 1)]
    at = BLOCK + int(depth * (tokens - 3 * BLOCK))
    text[at : at + len(NEEDLE)] = NEEDLE
    return (*text, NEEDLE[0])


def ask(runtime, tokens, *, sparse=True):
    options = SamplingOptions(temperature=0, max_tokens=len(NEEDLE) - 1)
    asked = Asked(runtime, tokens, options, policy="sparse" if sparse else "exact")
    text, done = asked.answer(timeout=200)
    assert isinstance(done, Done)
    return text, done


@pytest.mark.parametrize("depth", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_a_needle_is_found_at_every_depth_with_a_sixteenth_of_the_blocks(started, depth):
    runtime = started(SIXTEENTH)
    tokens = haystack(8, depth)
    text, done = ask(runtime, tokens)
    counts = runtime.stats()["sparse"]
    assert text == "".join(map(chr, NEEDLE[1:]))
    assert counts["steps"] == len(text) - 1
    assert counts["blocks_read"] * 16 <= counts["blocks_there"]
    assert done.coverage > 0.95
    assert counts["fallbacks"] == 0


def test_with_room_for_all_blocks_sparse_is_dense(started):
    runtime = started(SparsePolicy(dense_tokens=0, window_tokens=0, top_k=64, dense_layers=0))
    tokens = haystack(32, 0.5, 8 * BLOCK + 20)
    assert ask(runtime, tokens)[0] == ask(runtime, tokens, sparse=False)[0]
    assert runtime.stats()["sparse"]["blocks_read"] == runtime.stats()["sparse"]["blocks_there"] > 0


def test_where_bounds_say_nothing_the_low_coverage_is_seen_and_everything_read(started):
    """Of 32 letters, any 32 places reach nearly everywhere: the bounds of all pages are alike."""
    runtime = started(SIXTEENTH)
    tokens = haystack(32, 0.3, 20 * BLOCK + 20)
    text, done = ask(runtime, tokens)
    counts = runtime.stats()["sparse"]
    assert text == ask(runtime, tokens, sparse=False)[0]
    assert counts["fallbacks"] >= 1
    assert counts["dense_steps"] >= 5
    assert done.coverage < 0.9


def test_a_sparse_session_has_blocks_of_its_own(started):
    runtime = started(SIXTEENTH)
    tokens = haystack(8, 0.5, 3 * BLOCK)
    ask(runtime, tokens, sparse=False)
    assert sum(ask(runtime, tokens)[1].cached.values()) == 0
    assert runtime.namespace("a", "sparse") != runtime.namespace("a", "exact")


def test_on_a_small_device_retrieved_blocks_come_close_and_summaries_have_their_slots(started):
    runtime = started(SparsePolicy(dense_tokens=0, window_tokens=0, top_k=2, dense_layers=1), device=8)
    tokens = haystack(8, 0.5)
    text, _ = ask(runtime, tokens)
    streamed = dict(runtime.stats()["streamed_bytes"])
    nodes = runtime.cache.match(runtime.namespace("salt", "sparse"), tokens, runtime._codecs("exact"))
    assert text == "".join(map(chr, NEEDLE[1:]))
    assert streamed["host"] > 0
    assert runtime.stats()["bytes"]["summaries"] * 32 == len(nodes) * runtime.checkpoint.shape.block_bytes
    assert any(node.slot is not None and 0 < node.index < len(nodes) - 2 for node in nodes)
    assert in_engine(runtime, lambda: {node.refs for node in runtime.cache._nodes.values()}) == {0}
    assert in_engine(runtime, lambda: runtime.arena.slots - runtime.arena.free) == sum(
        node.slot is not None for node in runtime.cache._nodes.values()
    ) + len(runtime.engine.tails._there)

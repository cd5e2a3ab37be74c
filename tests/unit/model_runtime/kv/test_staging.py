"""Two buffers: what is read is what was asked for, in its order, and a block that can't be read is said to be lost."""

import threading
import time

import pytest
import torch

from model_runtime.kv.codecs import Exact, Int8
from model_runtime.kv.shape import KVShape
from model_runtime.kv.staging import BlockLost, Source, Staging, staging_blocks

SHAPE = KVShape(2, 1, 16, "float32")


def encoded(seed, codec):
    block = torch.randn(SHAPE.block_shape, generator=torch.Generator().manual_seed(seed))
    return block, codec.encode(block)


def source(seed, codec, node=None, delay=0.0):
    _, layers = encoded(seed, codec)

    def read(layer):
        time.sleep(delay)
        return layers[layer]

    return Source(node, codec, read)


def test_every_load_comes_in_its_order():
    staging, codec = Staging(SHAPE, 2), Exact(SHAPE)
    loads = [[0, 1], [2], [3, 4], [5]]
    sources = [[source(seed, codec, delay=0.01 * (seed % 3)) for seed in load] for load in loads]
    for layer in range(2):
        found = [kv.clone() for kv in staging.stream(layer, sources)]
        for kv, load in zip(found, loads, strict=True):
            assert torch.equal(kv, torch.stack([encoded(seed, codec)[0][layer] for seed in load]))


def test_what_was_quantised_is_read_as_into_a_slot():
    staging, codec = Staging(SHAPE, 2), Int8(SHAPE)
    _, layers = encoded(0, codec)
    expected = torch.empty(SHAPE.layer_shape)
    codec.decode(1, layers[1], expected)
    (kv,) = [kv.clone() for kv in staging.stream(1, [[source(0, codec)]])]
    assert torch.equal(kv[0], expected)


def test_the_next_load_is_read_while_this_one_is_used():
    staging, begun = Staging(SHAPE, 1), threading.Event()
    _, layers = encoded(1, Exact(SHAPE))

    def read(layer):
        begun.set()
        return layers[layer]

    stream = staging.stream(0, [[source(0, Exact(SHAPE))], [Source(None, Exact(SHAPE), read)]])
    next(stream)
    assert begun.wait(5)
    stream.close()


@pytest.mark.parametrize("how", ["raises", "short"])
def test_a_block_that_cannot_be_read_is_named_and_the_next_pass_is_right(how):
    staging, codec = Staging(SHAPE, 2), Exact(SHAPE)

    def read(layer):
        if how == "raises":
            raise BlockLost("bad")
        return b"too short"

    stream = staging.stream(0, [[source(0, codec)], [source(1, codec, delay=0.05), Source("bad", codec, read)]])
    next(stream)
    with pytest.raises(BlockLost) as lost:
        next(stream)
    assert lost.value.node == "bad"
    (kv,) = [kv.clone() for kv in staging.stream(0, [[source(7, codec)]])]
    assert torch.equal(kv[0], encoded(7, codec)[0][0])


def test_the_buffers_take_a_small_part_of_the_budget():
    for budget in (1, SHAPE.block_bytes, 100 * SHAPE.block_bytes, 10_000 * SHAPE.block_bytes):
        blocks = staging_blocks(SHAPE, budget, 16)
        assert 1 <= blocks <= 16
        assert blocks == 1 or Staging(SHAPE, blocks).nbytes <= budget / 8

"""Sessions longer than the device: their earlier blocks are streamed, and nothing else changes."""

from dataclasses import replace

import pytest

from model_runtime.generators.job import Done, Failed
from model_runtime.generators.sampling import SamplingOptions
from model_runtime.kv import stored
from model_runtime.kv.shape import BLOCK
from tests.unit.model_runtime.generators.asking import MIB, Asked, ask, in_engine, prompt, settle

LONG = prompt(10 * BLOCK + 60, seed=3)


def kept(runtime, tokens, codec="exact"):
    """The bytes of every block of a prompt, as the host or the disk has them."""
    nodes = runtime.cache.match(runtime.namespace("salt", codec), tokens, runtime._codecs(codec))
    return [runtime.cache._read(node, runtime.cache.holdings.where(node)).layers for node in nodes]


def all_below(runtime):
    in_engine(runtime, runtime.cache.leave_device)


def watch_slots(runtime):
    """Slots in use at every forward pass."""
    used, forward = [], runtime.engine._forward

    def watched(*asked):
        used.append(runtime.arena.slots - runtime.arena.free)
        return forward(*asked)

    runtime.engine._forward = watched
    return used


@pytest.fixture(scope="module")
def expected(checkpoint, tmp_path_factory):
    """By codec: the answer where every block lies on the device, and the blocks."""
    from model_runtime.generators.runtime import Runtime, RuntimeOptions

    options = RuntimeOptions("", tmp_path_factory.mktemp("roomy"), 64 * MIB, 64 * MIB, 0, threads=1)
    runtime = Runtime(options, checkpoint)
    found = {}
    for codec in ("exact", "int8"):
        text, _ = ask(runtime, LONG, codec=codec)
        all_below(runtime)
        found[codec] = text, kept(runtime, LONG, codec)
    runtime.close()
    return found


@pytest.mark.parametrize("codec", ["exact", "int8"])
@pytest.mark.parametrize(("host", "disk"), [(64, 0), (0, 64), (3, 64)])
def test_a_session_that_outgrows_the_device_has_the_same_bits(started, expected, host, disk, codec):
    runtime = started(device=5, host=host, disk=disk)
    used = watch_slots(runtime)
    text, done = ask(runtime, LONG, codec=codec)
    all_below(runtime)
    assert isinstance(done, Done)
    assert (text, kept(runtime, LONG, codec)) == expected[codec]
    assert len(kept(runtime, LONG, codec)) == 10
    assert max(used) <= runtime.arena.slots == 4
    assert runtime.arena.slots * MIB + runtime.staging.nbytes <= 5 * MIB
    assert sum(runtime.cache.counts.streamed.values()) > 0
    assert in_engine(runtime, lambda: {node.refs for node in runtime.cache._nodes.values()}) == {0}


def test_the_next_turn_streams_what_has_no_room_and_computes_nothing_again(started, expected):
    runtime = started(device=5, host=4, disk=64)
    first, _ = ask(runtime, LONG)
    settle(runtime)
    again, done = ask(runtime, LONG)
    assert again == first == expected["exact"][0]
    assert sum(done.cached.values()) == len(LONG) - 1
    assert done.cached["host"] + done.cached["disk"] >= 6 * BLOCK


def test_answers_that_share_a_small_device_all_come_to_their_end(started):
    prompts = [prompt(5 * BLOCK + 40, seed) for seed in range(20, 24)]
    roomy, small = started(disk=0), started(device=6, host=64, disk=0)
    alone = [ask(roomy, tokens)[0] for tokens in prompts]
    asked = [Asked(small, tokens) for tokens in prompts]
    assert [one.answer()[0] for one in asked] == alone


@pytest.mark.parametrize("damage", ["flip", "late"])
def test_a_disk_copy_that_fails_while_it_is_streamed_is_computed_again(started, expected, damage, monkeypatch):
    runtime = started(device=5, host=0, disk=64)
    ask(runtime, LONG)
    all_below(runtime)
    node = runtime.cache.match(runtime.namespace("salt", "exact"), LONG, runtime._codecs("exact"))[4]
    get, failed = runtime.disk.get, []

    def sometimes(block_id, token_ids, layers=None):
        if block_id == node.block_id and layers == [1] and len(failed) < 2:
            failed.append(layers)
            if damage == "late":
                return None
            file = runtime.disk._path(block_id)
            content = bytearray(file.read_bytes())
            content[-1] ^= 1  # in the last layer
            file.write_bytes(content)
        return get(block_id, token_ids, layers)

    monkeypatch.setattr(runtime.disk, "get", sometimes)
    text, done = ask(runtime, LONG)
    assert failed
    assert text == expected["exact"][0]
    assert sum(done.cached.values()) < 10 * BLOCK
    assert runtime.disk.stats().quarantined == (damage == "flip")
    all_below(runtime)
    assert kept(runtime, LONG) == expected["exact"][1]


def test_a_whole_file_of_another_codec_is_not_streamed_again_and_again(started, expected):
    runtime = started(device=5, host=0, disk=64)
    ask(runtime, LONG)
    all_below(runtime)
    node = runtime.cache.match(runtime.namespace("salt", "exact"), LONG, runtime._codecs("exact"))[4]
    block = runtime.disk.get(node.block_id, node.token_ids)
    runtime.disk._path(node.block_id).write_bytes(stored.to_file(replace(block, codec="int8")))
    text, done = ask(runtime, LONG)
    assert text == expected["exact"][0]
    assert sum(done.cached.values()) < 10 * BLOCK
    all_below(runtime)
    assert kept(runtime, LONG) == expected["exact"][1]


def test_a_block_that_gets_lost_again_and_again_is_an_error_of_that_answer(started, monkeypatch):
    runtime = started(device=4, host=0, disk=64)
    ask(runtime, LONG)
    all_below(runtime)
    get = runtime.disk.get
    monkeypatch.setattr(runtime.disk, "get", lambda i, tokens, layers=None: None if layers else get(i, tokens, layers))
    text, done = ask(runtime, LONG)
    assert isinstance(done, Failed)
    assert not text
    assert "could not be read" in done.message
    assert isinstance(ask(runtime, prompt(600, seed=5))[1], Done)
    assert in_engine(runtime, lambda: {node.refs for node in runtime.cache._nodes.values()}) == {0}


def test_others_go_on_when_one_loses_a_block_in_a_common_step(started, monkeypatch):
    runtime = started(device=6, host=64, disk=0)
    endless = SamplingOptions(temperature=0, max_tokens=40)
    alone = [ask(started(disk=0), tokens, options=endless)[0] for tokens in (LONG, prompt(500, seed=9))]
    forward, broken = runtime.engine._forward, []

    def loses(answers, chunks):
        if len(answers) == 2 and len(chunks[0]) == 1 and not broken:
            victim = next(a for a in answers if len(a.kv.blocks) > 3).kv.blocks[2]
            broken.append(victim)
            runtime.host.drop(victim.block_id)
            if victim.slot is not None:
                runtime.cache._vacate(victim)
        return forward(answers, chunks)

    monkeypatch.setattr(runtime.engine, "_forward", loses)
    asked = [Asked(runtime, tokens, options=endless) for tokens in (LONG, prompt(500, seed=9))]
    assert [one.answer()[0] for one in asked] == alone
    assert broken

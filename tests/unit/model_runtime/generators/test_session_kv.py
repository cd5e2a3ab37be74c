"""Whose KV is it: manifests, pins, shares, prefetch, suspend, drop and work ahead, over the hand-wired model."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from model_runtime.generators.chat import ChatTokenizer
from model_runtime.generators.job import Done, Failed
from model_runtime.generators.places import PlaceOptions, QueueFull
from model_runtime.generators.sampling import SamplingOptions
from model_runtime.kv.shape import BLOCK
from model_runtime.kv.shares import ShareOptions
from tests.unit.model_runtime.generators.asking import Asked, ask, in_engine, prompt, settle

NAME = ("t", "s")
ENDLESS = SamplingOptions(temperature=0, max_tokens=100_000)


def turn(runtime, tokens, *, tenant="t", key="s", **facts):
    return ask(runtime, tokens, salt=tenant, tenant=tenant, memory_key=key, **facts)


def warm(runtime, tokens, *, tenant="t", key="s"):
    return Asked(runtime, tokens, salt=tenant, tenant=tenant, memory_key=key, warm=True)


def run(runtime, steps):
    return runtime.engine.errands.run(steps).result(60)


def described(runtime, name=NAME):
    return run(runtime, runtime.moves.describe(name))


def files_with(folder: Path, tokens) -> list[Path]:
    """Files that hold these token ids, as numbers or as text."""
    packed = b"".join(token.to_bytes(4, "little") for token in tokens)
    texts = [sep.join(map(str, tokens)).encode() for sep in (", ", ",")]
    contents = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return [path for path, content in contents.items() if any(part in content for part in (packed, *texts))]


def until(true, seconds=20):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_answer_leaves_a_manifest_of_what_its_session_has(started):
    runtime, tokens = started(), prompt(3 * BLOCK + 100)
    turn(runtime, tokens)
    kv = described(runtime).session
    assert (kv.tokens, kv.tail_tokens, kv.generation, kv.lost) == (len(tokens) + 11, 111, 1, 0)
    assert (kv.blocks["device"], described(runtime).tail) == (3, "device")
    turn(runtime, (*tokens, *prompt(500, seed=1)))
    assert described(runtime).session.generation == 2
    assert described(runtime, ("t", "other")).session is None
    assert described(runtime, ("other", "s")).session is None


def test_a_manifest_and_a_pin_survive_a_restart(started):
    first, tokens = started(), prompt(3 * BLOCK + 100)
    turn(first, tokens)
    before = time.time()
    run(first, first.moves.pin(NAME, before + 1_000))
    settle(first)
    first.close()
    again = started()
    kv = described(again).session
    assert (kv.tokens, kv.blocks["disk"], kv.pinned_blocks) == (len(tokens) + 11, 3, 3)
    assert kv.pinned_until == before + 1_000


def test_a_manifest_survives_kill_9(tmp_path):
    script = textwrap.dedent("""
        import sys, time
        from pathlib import Path
        from model_runtime.generators.checkpoint import load
        from model_runtime.generators.runtime import Runtime, RuntimeOptions
        from tests.unit.model_runtime.generators.asking import prompt, settle
        from tests.unit.model_runtime.generators.test_session_kv import turn
        folder = Path(sys.argv[1])
        runtime = Runtime(RuntimeOptions("fixture", folder, threads=1), load("fixture", cache_dir=folder))
        turn(runtime, prompt(1300))
        settle(runtime)
        print("settled", flush=True)
        for n in range(1000):
            turn(runtime, prompt(1300 + n), key=f"k{n}")
    """)
    child = subprocess.Popen([sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "settled\n"
    sessions = lambda: list(tmp_path.rglob("sessions/??/*.json"))  # noqa: E731
    until(lambda: len(sessions()) >= 3)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    from model_runtime.kv.manifests import Manifests

    (folder,) = {path.parent.parent for path in sessions()}
    found = {manifest.memory_key: manifest for manifest in Manifests(folder).all()}
    assert len(found) == len(sessions())  # none is damaged
    assert found["s"].tokens == 1_311
    assert not list((folder / "quarantine").glob("*"))


def test_what_a_session_left_behind_goes_first(started):
    runtime = started(device=4, host=3, disk=0)
    common, kept = prompt(BLOCK), prompt(2 * BLOCK, seed=9)
    turn(runtime, (*common, *prompt(BLOCK, seed=1), 7))
    left = in_engine(runtime, lambda: runtime.sessions.nodes(runtime.sessions.get(NAME))[1])
    turn(runtime, (*common, *prompt(BLOCK, seed=2), 7))
    assert in_engine(runtime, lambda: left.superseded > left.last_use)
    settle(runtime)
    turn(runtime, (*kept, 7), key="other")
    settle(runtime)
    assert runtime.cache.stats()["evicted"]["host"].get("superseded")
    assert in_engine(runtime, lambda: runtime.cache.get(left.block_id)) is None
    assert len(described(runtime).session.last_block) == 64


def test_a_branch_that_is_used_again_is_not_superseded(started):
    runtime, tokens = started(), prompt(2 * BLOCK + 5)
    turn(runtime, tokens)
    old = in_engine(runtime, lambda: runtime.sessions.nodes(runtime.sessions.get(NAME)))
    turn(runtime, prompt(2 * BLOCK + 5, seed=1))
    assert all(node.superseded > node.last_use for node in old)
    ask(runtime, tokens, salt="t", tenant="t")
    assert all(node.superseded <= node.last_use for node in old)


def test_pinned_blocks_stay_when_another_tenant_needs_all_the_room(started):
    runtime, tokens = started(device=6, host=2, disk=16), prompt(2 * BLOCK + 30)
    cold, _ = turn(runtime, tokens)
    run(runtime, runtime.moves.pin(NAME, time.time() + 1_000))
    for seed in range(1, 12):
        turn(runtime, prompt(4 * BLOCK + 9, seed), tenant="other", key=f"s{seed}")
        settle(runtime)
    kv = described(runtime).session
    assert (kv.lost, kv.blocks["disk"]) == (0, 2)
    again, done = turn(runtime, tokens)
    assert again == cold
    assert sum(done.cached.values()) >= 2 * BLOCK


def test_a_pin_ends_with_its_time_and_by_request(started):
    runtime = started()
    turn(runtime, prompt(2 * BLOCK + 5))
    run(runtime, runtime.moves.pin(NAME, time.time() + 0.3))
    assert described(runtime).session.pinned_blocks == 2
    time.sleep(0.35)
    assert (described(runtime).session.pinned_blocks, described(runtime).session.pinned_until) == (0, None)
    run(runtime, runtime.moves.pin(NAME, time.time() + 1_000))
    assert run(runtime, runtime.moves.pin(NAME, None)).session.pinned_blocks == 0
    assert run(runtime, runtime.moves.pin(("t", "unknown"), None)) is None


def test_no_tenant_pins_more_than_its_budget_and_all_together_leave_room(started):
    runtime = started(device=32, host=16, disk=0, shares=ShareOptions(tenant=0.5, pins=0.5, most_pinned=0.3))
    turn(runtime, prompt(5 * BLOCK + 5))
    refused = run(runtime, runtime.moves.pin(NAME, time.time() + 1_000))
    assert not refused.of_all
    for tenant in "ab":
        turn(runtime, prompt(3 * BLOCK + 5, seed=1), tenant=tenant)
    run(runtime, runtime.moves.pin(("a", "s"), time.time() + 1_000))
    refused = run(runtime, runtime.moves.pin(("b", "s"), time.time() + 1_000))
    assert (refused.of_all, refused.left) == (True, int(16 * 2**20 * 0.3) - 3 * 2**20)


def test_what_a_pinned_session_adds_is_pinned_as_far_as_the_budget_goes(started):
    runtime, tokens = started(device=32, host=12, disk=0), prompt(2 * BLOCK + 5)
    turn(runtime, tokens)
    run(runtime, runtime.moves.pin(NAME, time.time() + 1_000))
    turn(runtime, (*tokens, *prompt(3 * BLOCK, seed=1)))
    assert described(runtime).session.pinned_blocks == 3  # a quarter of 12
    assert described(runtime).tenant.pinned == described(runtime).tenant.pin_budget


def test_a_tenant_over_its_share_gives_up_its_own(started):
    runtime, mine = started(device=6, host=8, disk=0), prompt(2 * BLOCK + 5)
    turn(runtime, mine)
    settle(runtime)
    for seed in range(1, 8):
        turn(runtime, prompt(2 * BLOCK + 5, seed), tenant="greedy", key=f"s{seed}")
        settle(runtime)
    assert described(runtime).session.lost == 0
    assert runtime.cache.stats()["evicted"]["host"]["over_quota"] > 0


def test_auto_is_exact_until_the_share_is_used_up(started):
    runtime = started(device=32, host=8, disk=0)
    eights = runtime.namespace("t", "int8")
    small = turn(runtime, prompt(2 * BLOCK + 5), instead=(eights, "int8"))[1]
    large = turn(runtime, prompt(6 * BLOCK + 5, seed=1), key="large", instead=(eights, "int8"))[1]
    assert (small.policy, large.policy) == ("exact", "int8")
    assert described(runtime, ("t", "large")).session.namespace == eights.hex()
    assert turn(runtime, prompt(2 * BLOCK + 5), instead=(eights, "int8"))[1].policy == "exact"


def test_suspend_and_prefetch_move_a_session_and_nothing_is_computed_again(started):
    runtime, tokens = started(), prompt(4 * BLOCK + 200)
    turn(runtime, tokens)
    rested = run(runtime, runtime.moves.suspend(NAME))
    assert (rested.moved, rested.stayed, rested.tail_tokens, rested.bytes) == (4, 0, 211, 4 * 2**20)
    kv = described(runtime)
    assert (kv.session.blocks["device"], kv.session.blocks["host"], kv.tail) == (0, 4, "disk")
    brought = run(runtime, runtime.moves.prefetch(NAME))
    assert (brought.brought, brought.there, brought.left) == ({"host": 4, "disk": 0}, 0, 0)
    assert brought.tail_tokens == 211
    assert runtime.cache.stats()["prefetched"] == {"host": 4, "disk": 0}
    computed = runtime.engine.computed_tokens
    longer = (*tokens, *prompt(60, seed=3))
    text, done = turn(runtime, longer)
    assert runtime.engine.computed_tokens - computed == 60
    assert done.cached == {"device": len(tokens), "host": 0, "disk": 0}
    assert text == ask(started(disk=0), longer, salt="x")[0]
    assert run(runtime, runtime.moves.prefetch(("t", "unknown"))) is None
    assert run(runtime, runtime.moves.suspend(("t", "unknown"))) is None


def test_after_a_restart_a_session_is_brought_up_before_anybody_asks(started):
    first, tokens = started(), prompt(4 * BLOCK + 200)
    cold, _ = turn(first, tokens)
    run(first, first.moves.suspend(NAME))
    settle(first)
    first.close()
    again = started()
    brought = run(again, again.moves.prefetch(NAME))
    assert (brought.brought["disk"], brought.tail_tokens) == (4, 211)
    text, done = turn(again, tokens)
    assert (text, done.cached["device"]) == (cold, len(tokens) - 1)


def test_a_prefetch_takes_no_more_of_the_device_than_the_share(started):
    runtime, tokens = started(device=12), prompt(9 * BLOCK + 5)
    turn(runtime, tokens)
    run(runtime, runtime.moves.suspend(NAME))
    brought = run(runtime, runtime.moves.prefetch(NAME))
    most = runtime.arena.slots // 2
    assert (brought.brought["host"], brought.left) == (most, 9 - most)


def test_what_another_session_has_too_stays_up_and_is_kept(started):
    runtime, common = started(), prompt(2 * BLOCK)
    turn(runtime, (*common, *prompt(BLOCK + 5, seed=1)))
    turn(runtime, (*common, *prompt(BLOCK + 5, seed=2)), key="other")
    rested = run(runtime, runtime.moves.suspend(NAME))
    assert (rested.moved, rested.stayed) == (1, 2)
    dropped = run(runtime, runtime.moves.drop(NAME))
    assert (dropped.blocks, dropped.kept) == (1, 2)
    assert described(runtime).session is None
    assert described(runtime, ("t", "other")).session.lost == 0
    assert run(runtime, runtime.moves.drop(NAME)) is None


def test_what_is_dropped_leaves_no_token_in_any_file(started, tmp_path):
    runtime, tokens = started(), prompt(2 * BLOCK + 200, seed=5)
    turn(runtime, tokens)
    run(runtime, runtime.moves.suspend(NAME))
    settle(runtime)
    for part in (tokens[:8], tokens[-8:]):
        until(lambda part=part: files_with(tmp_path, part))
    run(runtime, runtime.moves.drop(NAME))
    assert [path for part in (tokens[:8], tokens[-8:]) for path in files_with(tmp_path, part)] == []
    assert sum(turn(runtime, tokens)[1].cached.values()) == 0


def test_a_purge_leaves_no_token_in_any_file(started, tmp_path):
    runtime, tokens = started(), prompt(2 * BLOCK + 200, seed=5)
    turn(runtime, tokens)
    run(runtime, runtime.moves.suspend(NAME))
    for key in range(20):  # manifests are being written when the purge comes
        turn(runtime, tokens, key=f"s{key}")
    settle(runtime)
    runtime.forget(frozenset({runtime.namespace("t", "exact")})).result(30)
    time.sleep(0.3)
    assert [path for part in (tokens[:8], tokens[-8:]) for path in files_with(tmp_path, part)] == []
    assert described(runtime).session is None
    assert in_engine(runtime, lambda: len(runtime.sessions)) == 0


def test_a_purge_after_a_restart_takes_salts_that_nobody_has_named_since(started, tmp_path):
    first, tokens = started(), prompt(2 * BLOCK + 200, seed=5)
    turn(first, tokens)
    run(first, first.moves.suspend(NAME))
    settle(first)
    first.close()
    for manifests in tmp_path.rglob("sessions"):
        shutil.rmtree(manifests)
    again = started()
    assert files_with(tmp_path, tokens[-8:])
    again.forget(frozenset(), "t").result(30)
    assert [path for part in (tokens[:8], tokens[-8:]) for path in files_with(tmp_path, part)] == []


def test_what_is_computed_ahead_is_read_by_the_next_turn(started):
    runtime, tokens = started(), prompt(3 * BLOCK + 100)
    text, done = warm(runtime, tokens).answer()
    assert (text, done.reason) == ("", "warmed")
    _, done = turn(runtime, (*tokens, *prompt(30, seed=1)))
    assert done.cached["device"] == len(tokens)
    assert described(runtime).session.generation == 2


def test_work_ahead_gives_way_to_answers_and_is_overtaken_by_its_session(started):
    runtime = started()
    answering = Asked(runtime, prompt(200), options=ENDLESS)
    answering.events.get(timeout=30)
    ahead = warm(runtime, prompt(2 * BLOCK, seed=1))
    for _ in range(20):
        answering.events.get(timeout=30)
    assert ahead.events.empty()
    answering.job.cancelled.set()
    assert isinstance(ahead.answer()[1], Done)
    long = warm(runtime, prompt(60 * BLOCK, seed=2))
    until(lambda: runtime.engine.answering)
    _, done = turn(runtime, prompt(40, seed=3))
    assert done.reason == "length"
    assert long.answer()[1].reason == "cancelled"
    assert described(runtime).session.tokens == 51


def test_work_ahead_of_what_is_purged_comes_to_nothing(started):
    runtime = started()
    ahead = warm(runtime, prompt(60 * BLOCK, seed=2))
    until(lambda: runtime.engine.answering)
    runtime.forget(frozenset({runtime.namespace("t", "exact")})).result(30)
    assert isinstance(ahead.answer()[1], Failed)
    assert described(runtime).session is None


def test_a_tenant_that_fills_its_queue_is_refused_and_another_is_served(started):
    runtime = started(places=PlaceOptions(places=2, of_tenant=1, waiting=4, waiting_of_tenant=1))
    first = Asked(runtime, prompt(50), options=ENDLESS, tenant="greedy")
    first.events.get(timeout=30)
    waiting = Asked(runtime, prompt(50, seed=1), tenant="greedy")
    with pytest.raises(QueueFull):
        Asked(runtime, prompt(50, seed=2), tenant="greedy")
    assert turn(runtime, prompt(50, seed=3))[1].reason == "length"
    first.job.cancelled.set()
    assert isinstance(waiting.answer()[1], Done)


def test_a_manifest_of_another_template_is_not_believed(started, monkeypatch):
    first, tokens = started(), prompt(BLOCK + 5)
    turn(first, tokens)
    first.close()
    monkeypatch.setattr(ChatTokenizer, "template", "another")
    again = started()
    assert described(again).session is None
    assert not list(Path(again.disk._folder, "sessions").glob("??/*.json"))

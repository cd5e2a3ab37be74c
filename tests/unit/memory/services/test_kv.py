"""Who may see and move a session's KV, and what is computed ahead of its next turn, over the fixture model."""

import asyncio
from dataclasses import replace

import pytest

from memory.bootstrap import build
from memory.domain.context import ContextRequest
from memory.domain.errors import KVElsewhere, NoModelConfigured, NotFound, NothingKept
from memory.domain.generation import ChatMessage, Delta, Sampling, TurnRequest
from memory.domain.principals import Principal
from memory.settings import Settings
from tests.unit.memory.services.conftest import ME, say

GENERATION = {"device_mib": 64, "host_mib": 32, "disk_mib": 64, "threads": 1}
MODEL = "stratamem-fixture-handwired-recall"
BLOCK = 512
MARK = 16
"""Tokens of the mark that begins the next message: another one where memories are recalled."""


@pytest.fixture
async def serving(tmp_path, models):
    settings = Settings(_env_file=None, data_dir=tmp_path, model="fixture", generation=GENERATION)
    async with build(settings, models=models) as opened:
        yield opened


async def turn(container, text, *, by=ME, session="s", **options):
    request = TurnRequest(
        MODEL, (ChatMessage("user", text),), Sampling(temperature=0, max_tokens=24), memory_key=session, **options
    )
    async with container.generation.turn(by, request) as answered:
        chunks = [chunk async for chunk in answered.chunks]
    return chunks[-1].usage, "".join(chunk.text for chunk in chunks if isinstance(chunk, Delta))


async def warmed(container):
    """Until nothing is computed ahead any more."""
    for _ in range(600):
        if not container.generation._warming._tasks:
            return
        await asyncio.sleep(0.05)
    raise AssertionError("the next prompt was never computed")


async def test_the_next_turn_computes_what_is_recalled_and_its_own_message_only(serving):
    facts = [f"the vault number {n} opens with {n * 7919} " * 6 for n in range(80)]
    await say(serving, "s", *facts)
    chat = serving.generation._generator.runtime.chat
    for question in ("What opens the vault number 3?", "And the vault number 9?", "And the vault number 12?"):
        await turn(serving, question, context_tokens=1_500)
        await warmed(serving)
    context = await serving.context.build(ME, "s", ContextRequest(1_500))
    window = chat.beginning([{"role": m.role, "content": m.content} for m in context.messages])
    report = await serving.kv.report(ME, "s")
    assert report.session.tokens == len(window) > 4 * BLOCK
    request = TurnRequest(
        MODEL,
        (ChatMessage("user", "And the vault number 15?"),),
        Sampling(temperature=0, max_tokens=4),
        memory_key="s",
        context_tokens=1_500,
    )
    async with serving.generation.turn(ME, request) as answered:
        *_, finished = [chunk async for chunk in answered.chunks]
    assert answered.recalled > 0  # without work ahead, all that follows the last recalled memories is computed again
    assert finished.usage.cached.total >= len(window) - MARK


async def test_what_was_computed_ahead_is_the_prefix_that_is_asked_for(serving):
    long = "a long story about the sea and the wind " * 40
    await turn(serving, long)
    await warmed(serving)
    before = await serving.kv.report(ME, "s")
    usage, _ = await turn(serving, "short")
    assert usage.cached.total >= before.session.tokens - MARK
    assert usage.prompt_tokens - usage.cached.total < BLOCK


async def test_with_warming_off_nothing_is_computed_ahead(tmp_path, models):
    settings = Settings(_env_file=None, data_dir=tmp_path, model="fixture", generation=GENERATION | {"warm": False})
    async with build(settings, models=models) as container:
        await turn(container, "a story " * 200)
        assert container.generation._warming is None
        assert (await container.kv.report(ME, "s")).session.generation == 1


async def test_what_is_dropped_while_it_is_computed_ahead_stays_dropped(serving):
    for _ in range(3):
        await turn(serving, "a story about the sea " * 150)
        await serving.kv.drop(ME, "s")
        await asyncio.sleep(0.3)
        assert (await serving.kv.report(ME, "s")).session is None


async def test_a_purge_ends_what_is_computed_ahead(serving):
    await turn(serving, "a story about a marker " * 300)
    receipt = await serving.forgetting.purge_session(ME, "s")
    assert receipt.verified
    await warmed(serving)
    await say(serving, "s", "anew")
    assert (await serving.kv.report(ME, "s")).session is None
    assert sum((await serving.kv.report(ME, "s")).tenant.used.values()) == 0


async def test_a_purge_leaves_no_token_ids_of_a_marker_in_any_file(serving, tmp_path):
    marker = "zyzzyva-quixotic-marker"
    ids = list(marker.encode())  # the fixture's tokens are bytes
    await turn(serving, f"{marker} " + "a story about the sea " * 120 + marker)
    await warmed(serving)
    await serving.kv.suspend(ME, "s")
    await asyncio.sleep(0.5)
    assert files_with(tmp_path / "kv", ids)
    assert (await serving.forgetting.purge_session(ME, "s")).verified
    await asyncio.sleep(0.3)
    assert files_with(tmp_path / "kv", ids) == []


def files_with(folder, ids):
    packed = b"".join(token.to_bytes(4, "little") for token in ids)
    texts = [joint.join(map(str, ids)).encode() for joint in (", ", ",")]
    contents = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return [path for path, content in contents.items() if any(part in content for part in (packed, *texts))]


async def test_whom_the_session_is_hidden_from_its_kv_is_too(serving):
    await turn(serving, "hello " * 300)
    stranger = Principal("another")
    limited = replace(ME, session_ids=frozenset({"other"}))
    for by in (stranger, limited):
        for asked in (
            serving.kv.report(by, "s"),
            serving.kv.pin(by, "s", 60),
            serving.kv.prefetch(by, "s"),
            serving.kv.suspend(by, "s"),
            serving.kv.drop(by, "s"),
        ):
            with pytest.raises(NotFound):
                await asked
    assert (await serving.kv.report(ME, "s")).session is not None


async def test_a_session_without_an_answer_has_nothing_to_pin(serving):
    await say(serving, "s", "hello")
    with pytest.raises(NothingKept, match="memory_key"):
        await serving.kv.pin(ME, "s", 60)
    assert (await serving.kv.drop(ME, "s")).blocks == 0
    assert (await serving.kv.prefetch(ME, "s")).there == 0
    assert (await serving.kv.suspend(ME, "s")).moved == 0


async def test_a_pin_ends_by_the_clock_and_by_zero(serving):
    await turn(serving, "hello " * 300)
    pinned = await serving.kv.pin(ME, "s", 60)
    assert pinned.pinned_blocks > 0
    assert 55 < (pinned.pinned_until - serving.clock.now()).total_seconds() <= 60
    assert (await serving.kv.pin(ME, "s", 0)).pinned_until is None


async def test_admin_and_the_hot_tier_count_the_kv(serving):
    await turn(serving, "hello " * 300)
    await warmed(serving)
    shown = await serving.admin.session_tiers(ME, "s")
    assert shown["hot"]["kv"]["blocks"]["device"] > 0
    (hot, *_) = await serving.admin.tiers(ME)
    assert hot["bytes"] >= hot["details"]["kv_bytes_device"] > 0


async def test_without_a_model_and_with_an_engine_elsewhere_it_is_said_why(container, tmp_path, models):
    await say(container, "s", "hello")
    with pytest.raises(NoModelConfigured):
        await container.kv.report(ME, "s")
    with pytest.raises(NotFound):
        await container.kv.report(ME, "unknown")
    settings = Settings(_env_file=None, data_dir=tmp_path / "other", model="http://127.0.0.1:9/v1")
    async with build(settings, models=models) as remote:
        await say(remote, "s", "hello")
        with pytest.raises(KVElsewhere):
            await remote.kv.suspend(ME, "s")

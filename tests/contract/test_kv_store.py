"""What every keeper of KV does: one that has nothing to keep, and runtimes of this process and of another one."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from memory.adapters.kv.null import NullKVStore
from memory.adapters.kv.runtime import RuntimeKVStore
from memory.adapters.kv.runtime_http import RemoteKVStore
from memory.adapters.models.generation import InProcessGenerator, load_generator
from memory.adapters.models.runtime_http import RuntimeGenerator, connect
from memory.adapters.models.settings import GenerationSettings
from memory.domain.errors import KVElsewhere, NoModelConfigured, PinBudgetExceeded, TooManyAnswers
from memory.domain.generation import ChatMessage, Fidelity, Finished, Prompt, Sampling
from memory.domain.kv import TIERS
from memory.ports.generation import Generator
from memory.ports.kv import KVStore
from tests.engines import KEY, model_runtime

TEXT = "the garden behind the house " * 80
PROMPT = Prompt(
    messages=(ChatMessage("user", TEXT),),
    sampling=Sampling(temperature=0, max_tokens=8),
    memory_key="s",
    tenant_id="t",
    share_group="tenant",
)
SETTINGS = GenerationSettings(device_mib=32, host_mib=32, disk_mib=64, threads=1)


def salt(tenant_id: str, share_group: str) -> str:
    return f"{len(tenant_id)}:{tenant_id}{share_group}"


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcessGenerator]:
    opened = load_generator("fixture", tmp_path_factory.mktemp("kv"), SETTINGS, salt)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with model_runtime(tmp_path_factory.mktemp("runtime")) as url:
        yield url


@dataclass
class Keeping:
    """Who computes, and who keeps what was computed; with nothing kept yet."""

    generator: Generator
    store: RuntimeKVStore | RemoteKVStore


@pytest.fixture(params=["in process", "elsewhere"])
async def keeping(
    request: pytest.FixtureRequest, generator: InProcessGenerator, tmp_path: Path
) -> AsyncIterator[Keeping]:
    if request.param == "in process":
        kept = Keeping(generator, RuntimeKVStore(generator))
    else:
        remote = await connect(request.getfixturevalue("elsewhere"), KEY, tmp_path / "facts.json")
        assert remote.model is not None
        asking = RuntimeGenerator(remote.client, remote.model, salt)
        kept = Keeping(asking, RemoteKVStore(remote.client, salt, asking, NoModelConfigured()))
    for tenant in ("t", "other"):
        await kept.store.forget(tenant)
    yield kept
    if request.param == "elsewhere":
        await remote.client.close()


@pytest.fixture(params=["null", "keeping"])
def store(request: pytest.FixtureRequest) -> KVStore:
    return NullKVStore() if request.param == "null" else RuntimeKVStore(request.getfixturevalue("generator"))


async def answer(generator: Generator, prompt: Prompt = PROMPT) -> Finished:
    *_, finished = [chunk async for chunk in generator.generate(prompt)]
    assert isinstance(finished, Finished)
    return finished


def in_a_while() -> datetime:
    return datetime.now(UTC) + timedelta(hours=1)


async def test_of_a_session_that_nobody_asked_for_nothing_is_kept(store: KVStore) -> None:
    report = await store.report("t", "unknown")
    assert report.session is None
    assert set(report.tenant.used) == set(report.tenant.quota) == set(TIERS)
    for asked in (
        store.prefetch("t", "unknown"),
        store.suspend("t", "unknown"),
        store.drop("t", "unknown"),
        store.pin("t", "unknown", in_a_while()),
    ):
        assert await asked is None
    assert await store.moves("unknown") == []
    assert await store.verify() == []
    assert await store.forget("nobody") == 0


async def test_what_is_computed_ahead_is_counted_where_it_is_computed(store: KVStore) -> None:
    computed = await store.warm(replace(PROMPT, memory_key="ahead", tenant_id="ahead"))
    assert (computed > 0) == isinstance(store, RuntimeKVStore)
    await store.forget("ahead")


@pytest.mark.parametrize("reason", [NoModelConfigured, KVElsewhere])
def test_one_that_has_nothing_says_why(reason: Callable[[], Exception]) -> None:
    with pytest.raises(type(reason())):
        NullKVStore(reason()).check()  # type: ignore[arg-type]


async def test_an_answer_s_kv_is_reported_to_its_own_tenant_and_session_only(keeping: Keeping) -> None:
    generator, runtime = keeping.generator, keeping.store
    runtime.check()
    finished = await answer(generator)
    report = await runtime.report("t", "s")
    assert report.session is not None
    assert report.session.tokens == finished.usage.prompt_tokens + 7  # the last one is not computed
    assert (report.session.fidelity, finished.usage.fidelity) == ("exact", Fidelity.EXACT)
    assert report.session.blocks["device"] == report.session.tokens // 512
    assert report.tenant.used["device"] == report.session.bytes["device"] > 0
    assert (await runtime.report("t", "other")).session is None
    assert (await runtime.report("other", "s")).session is None
    assert (await runtime.usage("other")).used["device"] == 0
    assert await runtime.forget("t") == report.session.blocks["device"]
    assert (await runtime.report("t", "s")).session is None


async def test_a_share_group_finds_nothing_of_another_and_all_go_with_their_tenant(keeping: Keeping) -> None:
    await answer(keeping.generator)
    closed = replace(PROMPT, share_group="family 7", memory_key="closed")
    assert (await answer(keeping.generator, closed)).usage.cached.total == 0
    again = await answer(keeping.generator, closed)
    assert again.usage.cached.total == again.usage.prompt_tokens - 1
    blocks = (await keeping.store.report("t", "closed")).tenant.used
    assert await keeping.store.forget("t") == 2 * (again.usage.prompt_tokens // 512)
    assert blocks["device"] > (await keeping.store.usage("t")).used["device"] == 0
    assert (await answer(keeping.generator, closed)).usage.cached.total == 0


async def test_a_session_is_laid_to_rest_and_brought_up(keeping: Keeping) -> None:
    generator, runtime = keeping.generator, keeping.store
    finished = await answer(generator)
    rested = await runtime.suspend("t", "s")
    assert rested is not None
    assert (rested.moved, rested.tail_tokens) == (4, (finished.usage.prompt_tokens + 7) % 512)
    report = await runtime.report("t", "s")
    assert report.session is not None
    assert (report.session.blocks["device"], report.session.tail) == (0, "disk")
    brought = await runtime.prefetch("t", "s")
    assert brought is not None
    assert (brought.brought["host"], brought.left) == (4, 0)
    again = await answer(generator)
    assert again.usage.cached.total == finished.usage.prompt_tokens - 1


async def test_moves_of_blocks_are_told_with_reason_size_and_time(keeping: Keeping) -> None:
    generator, runtime = keeping.generator, keeping.store

    async def counted(what: str) -> Counter[tuple[str, str | None, str]]:
        """Blocks or bytes; summed, for what moves within a second of an earlier test is one entry with it."""
        found = Counter[tuple[str, str | None, str]]()
        for move in await runtime.moves("t"):
            found[move.origin, move.target, move.reason] += getattr(move, what)
        return found

    blocks, sizes = await counted("blocks"), await counted("bytes")
    await answer(generator)
    await runtime.suspend("t", "s")
    await runtime.prefetch("t", "s")
    report = await runtime.report("t", "s")
    assert report.session is not None
    rested, read = ("device", "host", "laid_to_rest"), ("host", "device", "read")
    for move in (rested, read):
        assert (await counted("blocks"))[move] == blocks[move] + 4
        assert (await counted("bytes"))[move] == sizes[move] + report.session.bytes["device"]
    newest, *_ = await runtime.moves("t")
    assert abs((datetime.now(UTC) - newest.at).total_seconds()) < 60
    await runtime.forget("t")
    purged = ("device", None, "purged")
    assert (await counted("blocks"))[purged] == blocks[purged] + 4
    assert all(move.reason == "purged" for move in await runtime.moves("other"))


async def test_a_pin_is_kept_until_it_ends(keeping: Keeping) -> None:
    generator, runtime = keeping.generator, keeping.store
    await answer(generator)
    until = in_a_while()
    pinned = await runtime.pin("t", "s", until)
    assert pinned is not None
    assert (pinned.pinned_blocks, pinned.pinned_until) == (4, until)
    unpinned = await runtime.pin("t", "s", None)
    assert unpinned is not None
    assert (unpinned.pinned_blocks, unpinned.pinned_until) == (0, None)


async def test_a_pin_over_the_budget_is_refused_with_what_to_do(generator: InProcessGenerator) -> None:
    runtime, until = RuntimeKVStore(generator), in_a_while()
    await answer(generator, replace(PROMPT, messages=(ChatMessage("user", TEXT * 6),), memory_key="large"))
    with pytest.raises(PinBudgetExceeded, match="ttl_seconds 0") as refused:
        await runtime.pin("t", "large", until)
    assert refused.value.facts["wanted_bytes"] > refused.value.facts["left_bytes"]  # type: ignore[operator]


async def test_auto_gives_up_exactness_only_where_the_share_is_used_up(tmp_path: Path) -> None:
    settings = GenerationSettings(device_mib=32, host_mib=8, disk_mib=0, threads=1)
    generator = load_generator("fixture", tmp_path, settings, salt)
    try:
        short = await answer(generator, replace(PROMPT, fidelity=Fidelity.AUTO))
        long = replace(PROMPT, messages=(ChatMessage("user", TEXT * 2),), fidelity=Fidelity.AUTO, memory_key="long")
        assert (short.usage.fidelity, (await answer(generator, long)).usage.fidelity) == ("exact", "int8")
    finally:
        generator.close()


async def test_a_tenant_s_full_queue_is_its_own(generator: InProcessGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    from model_runtime.generators.places import PlaceOptions

    monkeypatch.setattr(generator.runtime.engine._places, "_options", PlaceOptions(waiting_of_tenant=0))
    with pytest.raises(TooManyAnswers, match="of this tenant"):
        await answer(generator)

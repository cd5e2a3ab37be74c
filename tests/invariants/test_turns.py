"""Two API processes over one database answer one session: its log is one turn after the other, and every prompt too."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

import pytest

from memory.bootstrap import Container, build
from memory.domain.errors import TurnLost
from memory.domain.generation import ChatMessage, Chunk, Prompt, Sampling, TurnRequest
from memory.domain.principals import Principal
from memory.services.generation import Generation
from memory.services.turns import Turns
from memory.testing import ScriptedGenerator
from tests.invariants.fakes import FakeModels
from tests.invariants.worlds import settings_in

ME = Principal("default")


class SlowGenerator(ScriptedGenerator):
    """Stops before every word. `hold`: waits for it before the first."""

    hold: asyncio.Event | None = None

    async def generate(self, prompt: Prompt) -> AsyncGenerator[Chunk, None]:
        if self.hold is not None:
            self.prompts.append(prompt)
            await self.hold.wait()
        async for chunk in super().generate(prompt):
            await asyncio.sleep(0.005)
            yield chunk


class Process:
    """A container of its own, whose turns lapse after `lease` seconds."""

    def __init__(self, container: Container, name: str, lease: float) -> None:
        self.container = container
        self.model = SlowGenerator(reply=f"so says {name}")
        turns = Turns(container.storage, container.clock, lease=timedelta(seconds=lease))
        self._generation = Generation(self.model, container.events, container.context, turns)

    async def ask(self, question: str) -> None:
        asked = TurnRequest("scripted", (ChatMessage("user", question),), Sampling(), memory_key="s", top_k=0)
        async with self._generation.turn(ME, asked) as turn:
            async for _ in turn.chunks:
                pass

    async def log(self) -> list[tuple[str, str]]:
        return [(event.role, event.content) for event in await self.container.events.page(ME, "s", limit=100)]


@pytest.fixture
async def processes(tmp_path: Path, database_url: str) -> AsyncIterator[list[Process]]:
    async with AsyncExitStack() as stack:
        opened = []
        for name in ("one", "other"):
            settings = settings_in(tmp_path / name, database_url=database_url)
            container = await stack.enter_async_context(build(settings, FakeModels()))  # type: ignore[arg-type]
            opened.append(Process(container, name, lease=0.6))
        yield opened


async def test_one_session_is_answered_by_two_processes_and_never_by_both_at_once(processes: list[Process]) -> None:
    await asyncio.gather(*(processes[number % 2].ask(f"question {number}") for number in range(12)))
    log = await processes[0].log()
    assert [role for role, _ in log] == ["user", "assistant"] * 12
    texts = [text for _, text in log]
    prompts = [prompt.messages for process in processes for prompt in process.model.prompts]
    for number, prompt in enumerate(sorted(prompts, key=len)):  # each knows all turns before it, and nothing else
        assert [message.content for message in prompt] == texts[: 2 * number + 1]


async def test_a_turn_that_was_taken_for_dead_adds_nothing(processes: list[Process]) -> None:
    """Its process is stopped for longer than its lease, and goes on as if nothing had been."""
    one, other = processes
    one.model.hold = asyncio.Event()
    stopped = asyncio.create_task(one.ask("first"))
    while not one.model.prompts:
        await asyncio.sleep(0.01)
    async with one.container.storage.write() as tx:
        await tx.turns.forget(one.container.clock.now() + timedelta(hours=1))
    await other.ask("second")
    one.model.hold.set()
    with pytest.raises(TurnLost):
        await stopped
    assert await other.log() == [("user", "second"), ("assistant", "so says other ")]


async def test_a_session_is_free_when_its_client_has_gone(processes: list[Process]) -> None:
    one, other = processes
    one.model.hold = asyncio.Event()
    gone = [asyncio.create_task(one.ask(f"number {number}")) for number in range(3)]
    while not one.model.prompts:
        await asyncio.sleep(0.01)
    for task in gone:
        task.cancel()
    await asyncio.gather(*gone, return_exceptions=True)
    async with asyncio.timeout(0.5):  # no lease has to run out
        await other.ask("is anybody there?")
    assert await other.log() == [("user", "is anybody there?"), ("assistant", "so says other ")]

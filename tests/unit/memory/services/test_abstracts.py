"""A summary by a model: of shared text, with the events that it comes from, and gone with them."""

import asyncio
from dataclasses import replace

import pytest

from memory.domain.errors import (
    Forbidden,
    GeneratorUnavailable,
    NoModelConfigured,
    NotFound,
    NothingSaid,
)
from memory.domain.memories import MemoryKind, MemoryVisibility
from memory.domain.principals import KeyScope, Principal
from memory.services.abstracts import Abstracts
from memory.testing import ScriptedGenerator
from tests.unit.memory.services.conftest import ME, say, work

ANN = Principal("default", agent_id="ann")
TRIP = ("ann: We take the early train to Bergen.", "bob: The hotel by the harbour has two rooms left.")


@pytest.fixture
def model():
    return ScriptedGenerator("They go to Bergen.")


@pytest.fixture
def abstracts(container, model):
    return served(container, model)


def served(container, model):
    ours = container.abstracts
    return Abstracts(model, ours._storage, ours._semantic, ours._clusters, ours._memories)


async def test_the_summary_is_a_memory_that_names_its_events(container, abstracts, model):
    await say(container, "s", *TRIP)
    await work(container)
    written = await abstracts.write(ME, "s", 50)
    added = written.added.memory
    assert written.tokens == await model.count(model.prompts[0].messages) + 4
    assert (added.text, added.kind, added.visibility) == (
        "They go to Bergen.",
        MemoryKind.SUMMARY,
        MemoryVisibility.SESSION,
    )
    events = await container.events.page(ME, "s", limit=9)
    assert added.source.session_id == "s"
    assert set(added.source.event_ids) == {event.event_id for event in events}
    (prompt,) = model.prompts
    assert prompt.messages[1].content.splitlines() == list(TRIP)
    assert "at most 50 words" in prompt.messages[0].content
    assert (prompt.sampling.temperature, prompt.sampling.max_tokens, prompt.memory_key) == (0, 100, None)
    assert (await container.memories.get(ME, added.memory_id)).text == added.text


async def test_what_is_private_is_never_read(container, abstracts, model):
    await say(container, "s", *TRIP)
    await say(container, "s", "The ring is hidden under the stairs.", by=ANN, private=True)
    await work(container)
    await abstracts.write(ANN, "s", 50)
    assert "ring" not in model.prompts[0].messages[1].content


async def test_it_goes_when_the_session_is_purged(container, abstracts):
    await say(container, "s", *TRIP)
    await work(container)
    added = (await abstracts.write(ME, "s", 50)).added.memory
    await container.forgetting.purge_session(ME, "s")
    with pytest.raises(NotFound):
        await container.memories.get(ME, added.memory_id)


async def test_a_session_that_is_purged_and_made_again_meanwhile_gets_no_summary_of_the_old_one(container, model):
    await say(container, "s", *TRIP)
    await work(container)

    class Slow(ScriptedGenerator):
        async def generate(self, prompt):
            await container.forgetting.purge_session(ME, "s")
            await say(container, "s", "Something else entirely is said here.")
            async for chunk in super().generate(prompt):
                yield chunk

    with pytest.raises(NotFound, match="purged meanwhile"):
        await served(container, Slow()).write(ME, "s", 50)
    assert await container.memories.page(ME, after_key=None, limit=9) == []


async def test_more_than_the_model_reads_is_told_by_fewer_sentences(container, model):
    await say(container, "s", *[f"On day {n} we saw animal{n} beside river{n} with person{n}." for n in range(80)])
    await work(container)
    model.max_tokens = 300
    await served(container, model).write(ME, "s", 50)
    (prompt,) = model.prompts
    assert await model.count(prompt.messages) <= 200
    lines = prompt.messages[1].content.splitlines()
    assert len(lines) > 3
    added = (await container.memories.page(ME, after_key=None, limit=9))[0]
    assert len(added.source.event_ids) == len(lines), "only what the model has read is its source"


async def test_nothing_said_is_told_apart_from_no_session_and_no_model(container, abstracts):
    await say(container, "s", "Is this a question?")
    await work(container)
    with pytest.raises(NothingSaid):
        await abstracts.write(ME, "s", 50)
    with pytest.raises(NotFound):
        await abstracts.write(ME, "t", 50)
    with pytest.raises(NoModelConfigured):
        await container.abstracts.write(ME, "s", 50)


@pytest.mark.parametrize("scope", [KeyScope.READ, KeyScope.WRITE])
async def test_it_takes_a_key_that_may_read_and_write(container, abstracts, scope):
    await say(container, "s", *TRIP)
    with pytest.raises(Forbidden):
        await abstracts.write(replace(ME, scopes=frozenset({scope})), "s", 50)


@pytest.mark.parametrize(
    "model", [ScriptedGenerator(" \x00 "), ScriptedGenerator(failure=GeneratorUnavailable("gone"))]
)
async def test_a_model_that_says_nothing_or_breaks_off_leaves_nothing(container, model):
    await say(container, "s", *TRIP)
    await work(container)
    with pytest.raises(GeneratorUnavailable):
        await served(container, model).write(ME, "s", 50)
    assert await container.memories.page(ME, after_key=None, limit=9) == []
    assert model.closed == 1


async def test_asked_for_twice_at_once_it_is_kept_once(container, abstracts):
    await say(container, "s", *TRIP)
    await work(container)
    both = await asyncio.gather(*(abstracts.write(ME, "s", 50) for _ in range(2)))
    assert len({written.added.memory.memory_id for written in both}) == 1

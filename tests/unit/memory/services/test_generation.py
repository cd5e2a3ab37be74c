import asyncio
from dataclasses import replace

import pytest

from memory.domain.agents import AgentRole
from memory.domain.errors import (
    Forbidden,
    GeneratorUnavailable,
    NoModelConfigured,
    NotFound,
    PromptTooLong,
    UnknownModel,
)
from memory.domain.events import EventVisibility
from memory.domain.generation import WHOLE_TENANT, ChatMessage, Delta, Finished, Sampling, TurnRequest
from memory.domain.memories import MemoryKind, MemoryVisibility, NewMemory
from memory.domain.principals import KeyScope
from memory.services.generation import Generation
from memory.services.turns import Turns
from memory.testing import ScriptedGenerator
from tests.unit.memory.services.conftest import ME, say

ANN = replace(ME, agent_id="ann")


@pytest.fixture
def model():
    return ScriptedGenerator()


@pytest.fixture
def generation(container, model):
    return served(container, model)


def served(container, model, **options):
    turns = Turns(container.storage, container.clock)
    return Generation(model, container.events, container.context, turns, **options)


def said(*texts, role="user"):
    return tuple(ChatMessage(role, text) for text in texts)


def request(*messages, key="s", **options):
    return TurnRequest("scripted", messages, Sampling(), memory_key=key, **options)


async def ask(generation, asked, by=ME):
    async with generation.turn(by, asked) as turn:
        chunks = [chunk async for chunk in turn.chunks]
    assert isinstance(chunks[-1], Finished)
    return turn, "".join(chunk.text for chunk in chunks if isinstance(chunk, Delta))


async def log_of(container, by=ME):
    return [(e.role, e.content) for e in await container.events.page(by, "s", limit=100)]


def contents(model):
    return [message.content for message in model.prompts[-1].messages]


async def test_without_a_session_only_the_messages_count_and_nothing_is_kept(container, generation, model):
    turn, text = await ask(generation, request(*said("hello"), key=None))
    assert (text, contents(model), turn.session_tokens) == ("Of course I do. ", ["hello"], 0)
    assert await container.sessions.page(ME, after_key=None, limit=9) == []


async def test_a_closed_session_shares_its_kv_with_its_forks_and_with_nobody_else(container, generation, model):
    for key in ("s", "other"):
        await ask(generation, request(*said("hello"), key=key))
    assert {prompt.share_group for prompt in model.prompts} == {WHOLE_TENANT}
    for key in ("s", "other"):
        await container.agents.put(ME, key, "me", AgentRole.OWNER)
    me = ME.acting_as("me")
    await container.sessions.fork(me, "s", "fork", None)
    for key in ("s", "fork", "other"):
        await ask(generation, request(*said("hello"), key=key), by=me)
    own, of_fork, others = (prompt.share_group for prompt in model.prompts[-3:])
    assert own == of_fork
    assert len({own, others, WHOLE_TENANT}) == 3


async def test_a_turn_is_kept_whole_and_the_next_one_begins_with_it(container, generation, model):
    await ask(generation, request(*said("Do you know me?")))
    turn, _ = await ask(generation, request(*said("And my dog?")))
    assert contents(model) == ["Do you know me?", "Of course I do. ", "And my dog?"]
    assert turn.session_tokens > 0
    log = await log_of(container)
    assert [role for role, _ in log] == ["user", "assistant", "user", "assistant"]
    assert log[2][1] == "And my dog?"


async def test_an_instruction_that_comes_with_every_turn_is_kept_once(container, generation, model):
    for question in ("one?", "two?"):
        await ask(generation, request(*said("Be brief.", role="system"), *said(question)))
    assert [role for role, _ in await log_of(container)] == ["system", "user", "assistant", "user", "assistant"]
    assert contents(model) == ["Be brief.", "one?", "Of course I do. ", "two?"]


async def test_what_is_not_to_be_kept_is_not(container, generation, model):
    await say(container, "s", "My dog is called Rex.")
    await ask(generation, request(*said("Who is Rex?"), store=False))
    assert contents(model)[0] == "My dog is called Rex."
    assert await log_of(container) == [("user", "My dog is called Rex.")]


async def test_an_answer_that_breaks_off_leaves_no_half_turn(container, generation, model):
    await say(container, "s", "before")
    model.failure = GeneratorUnavailable("the engine is gone")
    with pytest.raises(GeneratorUnavailable):
        await ask(generation, request(*said("hello")))
    model.failure = None
    async with generation.turn(ME, request(*said("hello"))) as turn:
        await anext(turn.chunks)  # the client goes away here
    assert await log_of(container) == [("user", "before")]
    assert model.closed == 2
    await ask(generation, request(*said("again")))  # the session is free


@pytest.mark.parametrize("made_again", [False, True])
async def test_a_reply_to_a_session_that_is_purged_meanwhile_is_not_kept(container, generation, made_again):
    await say(container, "s", "before")
    async with generation.turn(ME, request(*said("hello"))) as turn:
        await anext(turn.chunks)
        await container.forgetting.purge_session(ME, "s")
        if made_again:
            await say(container, "s", "anew")
        with pytest.raises(NotFound, match="purged meanwhile"):
            [chunk async for chunk in turn.chunks]
    assert len(await container.sessions.page(ME, after_key=None, limit=9)) == made_again
    if made_again:
        assert await log_of(container) == [("user", "anew")]


async def test_turns_of_one_session_follow_each_other(container, generation):
    await asyncio.gather(*(ask(generation, request(*said(f"question {n}"))) for n in range(5)))
    log = await log_of(container)
    assert [role for role, _ in log] == ["user", "assistant"] * 5
    assert {text for role, text in log if role == "user"} == {f"question {n}" for n in range(5)}


async def test_what_left_the_window_is_recalled_before_the_question(container, generation, model):
    await say(
        container, "s", "The vault opens with 7734.", *[f"small talk number {n} about the weather" for n in range(99)]
    )
    turn, _ = await ask(generation, request(*said("What opens the vault?"), context_tokens=300))
    assert turn.recalled > 0
    assert "7734" in contents(model)[-2]
    assert contents(model)[-1] == "What opens the vault?"
    await ask(generation, request(*said("What opens the vault?"), context_tokens=300, top_k=0))
    assert not any("7734" in content for content in contents(model)[:-1])


async def test_the_prompt_shows_all_of_the_window_that_the_model_reads(container, model):
    await say(container, "s", *[f"number {n} of them" for n in range(1_000)])
    model.max_tokens = 100_000
    generation = served(container, model)
    await ask(generation, request(*said("and now?")))
    assert contents(model)[0] == "number 0 of them"
    bounded = served(container, model, context_tokens=1_000)
    await ask(bounded, request(*said("and now?")))
    assert 50 < len(contents(model)) < 500


async def test_a_model_that_counts_otherwise_still_gets_a_window_that_stays(container, generation, model):
    """Its tokens are letters: the window that is asked for first is far too large, and so is the next one."""

    async def letters(messages):
        return sum(len(message.content) for message in messages)

    model.count, model.max_tokens = letters, 6_000
    await say(container, "s", *[f"number {n} of them" for n in range(1_000)])
    begins = []
    for n in range(6):
        await ask(generation, request(*said(f"question {n}"), top_k=0))
        begins.append(contents(model)[0])
    assert len(set(begins)) == 1
    assert await letters(model.prompts[-1].messages) > 1_000


async def test_the_prompt_says_who_speaks_and_the_next_one_says_the_same(container, generation, model):
    await ask(generation, request(*said("I am here.")), by=ANN)
    first = model.prompts[-1].messages
    await ask(generation, request(*said("Who is here?")), by=replace(ME, agent_id="bob"))
    assert [(m.name, m.content) for m in first] == [("ann", "I am here.")]
    assert model.prompts[-1].messages[0] == first[0]
    assert model.prompts[-1].messages[-1].name == "bob"


async def test_a_reply_to_private_text_is_private(container, generation):
    secret = NewMemory("Ann's PIN is 1234.", MemoryKind.FACT, MemoryVisibility.PRIVATE, agent_id="ann")
    await container.memories.add(ANN, [secret])
    await ask(generation, request(*said("Which PIN has Ann?")), by=ANN)
    (question, reply) = await container.events.page(ANN, "s", limit=9)
    assert (question.visibility, reply.visibility) == (EventVisibility.SESSION, EventVisibility.SESSION)
    await ask(generation, request(*said("Which PIN has Ann, again?")), by=ANN)
    *_, reply = await container.events.page(ANN, "s", limit=9)
    assert reply.visibility is EventVisibility.PRIVATE
    assert len(await container.events.page(replace(ME, agent_id="bob"), "s", limit=9)) == 3


async def test_another_agent_shares_the_session(container, generation, model):
    await ask(generation, request(*said("I am Ann.")), by=ANN)
    await ask(generation, request(*said("Who is here?")), by=replace(ME, agent_id="bob"))
    assert contents(model)[0] == "I am Ann."


async def test_no_model_and_an_unknown_one_are_told_apart(container, generation):
    with pytest.raises(UnknownModel, match="scripted"):
        await ask(generation, replace(request(*said("x")), model="gpt-x"))
    with pytest.raises(NoModelConfigured, match="STRATAMEM_MODEL="):
        await ask(served(container, None), request(*said("x")))


async def test_window_and_recall_shrink_to_what_the_model_reads(container, generation, model):
    await say(container, "s", *[f"word {n} " * 30 for n in range(40)])
    model.max_tokens = 600
    await ask(generation, request(*said("short question")))
    assert await model.count(model.prompts[-1].messages) <= 600
    with pytest.raises(PromptTooLong):
        await ask(generation, request(*said("word " * 700)))


async def test_a_key_that_may_only_read_asks_without_being_kept(container, generation):
    reader = replace(ME, scopes=frozenset({KeyScope.READ}))
    with pytest.raises(Forbidden):
        await ask(generation, request(*said("x")), by=reader)
    await say(container, "s", "there")
    await ask(generation, request(*said("x"), store=False), by=reader)
    assert len(await log_of(container)) == 1


async def test_what_no_event_may_hold_is_left_out_of_a_reply(container, generation, model):
    model.reply = "a\x00b\x07c"
    await ask(generation, request(*said("hello")))
    assert (await log_of(container))[-1] == ("assistant", "abc ")


async def test_a_blank_reply_to_a_known_instruction_keeps_nothing(container, generation, model):
    await ask(generation, request(*said("Be brief.", role="system"), *said("one?")))
    model.reply = ""
    await ask(generation, request(*said("Be brief.", role="system")))
    assert len(await log_of(container)) == 3


async def test_an_empty_question_goes_on_with_the_session_and_is_not_kept(container, generation, model):
    await say(container, "s", "before")
    await ask(generation, request(*said("")))
    assert contents(model) == ["before", ""]
    assert await log_of(container) == [("user", "before"), ("assistant", "Of course I do. ")]

from dataclasses import replace

import pytest

from memory.domain.context import ContextFormat, ContextRequest, Include
from memory.domain.errors import BudgetTooSmall, NotFound, TierUnavailable
from memory.domain.events import Role
from memory.recall.render import RECALL_HEAD, SUMMARY_HEAD
from tests.unit.memory.services.conftest import ME, say, work

LOG = [f"ann: the project number {n} needs the report about topic{n} soon." for n in range(80)]


async def build(container, by=ME, session_id="s", **options):
    return await container.context.build(by, session_id, ContextRequest(**options))


def contents(context):
    return [message.content for message in context.messages]


async def test_a_short_conversation_is_shown_whole_oldest_first_the_query_last(container):
    await say(container, "s", "ann: good morning", "bob: hello ann")
    context = await build(container, query="who is there?", max_tokens=500)
    assert contents(context) == ["good morning", "hello ann", "who is there?"]
    assert [message.name for message in context.messages] == ["ann", "bob", None]
    assert context.tokens.summary == context.tokens.recall == 0


async def test_system_events_come_first_whatever_leaves_the_window(container):
    await say(container, "s", "You are helpful.", role=Role.SYSTEM)
    await say(container, "s", *LOG)
    context = await build(container, query="topic3", max_tokens=400)
    assert context.messages[0].role == "system"
    assert context.messages[0].content == "You are helpful."
    assert contents(context).count("You are helpful.") == 1


@pytest.mark.parametrize("max_tokens", [5, 20, 64, 200, 1_000, 5_000, 100_000])
async def test_the_budget_is_never_exceeded_and_totals_add_up(container, max_tokens):
    await say(container, "s", "You are helpful.", role=Role.SYSTEM)
    await say(container, "s", *LOG)
    context = await build(container, query="topic3", max_tokens=max_tokens)
    assert context.tokens.total <= max_tokens
    names = sum(len(message.name.split()) for message in context.messages if message.name)
    counted = sum(container.tokenizer.count(contents(context))) + 4 * len(context.messages) + names
    assert context.tokens.total == counted


async def test_a_query_that_does_not_fit_is_an_error_that_says_so(container):
    await say(container, "s", "hello")
    with pytest.raises(BudgetTooSmall, match="max_tokens"):
        await build(container, query="word " * 100, max_tokens=50)


async def test_what_has_left_the_window_is_recalled_and_what_is_in_it_is_not(container):
    await say(container, "s", *LOG)
    await work(container)
    context = await build(container, query="what about topic3 of project number 3", max_tokens=600)
    shown = [c for c in contents(context) if "topic" in c and not c.startswith((RECALL_HEAD, SUMMARY_HEAD))][:-1]
    recalled = [source.text for source in context.sources]
    assert any("topic3 " in text for text in recalled)
    assert not set(shown) & set(recalled)
    assert contents(context)[-2].startswith(RECALL_HEAD)


async def test_recall_keeps_a_quarter_of_what_is_left(container):
    await say(container, "s", *LOG)
    await work(container)
    for max_tokens in (300, 600, 900):
        context = await build(container, query="topic3 project", max_tokens=max_tokens, top_k=80)
        left = max_tokens - context.tokens.summary - 6
        assert context.tokens.recall >= left / 4 - 30  # one more line did not fit


async def test_a_best_match_that_is_too_long_is_cut_and_costs_no_other_its_place(container):
    await say(container, "s", "The router password is heron42.", "lorem ipsum dolor sit amet " * 800)
    await work(container)
    for max_tokens in (150, 200, 400, 540, 700):
        context = await build(container, query="lorem ipsum", max_tokens=max_tokens, include=Include(window=False))
        assert context.tokens.total <= max_tokens
        assert "lorem" in context.sources[0].text
        assert context.tokens.total > 0.8 * min(max_tokens, 512)


async def test_between_two_compactions_a_later_context_begins_with_the_earlier_one(container):
    await say(container, "s", "Be brief.", role=Role.SYSTEM)
    before, changes = None, 0
    for text in LOG:
        await say(container, "s", text)
        context = await build(container, query=text[5:30], max_tokens=500)
        prefix = [m for m in context.messages if not m.content.startswith(RECALL_HEAD)][:-1]
        if before is not None and context.cache.prefix_fingerprint == before[0]:
            assert prefix[: len(before[1])] == before[1]
            assert context.cache.prefix_tokens >= before[2]
        elif before is not None:
            changes += 1
        before = (context.cache.prefix_fingerprint, prefix, context.cache.prefix_tokens)
    assert 1 <= changes <= 20


async def test_the_query_does_not_move_the_prefix(container):
    await say(container, "s", *LOG)
    fingerprints = {
        (await build(container, query=query, max_tokens=800)).cache.prefix_fingerprint
        for query in ("a", "what about topic7?", "word " * 60, "word " * 200, None)
    }
    assert len(fingerprints) == 1


async def test_the_summary_is_the_same_whether_it_was_kept_or_made_anew(container):
    long = [" ".join(f"The matter {n} of item{k} is part of the plan." for k in range(6)) for n in range(300)]
    await say(container, "s", *long)
    first = await build(container, query="plan", max_tokens=4_000)
    again = await build(container, query="plan", max_tokens=4_000)
    assert first.tokens.summary > 0
    assert contents(first) == contents(again)


async def test_an_agents_private_events_follow_the_shared_window_and_no_one_else_sees_them(container):
    await say(container, "s", "ann: shared one")
    await say(container, "s", "ann: my own thought", private=True)
    await say(container, "s", "bob: shared two")
    of_ann = await build(container, by=replace(ME, agent_id="ann"), max_tokens=500)
    of_bob = await build(container, by=replace(ME, agent_id="bob"), max_tokens=500)
    assert contents(of_ann) == ["shared one", "shared two", "my own thought"]
    assert contents(of_bob) == ["shared one", "shared two"]
    assert of_ann.cache == of_bob.cache


async def test_private_events_before_the_first_shared_one_are_shown_too(container):
    await say(container, "s", "ann: first thought", private=True)
    ann = replace(ME, agent_id="ann")
    assert contents(await build(container, by=ann, max_tokens=500)) == ["first thought"]
    await say(container, "s", "bob: shared")
    assert contents(await build(container, by=ann, max_tokens=500)) == ["shared", "first thought"]


async def test_private_events_that_do_not_fit_can_be_recalled(container):
    await say(container, "s", "bob: hello")
    await say(container, "s", "ann: the vault opens with swordfish", private=True)
    await say(container, "s", *[f"ann: idle note number {n} about nothing" for n in range(60)], private=True)
    ann = replace(ME, agent_id="ann")
    context = await build(container, by=ann, query="what opens the vault", max_tokens=300)
    assert any("swordfish" in source.text for source in context.sources)
    shown = contents(context)
    assert not {source.text for source in context.sources} & set(shown)


async def test_parts_can_be_left_out(container):
    await say(container, "s", *LOG)
    only_recall = await build(container, query="topic3", max_tokens=600, include=Include(window=False, summary=False))
    assert only_recall.tokens.window == 0
    assert only_recall.sources
    no_recall = await build(container, query="topic3", max_tokens=600, include=Include(recall=False))
    assert no_recall.sources == ()
    assert no_recall.tokens.window > 300


async def test_text_instead_of_messages(container):
    await say(container, "s", "ann: good morning")
    context = await build(container, query="who?", max_tokens=500, format=ContextFormat.TEXT)
    assert context.messages == ()
    assert context.text == "ann: good morning\n\nuser: who?"


async def test_the_window_is_still_given_when_recall_cannot_answer(container, monkeypatch):
    await say(container, "s", *LOG)

    async def broken(*args, **options):
        raise TierUnavailable("the index is being rebuilt")

    monkeypatch.setattr(type(container.recall), "recall", broken)
    context = await build(container, query="topic3", max_tokens=600)
    assert context.tokens.window > 0
    assert [(d.tier, d.reason) for d in context.degraded] == [("recall", "the index is being rebuilt")]


async def test_an_event_longer_than_everything_is_not_squeezed_in(container):
    await say(container, "s", "ann: hello", "bob: " + "word " * 5_000, "ann: bye")
    context = await build(container, query="hello", max_tokens=300)
    assert context.tokens.total <= 300
    assert "bye" in contents(context)


async def test_an_absent_session_is_an_error(container):
    with pytest.raises(NotFound):
        await build(container, max_tokens=100)

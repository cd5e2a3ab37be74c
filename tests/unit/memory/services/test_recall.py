import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from memory.domain.errors import EmbedderUnavailable, NotFound, TierUnavailable
from memory.domain.memories import MemoryKind, MemoryVisibility, NewMemory
from memory.domain.principals import Principal
from memory.domain.recall import AllOf, FieldTest, FilterOp, Not, RecallRequest, TierName
from memory.tiers.longterm.tenant_index import TenantIndex
from tests.unit.memory.services.conftest import ME, say, work

TEA = NewMemory("likes tea", MemoryKind.PREFERENCE, MemoryVisibility.TENANT)


async def texts(container, query, by=ME, **options):
    recalled = await container.recall.recall(by, RecallRequest(query, **options))
    return [result.text for result in recalled.results]


async def test_an_event_is_found_at_once_before_any_worker_has_seen_it(container):
    await say(container, "s", "the weather is fine", "my bicycle was stolen", "let us have tea")
    assert (await texts(container, "stolen bicycle"))[0] == "my bicycle was stolen"


async def test_without_a_threshold_as_many_come_as_were_asked_for(container):
    await say(container, "s", *[f"note number {n}" for n in range(30)])
    for wanted in (1, 10, 30, 200):
        assert len(await texts(container, "unrelated question", top_k=wanted)) == min(wanted, 30)


async def test_repeats_step_back_but_are_not_dropped(container):
    await say(container, "s", "the blue key", "the blue key", "The blue key!", "a red door")
    found = await texts(container, "blue key")
    assert len(found) == 4
    assert set(found[2:]) <= {"the blue key", "The blue key!"}


async def test_scores_fall_and_stay_between_nothing_and_one(container):
    await say(container, "s", "the blue key", "the blue key", "a red door", "green grass")
    recalled = await container.recall.recall(ME, RecallRequest("blue key"))
    scores = [result.score for result in recalled.results]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)


async def test_the_budget_of_tokens_is_kept_and_a_long_text_gives_way_to_its_best_passage(container):
    filler = "some words that fill the room. " * 100
    await say(container, "s", filler + "The treasure lies under the old oak. " + filler)
    await work(container)
    recalled = await container.recall.recall(ME, RecallRequest("treasure under the oak", max_tokens=60))
    (result,) = recalled.results
    assert "treasure" in result.text
    assert recalled.tokens <= 60
    assert result.span is not None
    assert result.events[0].seq == 1


async def test_the_fastest_tier_that_holds_it_is_named(container):
    await say(container, "s", *["word " * 40] * 5)
    await container.sessions.update(ME, "s", {"window_tokens": 60}, if_match=None)
    await work(container)
    recalled = await container.recall.recall(ME, RecallRequest("word"))
    tiers = {result.events[0].seq: result.tier for result in recalled.results}
    assert tiers[5] is TierName.HOT
    assert tiers[1] is TierName.SEMANTIC


@pytest.mark.parametrize("tier", list(TierName))
async def test_each_tier_answers_by_itself(container, tier):
    await say(container, "s", "the weather is fine", "my bicycle was stolen", "let us have tea")
    await work(container)
    assert (await texts(container, "stolen bicycle", tiers=frozenset({tier})))[0] == "my bicycle was stolen"


async def test_the_other_tiers_answer_when_long_term_cannot_and_the_answer_says_so(container, monkeypatch):
    await say(container, "s", "my bicycle was stolen", "let us have tea")
    await work(container)

    async def broken(question):
        raise TierUnavailable("the index is being rebuilt")

    monkeypatch.setattr(container.longterm, "recall", broken)
    recalled = await container.recall.recall(ME, RecallRequest("stolen bicycle"))
    assert recalled.results[0].text == "my bicycle was stolen"
    assert [(d.tier, d.reason) for d in recalled.degraded] == [("longterm", "the index is being rebuilt")]


async def test_an_error_is_never_an_empty_answer(container, monkeypatch):
    async def broken(question):
        raise TierUnavailable("the index is being rebuilt")

    monkeypatch.setattr(container.longterm, "recall", broken)
    with pytest.raises(TierUnavailable):
        await texts(container, "anything", tiers=frozenset({TierName.LONGTERM}))


async def test_words_are_found_without_an_embedder_and_the_answer_says_so(container, models, monkeypatch):
    await say(container, "s", "my bicycle was stolen", "let us have tea")
    await work(container)

    async def broken(batch):
        raise EmbedderUnavailable("the model is away")

    monkeypatch.setattr(models.embedder, "embed", broken)
    recalled = await container.recall.recall(ME, RecallRequest("stolen bicycle"))
    assert recalled.results[0].text == "my bicycle was stolen"
    assert [d.tier for d in recalled.degraded] == ["embedder"]


async def test_what_changes_in_the_index_while_the_question_is_embedded_counts(container, models, monkeypatch):
    await say(container, "s", "my bicycle was stolen", "let us have tea")
    await say(container, "gone", "a stolen bicycle came back")
    await work(container)
    embed = models.embedder.embed

    async def slow(batch):
        monkeypatch.setattr(models.embedder, "embed", embed)
        await asyncio.sleep(0.05)  # the words have been looked up by now
        await say(container, "s", "the stolen bicycle is red")
        await container.forgetting.purge_session(ME, "gone")
        await container.longterm.absorb("default")
        return await embed(batch)

    monkeypatch.setattr(models.embedder, "embed", slow)
    found = await texts(container, "stolen bicycle")
    assert sorted(found) == ["let us have tea", "my bicycle was stolen", "the stolen bicycle is red"]


async def test_the_words_are_looked_up_while_the_question_is_embedded(container, models, monkeypatch):
    await say(container, "s", "my bicycle was stolen")
    embed, order = models.embedder.embed, []

    async def slow(batch):
        await asyncio.sleep(0.2)
        order.append("embedded")
        return await embed(batch)

    prepare = TenantIndex.prepare
    monkeypatch.setattr(models.embedder, "embed", slow)
    monkeypatch.setattr(TenantIndex, "prepare", lambda *given: (order.append("prepared"), prepare(*given))[1])
    assert await texts(container, "stolen bicycle")
    assert order[:2] == ["prepared", "embedded"]


async def test_an_absent_session_is_an_error(container):
    with pytest.raises(NotFound):
        await texts(container, "anything", session_ids=("nowhere",))


async def test_a_session_of_another_tenant_does_not_exist(container):
    await say(container, "s", "a secret", by=Principal("other"))
    with pytest.raises(NotFound):
        await texts(container, "secret", session_ids=("s",))
    assert await texts(container, "secret") == []


async def test_private_events_are_found_by_their_agent_only(container):
    await say(container, "s", "ann: my salary is high", private=True)
    await say(container, "s", "bob: what a day")
    assert "my salary is high" in await texts(container, "salary", by=replace(ME, agent_id="ann"))
    assert await texts(container, "salary", by=replace(ME, agent_id="bob")) == ["what a day"]
    assert await texts(container, "salary") == ["what a day"]


async def test_conditions_are_applied_before_ranking(container):
    await say(container, "s", *[f"ann: apples and pears {n}" for n in range(50)], "bob: nothing of the kind")
    by_bob = FieldTest("agent_id", FilterOp.EQ, "bob")
    assert await texts(container, "apples and pears", top_k=1, filter=by_bob) == ["nothing of the kind"]
    not_ann = Not(FieldTest("agent_id", FilterOp.EQ, "ann"))
    assert await texts(container, "apples", filter=AllOf((not_ann, by_bob))) == ["nothing of the kind"]


async def test_conditions_on_metadata_and_session(container):
    from memory.domain.events import NewEvent, Role

    for session, topic in (("a", "fruit"), ("b", "tools"), ("c", None)):
        metadata = {} if topic is None else {"topic": {"name": topic}}
        await container.events.append(ME, session, [NewEvent(Role.USER, f"said in {session}", metadata=metadata)])
    of_topic = FieldTest("metadata.topic.name", FilterOp.IN, ["fruit", "toys"])
    assert await texts(container, "said", filter=of_topic) == ["said in a"]
    without = FieldTest("metadata.topic", FilterOp.EXISTS, False)
    assert await texts(container, "said", filter=without) == ["said in c"]
    elsewhere = FieldTest("session_id", FilterOp.NE, "a")
    assert sorted(await texts(container, "said", filter=elsewhere)) == ["said in b", "said in c"]


async def test_a_memory_is_found_as_it_was_valid_at_a_time(container):
    now = container.clock.now()
    await container.memories.add(
        ME,
        [
            NewMemory("lives in Rome", MemoryKind.FACT, MemoryVisibility.TENANT, valid_to=now + timedelta(days=2)),
            NewMemory("lives in Oslo", MemoryKind.FACT, MemoryVisibility.TENANT, valid_from=now + timedelta(days=2)),
        ],
    )
    assert await texts(container, "where does she live") == ["lives in Rome"]
    assert await texts(container, "where does she live", as_of=now + timedelta(days=3)) == ["lives in Oslo"]
    assert await texts(container, "where does she live", as_of=now - timedelta(days=1)) == []


async def test_an_edited_memory_is_found_by_its_new_text_only(container):
    (added,) = await container.memories.add(ME, [TEA])
    await work(container)
    await container.memories.update(ME, added.memory.memory_id, {"text": "likes cocoa"}, if_match=None)
    recalled = await container.recall.recall(ME, RecallRequest("tea", explain=True))
    assert [(r.text, r.signals["lexical"]) for r in recalled.results] == [("likes cocoa", 0.0)]
    await work(container)
    assert await texts(container, "cocoa") == ["likes cocoa"]


async def test_publishing_an_edited_memory_does_not_publish_what_it_said_before(container):
    private = NewMemory("the emerald is in the attic", MemoryKind.FACT, MemoryVisibility.PRIVATE, agent_id="ann")
    (added,) = await container.memories.add(ME, [private])
    before = container.clock.now()
    changes = {"text": "nothing about the emerald", "visibility": MemoryVisibility.TENANT}
    ann, bob = replace(ME, agent_id="ann"), replace(ME, agent_id="bob")
    await container.memories.update(ann, added.memory.memory_id, changes, if_match=None)
    assert await texts(container, "emerald", by=bob) == ["nothing about the emerald"]
    assert await texts(container, "emerald", by=bob, as_of=before) == []
    assert await texts(container, "emerald", by=ann, as_of=before) == ["the emerald is in the attic"]


async def test_an_old_version_comes_with_its_own_tokens_and_metadata(container):
    long = NewMemory("garnet " * 40, MemoryKind.FACT, MemoryVisibility.TENANT, metadata={"rev": 1})
    (added,) = await container.memories.add(ME, [long])
    before = container.clock.now()
    await container.memories.update(
        ME, added.memory.memory_id, {"text": "garnet", "metadata": {"rev": 2}}, if_match=None
    )
    recalled = await container.recall.recall(ME, RecallRequest("garnet", as_of=before))
    (result,) = recalled.results
    assert (result.tokens, result.metadata) == (40, {"rev": 1})
    assert (await container.recall.recall(ME, RecallRequest("garnet", as_of=before, max_tokens=20))).tokens <= 20


async def test_true_is_not_one(container):
    from memory.domain.events import NewEvent, Role

    for value in (True, 1, 0):
        await container.events.append(ME, "s", [NewEvent(Role.USER, f"value {value}", metadata={"flag": value})])
    assert await texts(container, "value", filter=FieldTest("metadata.flag", FilterOp.EQ, True)) == ["value True"]
    assert await texts(container, "value", filter=FieldTest("metadata.flag", FilterOp.IN, [False])) == []


async def test_a_batch_is_found_by_its_meaning_at_once(container):
    await say(container, "s", "we found a flat", "what is the catch", "the landlady takes cash", "my knee hurts", "bye")
    recalled = await container.recall.recall(ME, RecallRequest("takes cash", explain=True))
    assert recalled.results[0].text == "the landlady takes cash"
    assert all("dense" in result.signals for result in recalled.results)


async def test_a_page_of_text_may_be_asked(container):
    await say(container, "s", "my bicycle was stolen", "let us have tea")
    assert (await texts(container, "stolen bicycle " * 5_000))[0] == "my bicycle was stolen"


async def test_uses_are_counted_without_a_write_for_each_read(container):
    (added,) = await container.memories.add(ME, [TEA])
    await texts(container, "tea")
    async with container.storage.read() as tx:
        assert (await tx.memories.get("default", added.memory.memory_id)).access_count == 0
    assert (await container.memories.get(ME, added.memory.memory_id)).access_count == 1


async def test_a_larger_scope_than_the_scan_limit_finds_the_same(settings, models):
    from memory.bootstrap import build

    small = settings.longterm.model_copy(update={"scan_limit": 100, "candidates": 20})
    notes = [f"word{n % 37} thing{n % 11} place{n % 7} number{n}" for n in range(600)]
    found = []
    for tuned in (settings, settings.model_copy(update={"longterm": small})):
        async with build(tuned, models=models) as container:
            if not found:
                await say(container, "s", *notes)
                await work(container)
            found.append(await texts(container, "word5 thing3 number300", top_k=5))
    assert found[0][0] == found[1][0] == notes[300]
    assert len(set(found[0]) & set(found[1])) >= 4


async def test_a_large_scope_still_gives_as_many_as_asked(settings, models):
    from memory.bootstrap import build

    small = settings.longterm.model_copy(update={"scan_limit": 100, "candidates": 10})
    async with build(settings.model_copy(update={"longterm": small}), models=models) as container:
        await say(container, "s", *[f"note {n}" for n in range(300)])
        await work(container)
        assert len(await texts(container, "zzz unknown", top_k=200)) == 200

"""Clusters as the workers leave them: arranged, bounded, of one visibility class, and said in a few sentences."""

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest

from memory.adapters.sql.clusters import SqlClusters
from memory.bootstrap import build
from memory.domain.errors import StorageUnavailable
from memory.domain.principals import Principal, Scope
from memory.settings import Settings
from memory.testing import WordHashEmbedder, WordTokenizer
from memory.tiers.base import Conditions, Question
from memory.tiers.semantic.settings import SemanticSettings
from tests.unit.memory.services.conftest import ME, say, work


@pytest.fixture
def settings(tmp_path, database_url):
    return Settings(_env_file=None, data_dir=tmp_path, database_url=database_url)


SUBJECTS = ("the sea was calm and blue", "bread needs flour and yeast", "trains leave the station early")


def remarks(n, of=SUBJECTS):
    return [f"Remark {at}: {of[at % len(of)]} number{at}." for at in range(n)]


async def rows(container, session_id="s"):
    """The session, its clusters, and the segments that the tier holds."""
    async with container.storage.read() as tx:
        session = await tx.sessions.get("default", session_id)
        clusters = await tx.clusters.of_session(session.session_key)
        held = await tx.segments.held(session.session_key, container.embedder.space)
    return session, clusters, held


async def problems(container):
    return [tier["problems"] for tier in await container.admin.tiers(ME)]


async def key_of(container):
    return (await rows(container))[0].session_key


async def settle_again(container):
    """As another operation on the same session does."""
    key, now = await key_of(container), container.clock.now()
    async with container.storage.write() as tx:
        await tx.operations.enqueue("default", "index", f"session:{key}", now, session_key=key, unit="events")
    await work(container)


def partition(found):
    """Which seqs lie together, and the sums of their vectors: whatever the keys are."""
    _, clusters, held = found
    of = {c.cluster_key: (c.size, c.centroid) for c in clusters}
    members = {key: tuple(sorted(h.seq for h in held if h.cluster_key == key)) for key in of}
    return sorted((members[key], *of[key]) for key in of)


async def test_what_belongs_together_lies_together_however_it_came(container):
    for remark in remarks(48):
        await say(container, "s", remark)
        await work(container)
    _, clusters, held = await rows(container)
    assert len(clusters) == 6
    subject = {s.cluster_key: {h.seq % 3 for h in held if h.cluster_key == s.cluster_key} for s in held}
    assert all(len(found) == 1 for found in subject.values()), "a cluster has one subject"
    assert await problems(container) == [[], [], []]


async def test_consolidating_twice_changes_nothing(container):
    await say(container, "s", *remarks(60))
    await work(container)
    before = await rows(container)
    await settle_again(container)
    assert await rows(container) == before


async def test_two_workers_at_once_leave_what_one_leaves(container, settings, models, tmp_path):
    await say(container, "s", *remarks(60))
    operation = (await container.operations.page(ME, states=None, after_id=None, limit=1))[0].operation_id
    steps = container.consolidation
    await steps.consolidate(operation)
    await steps.embed(operation)
    async with build(settings.model_copy(update={"node": "two"}), models=models) as other:
        workers = (steps, other.consolidation)
        await asyncio.gather(*(worker.evict(operation) for worker in workers for _ in range(3)))
        key = await key_of(container)
        await asyncio.gather(*(worker._clusters.settle(key) for worker in workers for _ in range(3)))
    await work(container)
    of_two = await rows(container)
    assert await problems(container) == [[], [], []]
    alone = Settings(_env_file=None, data_dir=tmp_path / "alone")
    async with build(alone, models=models) as other:
        await say(other, "s", *remarks(60))
        await work(other)
        of_one = await rows(other)
    assert partition(of_two) == partition(of_one)


@pytest.mark.parametrize("step", ["add", "set", "remove"])
async def test_a_crash_in_the_middle_changes_nothing_and_the_next_try_does_it(container, monkeypatch, step):
    await say(container, "s", *remarks(60))
    await work(container)
    whole = await rows(container)
    key = whole[0].session_key
    async with container.storage.write() as tx:  # everything in one cluster, as nothing would leave it
        _, clusters, held = whole
        one = clusters[0]
        await tx.segments.hold({segment.segment_key: one.cluster_key for segment in held})
        await tx.clusters.set({one.cluster_key: (one.centroid, len(held))})
        await tx.clusters.add(key, "session", one.centroid, 9)  # without members: it has to go
        await tx.sessions.bump_semantic(key)
    wrong = await rows(container)

    async def killed(*_):
        raise StorageUnavailable("the process is gone")

    with monkeypatch.context() as broken:
        broken.setattr(SqlClusters, step, killed)
        with pytest.raises(StorageUnavailable):
            await container.consolidation._clusters.settle(key)
    assert await rows(container) == wrong
    await container.consolidation._clusters.settle(key)
    assert await problems(container) == [[], [], []]
    assert len((await rows(container))[1]) == len(whole[1])


async def test_classes_are_never_mixed_and_share_the_most(settings, models):
    few = settings.model_copy(update={"semantic": SemanticSettings(segments_per_cluster=4, max_clusters=5)})
    async with build(few, models=models) as container:
        await say(container, "s", *remarks(10))
        for agent in ("ann", "bob"):
            await say(container, "s", *remarks(5), by=Principal("default", agent_id=agent), private=True)
        await work(container)
        _, clusters, held = await rows(container)
        assert len(clusters) <= 5
        of = {cluster.cluster_key: cluster.audience for cluster in clusters}
        assert {of[segment.cluster_key] == segment.audience for segment in held} == {True}
        assert set(of.values()) == {"session", "private:ann", "private:bob"}
        assert await problems(container) == [[], [], []]


async def test_a_rounded_centroid_is_noticed_and_made_good(container):
    await say(container, "s", *remarks(30))
    await work(container)
    session, clusters, _ = await rows(container)
    async with container.storage.write() as tx:
        await tx.clusters.set({clusters[0].cluster_key: (clusters[1].centroid, clusters[0].size)})
        await tx.sessions.bump_semantic(session.session_key)
    assert await problems(container) == [[], ["session 's': centroids differ from their members"], []]
    await settle_again(container)
    assert await problems(container) == [[], [], []]


async def test_a_compacted_window_has_its_summary_from_the_workers(container):
    long = [f"{remark} {'and so on ' * 40}." for remark in remarks(60)]
    await say(container, "s", *long)
    key = await key_of(container)
    async with container.storage.read() as tx:
        assert await tx.summaries.newest(key, up_to=99) == (0, [])
    await work(container)
    async with container.storage.read() as tx:
        session = await tx.sessions.get("default", "s")
        made, _ = await tx.summaries.newest(key, up_to=99)
    assert made == session.shared_tokens // 4096 > 0


async def test_members_are_compared_in_all_dimensions(settings):
    wide = SimpleNamespace(embedder=WordHashEmbedder(400), tokenizer=WordTokenizer())
    async with build(settings, models=wide) as container:
        await say(container, "s", *remarks(24))
        await work(container)
        asked = (await wide.embedder.embed(["bread and flour"]))[0]
        stored = (await wide.embedder.embed(remarks(24))).astype(np.float16).astype(np.float32)

        async def vector():
            return asked

        question = Question(
            "bread and flour", vector, Scope.of(ME, (await key_of(container),)), Conditions(now=0.0), wanted=10
        )
        found = await container.admin._semantic.recall(question)
        assert len(found) == 24
        np.testing.assert_allclose(found.dense, stored[found.seqs - 1] @ asked, atol=1e-5)


async def test_every_cluster_is_told_in_sentences_of_its_own_members(container):
    await say(container, "s", *remarks(48))
    await say(container, "s", *remarks(20), by=Principal("default", agent_id="ann"), private=True)
    await work(container)
    found = (await container.admin.session_tiers(Principal("default", agent_id="ann"), "s"))["semantic"]
    texts = dict(enumerate(remarks(48), start=1))
    assert {cluster["private"] for cluster in found["clusters"]} == {True, False}
    for cluster in found["clusters"]:
        assert bool(cluster["sentences"]) != cluster["private"]
        for sentence in cluster["sentences"]:
            assert sentence["seq"] in cluster["seqs"]
            assert sentence["text"].removeprefix("user: ") in texts[sentence["seq"]]
    assert {sentence["seq"] % 3 for sentence in found["summary"]} == {0, 1, 2}, "each subject is in the session's"
    of_clusters = [sentence for cluster in found["clusters"] for sentence in cluster["sentences"]]
    assert all(sentence in of_clusters for sentence in found["summary"])


async def test_a_fork_tells_nothing_that_was_said_after_it_even_when_its_parent_is_gone(container):
    await say(container, "s", *remarks(24))
    await container.sessions.fork(ME, "s", "f", None)
    await say(container, "s", *[f"The secret is {word} and nobody knows it." for word in ("xyzzy", "plugh")] * 6)
    await work(container)
    whole = (await container.admin.session_tiers(ME, "s"))["semantic"]
    assert "xyzzy" in str(whole["summary"])
    before = (await container.admin.session_tiers(ME, "f"))["semantic"]
    await container.forgetting.purge_session(ME, "s")
    await work(container)
    after = (await container.admin.session_tiers(ME, "f"))["semantic"]
    for found in (before, after):
        assert found["summary"]
        assert "secret" not in str(found)

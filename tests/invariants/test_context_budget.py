"""Decision 12: beside system, summary and a usual query, recall gets a quarter of what is left, whatever else wants
room; a longer query takes from recall, and leaves the prefix alone while there is other room."""

from collections.abc import Iterator

import pytest

from memory.domain.context import ContextRequest
from memory.domain.principals import Principal
from tests.invariants.worlds import PRIVATE, World, world

ANN, BOB = Principal("default", agent_id="ann"), Principal("default", agent_id="bob")
LINE = 16
"""Tokens of a recalled line and of the message around it: one that does not fit is left out."""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("budget")) as made:
        yield made


@pytest.mark.parametrize("words", [1, 30])
def test_recall_keeps_a_quarter_beside_private_events(small: World, words: int) -> None:
    session, query = f"s{words}", " ".join(["note"] * words)

    async def play() -> None:
        for turn in range(60):
            await small.say(ANN, session, *(f"note {n} shared" for n in range(4)))
            await small.say(ANN, session, *(f"note {n} private" for n in range(4)), visibility=PRIVATE)
            if turn < 25:
                continue
            for agent in (ANN, BOB):
                request = ContextRequest(max_tokens=400, query=query, top_k=200)
                ready = await small.container.context.build(agent, session, request)
                tokens = ready.tokens
                assert tokens.total <= 400
                beside = 400 - (tokens.total - tokens.recall - tokens.window)
                assert tokens.recall >= beside / 4 - LINE, (turn, agent.agent_id, tokens)

    small.run(play())


def test_the_length_of_the_query_leaves_the_prefix_alone(small: World) -> None:
    session = "prefix"

    async def play() -> None:
        for turn in range(40):
            await small.say(ANN, session, *(f"note {n} shared" for n in range(4)))
            seen = set()
            for words in (1, 20, 60, 100):
                request = ContextRequest(max_tokens=400, query=" ".join(["note"] * words), top_k=200)
                ready = await small.container.context.build(ANN, session, request)
                assert ready.tokens.total <= 400
                seen.add((ready.cache.prefix_fingerprint, ready.cache.prefix_tokens))
            assert len(seen) == 1, turn

    small.run(play())

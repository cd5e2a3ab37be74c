"""I8 and the budget: a byte-stable prefix, never too many tokens, and recall beside the window, not again."""

import random
from typing import Any

from memory.recall import window
from tests.e2e.server import Server, append, context, indexed, ok, said

WORDS = "garden kitchen meeting train doctor holiday invoice guitar passport bicycle".split()


def prefix_of(ready: dict[str, Any]) -> list[dict[str, Any]]:
    """System, summary and window: what comes before recalled memories and the query."""
    return [m for m in ready["messages"] if not m["content"].startswith("Recalled from memory")]


def test_the_prefix_moves_only_at_a_compaction(shared: Server, name: str) -> None:
    http = shared.http
    append(http, name, said("You are a helpful assistant.", "system"))
    before: dict[str, Any] | None = None
    moves = 0
    for number in range(150):
        append(
            http,
            name,
            said(f"Turn {number}: the {WORDS[number % 10]} and the {WORDS[number // 10 % 10]}.", agent_id="ann"),
        )
        ready = context(http, name, 600, include={"window": True, "summary": True, "recall": False})
        if before is not None:
            old, new = before["messages"], ready["messages"]
            same = new[: len(old)] == old
            if ready["cache"]["prefix_fingerprint"] == before["cache"]["prefix_fingerprint"]:
                assert same, number
            else:
                moves += 1
        assert ready["messages"][0]["content"] == "You are a helpful assistant."
        assert ready["tokens"]["total"] <= 600
        before = ready
    assert 1 <= moves <= 15


def test_a_question_changes_nothing_before_it(shared: Server, name: str) -> None:
    http = shared.http
    append(http, name, *(f"Turn {n}: the {WORDS[n % 10]} of {n}." for n in range(200)))
    indexed(http)
    plain = context(http, name, 1000, query="the doctor")
    for query in ("what of invoice 5?", "guitar " * 20, "where is the bicycle?"):
        ready = context(http, name, 1000, query=query)
        assert ready["cache"] == plain["cache"]
        size = len(prefix_of(plain)) - 1
        assert prefix_of(ready)[:size] == prefix_of(plain)[:size]


def test_budgets_are_kept_whatever_comes(shared: Server, name: str) -> None:
    http, dice = shared.http, random.Random(3)
    for number in range(60):
        size = dice.choice([1, 5, 20, 60, 200, 500])
        text = " ".join(dice.choice(WORDS) for _ in range(size))
        private = number % 7 == 3
        append(
            http,
            name,
            said(
                f"{number}: {text}",
                dice.choice(["user", "assistant", "tool"]),
                agent_id="ann",
                visibility="private" if private else "session",
            ),
        )
    indexed(http)
    for _ in range(50):
        budget = dice.randint(50, 4000)
        query = " ".join(dice.choice(WORDS) for _ in range(dice.choice([1, 3, 10, 30])))
        body = {"max_tokens": budget, "query": query, "agent_id": dice.choice(["ann", "bob"]), "top_k": 50}
        ready = ok(http.post(f"/v1/sessions/{name}/context", json=body))
        tokens = ready["tokens"]
        assert tokens["total"] <= budget
        assert ready["messages"][-1]["content"] == query
        shown = [m["content"] for m in ready["messages"][:-1] if not m["content"].startswith("Recalled from")]
        for source in ready["sources"]:
            assert source["text"] not in shown, "it stands in the window and comes again"


def test_recall_keeps_its_quarter(shared: Server, name: str) -> None:
    http = shared.http
    log = []
    for n in range(400):
        private = n % 2 == 1
        log.append(
            said(
                f"Note {n}: the {WORDS[n % 10]} is ready.",
                agent_id="ann",
                visibility="private" if private else "session",
            )
        )
    append(http, name, said("Answer briefly.", "system"), *log)
    indexed(http)
    for turn in range(12):  # the window fills from half of its room to all of it
        append(http, name, *(f"More {turn} {n}: the {WORDS[n]} is open." for n in range(2)))
        for agent, words in (("ann", 2), ("ann", 150), ("bob", 60)):
            query = " ".join(WORDS[n % 10] for n in range(words))
            body = {"max_tokens": 600, "query": query, "agent_id": agent, "top_k": 200}
            ready = ok(http.post(f"/v1/sessions/{name}/context", json=body))
            tokens = ready["tokens"]
            before = len([m for m in ready["messages"] if m["content"] == "Answer briefly."])
            assert before == 1
            taken = tokens["total"] - tokens["recall"] - tokens["window"]  # system, summary and query
            quarter = (600 - taken) * float(window.RECALL_SHARE)
            line = 40  # a result that is one line too long is left out
            if words <= 60:
                assert tokens["recall"] >= quarter - line, (agent, words, tokens)
                prefix = ready["cache"]["prefix_fingerprint"]
            else:  # a long query takes from recall, not from what is computed
                assert ready["cache"]["prefix_fingerprint"] == prefix


def test_a_private_beginning_shows_no_system_message_twice(shared: Server, name: str) -> None:
    http = shared.http
    append(http, name, said("my own note", agent_id="ann", visibility="private"))
    append(http, name, said("You are a pirate.", "system"), said("Ahoy, tell me of the pirate ship."))
    indexed(http)
    for agent in ("ann", "bob"):
        body = {"max_tokens": 500, "query": "pirate", "agent_id": agent}
        ready = ok(http.post(f"/v1/sessions/{name}/context", json=body))
        assert [m["content"] for m in ready["messages"]].count("You are a pirate.") == 1
        assert str(ready["messages"]).count("You are a pirate.") == 1


def test_a_system_message_is_not_recalled_beside_itself(shared: Server, name: str) -> None:
    http = shared.http
    append(http, name, said("You are a pirate who speaks of parrots.", "system"))
    append(http, name, *(f"Turn {n}: the {WORDS[n % 10]} of {n} is long gone." for n in range(300)))
    indexed(http)
    ready = context(http, name, 500, query="pirate who speaks of parrots")
    assert str(ready["messages"]).count("You are a pirate") == 1
    assert ready["tokens"]["recall"] > 0

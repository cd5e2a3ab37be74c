"""What a recall and a context are asked with and answered with."""

from dataclasses import replace
from typing import Any

import pytest

from memory.domain.context import Context, ContextFormat, ContextTokens, Message, PrefixCache
from memory.domain.recall import (
    AllOf,
    AnyOf,
    Degraded,
    EventRef,
    FieldTest,
    FilterOp,
    Not,
    Recalled,
    RecallResult,
    TierName,
)
from memory.domain.segments import Span

NOON = "2026-03-31T12:00:00Z"


def result(make: Any, **changes: Any) -> RecallResult:
    found = RecallResult(
        text="under the pot",
        score=0.83,
        tier=TierName.LONGTERM,
        kind="event",
        memory_id=None,
        session_id="s1",
        events=(EventRef("D8:6", 214),),
        agent_id="a",
        created_at=make.noon,
        tokens=4,
        metadata={"topic": "keys"},
        role="user",
    )
    return replace(found, **changes)


def test_recall_passes_every_knob_on(client: Any, container: Any, make: Any) -> None:
    container.recall.answers["recall"] = Recalled(())
    body = {
        "query": "where?",
        "session_ids": ["s1"],
        "agent_id": "ann",
        "top_k": 3,
        "max_tokens": 100,
        "threshold": 0,
        "tiers": ["hot", "hot"],
        "kinds": ["event", "fact"],
        "as_of": "2026-03-31T12:00:00Z",
        "explain": True,
        "filter": {
            "and": [
                {"or": [{"field": "metadata.a.b", "op": "in", "value": [1, "x"]}]},
                {"not": {"field": "created_at", "op": "gte", "value": "2026-03-31T14:00:00+02:00"}},
                {"field": "role", "op": "exists"},
            ]
        },
    }
    answer = client.post("/v1/recall", json=body, headers={"X-Agent-Id": "ann"})
    assert answer.json()["results"] == []
    caller, request = container.recall.last[1]
    assert caller.agent_id == "ann"  # the body goes before the header
    assert (request.session_ids, request.top_k, request.max_tokens, request.threshold) == (("s1",), 3, 100, 0)
    assert (request.tiers, request.kinds) == (frozenset({TierName.HOT}), frozenset({"event", "fact"}))
    assert (request.as_of, request.explain) == (make.noon, True)
    assert request.filter == AllOf(
        (
            AnyOf((FieldTest("metadata.a.b", FilterOp.IN, [1, "x"]),)),
            Not(FieldTest("created_at", FilterOp.GTE, make.noon.timestamp())),
            FieldTest("role", FilterOp.EXISTS, None),
        )
    )


def test_recalled_results_say_where_they_come_from(client: Any, container: Any, make: Any) -> None:
    found = (result(make, signals={"dense": 0.61}, span=Span(10, 23)), result(make, score=0.5))
    container.recall.answers["recall"] = Recalled(found, (Degraded("semantic", "too slow"),))
    answer = client.post("/v1/recall", json={"query": "where?", "explain": True}).json()
    plain = {
        "text": "under the pot",
        "score": 0.5,
        "tier": "longterm",
        "kind": "event",
        "memory_id": None,
        "session_id": "s1",
        "events": [{"event_id": "D8:6", "seq": 214}],
        "agent_id": "a",
        "role": "user",
        "created_at": NOON,
        "tokens": 4,
        "metadata": {"topic": "keys"},
    }
    assert answer["results"][1] == plain
    assert answer["results"][0] == {
        **plain,
        "score": 0.83,
        "signals": {"dense": 0.61},
        "char_start": 10,
        "char_end": 23,
    }
    assert answer["degraded"] == [{"tier": "semantic", "reason": "too slow"}]
    assert answer["usage"]["tokens"] == 8
    assert answer["usage"]["took_ms"] >= 0


@pytest.mark.parametrize("form", list(ContextFormat))
def test_a_context_has_messages_or_text(client: Any, container: Any, make: Any, form: ContextFormat) -> None:
    as_text = form is ContextFormat.TEXT
    container.context.answers["build"] = Context(
        messages=() if as_text else (Message("user", "hi"), Message("tool", "42", "search")),
        text="user: hi" if as_text else None,
        sources=(result(make),),
        tokens=ContextTokens(10, 6, 0, 4),
        cache=PrefixCache(6, "abc"),
        degraded=(),
    )
    answer = client.post("/v1/sessions/s1/context", json={"max_tokens": 50, "format": form}).json()
    messages = [{"role": "user", "content": "hi"}, {"role": "tool", "content": "42", "name": "search"}]
    assert answer["messages"] == ([] if as_text else messages)
    assert answer.get("text") == ("user: hi" if as_text else None)
    assert ("text" in answer) is as_text
    assert answer["tokens"] == {"total": 10, "window": 6, "summary": 0, "recall": 4}
    assert answer["cache"] == {"prefix_tokens": 6, "prefix_fingerprint": "abc"}
    assert answer["sources"][0]["text"] == "under the pot"
    request = container.context.last[1][2]
    assert (request.max_tokens, request.query, request.top_k, request.format) == (50, None, 20, form)

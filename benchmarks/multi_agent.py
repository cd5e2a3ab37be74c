"""Do five agents of one session see the same, at once, through two API processes?

Two API processes over one PostgreSQL, one worker. Five agents take turns for 200 rounds in one session: each appends at
one process, then the next agent asks at the other one for a word that only this append has. It must be first, every
time. Every twentieth round all five ask for a context: window, summary and prefix must be the same bytes. Then the same
turns go into five sessions, one for each agent, as agents without a shared memory would keep them.

    python -m benchmarks.multi_agent --quick
"""

import argparse
import contextlib
import os
import random
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.progress import track
from rich.table import Table

from benchmarks.loader import distinct_events
from benchmarks.machine import SEED, out, write_result
from benchmarks.read_your_writes import LEAST_WORDS, unique_word
from benchmarks.service import (
    Connection,
    Event,
    Service,
    need_servers,
    own_database,
    own_queue,
    percentiles,
    running,
    working,
)
from benchmarks.sets import Scorers

AGENTS = ("ann", "bob", "cyd", "dan", "eve")
ROUNDS = 200
QUICK_ROUNDS = 6
SESSION = "shared"
_CONTEXT_EVERY = 20
_CONTEXT_TOKENS = 4_000


@dataclass(slots=True)
class Seen:
    """`contexts`: how often all were asked, and how often all agreed."""

    append_ms: list[float] = field(default_factory=list)
    recall_ms: list[float] = field(default_factory=list)
    first: int = 0
    missed: list[str] = field(default_factory=list)
    contexts: int = 0
    agreed: int = 0


def play(apis: Sequence[Connection], turns: Sequence[Event]) -> Seen:
    seen = Seen()
    for place, turn in enumerate(track(turns, "turns", console=out, transient=True)):
        writer, reader = place % len(AGENTS), (place + 1) % len(AGENTS)
        word = unique_word(SESSION, place)
        _append(apis[place % 2], SESSION, AGENTS[writer], f"{turn['content']} {word}", place, seen)
        _ask(apis[1 - place % 2], AGENTS[reader], word, place, seen)
        if place % (_CONTEXT_EVERY * len(AGENTS)) == 0:
            seen.contexts += 1
            seen.agreed += len({_context(apis[number % 2], agent) for number, agent in enumerate(AGENTS)}) == 1
    return seen


def _append(api: Connection, session: str, agent: str, content: str, place: int, seen: Seen | None = None) -> None:
    event = {"role": "user", "agent_id": agent, "content": content, "event_id": f"{session}-{place}"}
    started = time.perf_counter()
    status, answer = api.post(f"/v1/sessions/{session}/events", {"events": [event]})
    if status != 201:
        raise RuntimeError(f"an append was refused: {status} {answer}")
    if seen is not None:
        seen.append_ms.append(1_000 * (time.perf_counter() - started))


def _ask(api: Connection, agent: str, word: str, place: int, seen: Seen) -> None:
    started = time.perf_counter()
    body = {"query": word, "session_ids": [SESSION], "top_k": 10, "agent_id": agent}
    status, answer = api.post("/v1/recall", body)
    seen.recall_ms.append(1_000 * (time.perf_counter() - started))
    found = status == 200 and not answer["degraded"] and answer["results"]
    if found and answer["results"][0]["events"][0]["event_id"] == f"{SESSION}-{place}":
        seen.first += 1
    else:
        seen.missed.append(f"{place} {agent}: {status} {str(answer)[:200]}")


def _context(api: Connection, agent: str) -> str:
    """Window, summary and fingerprint as one text; what is recalled for an agent may be its own."""
    include = {"window": True, "summary": True, "recall": False}
    body = {"max_tokens": _CONTEXT_TOKENS, "agent_id": agent, "include": include}
    status, answer = api.post(f"/v1/sessions/{SESSION}/context", body)
    return f"{status} {answer.get('messages')} {answer.get('cache')}"


def apart(api: Connection, turns: Sequence[Event]) -> None:
    """Every agent keeps all turns in a session of its own: what each of them must know, five times."""
    for agent in AGENTS:
        events = [{"role": "user", "agent_id": agent, "content": turn["content"]} for turn in turns]
        for start in range(0, len(events), 500):
            status, answer = api.post(f"/v1/sessions/of-{agent}/events", {"events": events[start : start + 500]})
            if status != 201:
                raise RuntimeError(f"an append was refused: {status} {answer}")


def _held(service: Service, *names: str) -> dict[str, int]:
    sessions = [service.get(f"/v1/sessions/{name}") for name in names]
    return {
        "tokens": sum(session["token_count"] for session in sessions),
        "segments_held": sum(session["tiers"]["semantic"]["segments"] for session in sessions),
    }


def measure(postgres: str, redis: str, turns: Sequence[Event]) -> dict[str, Any]:
    with own_database(postgres) as database, own_queue(redis) as queue:
        settings = {"STRATAMEM_DATABASE_URL": database, **queue}
        with running(settings=settings) as first, running(settings=settings) as second, working(settings):
            with contextlib.closing(Connection(first)) as one, contextlib.closing(Connection(second)) as other:
                seen = play((one, other), turns)
                apart(one, turns)
                first.wait_until_indexed()
            return {
                "turns": len(turns),
                "first": seen.first,
                "missed": seen.missed[:20],
                "contexts": {"asked": seen.contexts, "agreed": seen.agreed},
                "append_ms": percentiles(seen.append_ms),
                "recall_ms": percentiles(seen.recall_ms),
                "shared": _held(first, SESSION),
                "apart": _held(first, *(f"of-{agent}" for agent in AGENTS)),
            }


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that what was started is ended
    events = distinct_events(Scorers.found(), LEAST_WORDS)
    rounds = QUICK_ROUNDS if options.quick else ROUNDS
    turns = random.Random(SEED).sample(events, min(rounds * len(AGENTS), len(events)))
    body: dict[str, Any] = {"load_before": os.getloadavg()[0]}
    body |= measure(options.postgres, options.redis, turns)
    agreed = body["contexts"]["agreed"] == body["contexts"]["asked"]
    body["targets"] = {
        "found_at_once": {"found": body["first"], "target": len(turns), "met": body["first"] == len(turns)},
        "contexts_agree": {"found": agreed, "target": True, "met": agreed},
    }
    path = write_result("multi_agent_quick" if options.quick else "multi_agent", body)
    show(body)
    out.print(f"{body['targets']}\n{path}")


def show(body: dict[str, Any]) -> None:
    table = Table(title="five agents, one session, two processes", title_justify="left")
    for column in ("turns", "first", "contexts agreed", "append p50/p95 ms", "recall p50/p95 ms", "tokens", "apart"):
        table.add_column(column, justify="right")
    spent = [f"{body[kind]['p50']:.1f} / {body[kind]['p95']:.1f}" for kind in ("append_ms", "recall_ms")]
    agreed = f"{body['contexts']['agreed']} of {body['contexts']['asked']}"
    tokens = [f"{body[name]['tokens']:,}" for name in ("shared", "apart")]
    table.add_row(str(body["turns"]), str(body["first"]), agreed, *spent, *tokens)
    out.print(table)
    for missed in body["missed"][:5]:
        out.print(f"[red]missed[/] {missed}")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.multi_agent", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="few rounds: does everything run?")
    need_servers(parser)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()

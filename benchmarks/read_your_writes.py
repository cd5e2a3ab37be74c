"""Is an event found right after it was acknowledged, by whom ever asks?

Each append is followed at once by two recalls over another connection: one for a word that no other event has (it must
be first), one for the event's own words without that word (it should be among the first ten). Which of the two comes
first changes from append to append. No wait, no retry; the backlog of the indexing grows meanwhile.

    python -m benchmarks.read_your_writes --quick
    python -m benchmarks.read_your_writes --postgres     also: append at one API process, ask another, beside a worker
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
from benchmarks.service import Connection, Event, own_database, own_queue, percentiles, running, working
from benchmarks.sets import Scorers

APPENDS = 1_000
QUICK_APPENDS = 40
SESSIONS = 10
TOP_K = 10
LEAST_WORDS = 8
"""Shorter turns ("Thanks!") say nothing that could be asked for."""


@dataclass(slots=True)
class Found:
    """Ranks count from 1, None: not among the ten."""

    unique: list[int | None] = field(default_factory=list)
    natural: list[int | None] = field(default_factory=list)
    append_ms: list[float] = field(default_factory=list)
    recall_ms: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


def measure(writer: Connection, reader: Connection, turns: Sequence[Event], prefix: str) -> Found:
    found = Found()
    for place, turn in enumerate(track(turns, prefix, console=out, transient=True)):
        word = unique_word(prefix, place)
        session = f"{prefix}-{place % SESSIONS}"
        event = {"role": "user", "content": f"{turn['content']} {word}", "event_id": f"{prefix}-{place}"}
        started = time.perf_counter()
        status, answer = writer.post(f"/v1/sessions/{session}/events", {"events": [event]})
        found.append_ms.append(_since(started))
        if status != 201:
            found.failed.append(f"append {place}: {status} {answer}")
            continue
        asked = [(word, found.unique), (turn["content"], found.natural)]
        for query, ranks in asked if place % 2 == 0 else asked[::-1]:
            ranks.append(_rank(reader, query, event["event_id"], found))
    return found


def _rank(reader: Connection, query: str, event_id: str, found: Found) -> int | None:
    """Over all sessions."""
    started = time.perf_counter()
    status, answer = reader.post("/v1/recall", {"query": query, "top_k": TOP_K})
    found.recall_ms.append(_since(started))
    if status != 200 or answer["degraded"]:
        found.failed.append(f"recall {event_id}: {status} {str(answer)[:200]}")
        return None
    for rank, result in enumerate(answer["results"], 1):
        if any(event["event_id"] == event_id for event in result["events"]):
            return rank
    return None


def unique_word(prefix: str, place: int) -> str:
    """Consonants and vowels in turn, so that no stemmer cuts an ending off; never the same twice in a run."""
    drawn = random.Random(f"{SEED} {prefix} {place}")
    return "".join(drawn.choice("bdfgkmnprtvz") + drawn.choice("aou") for _ in range(6)) + "k"


def _since(started: float) -> float:
    return 1_000 * (time.perf_counter() - started)


def one_process(turns: Sequence[Event]) -> Found:
    with running() as service, _connection(service) as writer, _connection(service) as reader:
        return measure(writer, reader, turns, "own")


def two_processes(turns: Sequence[Event], postgres: str, redis: str) -> dict[str, Found]:
    """Appended at the first API, asked at the second, and the other way round; a worker indexes beside them."""
    with own_database(postgres) as database, own_queue(redis) as queue:
        settings = {"STRATAMEM_DATABASE_URL": database, **queue}
        with running(settings=settings) as first, running(settings=settings) as second, working(settings):
            with _connection(first) as one, _connection(second) as other:
                half = len(turns) // 2
                return {
                    "postgres_first_to_second": measure(one, other, turns[:half], "forth"),
                    "postgres_second_to_first": measure(other, one, turns[half:], "back"),
                }


def _connection(service: Any) -> contextlib.closing[Connection]:
    return contextlib.closing(Connection(service))


def figures(found: Found) -> dict[str, Any]:
    asked = len(found.unique)
    return {
        "appends": len(found.append_ms),
        "asked": asked,
        "unique_word": {"first": found.unique.count(1), "in_ten": asked - found.unique.count(None)},
        "own_words": {"first": found.natural.count(1), "in_ten": asked - found.natural.count(None)},
        "append_ms": percentiles(found.append_ms),
        "recall_ms": percentiles(found.recall_ms),
        "failed": found.failed[:20],
        "all_found": not found.failed and asked == len(found.append_ms) == found.unique.count(1),
    }


def show(systems: dict[str, Any]) -> None:
    table = Table(title="found right after the append", title_justify="left")
    for column in ("", "appends", "unique word first", "own words in ten", "append p50/p95 ms", "recall p50/p95 ms"):
        table.add_column(column, justify="right")
    for name, body in systems.items():
        spent = [f"{body[kind]['p50']:.1f} / {body[kind]['p95']:.1f}" for kind in ("append_ms", "recall_ms")]
        first, in_ten = body["unique_word"]["first"], body["own_words"]["in_ten"]
        table.add_row(name, str(body["appends"]), str(first), str(in_ten), *spent)
        for failure in body["failed"][:3]:
            out.print(f"[red]failed[/] {failure}")
    out.print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that what was started is ended
    events = distinct_events(Scorers.found(), LEAST_WORDS)
    turns = random.Random(SEED).sample(events, min(options.appends, len(events)))
    systems = {"one_process": figures(one_process(turns))}
    if options.postgres:
        across = two_processes(turns, options.postgres, options.redis)
        systems |= {name: figures(found) for name, found in across.items()}
    all_found = all(body["all_found"] for body in systems.values())
    targets = {"unique_word_first_every_time": {"found": all_found, "target": True, "met": all_found}}
    body = {"load_before": os.getloadavg()[0], "targets": targets, "systems": systems}
    path = write_result("read_your_writes_quick" if options.quick else "read_your_writes", body)
    show(systems)
    out.print(f"{targets}\n{path}")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.read_your_writes", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--appends", type=int)
    parser.add_argument(
        "--postgres",
        nargs="?",
        const="postgresql://root@127.0.0.1:5432/postgres",
        metavar="URL",
        help="of a server where databases may be made (default: %(const)s)",
    )
    parser.add_argument("--redis", default="redis://127.0.0.1:6379/13", help="with --postgres (default: %(default)s)")
    options = parser.parse_args(arguments)
    options.appends = options.appends or (QUICK_APPENDS if options.quick else APPENDS)
    return options


if __name__ == "__main__":
    main()

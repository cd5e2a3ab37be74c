"""What is left when the process is killed in the middle of its work?

Clients append without a pause; at a moment drawn with the seed the service gets SIGKILL and is started again on the
same folder, twenty times. After each start: is every acknowledged event there with its text, does each session count
from 1 without a gap, do the indexes agree with the database, is the newest acknowledged event found? At the end all
that was promised must get indexed.

    python -m benchmarks.crash --quick
    python -m benchmarks.crash --kills 50
"""

import argparse
import http.client
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from rich.progress import Progress
from rich.table import Table

from benchmarks.loader import distinct_events
from benchmarks.machine import SEED, out, write_result
from benchmarks.service import Connection, Event, Service, running
from benchmarks.sets import Scorers

KILLS = 20
QUICK_KILLS = 2
CLIENTS = 4
STREAM_SECONDS = (0.2, 1.2)
"""The kill comes somewhere between."""
BATCH = 20
"""Every fifth append has so many events, to be stored all or not at all."""
SETTINGS = {"STRATAMEM_NODE": "bench"}
"""As it comes: what a killed worker had taken waits for its lease (two minutes) and the next sweep."""
_INDEXED_WITHIN = 1_800.0


@dataclass(slots=True)
class Log:
    """What one client was told about its session. `acknowledged`: text by event id. `number`: of the newest event."""

    session_id: str
    acknowledged: dict[str, str] = field(default_factory=dict)
    in_doubt: list[list[Event]] = field(default_factory=list)
    """requests that got no answer: each may be there, but only as a whole"""
    refused: list[str] = field(default_factory=list)
    requests: int = 0
    number: int = 0


@dataclass(slots=True)
class Outcome:
    """Of one kill. Seconds until ready, and until the first recall was answered; whatever is wrong, in words."""

    acknowledged: int
    in_doubt: int
    in_doubt_stored: int
    ready: float
    first_recall: float
    problems: list[str]


class Stream:
    """Clients that append in threads until the service is gone."""

    def __init__(self, service: Service, logs: Sequence[Log], turns: Sequence[Event]) -> None:
        self._turns = turns
        self._threads = [threading.Thread(target=self._run, args=(service, log), daemon=True) for log in logs]
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(130)

    def _run(self, service: Service, log: Log) -> None:
        with closing(Connection(service)) as connection:
            while self._append(connection, log):
                pass

    def _append(self, connection: Connection, log: Log) -> bool:
        log.requests += 1
        events = [self._event(log) for _ in range(1 if log.requests % 5 else BATCH)]
        log.in_doubt.append(events)
        try:
            status, answer = connection.post(f"/v1/sessions/{log.session_id}/events", {"events": events})
        except (OSError, http.client.HTTPException, json.JSONDecodeError):
            return False
        log.in_doubt.pop()
        if status == 201:
            log.acknowledged |= {event["event_id"]: event["content"] for event in events}
        else:
            log.refused.append(f"{status} {answer}")
        return True

    def _event(self, log: Log) -> Event:
        log.number += 1
        turn = self._turns[log.number % len(self._turns)]
        name = f"{log.session_id}-{log.number}"
        return {"event_id": name, "role": "user", "content": f"{turn['content']} {_word(name)}"}


def _word(name: str) -> str:
    """No other event has it."""
    drawn = random.Random(f"{SEED} {name}")
    return "".join(drawn.choice("bdfgkmnprtvz") + drawn.choice("aou") for _ in range(7)) + "k"


def measure(kills: int, turns: Sequence[Event]) -> tuple[list[Outcome], dict[str, Any]]:
    drawn = random.Random(SEED)
    logs = [Log(f"client-{number}") for number in range(CLIENTS)]
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="stratamem-bench-") as name, Progress(console=out, transient=True) as bar:
        folder = Path(name)
        task = bar.add_task("kills", total=kills)
        for _ in range(kills):
            _stream_and_kill(folder, logs, turns, drawn.uniform(*STREAM_SECONDS))
            outcomes.append(_restart_and_check(folder, logs))
            bar.advance(task)
        return outcomes, _finish(folder, logs)


def _stream_and_kill(folder: Path, logs: Sequence[Log], turns: Sequence[Event], seconds: float) -> None:
    with running(folder=folder, settings=SETTINGS) as service:
        stream = Stream(service, logs, turns)
        time.sleep(seconds)
        service.process.kill()
        service.process.wait()
        stream.join()


def _restart_and_check(folder: Path, logs: Sequence[Log]) -> Outcome:
    """Leaves nothing in doubt: a request that got no answer and is stored counts as acknowledged from now on."""
    started = time.perf_counter()
    with running(folder=folder, settings=SETTINGS) as service:
        ready = time.perf_counter() - started
        newest = [list(log.acknowledged)[-1] for log in logs if log.acknowledged]
        with closing(Connection(service)) as connection:
            problems = [problem for event_id in newest for problem in _not_found(connection, event_id)]
        first_recall = time.perf_counter() - started
        in_doubt = sum(len(events) for log in logs for events in log.in_doubt)
        before = sum(len(log.acknowledged) for log in logs)
        for log in logs:
            problems += _check_log(service, log)
        problems += _tier_problems(service)
        acknowledged = sum(len(log.acknowledged) for log in logs)
        # Killed as well: a clean stop between two kills would save what the next start should have to make good.
        service.process.kill()
        service.process.wait()
    return Outcome(before, in_doubt, acknowledged - before, ready, first_recall, problems)


def _not_found(connection: Connection, event_id: str) -> list[str]:
    status, answer = connection.post("/v1/recall", {"query": _word(event_id), "top_k": 3})
    found = status == 200 and answer["results"] and answer["results"][0]["events"][0]["event_id"] == event_id
    return [] if found else [f"{event_id} is not what its word finds: {status} {str(answer)[:200]}"]


def _check_log(service: Service, log: Log) -> list[str]:
    stored = _events(service, log.session_id) if log.acknowledged or log.in_doubt else []
    problems = [f"{log.session_id}: refused {refusal}" for refusal in log.refused]
    log.refused.clear()
    if [event["seq"] for event in stored] != list(range(1, len(stored) + 1)):
        problems.append(f"{log.session_id}: seq has a gap or a repeat")
    texts = {event["event_id"]: event["content"] for event in stored}
    lost = [name for name, text in log.acknowledged.items() if texts.get(name) != text]
    if lost:
        problems.append(f"{log.session_id}: {len(lost)} acknowledged events are lost or changed, first {lost[0]}")
    for events in log.in_doubt:
        there = [event for event in events if event["event_id"] in texts]
        if there and len(there) < len(events):
            problems.append(f"{log.session_id}: {len(there)} of {len(events)} events of one request were stored")
        log.acknowledged |= {event["event_id"]: event["content"] for event in there}
    log.in_doubt.clear()
    if unknown := texts.keys() - log.acknowledged.keys():
        problems.append(f"{log.session_id}: {len(unknown)} events that nobody sent")
    return problems


def _events(service: Service, session_id: str) -> list[Event]:
    found: list[Event] = []
    cursor: dict[str, str] = {}
    while True:
        page = service.get(f"/v1/sessions/{session_id}/events", limit=500, **cursor)
        found += page["items"]
        if page["next_cursor"] is None:
            return found
        cursor = {"cursor": page["next_cursor"]}


def _tier_problems(service: Service) -> list[str]:
    tiers = service.get("/v1/admin/tiers")["items"]
    return [f"{tier['tier']}: {problem}" for tier in tiers for problem in tier["problems"]]


def _finish(folder: Path, logs: Sequence[Log]) -> dict[str, Any]:
    """After the last kill everything that was promised is indexed, leases of killed workers included."""
    started = time.perf_counter()
    with running(folder=folder, settings=SETTINGS) as service:
        deadline = time.monotonic() + _INDEXED_WITHIN
        while open_ := service.get("/v1/operations", state="queued,running")["items"]:
            if time.monotonic() > deadline:
                return {"indexed_s": None, "problems": [f"not indexed in time: {open_[0]}"]}
            time.sleep(0.5)
        seconds = time.perf_counter() - started
        problems = _tier_problems(service)
        problems += [f"failed: {one['error']}" for one in service.get("/v1/operations", state="failed")["items"]]
        tiers = {tier["tier"]: tier for tier in service.get("/v1/admin/tiers")["items"]}
        if tiers["longterm"]["pending"]:
            problems.append(f"{tiers['longterm']['pending']} events have no vector")
    return {"indexed_s": round(seconds, 1), "problems": problems, "events": sum(len(x.acknowledged) for x in logs)}


def figures(outcomes: Sequence[Outcome], finish: dict[str, Any]) -> dict[str, Any]:
    problems = [problem for outcome in outcomes for problem in outcome.problems] + finish["problems"]
    ready = [outcome.ready for outcome in outcomes]
    first = [outcome.first_recall for outcome in outcomes]
    return {
        "kills": len(outcomes),
        "clean_recoveries": sum(not outcome.problems for outcome in outcomes),
        "acknowledged_events": outcomes[-1].acknowledged,
        "in_doubt_events": sum(outcome.in_doubt for outcome in outcomes),
        "in_doubt_stored": sum(outcome.in_doubt_stored for outcome in outcomes),
        "ready_s": {"median": round(median(ready), 2), "worst": round(max(ready), 2)},
        "first_recall_s": {"median": round(median(first), 2), "worst": round(max(first), 2)},
        "finish": finish,
        "problems": problems[:50],
        "targets": {"problems": {"found": len(problems), "target": 0, "met": not problems}},
    }


def show(body: dict[str, Any]) -> None:
    table = Table("", "", title="kill -9 during appends", title_justify="left", show_header=False)
    for name in ("kills", "clean_recoveries", "acknowledged_events", "in_doubt_events", "in_doubt_stored"):
        table.add_row(name.replace("_", " "), str(body[name]))
    for name in ("ready_s", "first_recall_s"):
        table.add_row(name.replace("_", " "), f"{body[name]['median']} median, {body[name]['worst']} worst")
    table.add_row("everything indexed after the last kill, s", str(body["finish"]["indexed_s"]))
    out.print(table)
    for problem in body["problems"][:10]:
        out.print(f"[red]problem[/] {problem}")


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that what was started is ended
    load = os.getloadavg()[0]
    body = figures(*measure(options.kills, distinct_events(Scorers.found())))
    path = write_result("crash_quick" if options.quick else "crash", {"load_before": load, **body})
    show(body)
    out.print(f"{body['targets']}\n{path}")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.crash", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--kills", type=int)
    options = parser.parse_args(arguments)
    options.kills = options.kills or (QUICK_KILLS if options.quick else KILLS)
    return options


if __name__ == "__main__":
    main()

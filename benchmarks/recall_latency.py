"""How long does a recall take, and how much of it is more than the bare calls?

End to end over HTTP, the question's embedding included, in stores of 1,000, 10,000 and 100,000 events of one tenant:
over all sessions and in one. For the same questions, turn by turn in the same run, the bare calls in a process without
HTTP or database: embed, FAISS (float16, the 200 nearest), tantivy (BM25, the 200 best) on the same vectors and texts.
Then: how long until a restarted service is ready, its memory, and where the time goes.

    python -m benchmarks.recall_latency --quick        two small stores, a minute or two
    python -m benchmarks.recall_latency --sizes 100000
"""

import argparse
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track
from rich.table import Table

from benchmarks.bare_recall import Bare, bare_calls
from benchmarks.loader import Corpus, Question, corpus, fill
from benchmarks.machine import SEED, out, write_result
from benchmarks.recall_stages import NODE, WARM_UP, stages
from benchmarks.service import Connection, Service, packaged_models, percentiles, running
from benchmarks.sets import Scorers
from memory.adapters.models.inprocess import Models

TARGET_MS = 50.0
"""p95 over all sessions at 100,000 events, on two cores."""
TARGET_RATIO = 2.0
"""p95 of ours ÷ p95 of the bare calls, at 100,000 events."""
SIZES = (1_000, 10_000, 100_000)
QUICK_SIZES = (1_000, 3_000)
QUESTIONS = 500
QUICK_QUESTIONS = 40
SETTINGS = {"STRATAMEM_NODE": NODE}
_SAVED_WITHIN = 300.0


@dataclass(slots=True)
class Taken:
    """Milliseconds by what was asked, and what went wrong."""

    tenant: list[float] = field(default_factory=list)
    session: list[float] = field(default_factory=list)
    in_service: list[float] = field(default_factory=list)
    """tenant-wide, as the service says itself (`took_ms`): the rest is HTTP"""
    bare: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    """by number of threads: embed, vectors, words"""
    failed: list[str] = field(default_factory=list)


def measure(size: int, questions: int, scorers: Scorers, models: Models) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="stratamem-bench-") as name:
        folder = Path(name)
        filled = corpus(scorers, models, size)
        started = time.perf_counter()
        write_store(folder, filled, models)
        load_seconds = time.perf_counter() - started
        first = _first_start(folder, filled.questions[0])
        taken = Taken()
        with bare_calls(folder) as bare:
            body = _restarted(folder, filled, questions, bare, taken)
        parts = stages(folder, [question.text for question in drawn(filled, questions)])
        return figures(taken) | body | first | {"load_s": round(load_seconds, 1), "stages_ms": parts}


def write_store(folder: Path, filled: Corpus, models: Models) -> None:
    loaded = fill(folder / "data", filled, models)
    np.save(folder / "vectors.npy", loaded.vectors)
    (folder / "texts.json").write_text(json.dumps(loaded.texts), "utf-8")


def _first_start(folder: Path, question: Question) -> dict[str, Any]:
    """The indexes do not exist yet: they are made from the database."""
    with running(folder=folder, settings=SETTINGS) as service:
        connection = Connection(service)
        seconds = wait_until_built(connection, question)
        wait_until_saved(service)
        connection.close()
    return {"first_recall_builds_indexes_s": round(seconds, 2)}


def _restarted(folder: Path, filled: Corpus, questions: int, bare: Bare, taken: Taken) -> dict[str, Any]:
    started = time.perf_counter()
    with running(folder=folder, settings=SETTINGS) as service:
        ready = time.perf_counter() - started
        connection = Connection(service)
        connection.post("/v1/recall", {"query": filled.questions[0].text})
        first = time.perf_counter() - started
        events = sum(map(len, filled.sessions.values()))
        check(service, events)
        ask(connection, bare, drawn(filled, questions), taken)
        memory = _memory(service.process.pid)
        connection.close()
    return {
        "events": events,
        "sessions": len(filled.sessions),
        "questions": questions,
        "restart_s": {"ready": round(ready, 2), "first_recall_answered": round(first, 2)},
        "memory_mib": memory,
    }


def drawn(filled: Corpus, questions: int) -> list[Question]:
    return filled.questions[:questions]


def ask(connection: Connection, bare: Bare, questions: Sequence[Question], taken: Taken) -> None:
    """Ours, the bare calls, ours in one session: turn by turn, so that what disturbs one disturbs all."""
    warm_up = Taken()
    for question in random.Random(SEED + 1).choices(questions, k=WARM_UP):
        _ask_one(connection, bare, question, warm_up)
    for question in track(questions, "ask", console=out, transient=True):
        _ask_one(connection, bare, question, taken)


def _ask_one(connection: Connection, bare: Bare, question: Question, taken: Taken) -> None:
    _recall(connection, {"query": question.text}, taken.tenant, taken)
    for threads, parts in bare.ask(question.text).items():
        taken.bare.setdefault(threads, []).append(parts)
    _recall(connection, {"query": question.text, "session_ids": [question.session_id]}, taken.session, taken)


def _recall(connection: Connection, body: dict[str, Any], milliseconds: list[float], taken: Taken) -> None:
    started = time.perf_counter()
    status, answer = connection.post("/v1/recall", body)
    milliseconds.append(1_000 * (time.perf_counter() - started))
    if status != 200 or answer["degraded"] or not answer["results"]:
        taken.failed.append(f"{body}: {status} {str(answer)[:200]}")
    elif milliseconds is taken.tenant:
        taken.in_service.append(answer["usage"]["took_ms"])


def figures(taken: Taken) -> dict[str, Any]:
    totals = {threads: [sum(parts.values()) for parts in rows] for threads, rows in taken.bare.items()}
    bare: dict[str, dict[str, Any]] = {
        f"{threads} threads": percentiles(totals[threads])
        | {"parts": {name: percentiles([row[name] for row in rows], (50, 95)) for name in rows[0]}}
        for threads, rows in taken.bare.items()
    }
    tenant = percentiles(taken.tenant)
    ratios = {p: round(tenant[p] / min(figures[p] for figures in bare.values()), 2) for p in tenant}
    return {
        "tenant_wide_ms": tenant,
        "one_session_ms": percentiles(taken.session),
        "tenant_wide_in_service_ms": percentiles(taken.in_service),
        "bare_ms": bare,
        "ratio_to_bare": ratios,
        "failed": taken.failed,
    }


def check(service: Service, events: int) -> None:
    """Raises RuntimeError unless the service finds everything consistent and complete."""
    tiers = {tier["tier"]: tier for tier in service.get("/v1/admin/tiers")["items"]}
    problems = [problem for tier in tiers.values() for problem in tier["problems"]]
    longterm = tiers["longterm"]
    if problems or longterm["items"] != events or longterm["pending"]:
        raise RuntimeError(f"the loaded store is not what an indexed one is: {problems} {longterm}")


def wait_until_built(connection: Connection, question: Question) -> float:
    """Seconds until the long-term index answers. It alone is asked: what the other tiers do would delay it."""
    started = time.perf_counter()
    while (answer := connection.post("/v1/recall", {"query": question.text, "tiers": ["longterm"]}))[0] != 200:
        if answer[0] != 503:
            raise RuntimeError(f"a recall failed: {answer}")
        time.sleep(0.1)
    return time.perf_counter() - started


def wait_until_saved(service: Service, within: float = _SAVED_WITHIN) -> None:
    """So that the restart loads files, as after any quiet minute."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        tiers = {tier["tier"]: tier for tier in service.get("/v1/admin/tiers")["items"]}
        if not tiers["longterm"]["details"]["unsaved"]:
            return
        time.sleep(1)
    raise RuntimeError(f"the indexes were not saved within {within:.0f} s")


def _memory(pid: int) -> dict[str, float]:
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        return {}
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return {name: round(int(lines[key].split()[0]) / 1024) for name, key in (("now", "VmRSS"), ("peak", "VmHWM"))}


def show(sizes: dict[str, Any]) -> None:
    table = Table(title="recall, milliseconds (p50 / p95 / p99)", title_justify="left")
    for column in ("events", "all sessions", "one session", "bare calls", "ratio (p95)", "restart", "memory"):
        table.add_column(column, justify="right")
    for size, body in sizes.items():
        table.add_row(
            f"{int(size):,}",
            _row(body["tenant_wide_ms"]),
            _row(body["one_session_ms"]),
            _row(min(body["bare_ms"].values(), key=lambda figures: figures["p95"])),
            f"{body['ratio_to_bare']['p95']:.2f}",
            f"{body['restart_s']['ready']:.1f} s, first answer {body['restart_s']['first_recall_answered']:.1f} s",
            f"{body['memory_mib'].get('now', 0)} MiB",
        )
        for failure in body["failed"][:3]:
            out.print(f"[red]failed[/] {failure}")
    out.print(table)
    table = Table(title="where the time goes, ms p50 / p95 (in process, all sessions)", title_justify="left")
    table.add_column("part")
    for size in sizes:
        table.add_column(f"{int(size):,}", justify="right")
    for name in dict.fromkeys(name for body in sizes.values() for name in body["stages_ms"]):
        found = [body["stages_ms"].get(name, {}) for body in sizes.values()]
        table.add_row(name, *(f"{f['p50']:.2f} / {f['p95']:.2f}" if f else "" for f in found))
    out.print(table)


def _row(figures: dict[str, Any]) -> str:
    return " / ".join(f"{figures[p]:.1f}" for p in ("p50", "p95", "p99"))


def verdict(sizes: dict[str, Any]) -> dict[str, Any]:
    """Of the largest store that was measured; the targets are for 100,000 events (`of_target_size`)."""
    size = max(sizes, key=int)
    p95, ratio = sizes[size]["tenant_wide_ms"]["p95"], sizes[size]["ratio_to_bare"]["p95"]
    return {
        "at": int(size),
        "of_target_size": int(size) == SIZES[-1],
        "p95_ms": {"found": p95, "target": TARGET_MS, "met": p95 <= TARGET_MS},
        "ratio_p95": {"found": ratio, "target": TARGET_RATIO, "met": ratio <= TARGET_RATIO},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that what was started is ended
    load = os.getloadavg()[0]
    scorers = Scorers.found()
    sizes: dict[str, Any] = {}
    models = packaged_models()
    with contextlib.closing(models.embedder):
        for size in options.sizes:
            out.print(f"[bold]{size:,} events[/]")
            sizes[str(size)] = measure(size, options.questions, scorers, models)
            body = {"load_before": load, "targets": verdict(sizes), "sizes": sizes}
            path = write_result("recall_latency_quick" if options.quick else "recall_latency", body)
    show(sizes)
    out.print(f"{verdict(sizes)}\n{path}")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recall_latency", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="small stores, few questions: does everything run?")
    parser.add_argument("--sizes", type=int, nargs="+", help=f"events; {' '.join(map(str, SIZES))}")
    parser.add_argument("--questions", type=int)
    options = parser.parse_args(arguments)
    options.sizes = options.sizes or (QUICK_SIZES if options.quick else SIZES)
    options.questions = options.questions or (QUICK_QUESTIONS if options.quick else QUESTIONS)
    return options


if __name__ == "__main__":
    main()

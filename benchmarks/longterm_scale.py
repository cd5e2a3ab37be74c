"""What does a memory of a million cost and how well does it find, and how far do others get?

For each size a store is loaded with stored vectors (see loader.py), its indexes are made, the service is started again
and asked over HTTP, turn by turn with the bare calls (embed, FAISS, tantivy). Then single events are appended. Recall
is that of the saved vector index against all inner products. Others get the vectors of the largest store, ten minutes
each.

    python -m benchmarks.longterm_scale --sizes 10000 100000        without the million
    python -m benchmarks.longterm_scale --stores FOLDER             keeps the loaded stores for the next run
    python -m benchmarks.longterm_scale --quick
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import faiss  # before torch, as in the service
import numpy as np
from rich.progress import track
from rich.table import Table

from benchmarks.bare_recall import bare_calls
from benchmarks.loader import Corpus, corpus, distinct_events
from benchmarks.machine import ROOT, SEED, out, write_result
from benchmarks.recall_latency import (
    SETTINGS,
    Taken,
    ask,
    check,
    drawn,
    figures,
    wait_until_built,
    wait_until_saved,
    write_store,
)
from benchmarks.scale_crowd import crowd
from benchmarks.scale_peers import BEST, PEERS
from benchmarks.service import Connection, Floats, Service, packaged_models, percentiles, running
from benchmarks.sets import Scorers
from memory.adapters.models.inprocess import Models
from memory.adapters.vectors.faiss_index import FaissIndex, FaissIndexes

SIZES = (10_000, 100_000, 1_000_000)
QUICK_SIZES = (2_000, 60_000)
QUESTIONS = 300
QUICK_QUESTIONS = 30
INSERTS = 300
PEER_SECONDS = 600.0
PEER_PACKAGES = ("faiss-cpu", "langgraph", "mem0ai", "numpy", "qdrant-client")
SHARES = (1.0, 0.3, 0.1)
"""Of the vectors that are in scope when recall is measured."""
TARGETS = {"recall_at_10": 0.95, "p95_ms": 60.0, "ratio_p95": 2.0, "insert_ratio": 1.5, "restart_s": 30.0}
_WITHIN = 3_600.0
_LISTED_LEFT = 16_384
"""Vectors that may wait for their list: as many as come while others are filed."""


def measure(
    size: int, questions: int, scorers: Scorers, models: Models, peer_seconds: float, stores: Path | None
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="stratamem-bench-") as name:
        folder = Path(name)
        filled = corpus(scorers, models, size)
        body: dict[str, Any] = {"load_s": _loaded(folder, filled, models, stores and stores / str(size))}
        body |= {"build_s": _built(folder, filled)}
        body |= _restarted(folder, filled, questions)
        body |= {"disk_bytes_per_memory": _disk(folder, body["memories"])}
        asked = _question_vectors(models, filled, questions)
        body |= {"index": _recall(folder, asked)}
        np.save(folder / "questions.npy", asked)
        if peer_seconds:
            body |= {"peers": _peers(folder, body["memories"], peer_seconds)}
        return body


def _loaded(folder: Path, filled: Corpus, models: Models, kept: Path | None) -> float | None:
    """Seconds; None: the store of an earlier run was copied. `kept`: where that is, or will be for the next run."""
    if kept is not None and kept.exists():
        shutil.copytree(kept, folder, dirs_exist_ok=True)
        return None
    started = time.perf_counter()
    write_store(folder, filled, models)
    seconds = time.perf_counter() - started
    if kept is not None:
        draft = kept.with_name(kept.name + ".draft")
        shutil.rmtree(draft, ignore_errors=True)
        shutil.copytree(folder, draft)
        draft.replace(kept)
    return round(seconds, 1)


def _built(folder: Path, filled: Corpus) -> dict[str, float]:
    """Seconds from an empty index folder: until it answers, until lists are made, until all is saved."""
    with running(folder=folder, settings=SETTINGS) as service:
        connection, started = Connection(service), time.perf_counter()
        answers = wait_until_built(connection, filled.questions[0])
        while not _listed(service):
            time.sleep(0.5)
        listed = time.perf_counter() - started
        wait_until_saved(service, _WITHIN)
        connection.close()
        saved = time.perf_counter() - started
    return {"answers": round(answers, 1), "lists": round(listed, 1), "saved": round(saved, 1)}


def _listed(service: Service) -> bool:
    details = _longterm(service)["details"]
    few = details["vectors"] <= 50_000
    return bool(few or (details["lists"] and details["vectors"] - details["in_lists"] < _LISTED_LEFT))


def _longterm(service: Service) -> dict[str, Any]:
    tiers: dict[str, dict[str, Any]] = {tier["tier"]: tier for tier in service.get("/v1/admin/tiers")["items"]}
    return tiers["longterm"]


def _restarted(folder: Path, filled: Corpus, questions: int) -> dict[str, Any]:
    memories, taken, started = sum(map(len, filled.sessions.values())), Taken(), time.perf_counter()
    with running(folder=folder, settings=SETTINGS) as service:
        ready = time.perf_counter() - started
        connection = Connection(service)
        wait_until_built(connection, filled.questions[0])
        first = time.perf_counter() - started
        check(service, memories)
        connection.close()
        with bare_calls(folder) as bare:  # which takes minutes to begin: a connection would not be kept that long
            connection = Connection(service)
            ask(connection, bare, drawn(filled, questions), taken)
        resident = _resident(service.process.pid)
        inserts = _inserted(connection, filled)
        connection.close()
    empty = _empty(filled)
    return {
        "memories": memories,
        "restart_s": {"ready": round(ready, 2), "first_recall_answered": round(first, 2)},
        **figures(taken),
        "insert_ms": inserts,
        "resident_mib": {"empty": _mib(empty), "filled": _mib(resident)},
        "resident_bytes_per_memory": {k: round((resident[k] - empty[k]) / memories) for k in resident},
    }


def _inserted(connection: Connection, filled: Corpus) -> dict[str, Any]:
    """Single events of a new session, one after the other; each has to be found by the next question."""
    turns = [turn.content for turns in filled.sessions.values() for turn in turns[:50]]
    taken, missed = [], 0
    for number, text in enumerate(track(random.Random(SEED).sample(turns, INSERTS), "append", console=out)):
        content = f"marker{number}x {text}"
        started = time.perf_counter()
        status, answer = connection.post("/v1/sessions/new/events", {"events": [{"role": "user", "content": content}]})
        taken.append(1_000 * (time.perf_counter() - started))
        if status != 201:
            raise RuntimeError(f"an append was refused: {status} {answer}")
        if number % 10 == 0:
            _, answer = connection.post("/v1/recall", {"query": f"marker{number}x", "top_k": 1})
            missed += [result["text"] for result in answer["results"]] != [content]
    return {**percentiles(taken), "inserts": INSERTS, "not_found_at_once": missed}


def _empty(filled: Corpus) -> dict[str, int]:
    """What the same service occupies with one event."""
    with running(settings=SETTINGS) as service:
        connection = Connection(service)
        connection.post("/v1/sessions/s/events", {"events": [{"role": "user", "content": "one event"}]})
        for question in filled.questions[:20]:
            connection.post("/v1/recall", {"query": question.text})
        resident = _resident(service.process.pid)
        connection.close()
    return resident


def _resident(pid: int) -> dict[str, int]:
    """Bytes: the process's own, and of files that it has mapped (the machine may take those back). Linux; else 0."""
    status = Path(f"/proc/{pid}/status")
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines()) if status.exists() else {}
    names = {"own": "RssAnon", "mapped": "RssFile"}
    return {name: int(lines.get(key, "0 kB").split()[0]) * 1024 for name, key in names.items()}


def _mib(sizes: dict[str, int]) -> dict[str, int]:
    return {name: size >> 20 for name, size in sizes.items()}


def _disk(folder: Path, memories: int) -> dict[str, Any]:
    """Of a memory, in all and by kind of file, table and index."""
    files = [file for file in (folder / "data" / "index").rglob("*") if file.is_file()]
    kinds: dict[str, int] = {}
    for file in files:
        kind = "words" if "lexical" in file.parts else file.name.split("-")[0]
        kinds[kind] = kinds.get(kind, 0) + file.stat().st_size
    database = sum(file.stat().st_size for file in (folder / "data").glob("stratamem.db*"))
    each = {"index": sum(kinds.values()), "database": database}
    parts = {"index_by_file": kinds, "database_by_table": _tables(folder / "data" / "stratamem.db")}
    return {name: round(size / memories) for name, size in each.items()} | {
        name: {key: round(size / memories, 1) for key, size in sizes.items()} for name, sizes in parts.items()
    }


def _tables(database: Path) -> dict[str, int]:
    with contextlib.closing(sqlite3.connect(database)) as db:
        return dict(db.execute("SELECT name, sum(pgsize) FROM dbstat GROUP BY name ORDER BY 2 DESC LIMIT 12"))


def _question_vectors(models: Models, filled: Corpus, questions: int) -> Floats:
    import asyncio

    return asyncio.run(models.embedder.embed([question.text for question in drawn(filled, questions)]))


def _recall(folder: Path, questions: Floats) -> dict[str, Any]:
    """Of the vector index as the service saved it: the ten nearest against all inner products, by share in scope."""
    (manifest,) = (folder / "data" / "index").rglob("vectors.json")
    body = json.loads(manifest.read_text())
    index = FaissIndexes().load(manifest.parent / body["folder"], body["files"], questions.shape[1])
    found = {}
    for share in SHARES:
        allowed = np.random.default_rng(SEED).random(len(index)) < share
        found[str(share)] = _compared(index, questions, allowed)
    return {"vectors": len(index), **index.details(), "by_share_in_scope": found}


def _compared(index: FaissIndex, questions: Floats, allowed: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Any:
    faiss.omp_set_num_threads(1)
    shares, milliseconds, exact = [], [], []
    for question in track(questions, "compare", console=out, transient=True):
        started = time.perf_counter()
        ours = index.search(question, BEST, allowed).rows
        searched = time.perf_counter()
        right = index.rows.best(question, BEST, allowed).rows
        milliseconds.append(1_000 * (searched - started))
        exact.append(1_000 * (time.perf_counter() - searched))
        shares.append(len(np.intersect1d(ours, right)) / len(right))
    return {
        "recall_at_10": round(float(np.mean(shares)), 4),
        "search_ms": percentiles(milliseconds, (50, 95)),
        "scan_ms": percentiles(exact, (50, 95)),
    }


def _peers(folder: Path, size: int, seconds: float) -> dict[str, Any]:
    """Each in a process of its own; one that fails says why."""
    python = _environment()
    found: dict[str, Any] = {"packages": _versions(python)}
    for peer in track(list(PEERS), "others", console=out):
        script = str(ROOT / "benchmarks" / "scale_peers.py")
        # -P: in the script's folder lies a `statistics` that is not Python's
        command = [python, "-P", script, peer, str(folder), str(size), str(seconds)]
        with _process(command) as process:
            output, errors = process.communicate()
        lines = output.strip().splitlines()
        found[peer] = json.loads(lines[-1]) if process.returncode == 0 else {"failed": errors[-500:]}
    return found


@contextlib.contextmanager
def _process(command: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """Ended by its id."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=ROOT
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _environment() -> str:
    """The others' libraries live in an environment of their own, made once; the interpreter of it."""
    folder = ROOT / ".venv-peers"
    python = folder / "bin" / "python"
    if not python.exists():
        out.print(f"installing {', '.join(PEER_PACKAGES)} into {folder.relative_to(ROOT)}")
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PEER_PACKAGES], check=True)
    return str(python)


def _versions(python: str) -> dict[str, str]:
    code = f"import importlib.metadata as m; print(*(m.version(n) for n in {PEER_PACKAGES!r}))"
    found = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    return dict(zip(PEER_PACKAGES, found, strict=True))


def verdict(sizes: dict[str, Any], everybody: dict[str, Any]) -> dict[str, Any]:
    """Of the largest size that was measured; the targets are for a million (`of_target_size`)."""
    least, most = min(sizes, key=int), max(sizes, key=int)
    body = sizes[most]
    found = {
        "recall_at_10": body["index"]["by_share_in_scope"]["1.0"]["recall_at_10"],
        "p95_ms": body["tenant_wide_ms"]["p95"],
        "ratio_p95": body["ratio_to_bare"]["p95"],
        "insert_ratio": round(body["insert_ms"]["p95"] / sizes[least]["insert_ms"]["p95"], 2),
        "restart_s": body["restart_s"]["first_recall_answered"],
    }
    met = {
        name: value >= TARGETS[name] if name == "recall_at_10" else value <= TARGETS[name]
        for name, value in found.items()
    }
    verdicts: dict[str, Any] = {
        name: {"found": value, "target": TARGETS[name], "met": met[name]} for name, value in found.items()
    }
    got = min(figures_of["got_least"] for figures_of in everybody.values())
    verdicts["asked_ten_got"] = {"found": got, "target": 10, "met": got == 10}
    return {"at": int(most), "of_target_size": int(most) == SIZES[-1], **verdicts}


def show(sizes: dict[str, Any]) -> None:
    table = Table(title="stratamem", title_justify="left")
    for column in ("memories", "recall p50 / p95", "÷ bare", "recall@10", "insert p95", "bytes", "restart", "build"):
        table.add_column(column, justify="right")
    for size, body in sizes.items():
        table.add_row(
            f"{int(size):,}",
            f"{body['tenant_wide_ms']['p50']:.1f} / {body['tenant_wide_ms']['p95']:.1f} ms",
            f"{body['ratio_to_bare']['p95']:.2f}",
            f"{body['index']['by_share_in_scope']['1.0']['recall_at_10']:.3f}",
            f"{body['insert_ms']['p95']:.1f} ms",
            f"{body['resident_bytes_per_memory']['own']:,} + {body['resident_bytes_per_memory']['mapped']:,} mapped",
            f"{body['restart_s']['first_recall_answered']:.1f} s",
            f"{body['build_s']['answers']:.0f} s, lists {body['build_s']['lists']:.0f} s",
        )
    out.print(table)
    table = Table(title="others, as far as each got in its time", title_justify="left")
    for column in ("of", "", "memories", "seconds", "search p95", "recall@10", "insert p95", "bytes", "asked 10 got"):
        table.add_column(column, justify="right")
    for size, body in sizes.items():
        for peer, found in body.get("peers", {}).items():
            if peer in PEERS:
                table.add_row(f"{int(size):,}", peer, *_peer_row(found))
    out.print(table)


def _peer_row(found: dict[str, Any]) -> list[str]:
    if "failed" in found:
        return [f"[red]{found['failed'].splitlines()[-1][:80]}[/]"]
    return [
        f"{found['memories']:,}",
        str(found["seconds"]),
        f"{found['search_ms']['p95']} ms",
        str(found["recall_at_10"]),
        f"{found['insert_ms']['p95_of_the_last']} ms",
        f"{found['bytes_per_memory']:,}",
        str(found["crowd"]["got_mean"]),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that what was started is ended
    load = os.getloadavg()[0]
    scorers, sizes, models = Scorers.found(), {}, packaged_models()
    with contextlib.closing(models.embedder):
        everybody = crowd([event["content"] for event in distinct_events(scorers)])
        for size in options.sizes:
            out.print(f"[bold]{size:,} memories[/]")
            others = options.peer_seconds if size == max(options.sizes) else 0.0  # they get no further than their time
            sizes[str(size)] = measure(size, options.questions, scorers, models, others, options.stores)
            body = {"load_before": load, "targets": verdict(sizes, everybody), "crowd": everybody, "sizes": sizes}
            path = write_result("longterm_scale_quick" if options.quick else "longterm_scale", body)
    show(sizes)
    out.print(f"{everybody}\n{verdict(sizes, everybody)}\n{path}")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.longterm_scale", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="small stores, few questions: does everything run?")
    parser.add_argument("--sizes", type=int, nargs="+", help=f"memories; {' '.join(map(str, SIZES))}")
    parser.add_argument("--questions", type=int)
    parser.add_argument("--peer-seconds", type=float, help=f"for each of the others, 0: none ({PEER_SECONDS:.0f})")
    parser.add_argument("--stores", type=Path, metavar="FOLDER", help="keep loaded stores there, to use them again")
    options = parser.parse_args(arguments)
    options.sizes = options.sizes or (QUICK_SIZES if options.quick else SIZES)
    options.questions = options.questions or (QUICK_QUESTIONS if options.quick else QUESTIONS)
    if options.peer_seconds is None:
        options.peer_seconds = 5.0 if options.quick else PEER_SECONDS
    return options


if __name__ == "__main__":
    main()

"""How many appends a second are durable, and does indexing keep up with the bare embedder?

One event a request, eight clients at once on kept connections, round by round in turn:

- `bare`: a FastAPI handler that inserts a row into SQLite (aiosqlite, WAL, synchronous=FULL, one commit a request);
- `stratamem`: the service as it comes, indexing beside the appends;
- `log_only`: the service with a Redis broker that nobody listens to, so that only the log is paid for.

Then: from the first bulk append until nothing is left to index, against `embed` alone on the same segments.

    python -m benchmarks.append_throughput --quick
    python -m benchmarks.append_throughput --only ingest
"""

import argparse
import contextlib
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
from rich.table import Table

from benchmarks.append_parts import part
from benchmarks.loader import distinct_events
from benchmarks.machine import SEED, out, write_result
from benchmarks.service import Event, Service, cpu_seconds, free_port, own_queue, percentiles, running
from benchmarks.sets import Scorers

TARGET_SHARE = 0.5
"""Appends a second with indexing ÷ those of the bare handler."""
TARGET_INGEST = 0.9
"""Segments a second from append to indexed ÷ those of the bare embedder."""
CLIENTS = 8
CLIENT_PROCESSES = 2
SESSIONS = 10
"""Of the ingest; each client of the first part appends to one of its own."""


@dataclass(frozen=True, slots=True)
class Plan:
    """rounds: of each system. seconds: measured in each, after `warm_up`. turns: of one ingest."""

    rounds: int
    seconds: float
    warm_up: float
    turns: int
    ingest_rounds: int


FULL = Plan(rounds=3, seconds=8, warm_up=2, turns=4_800, ingest_rounds=2)
QUICK = Plan(rounds=1, seconds=4, warm_up=2, turns=200, ingest_rounds=1)


@dataclass(frozen=True, slots=True)
class Server:
    port: int
    pid: int


@dataclass(frozen=True, slots=True)
class Round:
    """Requests a second, milliseconds of each, answers other than 201, the server's CPU per request, warm-up included.

    Of `stratamem` that is the indexing beside the appends, too.
    """

    rate: float
    milliseconds: list[float]
    refused: int
    cpu_ms: float


def measure_appends(plan: Plan, events: Sequence[Event], redis: str | None) -> dict[str, Any]:
    rounds: dict[str, list[Round]] = {"bare": [], "stratamem": []}
    if redis is not None:
        rounds["log_only"] = []
    order = list(rounds)
    for number in range(plan.rounds):
        for name in order if number % 2 == 0 else order[::-1]:
            with _system(name, redis) as server:
                rounds[name].append(_stream(server, plan, events))
            out.print(f"  round {number + 1}/{plan.rounds} {name}: {rounds[name][-1].rate:.0f}/s")
    return _figures(rounds)


@contextmanager
def _system(name: str, redis: str | None) -> Iterator[Server]:
    """Each round starts with an empty store, so no backlog of one round is paid for by the next."""
    if name == "bare":
        with tempfile.TemporaryDirectory(prefix="stratamem-bench-") as folder, _bare_server(Path(folder)) as bare:
            yield bare
    elif name == "log_only":
        assert redis is not None
        with own_queue(redis) as queue, running(settings=queue) as service:
            yield Server(_port(service), service.process.pid)
    else:
        with running() as service:
            yield Server(_port(service), service.process.pid)


@contextmanager
def _bare_server(folder: Path) -> Iterator[Server]:
    port = free_port()
    with part("serve", str(folder / "bare.db"), str(port)) as process:
        address = f"http://127.0.0.1:{port}/health"
        for _ in range(600):
            with contextlib.suppress(httpx.TransportError):
                httpx.get(address)
                break
            time.sleep(0.05)
        else:
            raise RuntimeError("the bare server did not start")
        yield Server(port, process.pid)


def _stream(server: Server, plan: Plan, events: Sequence[Event]) -> Round:
    """Closed loop: each client sends its next event when the last one is answered."""
    with tempfile.TemporaryDirectory(prefix="stratamem-bench-") as name, contextlib.ExitStack() as stack:
        bodies = Path(name) / "bodies.json"
        shuffled = random.Random(SEED).sample(list(events), len(events))
        bodies.write_text(json.dumps([json.dumps({"events": [event]}) for event in shuffled]), "utf-8")
        about = {"clients": CLIENTS, "connections": CLIENTS // CLIENT_PROCESSES}
        job = {"port": server.port, "bodies": str(bodies)} | about | asdict(plan)
        jobs = [job | {"number": n, "answers": f"{name}/{n}.json"} for n in range(CLIENT_PROCESSES)]
        clients = [stack.enter_context(part("client", json.dumps(one))) for one in jobs]
        for client in clients:
            assert client.stdout is not None
            client.stdout.readline()  # it has read its job
        cpu = cpu_seconds(server.pid)
        for client in clients:
            assert client.stdin is not None
            client.stdin.write("go\n")
            client.stdin.flush()
        for client in clients:
            client.wait(timeout=plan.seconds + 60)
        answers = [json.loads((Path(name) / f"{number}.json").read_bytes()) for number in range(CLIENT_PROCESSES)]
        cpu = cpu_seconds(server.pid) - cpu
    return Round(
        sum(len(answer["ms"]) for answer in answers) / plan.seconds,
        [ms for answer in answers for ms in answer["ms"]],
        sum(answer["refused"] for answer in answers),
        1_000 * cpu / max(1, sum(answer["all"] for answer in answers)),
    )


def _figures(rounds: dict[str, list[Round]]) -> dict[str, Any]:
    body: dict[str, Any] = {
        name: {
            "appends_per_second": [round(one.rate, 1) for one in found],
            "median": round(statistics.median(one.rate for one in found), 1),
            "ms": percentiles([ms for one in found for ms in one.milliseconds], (50, 95)),
            "refused": sum(one.refused for one in found),
            "server_cpu_ms_per_append": round(statistics.median(one.cpu_ms for one in found), 3),
        }
        for name, found in rounds.items()
    }
    for name in rounds.keys() - {"bare"}:
        shares = [ours.rate / bare.rate for ours, bare in zip(rounds[name], rounds["bare"], strict=True)]
        body[name]["share_of_bare"] = [round(share, 3) for share in shares]
        body[name]["share_of_bare_median"] = round(statistics.median(shares), 3)
    return body


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds by the clock, and of all cores."""

    seconds: float
    cpu: float


def measure_ingest(plan: Plan, events: Sequence[Event]) -> dict[str, Any]:
    """The service first in even rounds, the bare embedder first in odd ones."""
    texts = [event["content"] for event in events]
    ours: list[Spent] = []
    bare: list[Spent] = []
    for number in range(plan.ingest_rounds):
        steps: list[Callable[[], None]] = [lambda: ours.append(_ingest(events)), lambda: bare.append(_embed(texts))]
        for step in steps if number % 2 == 0 else steps[::-1]:
            step()
        seconds = f"indexed in {ours[-1].seconds:.1f} s, embedded in {bare[-1].seconds:.1f} s"
        out.print(f"  round {number + 1}/{plan.ingest_rounds}: {seconds}")
    segments = len(texts)  # each turn is one: see _single
    shares = [alone.seconds / whole.seconds for alone, whole in zip(bare, ours, strict=True)]
    return {
        "segments": segments,
        "stratamem": _spent(ours, segments),
        "bare_embedder": _spent(bare, segments),
        "share_of_bare": [round(share, 3) for share in shares],
        "share_of_bare_median": round(statistics.median(shares), 3),
    }


def _spent(rounds: Sequence[Spent], segments: int) -> dict[str, Any]:
    return {
        "seconds": [round(one.seconds, 2) for one in rounds],
        "cpu_seconds": [round(one.cpu, 2) for one in rounds],
        "segments_per_second": round(segments / statistics.median(one.seconds for one in rounds), 1),
    }


def _ingest(events: Sequence[Event]) -> Spent:
    """From the first append until nothing is queued or running."""
    with running() as service:
        service.append("warm-up", [{"role": "user", "content": f"warm-up {number}"} for number in range(16)])
        service.wait_until_indexed()
        started, cpu = time.perf_counter(), cpu_seconds(service.process.pid)
        for place in range(SESSIONS):
            service.append(f"session-{place}", events[place::SESSIONS])
        service.wait_until_indexed()
        spent = Spent(time.perf_counter() - started, cpu_seconds(service.process.pid) - cpu)
        tiers = {tier["tier"]: tier for tier in service.get("/v1/admin/tiers")["items"]}
    if tiers["longterm"]["pending"] or any(tier["problems"] for tier in tiers.values()):
        raise RuntimeError(f"not everything was indexed: {tiers}")
    return spent


def _embed(texts: Sequence[str]) -> Spent:
    """What `embed` takes for the same texts, model loaded and warm, in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="stratamem-bench-") as name:
        file = Path(name) / "texts.json"
        file.write_text(json.dumps(texts), "utf-8")
        with part("embed", str(file)) as process:
            return Spent(*json.loads(process.communicate(timeout=3_600)[0]))


def _port(service: Service) -> int:
    port = service.client.base_url.port
    assert port is not None
    return port


def _single(events: Sequence[Event], wanted: int) -> list[Event]:
    """Turns of one segment each, drawn with the seed."""
    short = [event for event in events if len(event["content"]) < 800]
    return random.Random(SEED).sample(short, min(wanted, len(short)))


def _reachable(redis: str) -> str | None:
    """None, with a word to the reader, when it does not answer."""
    from redis import Redis
    from redis.exceptions import RedisError

    try:
        with contextlib.closing(Redis.from_url(redis, socket_connect_timeout=2)) as client:
            client.ping()
            return redis
    except RedisError as error:
        out.print(f"[yellow]log_only is left out: Redis does not answer ({error})[/]")
        return None


def show(body: dict[str, Any]) -> None:
    if "appends" in body:
        title = "appends of one event, eight clients"
        table = Table(
            "system", "a second", "of bare", "p50 ms", "p95 ms", "cpu ms", "refused", title=title, title_justify="left"
        )
        for name, figures in body["appends"].items():
            share = figures.get("share_of_bare_median")
            ms = figures["ms"]
            cells = (
                f"{figures['median']:.0f}",
                "" if share is None else f"{share:.2f}",
                f"{ms['p50']}",
                f"{ms['p95']}",
            )
            table.add_row(name, *cells, f"{figures['server_cpu_ms_per_append']:.2f}", str(figures["refused"]))
        out.print(table)
    if "ingest" in body:
        ingest = body["ingest"]
        headings = ("system", "segments a second", "seconds", "cpu seconds")
        table = Table(*headings, title="append to fully indexed", title_justify="left")
        for name in ("stratamem", "bare_embedder"):
            spent = ingest[name]
            by_round = [" ".join(map(str, spent[kind])) for kind in ("seconds", "cpu_seconds")]
            table.add_row(name, f"{spent['segments_per_second']:.1f}", *by_round)
        out.print(table, f"share of the bare embedder: {ingest['share_of_bare_median']:.3f}")
    out.print(body["targets"])


def verdict(body: dict[str, Any]) -> dict[str, Any]:
    found = {}
    if "appends" in body:
        found["appends_share_of_bare"] = (body["appends"]["stratamem"]["share_of_bare_median"], TARGET_SHARE)
    if "ingest" in body:
        found["ingest_share_of_bare_embedder"] = (body["ingest"]["share_of_bare_median"], TARGET_INGEST)
    return {name: {"found": f, "target": t, "met": f >= t} for name, (f, t) in found.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that what was started is ended
    plan = QUICK if options.quick else FULL
    events = distinct_events(Scorers.found())
    body: dict[str, Any] = {"plan": asdict(plan), "load_before": os.getloadavg()[0]}
    if options.only in (None, "appends"):
        body["appends"] = measure_appends(plan, events, _reachable(options.redis))
    if options.only in (None, "ingest"):
        body["ingest"] = measure_ingest(plan, _single(events, plan.turns))
    body["targets"] = verdict(body)
    name = "append_throughput" + (f"_{options.only}" if options.only else "") + ("_quick" if options.quick else "")
    path = write_result(name, body)
    show(body)
    out.print(str(path))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.append_throughput", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="one short round of each: does everything run?")
    parser.add_argument("--only", choices=("appends", "ingest"))
    parser.add_argument("--redis", default="redis://127.0.0.1:6379/13", help="for log_only (default: %(default)s)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()

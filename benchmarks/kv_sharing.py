"""What do five agents of one session, and 32 forks of it, cost beside the session alone?

A random Llama of about 20M parameters behind a real `stratamem serve` (figures of tokens and bytes need no sense). A
session fills the prompt with about 16K tokens of the model. Five agents ask it in turn, each its own question: the
tokens of prompts that were computed, over those of the first agent alone. Then 32 forks: the time of each over HTTP;
all are asked the same, without keeping the turn: bytes of KV afterwards, over those before. Beside it the same forks in
the service alone, without HTTP, on a session that is indexed, with the rows counted before and after.

    python -m benchmarks.kv_sharing --quick
    python -m benchmarks.kv_sharing --postgres     the forks in the service also on PostgreSQL
"""

import argparse
import asyncio
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from rich.table import Table

from benchmarks.kv_reuse import write_model
from benchmarks.machine import SEED, out, write_result
from benchmarks.service import Connection, Service, own_database, percentiles, running
from memory.bootstrap import Container, build
from memory.domain.events import NewEvent, Role
from memory.domain.operations import UNFINISHED
from memory.domain.principals import Principal
from memory.settings import Settings
from memory.testing import WordHashEmbedder, WordTokenizer

TOKENS = 16_384
QUICK_TOKENS = 2_048
AGENTS = 5
FORKS = 32
QUICK_FORKS = 4
TARGET_COMPUTED = 1.05
TARGET_BYTES = 1.05
TARGET_FORK_MS = 10.0
MODEL: dict[str, Any] = {
    "hidden_size": 512,
    "intermediate_size": 1_408,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 65_536,
}
SMALL = MODEL | {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2}
_SESSION = "shared"
_SENTENCE = "Remark {n}: the {n}th delivery went to gate {gate} and was signed for by driver {driver}. "
_EVENT_BYTES = 480
_PATIENCE = 1_800.0
"""Seconds for an answer: 16K tokens are computed in a minute or two on two cores, far longer beside other work."""
_ME = Principal("default")


@dataclass(frozen=True, slots=True)
class KV:
    """What the model runtime has counted: tokens of prompts computed since its start, bytes of KV now, by tier."""

    computed: int
    bytes: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.bytes.values())


@dataclass(frozen=True, slots=True)
class _Models:
    embedder: WordHashEmbedder
    tokenizer: WordTokenizer


def contents(size: int) -> list[str]:
    """Texts that add up to `size` bytes (tokens of the model, which reads bytes)."""
    texts, number = [], 0
    while size > 0:
        text = ""
        while len(text) < min(size, _EVENT_BYTES):
            text += _SENTENCE.format(n=number, gate=number % 17, driver=number % 23)
            number += 1
        texts.append(text[:size].strip())
        size -= len(text)
    return texts


def over_http(model: Path, tokens: int, forks: int) -> dict[str, Any]:
    settings = {"STRATAMEM_MODEL": str(model)}
    with running(settings=settings) as service, closing(Connection(service)) as client:
        said = contents(tokens)
        service.append(_SESSION, [{"role": "user", "content": text, "agent_id": "scribe"} for text in said])
        service.wait_until_indexed()
        agents = [_asked(service, f"agent-{number}", _SESSION, number) for number in range(AGENTS)]
        before = _settled(service)
        times = [_fork_ms(client, f"fork-{number}") for number in range(forks)]
        made = _settled(service)
        turns = [_asked(service, "agent-0", f"fork-{number}", 99, store=False) for number in range(forks)]
        after = _settled(service)
    alone, computed = agents[0]["computed"], sum(agent["computed"] for agent in agents)
    return {
        "session_tokens": agents[0]["prompt"],
        "agents": agents,
        "computed_ratio": round(computed / alone, 4),
        "fork_ms": percentiles(times, (50,)) | {"max": round(max(times), 2)},
        "forks": {
            "prompt_tokens": turns[0]["prompt"],
            "computed_tokens": sum(turn["computed"] for turn in turns),
            "kv_bytes_before": before.bytes,
            "kv_bytes_forked": made.bytes,
            "kv_bytes_asked": after.bytes,
            "bytes_ratio": round(after.total / before.total, 4),
        },
    }


def _asked(service: Service, agent: str, session_id: str, number: int, *, store: bool = True) -> dict[str, int]:
    """Tokens of the prompt, and those of them that were computed, as the runtime counts them."""
    before = _kv(service).computed
    body = {
        "model": service.get("/v1/models")["data"][0]["id"],
        "messages": [{"role": "user", "content": f"What does remark {number} say about gate {number % 17}?"}],
        "memory_key": session_id,
        "agent_id": agent,
        "memory": {"store": store, "top_k": 0},
        "max_tokens": 8,
        "temperature": 0,
        "seed": SEED,
    }
    answer = service.client.post("/v1/chat/completions", json=body, timeout=_PATIENCE)
    usage = answer.raise_for_status().json()["usage"]
    return {"prompt": usage["prompt_tokens"], "computed": _kv(service).computed - before}


def _fork_ms(client: Connection, name: str) -> float:
    begun = time.perf_counter()
    status, body = client.post(f"/v1/sessions/{_SESSION}/fork", {"session_id": name})
    seconds = time.perf_counter() - begun
    if status != 201:
        raise RuntimeError(f"no fork: {status} {body}")
    return seconds * 1e3


def _settled(service: Service) -> KV:
    """Once what was computed lies in every tier that takes it."""
    while True:
        before = _kv(service)
        time.sleep(1.0)
        if (after := _kv(service)) == before:
            return after


def _kv(service: Service) -> KV:
    found: dict[str, int] = {}
    computed = 0
    for family in text_string_to_metric_families(service.client.get("/metrics").text):
        for sample in family.samples:
            if sample.name == "stratamem_kv_bytes":
                found[sample.labels["tier"]] = int(sample.value)
            elif sample.name == "stratamem_computed_tokens_total":
                computed = int(sample.value)
    return KV(computed, found)


async def in_service(tokens: int, forks: int, database_url: str | None) -> dict[str, Any]:
    """Milliseconds of a fork without HTTP, on a session that is embedded and clustered; no row but the forks' own."""
    with tempfile.TemporaryDirectory(prefix="stratamem-bench-") as folder:
        settings = Settings(_env_file=None, data_dir=Path(folder), database_url=database_url)
        async with build(settings, models=_Models(WordHashEmbedder(384), WordTokenizer())) as container:
            words = (" ".join(contents(tokens * 8)).split() * 2)[:tokens]
            texts = [" ".join(words[at : at + 100]) for at in range(0, len(words), 100)]
            await container.events.append(_ME, _SESSION, [NewEvent(Role.USER, text) for text in texts])
            await _indexed(container)
            before = await _rows(container)
            times = []
            for number in range(forks):
                begun = time.perf_counter()
                view = await container.sessions.fork(_ME, _SESSION, f"fork-{number}", None)
                times.append((time.perf_counter() - begun) * 1e3)
            after = await _rows(container)
    if after != before | {"sessions": before["sessions"] + forks}:
        raise RuntimeError(f"a fork copied rows: {before} became {after}")
    found = percentiles(times, (50,)) | {"max": round(max(times), 2)}
    return {"session_tokens": view.session.token_count, "fork_ms": found, "rows": after}


async def _indexed(container: Container) -> None:
    steps = container.consolidation
    while open_ := await container.operations.page(_ME, states=UNFINISHED, after_id=None, limit=100):
        for operation in open_:
            for step in (steps.consolidate, steps.embed, steps.evict):
                await step(operation.operation_id)


async def _rows(container: Container) -> dict[str, int]:
    async with container.storage.read() as tx:
        counts = await tx.sessions.totals(_ME.tenant_id) | await tx.segments.counts(_ME.tenant_id)
        return counts | {"clusters": await tx.clusters.count(_ME.tenant_id)}


def verdict(http: dict[str, Any], services: dict[str, Any]) -> dict[str, Any]:
    found = {
        "five_agents_computed": (http["computed_ratio"], TARGET_COMPUTED),
        "forks_bytes": (http["forks"]["bytes_ratio"], TARGET_BYTES),
        "fork_ms_http_median": (http["fork_ms"]["p50"], TARGET_FORK_MS),
        "fork_ms_http_max": (http["fork_ms"]["max"], TARGET_FORK_MS),
    }
    for name, one in services.items():
        found[f"fork_ms_{name}_median"] = (one["fork_ms"]["p50"], TARGET_FORK_MS)
        found[f"fork_ms_{name}_max"] = (one["fork_ms"]["max"], TARGET_FORK_MS)
    return {name: {"found": value, "target": most, "met": value <= most} for name, (value, most) in found.items()}


def show(body: dict[str, Any]) -> None:
    http = body["http"]
    table = Table("agent", "prompt", "computed", title="five agents, one session", title_justify="left")
    for number, agent in enumerate(http["agents"], 1):
        table.add_row(str(number), f"{agent['prompt']:,}", f"{agent['computed']:,}")
    out.print(table, body["targets"])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kv_sharing", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="a small model and a short session: does everything run?")
    server = "postgresql://root@127.0.0.1:5432/postgres"
    parser.add_argument("--postgres", nargs="?", const=server, help=f"the server's URL ({server})")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that the service ends as well
    tokens, forks = (QUICK_TOKENS, QUICK_FORKS) if options.quick else (TOKENS, FORKS)
    sizes = SMALL if options.quick else MODEL
    body: dict[str, Any] = {"load_before": os.getloadavg()[0], "model": sizes, "forks": forks}
    services = {"sqlite": asyncio.run(in_service(tokens, forks, None))}
    if options.postgres:
        with own_database(options.postgres) as url:
            services["postgresql"] = asyncio.run(in_service(tokens, forks, url))
    with tempfile.TemporaryDirectory(prefix="stratamem-bench-") as folder:
        http = over_http(write_model(Path(folder), sizes), tokens, forks)
    body |= {"http": http, "in_service": services, "targets": verdict(http, services)}
    path = write_result("kv_sharing" + ("_quick" if options.quick else ""), body)
    show(body)
    out.print(str(path))


if __name__ == "__main__":
    main()

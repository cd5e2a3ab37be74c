"""Does anybody ever get what is not his, and does he always get as much as he asked for?

50 tenants with 20 sessions each, in which five agents say nearly the same in the same words; a third of the sessions is
closed to two of the agents, some events and memories are private. Then random questions of random callers: recalls over
one session and over everything, contexts, lists, and answers of a model whose KV is kept. Every text that comes back
says whose it is, and is compared with a plain model of who may see what; so is how many came.

    python -m benchmarks.isolation --quick
"""

import argparse
import asyncio
import http.client
import json
import os
import random
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.progress import Progress

from benchmarks.machine import SEED, out, write_result
from benchmarks.service import running
from memory.adapters.clock import SystemClock
from memory.adapters.sql.settings import DatabaseSettings
from memory.adapters.sql.storage import SqlStorage
from memory.domain.principals import ALL_SCOPES
from memory.services.keys import Keys

AGENTS = ("ann", "bob", "cyd", "dan", "eve")
TENANTS, SESSIONS, QUESTIONS = 50, 20, 100_000
QUICK_TENANTS, QUICK_SESSIONS, QUICK_QUESTIONS = 4, 6, 600
_CLIENTS = 4
_CHAT_EVERY = 100
_WORDS = "the red key of the garden gate lies under the blue pot beside the old oak near the well".split()
_MARK = re.compile(r"mark-(\d+)-(\d+)-(\w+)-(\w+)-(\d+)")
_MODEL = "stratamem-fixture-handwired-recall"


@dataclass(frozen=True, slots=True)
class Said:
    """`private`: only its agent sees it. `memory`: written down, not said."""

    tenant: int
    session: int
    agent: str
    private: bool
    number: int
    memory: bool = False

    @property
    def mark(self) -> str:
        kind = ("private" if self.private else "shared") + ("memory" if self.memory else "event")
        return f"mark-{self.tenant}-{self.session}-{self.agent}-{kind}-{self.number}"


@dataclass(slots=True)
class World:
    """`closed`: (tenant, session) with the agents that it lists."""

    tenants: int
    sessions: int
    said: dict[tuple[int, int], list[Said]] = field(default_factory=dict)
    closed: dict[tuple[int, int], tuple[str, ...]] = field(default_factory=dict)

    def may_read(self, tenant: int, session: int, agent: str) -> bool:
        return agent in self.closed.get((tenant, session), AGENTS)

    def visible(self, tenant: int, agent: str, session: int | None) -> set[str]:
        wanted = range(self.sessions) if session is None else (session,)
        return {
            one.mark
            for each in wanted
            if self.may_read(tenant, each, agent)
            for one in self.said[tenant, each]
            if not one.private or one.agent == agent
        }


@dataclass(slots=True)
class Found:
    asked: Counter[str] = field(default_factory=Counter)
    leaks: list[str] = field(default_factory=list)
    short: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


class Caller:
    """One kept connection of a tenant's key, acting as an agent."""

    def __init__(self, port: int, tokens: Sequence[str]) -> None:
        self._http = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        self._tokens = tokens

    def ask(self, tenant: int, agent: str, method: str, path: str, body: Any = None) -> tuple[int, str]:
        headers = {"Authorization": f"Bearer {self._tokens[tenant]}", "X-Agent-Id": agent}
        sent = None if body is None else json.dumps(body).encode()
        self._http.request(method, path, sent, headers | {"Content-Type": "application/json"})
        answer = self._http.getresponse()
        return answer.status, answer.read().decode()

    def close(self) -> None:
        self._http.close()


def invented(tenants: int, sessions: int) -> World:
    drawn, made = random.Random(SEED), World(tenants, sessions)
    for tenant in range(tenants):
        for session in range(sessions):
            said = [Said(tenant, session, agent, number % 2 == 1, number) for number in range(2) for agent in AGENTS]
            said += [Said(tenant, session, agent, False, 2, memory=True) for agent in AGENTS[:2]]
            made.said[tenant, session] = said
            if drawn.random() < 1 / 3:
                made.closed[tenant, session] = tuple(drawn.sample(AGENTS, 3))
    return made


def tell(world: World, caller: Caller) -> None:
    """Everybody says it while the session is open; then it is closed to some."""
    drawn = random.Random(SEED)
    for (tenant, session), said in world.said.items():
        name = f"s{session}"
        events = [_event(one, drawn) for one in said if not one.memory]
        _made(caller.ask(tenant, AGENTS[0], "POST", f"/v1/sessions/{name}/events", {"events": events}))
        memories = [_memory(one, name, drawn) for one in said if one.memory]
        _made(caller.ask(tenant, AGENTS[0], "POST", "/v1/memories", {"memories": memories}))
        for agent in world.closed.get((tenant, session), ()):
            body = {"role": "writer"}
            _made(caller.ask(tenant, AGENTS[0], "PUT", f"/v1/sessions/{name}/agents/{agent}", body))


def _event(one: Said, drawn: random.Random) -> dict[str, Any]:
    visibility = "private" if one.private else "session"
    return {"role": "user", "agent_id": one.agent, "visibility": visibility, "content": _text(one, drawn)}


def _memory(one: Said, session: str, drawn: random.Random) -> dict[str, Any]:
    of = {"kind": "fact", "visibility": "session", "session_id": session, "agent_id": one.agent}
    return of | {"text": _text(one, drawn)}


def _text(one: Said, drawn: random.Random) -> str:
    return f"{' '.join(drawn.sample(_WORDS, 12))} {one.mark}"


def _made(answer: tuple[int, str]) -> None:
    if answer[0] not in (200, 201):
        raise RuntimeError(f"the world can't be made: {answer}")


def question(world: World, caller: Caller, drawn: random.Random, number: int, found: Found) -> None:
    """One of them, and what is wrong with its answer."""
    tenant, agent = drawn.randrange(world.tenants), drawn.choice(AGENTS)
    session = None if drawn.random() < 0.5 else drawn.randrange(world.sessions)
    kind = "chat" if number % _CHAT_EVERY == 0 else drawn.choice(("recall", "recall", "recall", "context", "list"))
    if kind != "recall" and session is None:
        session = drawn.randrange(world.sessions)
    method, path, body = _REQUESTS[kind](session, drawn)
    status, answer = caller.ask(tenant, agent, method, path, body)
    found.asked[kind] += 1
    where = f"{kind} of {agent}, tenant {tenant}, session {session}: {status}"
    visible = world.visible(tenant, agent, session)
    marks = {match.group() for match in _MARK.finditer(answer)}
    if not marks <= visible:
        found.leaks.append(f"{where}: {sorted(marks - visible)[:3]}")
    if session is not None and not world.may_read(tenant, session, agent):
        if status != 403:
            found.failed.append(f"{where}, not 403")
    elif status != 200:
        found.failed.append(f"{where}: {answer[:200]}")
    elif kind == "recall" and (got := len(json.loads(answer)["results"])) != min(body["top_k"], len(visible)):
        found.short.append(f"{where}: {got} of {min(body['top_k'], len(visible))}")


def _recall(session: int | None, drawn: random.Random) -> tuple[str, str, Any]:
    sessions = {} if session is None else {"session_ids": [f"s{session}"]}
    query = " ".join(drawn.sample(_WORDS, drawn.randint(1, 5)))
    return "POST", "/v1/recall", {"query": query, "top_k": drawn.choice((1, 5, 10, 50)), **sessions}


def _context(session: int | None, drawn: random.Random) -> tuple[str, str, Any]:
    return "POST", f"/v1/sessions/s{session}/context", {"query": drawn.choice(_WORDS), "max_tokens": 1_000}


def _list(session: int | None, drawn: random.Random) -> tuple[str, str, Any]:
    path = f"/v1/sessions/s{session}/events" if drawn.random() < 0.5 else f"/v1/memories?session_id=s{session}"
    return "GET", path, None


def _chat(session: int | None, drawn: random.Random) -> tuple[str, str, Any]:
    message = {"role": "user", "content": drawn.choice(_WORDS)}
    memory = {"store": False, "top_k": 5}
    body = {"model": _MODEL, "messages": [message], "memory_key": f"s{session}", "memory": memory, "max_tokens": 8}
    return "POST", "/v1/chat/completions", body


_REQUESTS: dict[str, Callable[[int | None, random.Random], tuple[str, str, Any]]] = {
    "recall": _recall,
    "context": _context,
    "list": _list,
    "chat": _chat,
}


def ask_all(world: World, port: int, tokens: Sequence[str], questions: int) -> Found:
    found = Found()
    with Progress(console=out, transient=True) as told:
        task = told.add_task("ask", total=questions)

        def work(client: int) -> None:
            drawn = random.Random(f"{SEED} {client}")
            with closing(Caller(port, tokens)) as caller:
                for number in range(client, questions, _CLIENTS):
                    question(world, caller, drawn, number, found)
                    told.advance(task)

        with ThreadPoolExecutor(_CLIENTS) as pool:
            list(pool.map(work, range(_CLIENTS)))
    return found


@contextmanager
def keyed(folder: Path, tenants: int) -> Iterator[list[str]]:
    """A data folder with a key for each tenant."""

    async def make() -> list[str]:
        data = folder / "data"
        data.mkdir()
        storage, clock = SqlStorage(f"sqlite:///{data / 'stratamem.db'}", DatabaseSettings()), SystemClock()
        try:
            await storage.migrate()
            keys = Keys(storage, clock)
            return [(await keys.create(f"tenant-{number}", ALL_SCOPES)).token for number in range(tenants)]
        finally:
            await storage.close()

    yield asyncio.run(make())


def measure(tenants: int, sessions: int, questions: int) -> dict[str, Any]:
    world = invented(tenants, sessions)
    settings = {"STRATAMEM_AUTH": "required", "STRATAMEM_MODEL": "fixture"}
    with tempfile.TemporaryDirectory(prefix="stratamem-bench-") as name:
        folder = Path(name)
        with keyed(folder, tenants) as tokens, running(folder=folder, settings=settings) as service:
            port = service.client.base_url.port
            assert port is not None
            with closing(Caller(port, tokens)) as caller:
                tell(world, caller)
            started = time.perf_counter()
            found = ask_all(world, port, tokens, questions)
            seconds = time.perf_counter() - started
    return {
        "tenants": tenants,
        "sessions": tenants * sessions,
        "closed": len(world.closed),
        "items": sum(map(len, world.said.values())),
        "asked": dict(found.asked),
        "seconds": round(seconds, 1),
        "leaks": len(found.leaks),
        "short": len(found.short),
        "failed": len(found.failed),
        "examples": (found.leaks + found.short + found.failed)[:20],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that what was started is ended
    sizes = (QUICK_TENANTS, QUICK_SESSIONS) if options.quick else (TENANTS, SESSIONS)
    questions = options.questions or (QUICK_QUESTIONS if options.quick else QUESTIONS)
    body: dict[str, Any] = {"load_before": os.getloadavg()[0], **measure(*sizes, questions)}
    names = ("leaks", "short", "failed")
    body["targets"] = {name: {"found": body[name], "target": 0, "met": body[name] == 0} for name in names}
    path = write_result("isolation_quick" if options.quick else "isolation", body)
    out.print(f"{ {name: value for name, value in body.items() if name != 'targets'} }\n{body['targets']}\n{path}")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.isolation", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="a small world, few questions: does everything run?")
    parser.add_argument("--questions", type=int)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()

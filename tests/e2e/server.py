"""The real thing in a process of its own: started, asked over HTTP, stopped, killed."""

import contextlib
import fcntl
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import httpx

from model_runtime.embedders import int8
from model_runtime.embedders.folder import DEFAULT, find
from tests.e2e.forked import Forked

T = TypeVar("T")

COMMAND = Path(sys.executable).with_name("stratamem")
MODELS = Path(__file__).parents[2] / ".pytest_cache" / "models"
_START = 120.0
_STOP = 10.0
"""Seconds: what the design promises between SIGTERM and the end."""


def free_port() -> int:
    """Below the ports that the kernel gives to connections: nobody takes it while its server is down."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@cache
def models() -> Path:
    """MODELS with the embedder's int8 form in it: made once, by one process, not for every data folder."""
    minilm = find(DEFAULT)
    MODELS.mkdir(parents=True, exist_ok=True)
    if int8.pays():
        with (MODELS / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            int8.exported(minilm, minilm.pooling() or "", MODELS)
    return MODELS


def environment(data: Path, settings: Mapping[str, object]) -> dict[str, str]:
    """Nothing of the caller's own settings, one thread for BLAS and torch: two cores are shared by all."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STRATAMEM_")}
    kept.pop("PYTHONDONTWRITEBYTECODE", None)  # compiling our modules again is a tenth of a start
    given = {
        "STRATAMEM_DATA_DIR": data,
        "STRATAMEM_MODELS_DIR": models(),
        "STRATAMEM_LOG_FORMAT": "json",
        **settings,
    }
    return kept | {name: str(value) for name, value in given.items()}


def until(holds: Callable[[], T], seconds: float = 60.0, *, every: float = 0.05, what: str = "") -> T:
    """What `holds` gives once it is true-like; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what or holds}; last: {found!r}"
        time.sleep(every)
    return found


class Process:
    """A `stratamem` process with its log; ended by its own id only."""

    def __init__(self, data: Path, *arguments: str, forked: bool = True, **settings: object) -> None:
        """`forked`: without the imports; else as a user starts it."""
        self.data = data
        self.arguments = arguments
        self.forked = forked
        self.settings: dict[str, object] = {f"STRATAMEM_{name}": value for name, value in settings.items()}
        self.process: Forked | subprocess.Popen[bytes] | None = None
        self.log = data.with_name(data.name + f"-{arguments[0]}.log")

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def spawn(self) -> None:
        assert not self.running
        self.data.mkdir(parents=True, exist_ok=True)
        env, cwd = environment(self.data, self.settings), self.data  # no .env of the checkout
        if self.forked:
            self.process = Forked(self.arguments, env, cwd, self.log)
            return
        with self.log.open("ab") as log:
            command = [COMMAND, *self.arguments]
            self.process = subprocess.Popen(command, env=env, cwd=cwd, stdout=log, stderr=subprocess.STDOUT)

    def stop(self, within: float = _STOP) -> int:
        """SIGTERM; the exit code. Fails when it takes longer."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(within)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"did not stop within {within:g} s\n{self.tail()}") from None

    def kill(self) -> None:
        """SIGKILL: what it had not written is gone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)

    def tail(self, lines: int = 40) -> str:
        with contextlib.suppress(OSError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        return ""


class Server(Process):
    """`stratamem serve` on a free port. `http` is a client of its base URL; settings are those of STRATAMEM_…"""

    def __init__(self, data: Path, *, port: int | None = None, **settings: Any) -> None:
        self.port = port or free_port()
        # The node is fixed: a server that comes back finds its own index folder, whatever its port.
        super().__init__(data, "serve", **{"PORT": self.port, "NODE": "node", **settings})
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=60)

    def start(self) -> "Server":
        self.spawn()
        until(self._ready, _START, what="the server is ready")
        return self

    def client(self, token: str | None = None, agent: str | None = None) -> httpx.Client:
        """One more client, with connections of its own."""
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        if agent is not None:
            headers["X-Agent-Id"] = agent
        return httpx.Client(base_url=self.http.base_url, timeout=60, headers=headers)

    def __enter__(self) -> "Server":
        return self if self.running else self.start()

    def __exit__(self, *_: object) -> None:
        self.http.close()
        self.kill()

    def _ready(self) -> bool:
        assert self.running, f"the server ended with {self.process and self.process.returncode}\n{self.tail()}"
        try:
            return self.http.get("/health/ready").status_code == 200
        except httpx.TransportError:
            return False


class Runtime(Process):
    """`stratamem runtime` with the fixture on a free port; `settings` tell an API how to ask it."""

    KEY = "a-shared-secret-of-the-tests"

    def __init__(self, data: Path, **settings: Any) -> None:
        self.port = free_port()
        given = {"RUNTIME_PORT": self.port, "RUNTIME_KEY": self.KEY, "MODEL": "fixture", "GENERATION__THREADS": 1}
        super().__init__(data, "runtime", **{**given, **settings})
        self.url = f"http://127.0.0.1:{self.port}"
        self.asked_by = {"RUNTIME_URL": self.url, "RUNTIME_KEY": self.KEY}

    def start(self) -> "Runtime":
        self.spawn()
        until(self._ready, _START, what="the runtime is ready")
        return self

    @property
    def blocks(self) -> list[Path]:
        """Files of KV."""
        return list((self.data / "kv").rglob("blocks/**/*.safetensors"))

    def __enter__(self) -> "Runtime":
        return self if self.running else self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()

    def _ready(self) -> bool:
        assert self.running, f"the runtime ended with {self.process and self.process.returncode}\n{self.tail()}"
        try:
            return httpx.get(f"{self.url}/health/ready", timeout=30).status_code == 200
        except httpx.TransportError:
            return False


def keys_create(data: Path, *options: str, **settings: object) -> str:
    """The token that `stratamem keys create --json` prints."""
    command = Process(data, "keys", "create", "--json", *options, **settings)
    command.spawn()
    assert command.process is not None
    assert command.process.wait(60) == 0, command.tail()
    token: str = json.loads(command.tail(1))["token"]
    return token


def said(content: str, role: str = "user", **fields: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **fields}


def ok(answer: httpx.Response, *statuses: int) -> Any:
    assert answer.status_code in (statuses or (200, 201)), f"{answer.request.method} {answer.url}: {answer.text[:500]}"
    return answer.json()


def append(http: httpx.Client, session: str, *events: str | dict[str, Any], **fields: Any) -> Any:
    listed = [said(event) if isinstance(event, str) else event for event in events]
    return ok(http.post(f"/v1/sessions/{session}/events", json={"events": listed, **fields}))


def recall(http: httpx.Client, query: str, **fields: Any) -> list[dict[str, Any]]:
    """The results; a degraded answer fails."""
    answer = ok(http.post("/v1/recall", json={"query": query, **fields}))
    assert answer["degraded"] == [], answer["degraded"]
    found: list[dict[str, Any]] = answer["results"]
    return found


def texts(results: Iterable[dict[str, Any]]) -> list[str]:
    return [result["text"] for result in results]


def context(http: httpx.Client, session: str, max_tokens: int, **fields: Any) -> Any:
    return ok(http.post(f"/v1/sessions/{session}/context", json={"max_tokens": max_tokens, **fields}))


def events_of(http: httpx.Client, session: str) -> list[dict[str, Any]]:
    """The whole log, page by page."""
    found: list[dict[str, Any]] = []
    cursor = None
    while True:
        params = {"limit": 500} | ({"cursor": cursor} if cursor else {})
        page = ok(http.get(f"/v1/sessions/{session}/events", params=params))
        found += page["items"]
        if (cursor := page["next_cursor"]) is None:
            return found


def backlog(http: httpx.Client) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = ok(http.get("/v1/operations", params={"state": "queued,running"}))["items"]
    return items


def indexed(http: httpx.Client, seconds: float = 120.0) -> None:
    """Waits until nothing is queued or running; nothing may have failed."""
    until(lambda: not backlog(http), seconds, what="everything is indexed")
    failed = ok(http.get("/v1/operations", params={"state": "failed"}))["items"]
    assert not failed, failed


def sound(http: httpx.Client) -> dict[str, dict[str, Any]]:
    """Every tier by name, once none of them reports a problem."""
    tiers = ok(http.get("/v1/admin/tiers"))["items"]
    assert not [problem for tier in tiers for problem in tier["problems"]], tiers
    return {tier["tier"]: tier for tier in tiers}


def outcome(results: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """What makes two answers equal: ids in order."""
    return [(r["kind"], r["memory_id"], r["session_id"], tuple(e["event_id"] for e in r["events"])) for r in results]


def same_answers(before: list[dict[str, Any]], after: list[dict[str, Any]], tolerance: float = 1e-3) -> None:
    assert outcome(after) == outcome(before)
    for old, new in zip(before, after, strict=True):
        assert abs(old["score"] - new["score"]) <= tolerance, (old["text"][:60], old["score"], new["score"])

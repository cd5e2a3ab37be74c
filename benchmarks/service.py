"""How is a real service started for a measurement, filled, asked and stopped?

`with running() as service:` starts `stratamem serve` on a free port with a data folder of its own and ends that very
process afterwards. `warm=True` starts the same command with one difference: texts whose vectors are stored from an
earlier run are not embedded again (questions are, so that times stay true).
"""

import argparse
import asyncio
import hashlib
import http.client
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import ROOT
from memory.adapters.models.inprocess import InProcessEmbedder, Models, load_models
from memory.adapters.models.settings import Precision
from memory.ports.models import QUERY_TEXTS

Floats = NDArray[np.float32]
Event = dict[str, Any]

CACHE = ROOT / "benchmarks" / ".cache"
MODELS = CACHE / "models"
"""The int8 form of the embedder, for services and baselines alike."""
_START_SECONDS = 120.0
_STOP_SECONDS = 15.0
_MOST_EVENTS = 500
_MOST_BYTES = 8 << 20
_EMBEDDED_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Service:
    """A running service. Requests raise httpx.HTTPStatusError with the problem's text."""

    process: subprocess.Popen[bytes]
    client: httpx.Client

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return _checked(self.client.post(path, json=body))

    def get(self, path: str, **parameters: Any) -> dict[str, Any]:
        return _checked(self.client.get(path, params=parameters))

    def append(self, session_id: str, events: Sequence[Event]) -> None:
        """In requests of at most 500 events and about 8 MiB."""
        part: list[Event] = []
        size = 0
        for event in events:
            length = len(event["content"].encode())
            if part and (len(part) == _MOST_EVENTS or size + length > _MOST_BYTES):
                self.post(f"/v1/sessions/{session_id}/events", {"events": part})
                part, size = [], 0
            part.append(event)
            size += length
        if part:
            self.post(f"/v1/sessions/{session_id}/events", {"events": part})

    def recall(self, query: str, session_id: str, top_k: int, **more: Any) -> dict[str, Any]:
        return self.post("/v1/recall", {"query": query, "session_ids": [session_id], "top_k": top_k, **more})

    def wait_until_indexed(self, progress: Callable[[int], None] | None = None) -> None:
        """Returns when no operation is queued or running; `progress` is told how many events they have done.

        Raises RuntimeError when an operation failed.
        """
        while open_ := self._operations("queued,running"):
            if progress is not None:
                progress(sum(operation["progress"]["total"] - operation["progress"]["done"] for operation in open_))
            time.sleep(0.25)
        if failed := self._operations("failed"):
            raise RuntimeError(f"indexing failed: {failed[0]['error']}")

    def _operations(self, states: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.get("/v1/operations", state=states, limit=500)["items"]
        return found


class Connection:
    """One kept connection for measuring: httpx takes about a millisecond of the cores that the service needs.

    One thread at a time. Raises OSError or http.client.HTTPException when the service is gone.
    """

    def __init__(self, service: Service) -> None:
        self._http = http.client.HTTPConnection("127.0.0.1", service.client.base_url.port, timeout=120)

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """Status and answer."""
        self._http.request("POST", path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        answer = self._http.getresponse()
        content = answer.read()
        return answer.status, json.loads(content)

    def close(self) -> None:
        self._http.close()


def percentiles(milliseconds: Sequence[float], places: Sequence[int] = (50, 95, 99)) -> dict[str, float]:
    """By name: p50, p95, …; empty when nothing was measured."""
    return {f"p{p}": round(float(np.percentile(milliseconds, p)), 2) for p in places if len(milliseconds)}


def need_servers(parser: argparse.ArgumentParser) -> None:
    """Options of a measurement that needs a PostgreSQL and a Redis."""
    parser.add_argument(
        "--postgres",
        default="postgresql://root@127.0.0.1:5432/postgres",
        metavar="URL",
        help="of a server where databases may be made (default: %(default)s)",
    )
    parser.add_argument("--redis", default="redis://127.0.0.1:6379/13", help="default: %(default)s")


@contextmanager
def own_queue(redis: str) -> Iterator[dict[str, str]]:
    """Settings of a broker with a queue that only who has these settings knows; what is left in it goes at the end."""
    from redis import Redis

    name = f"stratamem-bench-{uuid.uuid4().hex[:12]}"
    try:
        yield {"STRATAMEM_BROKER_URL": redis, "STRATAMEM_JOBS__QUEUE": name}
    finally:
        with closing(Redis.from_url(redis)) as client:
            for key in client.scan_iter(f"{name}*"):
                client.delete(key)


@contextmanager
def own_database(server: str) -> Iterator[str]:
    """A database of its own on the server, dropped at the end. `server`: the URL of any database there."""
    name = f"stratamem_bench_{os.getpid()}_{uuid.uuid4().hex[:8]}"
    asyncio.run(_execute(server, f'CREATE DATABASE "{name}"'))
    try:
        yield f"{server.rsplit('/', 1)[0]}/{name}"
    finally:
        asyncio.run(_execute(server, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'))


async def _execute(url: str, statement: str) -> None:
    import asyncpg  # type: ignore[import-untyped]

    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def cpu_seconds(pid: int) -> float:
    """What a running process has used of all cores so far: steadier than the clock beside others. Linux; else nan."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return float("nan")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def running(
    *, warm: bool = False, settings: dict[str, str] | None = None, folder: Path | None = None
) -> Iterator[Service]:
    """`settings`: more STRATAMEM_… variables. The data folder is deleted at the end.

    `folder` stays, with the data in `folder / "data"`: a service that is started on it again finds them.
    """
    with ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stratamem-bench-")))
        port = free_port()
        log = folder / "service.log"
        process = _start(folder, port, log, warm, settings or {})
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
                _wait_until_ready(process, client, log)
                yield Service(process, client)
        finally:
            _stop(process)


@contextmanager
def working(settings: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """`stratamem worker` for a service with the same broker and database; works when the block begins."""
    with tempfile.TemporaryDirectory(prefix="stratamem-bench-") as name:
        folder = Path(name)
        log = folder / "worker.log"
        process = _spawn(folder, log, [*_stratamem(), "worker"], settings)
        try:
            deadline = time.monotonic() + _START_SECONDS
            while not list((folder / "data").glob("worker-*.alive")):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the worker did not start:\n{log.read_text()[-2_000:]}")
                time.sleep(0.05)
            yield process
        finally:
            _stop(process)


def _start(folder: Path, port: int, log: Path, warm: bool, settings: dict[str, str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "benchmarks.service"] if warm else _stratamem()
    return _spawn(folder, log, [*command, "serve"], {"STRATAMEM_PORT": str(port), **settings})


def _stratamem() -> list[str]:
    script = Path(sys.executable).with_name("stratamem")
    return [str(script)] if script.exists() else [sys.executable, "-c", "from api.cli import app; app()"]


def _spawn(folder: Path, log: Path, command: list[str], settings: dict[str, str]) -> subprocess.Popen[bytes]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("STRATAMEM_")}
    own = {
        "STRATAMEM_DATA_DIR": str(folder / "data"),
        "STRATAMEM_MODELS_DIR": str(MODELS),
        "STRATAMEM_LOG_LEVEL": "WARNING",
        "PYTHONPATH": str(ROOT),
    }
    with log.open("wb") as output:
        return subprocess.Popen(
            command, cwd=folder, env=inherited | own | settings, stdout=output, stderr=subprocess.STDOUT
        )


def _wait_until_ready(process: subprocess.Popen[bytes], client: httpx.Client, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the service ended with {process.returncode}:\n{log.read_text()[-2_000:]}")
        try:
            if client.get("/health/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise RuntimeError(f"the service was not ready after {_START_SECONDS:.0f} s:\n{log.read_text()[-2_000:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Only the process that was started here, by its id."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _checked(answer: httpx.Response) -> dict[str, Any]:
    if answer.is_error:
        message = f"{answer.request.url.path}: {answer.status_code} {answer.text[:500]}"
        raise httpx.HTTPStatusError(message, request=answer.request, response=answer)
    body: dict[str, Any] = answer.json()
    return body


class StoredVectors:
    """Vectors kept between runs, by the hash of their text, as the service stores them (float16).

    Readers beside one writer, in several processes. `folder` is made when absent.
    """

    def __init__(self, space: str, folder: Path = CACHE) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._space = space
        self._file = folder / "vectors.sqlite"
        with closing(self._open()) as db, db:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("CREATE TABLE IF NOT EXISTS vectors (hash BLOB PRIMARY KEY, vector BLOB NOT NULL) WITHOUT ROWID")

    def get(self, texts: Sequence[str]) -> dict[str, Floats]:
        """Those that are known."""
        found = {}
        with closing(self._open()) as db:
            for text in texts:
                row = db.execute("SELECT vector FROM vectors WHERE hash = ?", (self._hash(text),)).fetchone()
                if row is not None:
                    found[text] = np.frombuffer(row[0], "<f2").astype(np.float32)
        return found

    def put(self, texts: Sequence[str], vectors: Floats) -> None:
        rows = [(self._hash(text), v.astype("<f2").tobytes()) for text, v in zip(texts, vectors, strict=True)]
        with closing(self._open()) as db, db:
            db.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?)", rows)

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(self._file, timeout=60)

    def _hash(self, text: str) -> bytes:
        return hashlib.sha256(f"{self._space}\0{text}".encode("utf-8", "surrogatepass")).digest()


def packaged_models() -> Models:
    """The packaged model as the service runs it here."""
    return load_models("minilm", precision=Precision.AUTO, exports=MODELS)


class StoringEmbedder:
    """Embeds each distinct text once, ever."""

    def __init__(self, models: Models) -> None:
        self.models = models
        self._stored = StoredVectors(models.embedder.space)

    def embed(self, texts: Sequence[str], progress: Callable[[int], None] = lambda done: None) -> dict[str, Floats]:
        """By text. What is computed is stored after every 256 texts, so that a stopped run loses little."""
        wanted = list(dict.fromkeys(texts))
        found = self._stored.get(wanted)
        progress(len(found))
        new = sorted((text for text in wanted if text not in found), key=len)
        for start in range(0, len(new), _EMBEDDED_AT_ONCE):
            part = new[start : start + _EMBEDDED_AT_ONCE]
            vectors = asyncio.run(self.models.embedder.embed(part))
            self._stored.put(part, vectors)
            found |= dict(zip(part, vectors.astype(np.float16).astype(np.float32), strict=True))
            progress(len(part))
        return found


class WarmEmbedder:
    """The service's embedder with a look at the stored vectors first; questions go to the model."""

    def __init__(self, embedder: InProcessEmbedder) -> None:
        self._embedder = embedder
        self._stored = StoredVectors(embedder.space)

    @property
    def space(self) -> str:
        return self._embedder.space

    @property
    def dimensions(self) -> int:
        return self._embedder.dimensions

    async def embed(self, texts: Sequence[str]) -> Floats:
        if len(texts) <= QUERY_TEXTS:
            return await self._embedder.embed(texts)
        found = await asyncio.to_thread(self._stored.get, texts)
        new = [text for text in texts if text not in found]
        found |= dict(zip(new, await self._embedder.embed(new), strict=True))
        return np.stack([found[text] for text in texts])

    def close(self) -> None:
        self._embedder.close()


def _serve_warm() -> None:
    """`stratamem serve`, with the warm embedder in the place of the plain one."""
    from api.cli import app
    from memory import bootstrap

    def load(name: str, give_way: Callable[[], None] = lambda: None, **how: Any) -> Models:
        plain = load_models(name, give_way, **how)
        return Models(WarmEmbedder(plain.embedder), plain.tokenizer)  # type: ignore[arg-type]  # the same shape

    bootstrap.embedders.load_models = load  # type: ignore[attr-defined]
    app()


if __name__ == "__main__":
    _serve_warm()

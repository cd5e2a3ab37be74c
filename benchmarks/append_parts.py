"""What beside the service takes part in a measurement of appends, in a process of its own?

`serve`: the bare handler; `client`: some of the clients; `embed`: the bare embedder. append_throughput starts them.

    python -m benchmarks.append_parts KIND A [B]
"""

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from benchmarks.machine import ROOT


@contextmanager
def part(kind: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """One of PARTS in a process of its own, ended by its id."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.append_parts", kind, *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


class _Client(asyncio.Protocol):
    """One kept connection: HTTP/1.1 by hand, since a client library costs more of the two cores than the server."""

    def __init__(self, requests: Iterator[bytes], begin: float, end: float, answers: "_Answers") -> None:
        self._requests = requests
        self._begin, self._end = begin, end
        self._answers = answers
        self._received = b""
        self._sent_at = 0.0
        self._transport: asyncio.Transport | None = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if not separator or len(body) < _content_length(head):
            return
        self._received = b""
        self._answers.all += 1
        now = time.perf_counter()
        if self._begin <= now < self._end:
            self._answers.take(1_000 * (now - self._sent_at), head.startswith(b"HTTP/1.1 201"))
        if now < self._end:
            self.send()
        elif not self.done.done():
            self.done.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(error or ConnectionError("the server closed a kept connection"))

    def send(self) -> None:
        assert self._transport is not None
        request = next(self._requests)
        self._sent_at = time.perf_counter()
        self._transport.write(request)


@dataclass(slots=True)
class _Answers:
    """`all`: with those of the warm-up."""

    milliseconds: list[float]
    refused: int = 0
    all: int = 0

    def take(self, milliseconds: float, accepted: bool) -> None:
        if accepted:
            self.milliseconds.append(milliseconds)
        else:
            self.refused += 1


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    raise RuntimeError("an answer without Content-Length")


async def _run_client(job: dict[str, Any]) -> _Answers:
    """Begins when the parent says so, on stdin."""
    bodies = [body.encode() for body in json.loads(Path(job["bodies"]).read_text("utf-8"))]
    answers = _Answers([])
    loop = asyncio.get_running_loop()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.readline)
    begin = time.perf_counter() + job["warm_up"]
    clients = []
    for place in range(job["connections"]):
        requests = _requests(bodies, job["number"] * job["connections"] + place, job["clients"])
        made = _Client(requests, begin, begin + job["seconds"], answers)
        await loop.create_connection(lambda made=made: made, "127.0.0.1", job["port"])  # type: ignore[misc]
        clients.append(made)
    for client in clients:
        client.send()
    await asyncio.gather(*(client.done for client in clients))
    return answers


def _requests(bodies: Sequence[bytes], client: int, clients: int) -> Iterator[bytes]:
    """For ever; each client begins elsewhere among the texts."""
    head = f"POST /v1/sessions/client-{client}/events HTTP/1.1\r\nHost: 127.0.0.1\r\n".encode()
    head += b"Content-Type: application/json\r\nContent-Length: "
    rendered = [head + str(len(body)).encode() + b"\r\n\r\n" + body for body in bodies]
    place = client * len(bodies) // clients
    while True:
        yield rendered[place % len(rendered)]
        place += 1


def run_client(job: str) -> None:
    """`job`: JSON; the answers go to the file that it names."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        answers = runner.run(_run_client(json.loads(job)))
    body = {"ms": answers.milliseconds, "refused": answers.refused, "all": answers.all}
    Path(json.loads(job)["answers"]).write_text(json.dumps(body), "utf-8")


def serve_bare(database: str, port: str) -> None:
    """The least that keeps an event: validate, insert, commit."""
    import aiosqlite
    import uvicorn
    from fastapi import FastAPI
    from pydantic import BaseModel

    class Said(BaseModel):
        role: str
        content: str

    class Append(BaseModel):
        events: list[Said]

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> Any:
        async with aiosqlite.connect(database) as db:
            await db.execute("PRAGMA journal_mode = WAL")
            await db.execute("PRAGMA synchronous = FULL")
            columns = "seq INTEGER PRIMARY KEY, session_id TEXT, event_id TEXT, role TEXT, content TEXT, at REAL"
            await db.execute(f"CREATE TABLE events ({columns})")
            app.state.db, app.state.turn = db, asyncio.Lock()
            yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {}

    @app.post("/v1/sessions/{session_id}/events", status_code=201)
    async def append(session_id: str, body: Append) -> dict[str, Any]:
        ids, last = [], 0
        async with app.state.turn:  # one connection: without turns a commit would be another request's, too
            for event in body.events:
                ids.append(str(uuid.uuid4()))
                values = (session_id, ids[-1], event.role, event.content, time.time())
                insert = "INSERT INTO events (session_id, event_id, role, content, at) VALUES (?, ?, ?, ?, ?)"
                last = (await app.state.db.execute(insert, values)).lastrowid
            await app.state.db.commit()
        return {"session_id": session_id, "first_seq": last - len(ids) + 1, "last_seq": last, "event_ids": ids}

    uvicorn.run(
        app, host="127.0.0.1", port=int(port), http="httptools", loop="uvloop", access_log=False, log_config=None
    )


def run_embedder(file: str) -> None:
    """Seconds by the clock and of all cores, for the texts in `file`, on stdout."""
    from benchmarks.service import packaged_models

    texts = json.loads(Path(file).read_text("utf-8"))
    embedder = packaged_models().embedder
    with contextlib.closing(embedder):
        asyncio.run(embedder.embed([f"warm-up {number}" for number in range(16)]))
        started, cpu = time.perf_counter(), time.process_time()
        asyncio.run(embedder.embed(texts))
        print(json.dumps([time.perf_counter() - started, time.process_time() - cpu]))


PARTS: dict[str, Callable[..., None]] = {"serve": serve_bare, "client": run_client, "embed": run_embedder}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.append_parts", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("kind", metavar="KIND", choices=list(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("arguments", metavar="A", nargs="+", help="database and port; the job as JSON; a file of texts")
    options = parser.parse_args(arguments)
    PARTS[options.kind](*options.arguments)


if __name__ == "__main__":
    main()

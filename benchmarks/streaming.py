"""Does everybody who follows a session live hear every event once, in order, while processes come and go?

Two API processes over one PostgreSQL. 200 readers follow one session by server-sent events, half at each; 10,000 events
are appended through both. Meanwhile each process is stopped and started again, and one of them is killed. A reader
whose connection ends goes on at whichever process answers, with the `Last-Event-ID` that it heard last. At the end the
log says what everybody should have heard.

    python -m benchmarks.streaming --quick
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
from rich.progress import Progress

from benchmarks.machine import SEED, out, write_result
from benchmarks.service import cpu_seconds, need_servers, own_database, own_queue, percentiles, running

READERS, EVENTS = 200, 10_000
QUICK_READERS, QUICK_EVENTS = 20, 400
SESSION = "followed"
_APPENDERS = 8
_MOST_AT_ONCE = 20
_TIMED = 20
"""Readers whose delays are measured: reading the time of an event costs more than hearing it."""
_PATIENCE = 300.0
_ENDS = ((0, signal.SIGTERM), (1, signal.SIGKILL), (0, signal.SIGTERM))
"""Which process ends how."""


class Api:
    """One API process that can be stopped, killed and started again; its port is another one each time."""

    def __init__(self, folder: Path, settings: dict[str, str]) -> None:
        self._folder, self._settings = folder, settings
        self._stack = ExitStack()
        self.port: int | None = None
        self.pid = 0
        self.cpu = 0.0
        self.start()

    def start(self) -> None:
        service = self._stack.enter_context(running(folder=self._folder, settings=self._settings))
        self.pid, self.port = service.process.pid, service.client.base_url.port

    def stop(self, with_signal: signal.Signals = signal.SIGTERM) -> None:
        self.port = None
        self.cpu += cpu_seconds(self.pid)
        os.kill(self.pid, with_signal)
        self._stack.close()  # waits for its end

    def close(self) -> None:
        self._stack.close()


@dataclass(slots=True)
class Heard:
    """What one reader was told. `wrong`: seqs that were not the next one."""

    last: int = 0
    sums: list[int] = field(default_factory=list)
    wrong: list[tuple[int, int]] = field(default_factory=list)
    connections: int = 0
    delays: list[float] = field(default_factory=list)

    def take(self, seq: int, data: bytes, *, timed: bool) -> None:
        if seq != self.last + 1:
            self.wrong.append((self.last, seq))
        self.last = seq
        event = json.loads(data)
        self.sums.append(zlib.crc32(event["content"].encode()))
        if timed:
            self.delays.append(1_000 * (time.time() - datetime.fromisoformat(event["created_at"]).timestamp()))


async def follow(heard: Heard, apis: Sequence[Api], number: int, wanted: int, *, timed: bool) -> None:
    """Until the last event was heard."""
    for turn in range(10_000):
        if heard.last >= wanted:
            return
        api = apis[(number + turn) % len(apis)]
        if api.port is not None:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, EOFError):
                await _listen(heard, api.port, wanted, timed=timed)
        await asyncio.sleep(0.1)


async def _listen(heard: Heard, port: int, wanted: int, *, timed: bool) -> None:
    """httpx takes longer for a line than the service for an event, so this reads the bytes itself."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        path = f"/v1/sessions/{SESSION}/events/stream"
        writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nLast-Event-ID: {heard.last}\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise EOFError(head)
        heard.connections += 1
        async for block in _blocks(reader):
            fields = dict(line.split(b": ", 1) for line in block.split(b"\n") if b": " in line)
            if b"data" in fields:
                heard.take(int(fields[b"id"]), fields[b"data"], timed=timed)
                if heard.last >= wanted:
                    return
    finally:
        writer.close()


async def _blocks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Events as they end; the parts of a chunked answer need not end with one."""
    rest = b""
    while size := int(await reader.readline() or b"0", 16):
        rest += (await reader.readexactly(size + 2))[:-2]
        *whole, rest = rest.split(b"\n\n")
        for block in whole:
            yield block


async def append(apis: Sequence[Api], events: int, ends: Sequence[str], told: Progress) -> None:
    """Every event once, whatever is answered: its id is its own. A quarter of them after each end of a process."""
    task = told.add_task("append", total=events)
    drawn, numbers = random.Random(SEED), iter(range(events))

    async def work(http: httpx.AsyncClient) -> None:
        while batch := list(itertools.islice(numbers, drawn.randint(1, _MOST_AT_ONCE))):
            while batch[0] > events * (len(ends) + 1) // (len(_ENDS) + 1):
                await asyncio.sleep(0.05)
            body = {"events": [_event(number) for number in batch]}
            while not await _appended(http, drawn.choice(apis), body):
                await asyncio.sleep(0.1)
            told.advance(task, len(batch))

    async with httpx.AsyncClient(timeout=30) as http:
        await asyncio.gather(*(work(http) for _ in range(_APPENDERS)))


def _event(number: int) -> dict[str, Any]:
    content = f"What agent {number % 5} found in place {number}: {'x' * (number % 200)}"
    return {"role": "user", "event_id": f"event-{number}", "content": content}


async def _appended(http: httpx.AsyncClient, api: Api, body: dict[str, Any]) -> bool:
    if api.port is None:
        return False
    try:
        answer = await http.post(f"http://127.0.0.1:{api.port}/v1/sessions/{SESSION}/events", json=body)
    except httpx.TransportError:
        return False
    if answer.status_code in (200, 201):
        return True
    if answer.status_code < 500:
        raise RuntimeError(f"an append was refused: {answer.status_code} {answer.text}")
    return False


@contextmanager
def coming_and_going(apis: Sequence[Api], done: list[str]) -> Iterator[None]:
    """Beside the block: one is stopped, the other killed, the first stopped again; each is started again."""
    stopping = threading.Event()

    def play() -> None:
        for place, end in _ENDS:
            if stopping.wait(1):
                return
            apis[place].stop(end)
            done.append(end.name)
            apis[place].start()

    thread = threading.Thread(target=play)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


async def play(apis: Sequence[Api], readers: int, events: int) -> dict[str, Any]:
    first = {"events": [{"role": "user", "event_id": "first", "content": "the session begins"}]}
    async with httpx.AsyncClient() as http:
        assert await _appended(http, apis[0], first)
    heard, ends = [Heard() for _ in range(readers)], list[str]()
    total = events + 1
    followers = [
        asyncio.create_task(follow(one, apis, number, total, timed=number < _TIMED)) for number, one in enumerate(heard)
    ]
    with Progress(console=out, transient=True) as told, coming_and_going(apis, ends):
        started = time.perf_counter()
        await append(apis, events, ends, told)
        task = told.add_task("hear", total=readers * total)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                while not all(follower.done() for follower in followers):
                    told.update(task, completed=sum(len(one.sums) for one in heard))
                    await asyncio.sleep(0.1)
        whole = time.perf_counter() - started
    await _cancelled(followers)
    return {
        "readers": readers,
        "events": total,
        "ends_of_processes": ends,
        "all_heard_s": round(whole, 2),
        "heard_per_second": round(sum(len(one.sums) for one in heard) / whole),
        "connections": sum(one.connections for one in heard),
        "delay_ms": percentiles([delay for one in heard for delay in one.delays]),
        **await _judged(apis, heard, total),
    }


async def _cancelled(tasks: Sequence["asyncio.Task[None]"]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _judged(apis: Sequence[Api], heard: Sequence[Heard], total: int) -> dict[str, Any]:
    sums = [zlib.crc32(content.encode()) for content in await _log(next(a.port for a in apis if a.port), total)]
    return {
        "log": len(sums),
        "out_of_order": sum(len(one.wrong) for one in heard),
        "incomplete": sum(one.sums != sums for one in heard),
    }


async def _log(port: int, total: int) -> list[str]:
    found: list[str] = []
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as http:
        while len(found) < total:
            parameters = {"after_seq": len(found), "limit": 500}
            items = (await http.get(f"/v1/sessions/{SESSION}/events", params=parameters)).json()["items"]
            if not items:
                break
            found += [item["content"] for item in items]
    return found


def measure(postgres: str, redis: str, readers: int, events: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="stratamem-bench-") as name, ExitStack() as stack:
        database, queue = stack.enter_context(own_database(postgres)), stack.enter_context(own_queue(redis))
        settings = {"STRATAMEM_DATABASE_URL": database, **queue}
        apis = []
        for number in range(2):
            folder = Path(name) / str(number)
            folder.mkdir()
            apis.append(Api(folder, settings | {"STRATAMEM_NODE": f"node-{number}"}))
            stack.callback(apis[-1].close)
        return asyncio.run(play(apis, readers, events))


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that what was started is ended
    readers, events = (QUICK_READERS, QUICK_EVENTS) if options.quick else (READERS, EVENTS)
    body: dict[str, Any] = {"load_before": os.getloadavg()[0]}
    body |= measure(options.postgres, options.redis, options.readers or readers, options.events or events)
    wrong = body["out_of_order"] + body["incomplete"] + (body["log"] != body["events"])
    body["targets"] = {"gaps_and_repeats": {"found": wrong, "target": 0, "met": wrong == 0}}
    path = write_result("streaming_quick" if options.quick else "streaming", body)
    out.print(f"{body}\n{path}")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.streaming", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="few readers and events: does everything run?")
    parser.add_argument("--readers", type=int)
    parser.add_argument("--events", type=int)
    need_servers(parser)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()

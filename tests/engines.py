"""An engine with OpenAI's API that plays what it is told, and a model runtime of our own, each behind a real port."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.middleware import Middleware

from api.limits import BodyLimit, ReadDeadline
from memory.adapters.models.runtime_process import runtime_app
from memory.adapters.models.settings import GenerationSettings, Precision

KEY = "engine-key"


def sse(value: Any) -> bytes:
    return f"data: {value if isinstance(value, str) else json.dumps(value)}\n\n".encode()


def piece(text: str | None = None, finish: str | None = None) -> bytes:
    delta = {} if text is None else {"content": text}
    choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
    return sse({"id": "c", "object": "chat.completion.chunk", "choices": [choice], "usage": None})


def usage(prompt: int, completion: int, **details: Any) -> bytes:
    return sse({"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": completion, **details}})


DONE = sse("[DONE]")
HELLO = (piece(""), piece("Under "), piece("the pot 漢"), piece("字."), piece(finish="stop"))
COUNTED = usage(100, 7, prompt_tokens_details={"cached_tokens": 64})

Script = Callable[[], AsyncIterator[bytes]]


class Engine:
    """Plays what it is told: the parts of a stream, a function that makes one, or a ready response."""

    def __init__(self) -> None:
        self.plays: Sequence[bytes] | Script | Response = ()
        self.refuses: Callable[[dict[str, Any]], Response | None] = lambda body: None
        self.streams = 0
        """Answers that are being read."""
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.left = threading.Event()
        self.models_status = 200
        self.url = ""

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.post("/v1/chat/completions")
        async def chat(request: Request) -> Response:
            self.bodies.append(await request.json())
            self.headers.append(dict(request.headers))
            if (refusal := self.refuses(self.bodies[-1])) is not None:
                return refusal
            if isinstance(self.plays, Response):
                return self.plays
            return StreamingResponse(self._watched(), media_type="text/event-stream")

        @app.get("/v1/models")
        async def models(request: Request) -> Response:
            known = request.headers.get("authorization") == f"Bearer {KEY}"
            return JSONResponse({"object": "list", "data": []}, self.models_status if known else 401)

        return app

    async def _watched(self) -> AsyncIterator[bytes]:
        self.streams += 1
        try:
            if callable(self.plays):
                async for part in self.plays():
                    yield part
            else:
                for part in self.plays:
                    yield part
        except asyncio.CancelledError:  # what starlette does to a stream that nobody reads any more
            self.left.set()
            raise
        finally:
            self.streams -= 1


@contextmanager
def scripted() -> Iterator[Engine]:
    engine = Engine()
    with listening(engine.app()) as url:
        engine.url = f"{url}/v1"
        yield engine


@contextmanager
def model_runtime(folder: Path, *, model: str | None = "fixture", key: str | None = KEY) -> Iterator[str]:
    """The base URL of what `stratamem runtime` serves from the data folder."""
    settings = GenerationSettings(device_mib=64, host_mib=64, disk_mib=256, threads=1)
    limits = [Middleware(ReadDeadline), Middleware(BodyLimit)]
    with _listening(
        lambda: runtime_app(
            model,
            "minilm",
            Precision.FLOAT32,
            folder / "models",
            folder / "kv" / "runtime",
            settings,
            key,
            _as_json,
            limits,
        )
    ) as url:
        yield url


def listening(app: FastAPI) -> AbstractContextManager[str]:
    """The base URL of an application on a free port."""
    return _listening(lambda: nullcontext(app))


def _as_json(stats: Any) -> bytes:
    return json.dumps(stats).encode()


@contextmanager
def _listening(opening: Callable[[], AbstractAsyncContextManager[FastAPI]]) -> Iterator[str]:
    """The base URL of an application on a free port, opened, served and closed by a thread of this process."""
    servers: list[uvicorn.Server] = []

    async def serve() -> None:
        async with opening() as app:
            servers.append(uvicorn.Server(uvicorn.Config(app, port=0, ws="none", access_log=False, log_config=None)))
            await servers[0].serve()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    while not servers or not servers[0].started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.02)
    yield f"http://127.0.0.1:{servers[0].servers[0].sockets[0].getsockname()[1]}"
    servers[0].should_exit = True
    thread.join(20)

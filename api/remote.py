"""How does a command ask a running service, and what does it say when that fails? One line, with what to do."""

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, Self
from urllib.parse import quote, urlsplit

import typer
from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from api.terminal import err, fail
from memory.settings import is_loopback

if TYPE_CHECKING:
    import httpx

Json = dict[str, Any]

Url = Annotated[
    str | None,
    typer.Option(help="Where the service answers; else STRATAMEM_URL, else http://127.0.0.1:8080.", show_default=False),
]
SessionId = Annotated[str, typer.Argument(metavar="SESSION", help="Its session_id.", show_default=False)]
Agent = Annotated[str | None, typer.Option(help="The agent that acts, where the key names none.", show_default=False)]

_PATIENCE = 120.0
"""Seconds: a recall may wait for an index that is being built, a purge for a file that is written anew."""
_CONNECT = 5.0
_SILENCE = 45.0
"""Seconds: a stream that has nothing to tell says so every fifteen."""
_PAUSE = 1.0
_GLANCE = 0.2
_TRIES = 6
_MOST_PAUSE = 60.0
_PAGE = 500
_BUSY = (429, 503)
_HINTS = {"unauthenticated": "set STRATAMEM_KEY"}


class Target(BaseSettings):
    """Which service, and as whom. Not the service's own settings: it may be on another machine."""

    model_config = SettingsConfigDict(
        env_prefix="STRATAMEM_", env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True
    )

    url: str = "http://127.0.0.1:8080"
    key: SecretStr | None = None


@dataclass(frozen=True, slots=True)
class Items:
    """The beginning of a list. `more`: it goes on."""

    items: list[Json]
    more: bool

    def as_json(self) -> str:
        return json.dumps({"items": self.items, "more": self.more})


class Service:
    """A service that is asked over HTTP, inside a `with` block. Whatever it refuses ends the command with one line."""

    def __init__(self, url: str | None = None, agent: str | None = None) -> None:
        import httpx

        target = Target() if url is None else Target(url=url)
        self.url = target.url.rstrip("/")
        headers = {} if target.key is None else {"Authorization": f"Bearer {_sendable(target.key)}"}
        if agent is not None:
            headers["X-Agent-Id"] = agent
        try:
            host = urlsplit(self.url).hostname or ""
            self._http = httpx.Client(
                base_url=self.url,
                headers=headers,
                timeout=httpx.Timeout(_PATIENCE, connect=_CONNECT),
                trust_env=not is_loopback(host),  # a proxy does not know what is on this machine
            )
        except (httpx.InvalidURL, ValueError, UnicodeError) as error:
            fail(f"{self.url} is no URL ({error}): correct --url or STRATAMEM_URL", 2)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._http.close()

    def get(self, path: str, **params: Any) -> Any:
        return self._answered(self._send("GET", path, params=params))

    def post(self, path: str, body: Json) -> Any:
        return self._answered(self._send("POST", path, json=body))

    def post_once(self, path: str, body: Json, key: str) -> Any:
        """Again when the service is busy or the answer is lost: by this Idempotency-Key nothing is stored twice."""
        for _ in range(_TRIES - 1):
            try:
                answer = self._http.post(path, json=body, headers={"Idempotency-Key": key})
            except self._lost:
                time.sleep(_PAUSE)
                continue
            if answer.status_code not in _BUSY:
                return self._answered(answer)
            time.sleep(_pause_of(answer))
        return self._answered(self._send("POST", path, json=body, headers={"Idempotency-Key": key}))

    def delete(self, path: str, **params: Any) -> tuple[int, Any]:
        """The status, and what came with it."""
        answer = self._send("DELETE", path, params=params)
        return answer.status_code, self._answered(answer)

    def items(self, path: str, most: int, **params: Any) -> Items:
        found: list[Json] = []
        cursor: str | None = None
        while True:
            wanted = params | {"limit": min(_PAGE, most - len(found))} | ({"cursor": cursor} if cursor else {})
            page = self.get(path, **wanted)
            found += page["items"]
            cursor = page["next_cursor"]
            if cursor is None or len(found) >= most:
                return Items(found, cursor is not None)

    def follow(self, path: str, after_seq: int) -> Iterator[Json]:
        """What a stream of events tells, for ever: where it breaks, it goes on at its place."""
        met = False
        while True:
            try:
                for event in self._streamed(path, after_seq):
                    after_seq, met = event["seq"], True
                    yield event
                met = True
                time.sleep(_GLANCE)
            except self._lost as error:
                if not met:
                    self._unreachable(error)
                err.print(f"{self.url} is away: waiting for it", markup=False, style="yellow")
                self._wait()

    @property
    def _lost(self) -> type["httpx.TransportError"]:
        import httpx

        return httpx.TransportError

    def _streamed(self, path: str, after_seq: int) -> Iterator[Json]:
        headers = {"Last-Event-ID": str(after_seq)}
        with self._http.stream("GET", path, headers=headers, timeout=_SILENCE) as answer:
            if answer.status_code != 200:
                answer.read()
                self._refused(answer)
            for line in _lines(answer.iter_bytes()):
                if line.startswith(b"data:"):
                    yield json.loads(line[5:])

    def _wait(self) -> None:
        while True:
            time.sleep(_PAUSE)
            try:
                self._http.get("/health/live")
                return
            except self._lost:
                continue

    def _send(self, method: str, path: str, **options: Any) -> "httpx.Response":
        try:
            return self._http.request(method, path, **options)
        except self._lost as error:
            self._unreachable(error)

    def _unreachable(self, error: Exception) -> NoReturn:
        import httpx

        match error:
            case httpx.ConnectError() | httpx.ConnectTimeout():
                fail(
                    f"nothing answers on {self.url}: start it with `stratamem serve`,"
                    " or say where it is with --url or STRATAMEM_URL",
                    1,
                )
            case httpx.UnsupportedProtocol():
                fail(f"{self.url} is no URL of a service: it begins with http:// or https://", 2)
            case httpx.TimeoutException():
                fail(f"{self.url} took the request and does not answer: `stratamem doctor` may know why", 1)
        fail(f"{self.url} broke off: {error or type(error).__name__}", 1)

    def _answered(self, answer: "httpx.Response") -> Any:
        if not answer.is_success:
            self._refused(answer)
        try:
            return answer.json()
        except ValueError:
            self._strange(answer)

    def _refused(self, answer: "httpx.Response") -> NoReturn:
        try:
            problem = answer.json()
            code, detail = problem["code"], problem["detail"]
        except (ValueError, KeyError, TypeError):
            self._strange(answer)
        for wrong in problem.get("errors", ())[:1]:
            detail = f"{'.'.join(map(str, wrong['loc'][1:])) or wrong['loc'][0]}: {wrong['message']}"
        hint = f"; {_HINTS[code]}" if code in _HINTS else ""
        fail(f"{detail} ({code}){hint}", 1)

    def _strange(self, answer: "httpx.Response") -> NoReturn:
        fail(f"{self.url} answers {answer.status_code} and is no Stratamem: correct --url or STRATAMEM_URL", 1)


def path_of(*names: str) -> str:
    """`/v1/…`, where no name can be taken for more than one step, or for a step back."""
    return "/v1/" + "/".join(quote(name, safe="").replace(".", "%2E") for name in names)


def _sendable(key: SecretStr) -> str:
    token = key.get_secret_value().strip()
    if not token.isascii() or not token.isprintable():
        fail("STRATAMEM_KEY is no key: it begins with sm_ and has no special characters", 2)
    return token


def _pause_of(answer: "httpx.Response") -> float:
    """Seconds that the service asks for."""
    asked = answer.headers.get("Retry-After", "")
    return min(float(asked), _MOST_PAUSE) if asked.isdigit() else _PAUSE


def _lines(parts: Iterable[bytes]) -> Iterator[bytes]:
    """httpx's own lines also end at characters that may stand in a text."""
    rest = b""
    for part in parts:
        *lines, rest = (rest + part).split(b"\n")
        yield from lines

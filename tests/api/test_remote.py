"""What a command says when the service is not there, refuses, breaks off, or is something else."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from api import remote
from api.cli import app
from api.remote import Service, path_of

Answer = tuple[int, dict[str, str], bytes]


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("STRATAMEM_URL", raising=False)
    monkeypatch.delenv("STRATAMEM_KEY", raising=False)
    monkeypatch.chdir(tmp_path)


@contextmanager
def answering(*answers: Answer | None) -> Iterator[tuple[str, list[Any]]]:
    """A server that gives these answers in turn (None: it hangs up); its URL, and the requests that it got."""
    left, asked = list(answers), []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            asked.append((self.command, self.path, self.headers, body))
            if (given := left.pop(0)) is None:
                self.connection.close()
                return
            self.send_response(given[0])
            for name, value in ({"Content-Length": str(len(given[2]))} | given[1]).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(given[2])

        do_GET = do_POST = do_DELETE = answer

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


def problem(status: int, code: str, detail: str, **facts: Any) -> Answer:
    body = {"status": status, "code": code, "detail": detail, **facts}
    return status, {"Content-Type": "application/problem+json"}, json.dumps(body).encode()


def failure(*arguments: str, **environment: str) -> str:
    """The one line of a command that can't do it."""
    result = CliRunner().invoke(app, list(arguments), env=environment)
    assert result.exit_code in (1, 2), result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    return line


def test_a_service_that_is_not_there_is_one_line_with_what_to_do() -> None:
    told = failure("sessions", "list", "--url", "http://127.0.0.1:1")
    assert "nothing answers on http://127.0.0.1:1: start it with `stratamem serve`" in told
    assert "nothing answers on http://127.0.0.1:2" in failure("recall", "x", STRATAMEM_URL="http://127.0.0.1:2/")


@pytest.mark.parametrize("url", ["ftp://x", "127.0.0.1:8080", "http://[", "http://\x00"])
def test_what_is_no_url_is_said(url: str) -> None:
    assert "is no URL" in failure("recall", "x", "--url", url)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (problem(404, "not_found", "there is no session 's'"), "there is no session 's' (not_found)"),
        (problem(401, "unauthenticated", "a key is needed"), "(unauthenticated); set STRATAMEM_KEY"),
        (
            problem(422, "invalid_input", "see errors", errors=[{"loc": ["body", "query"], "message": "blank"}]),
            "query: blank (invalid_input)",
        ),
        ((502, {}, b"<html>Bad Gateway"), "answers 502 and is no Stratamem"),
        ((200, {}, b"<html>Welcome"), "answers 200 and is no Stratamem"),
        (None, "broke off"),
    ],
)
def test_what_is_refused_is_said_by_its_code(answer: Answer | None, told: str) -> None:
    with answering(answer) as (url, _asked):
        assert told in failure("recall", "x", "--url", url)


def test_the_key_and_the_agent_are_sent_and_the_key_is_never_shown() -> None:
    with answering(problem(403, "forbidden", "no"), problem(403, "forbidden", "no")) as (url, asked):
        told = failure("recall", "x", "--url", url, "--agent", "ann", STRATAMEM_KEY="sm_secret\n")
        Path(".env").write_text(f"STRATAMEM_KEY=sm_of_the_file\nSTRATAMEM_URL={url}\n")
        failure("recall", "x")
    headers = [headers for _, _, headers, _ in asked]
    assert [sent["Authorization"] for sent in headers] == ["Bearer sm_secret", "Bearer sm_of_the_file"]
    assert headers[0]["X-Agent-Id"] == "ann"
    assert "sm_secret" not in told
    assert "STRATAMEM_KEY" in failure("recall", "x", STRATAMEM_KEY="sm_sécret")


def test_an_append_that_is_lost_or_told_to_wait_comes_again_under_the_same_key(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(remote.time, "sleep", waits.append)
    body = json.dumps({"session_id": "s", "first_seq": 1, "last_seq": 1, "event_ids": ["e"], "token_count": 1}).encode()
    (tmp_path / "f").write_text('{"content": "x"}\n')
    busy = (429, {"Retry-After": "7"}, problem(429, "rate_limited", "wait")[2])
    with answering(None, busy, (201, {}, body)) as (url, asked):
        done = CliRunner().invoke(app, ["append", "s", "--file", "f", "--url", url])
    assert (done.exit_code, waits) == (0, [1.0, 7.0]), done.output
    assert len({headers["Idempotency-Key"] for _, _, headers, _ in asked}) == 1


def test_a_purge_that_others_have_to_confirm_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote.time, "sleep", lambda _: None)

    def operation(status: int, state: str, **more: Any) -> Answer:
        return status, {}, json.dumps({"operation_id": "o1", "state": state, **more}).encode()

    receipt = {"purged": {"events": 1234}, "kept": {"events": 2}, "kept_for": ["fork"], "verified": True}
    receipt["at"] = "2026-03-01T12:00:00Z"
    over = operation(200, "succeeded", result=receipt)
    with answering(operation(202, "queued"), operation(200, "running"), over) as (url, asked):
        done = CliRunner().invoke(app, ["sessions", "purge", "s", "--yes", "--cascade", "--url", url])
    assert done.exit_code == 0, done.output
    assert [path for _, path, _, _ in asked] == ["/v1/sessions/s?cascade=true", *["/v1/operations/o1"] * 2]
    assert "1,234" in done.stdout
    assert "2026-03-01 12:00 UTC; every live index has confirmed it" in done.stdout
    assert "kept is what forks share: fork" in done.stdout
    with answering(operation(202, "queued"), operation(200, "failed", error="the disk is full")) as (url, _asked):
        assert "the purge has failed: the disk is full" in failure("sessions", "purge", "s", "--yes", "--url", url)


def test_a_stream_goes_on_at_its_place_where_it_broke(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote.time, "sleep", lambda _: None)

    def part(*seqs: int, cut: int = 0) -> Answer:
        told = b"".join(b'event: appended\nid: %d\ndata: {"seq": %d}\n\n' % (seq, seq) for seq in seqs)
        return 200, {"Content-Length": str(len(told) + cut)}, told

    gone = problem(404, "not_found", "there is no session 's'")
    with answering(part(1, 2, cut=5), (200, {}, b"{}"), part(3), gone) as (url, asked), Service(url) as service:
        followed = service.follow("/v1/sessions/s/events/stream", 0)
        assert [next(followed)["seq"] for _ in range(3)] == [1, 2, 3]
        with pytest.raises(Exception, match="1"):  # ends the command
            next(followed)
    assert [headers["Last-Event-ID"] for _, path, headers, _ in asked if path.endswith("stream")] == ["0", "2", "3"]


def test_no_name_leads_elsewhere() -> None:
    assert path_of("sessions", "..", "a/b?c") == "/v1/sessions/%2E%2E/a%2Fb%3Fc"
    with answering(problem(404, "not_found", "no")) as (url, asked):
        failure("sessions", "events", "../admin", "--url", url)
    assert asked[0][1].startswith("/v1/sessions/%2E%2E%2Fadmin/events?")


@pytest.mark.parametrize(
    ("line", "told"), [("{oops", "line 2 is no JSON"), ("[1]", "line 2 is no JSON object"), ("[" * 100_000, "line 2")]
)
def test_a_line_that_is_no_event_is_named(line: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "f").write_text('{"content": "x"}\n' + line)
    assert told in failure("append", "s", "--file", "f", "--url", "http://127.0.0.1:1")

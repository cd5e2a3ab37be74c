"""The command line talks to a running service: say, read, find, follow, purge."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from api.cli import app
from tests.e2e.server import Server, append, events_of, ok, said, until

Run = Callable[..., Result]


@pytest.fixture
def run(shared: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """A command against the shared server; fails unless it goes well."""
    monkeypatch.setenv("STRATAMEM_URL", str(shared.http.base_url))
    monkeypatch.delenv("STRATAMEM_KEY", raising=False)
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments: str, **options: Any) -> Result:
        result = CliRunner().invoke(app, list(arguments), **options)
        assert result.exit_code == 0, result.output
        return result

    return invoke


def test_what_is_said_on_the_command_line_is_shown_found_and_purged(run: Run, shared: Server, name: str) -> None:
    assert "event 1 of" in run("append", name, "The [red]landlady[/red] takes only cash.", "--agent", "maya").stdout
    run("append", name, "--role", "assistant", "--agent", "bot", input="Noted: bring cash.\n")
    run("append", name, "It is a surprise for Tom.", "--private", "--agent", "maya")
    log = events_of(shared.client(agent="maya"), name)
    assert [(event["content"], event["role"], event["visibility"]) for event in log] == [
        ("The [red]landlady[/red] takes only cash.", "user", "session"),
        ("Noted: bring cash.", "assistant", "session"),
        ("It is a surprise for Tom.", "user", "private"),
    ]
    shown = run("sessions", "events", name, "--agent", "maya").stdout
    assert "[red]landlady[/red]" in shown
    assert "maya (user, private)" in shown
    assert "surprise" not in run("sessions", "events", name, "--agent", "tom").stdout
    assert name in run("sessions", "list").stdout
    facts = run("sessions", "show", name).stdout
    assert "everybody in the tenant" in facts
    assert ", all in the window (131,072)" in facts
    found = json.loads(run("recall", "How does one pay?", "--session", name, "--explain", "--json").stdout)["results"]
    assert "cash" in found[0]["text"]
    table = run("recall", "How does one pay?", "--session", name, "--explain").stdout
    assert "dense" in table
    assert f"{name} 1" in " ".join(table.split())
    ready = run("context", name, "--max-tokens", "500", "--query", "How does one pay?")
    assert ready.stdout.splitlines()[-1] == "user: How does one pay?"
    assert "of 500 tokens" in ready.stderr
    purged = run("sessions", "purge", name, input="y\n").stdout
    assert "every live index has confirmed it" in purged
    assert shared.http.get(f"/v1/sessions/{name}").status_code == 404


def test_nothing_is_purged_without_a_yes(run: Run, shared: Server, name: str) -> None:
    append(shared.http, name, "keep me")
    refused = CliRunner().invoke(app, ["sessions", "purge", name], input="n\n")
    assert (refused.exit_code, "--yes" in refused.stderr) == (1, True), refused.output
    assert len(events_of(shared.http, name)) == 1
    receipt = json.loads(run("sessions", "purge", name, "--yes", "--json").stdout)
    assert (receipt["purged"]["events"], receipt["verified"]) == (1, True)


def test_a_file_of_events_is_appended_in_batches(run: Run, shared: Server, name: str, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    lines = [
        json.dumps({"event_id": f"e{n}", "content": f"line {n}"} | ({"role": "tool"} if n == 7 else {}))
        for n in range(1_200)
    ]
    file.write_text("\n".join([*lines[:600], "", *lines[600:]]))
    answers = [json.loads(line) for line in run("append", name, "--file", str(file), "--json").stdout.splitlines()]
    assert [(one["first_seq"], one["last_seq"]) for one in answers] == [(1, 1_000), (1_001, 1_200)]
    log = events_of(shared.http, name)
    assert [event["content"] for event in log] == [f"line {n}" for n in range(1_200)]
    assert {event["role"] for event in log} == {"user", "tool"}
    assert "1,200 events" in run("append", name, "--file", str(file)).stdout  # again: nothing is stored twice
    assert ok(shared.http.get(f"/v1/sessions/{name}"))["event_count"] == 1_200
    page = json.loads(run("sessions", "events", name, "--after", "3", "--limit", "2", "--json").stdout)
    assert ([event["seq"] for event in page["items"]], page["more"]) == ([4, 5], True)


def test_a_log_is_followed_line_by_line(shared: Server, name: str, tmp_path: Path) -> None:
    append(shared.http, name, "before", "just \u2028 before")
    output = tmp_path / "followed"
    command = [sys.executable, "-c", "from api.cli import app; app()", "sessions", "events", name, "--follow", "--json"]
    with output.open("wb") as file:
        process = subprocess.Popen([*command, "--url", str(shared.http.base_url), "--limit", "1"], stdout=file)
    try:

        def seen() -> list[str]:
            return [json.loads(line)["content"] for line in output.read_bytes().splitlines()]

        until(lambda: seen() == ["just \u2028 before"])
        append(shared.http, name, said("now", agent_id="ann"))
        until(lambda: seen() == ["just \u2028 before", "now"])
        ok(shared.http.delete(f"/v1/sessions/{name}"))
        assert process.wait(20) == 1  # it is gone, and says so
    finally:
        process.kill()
        process.wait()

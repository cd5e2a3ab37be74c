"""Starting, stopping, and what an operator reads when it does not start."""

import json
import logging
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from typer.testing import CliRunner, Result

from api.cli import app
from memory.bootstrap import checkup
from memory.services.health import HealthState
from memory.settings import Settings
from tests.e2e.server import MODELS
from tests.unit.memory.adapters.identity.issuer import AUDIENCE, issuing

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-c", "from api.cli import app; app()"]


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    """`serve` sets up the logging of its process, which here is the tests'."""
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    structlog.reset_defaults()
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("STRATAMEM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("STRATAMEM_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("STRATAMEM_MODELS_DIR", str(MODELS))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)  # no .env of the developer's


def run(*arguments: str, **options: Any) -> Result:
    return CliRunner().invoke(app, list(arguments), **options)


@contextmanager
def serving(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server process and its base URL, read from what it prints."""
    process = subprocess.Popen([*COMMAND, "serve", "--port", "0", *arguments], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        first = process.stdout.readline()
        assert "answers on" in first, first
        yield process, first.split()[-1]
    finally:
        process.kill()
        process.wait()


def test_the_version_is_printed() -> None:
    assert run("version").stdout.strip().count(".") == 2


def test_facts_come_as_json_where_that_is_asked_for() -> None:
    assert json.loads(run("version", "--json").stdout) == {"version": run("version").stdout.strip()}
    assert json.loads(run("migrate", "--json").stdout)["from"] is None
    again = json.loads(run("migrate", "--json").stdout)
    assert again["from"] == again["to"]
    asked = run("worker", "--ping", "--json")
    assert (asked.exit_code, json.loads(asked.stdout)) == (1, {"well": False})


def test_a_backup_is_made_and_brought_back(tmp_path: Path) -> None:
    file, there = str(tmp_path / "backup.tar.gz"), str(tmp_path / "there")
    key = json.loads(run("keys", "create", "--json").stdout)["key_id"]
    made = run("backup", file)
    assert "sqlite" in made.stdout, made.output
    refused = run("backup", file)
    assert (refused.exit_code, "--force" in refused.stderr) == (1, True)
    assert json.loads(run("backup", file, "--force", "--json").stdout)["database"] == "sqlite"
    assert "purge it again" in run("restore", file, "--data-dir", there).stdout
    assert [
        one["key_id"] for one in json.loads(run("keys", "list", "--json", "--data-dir", there).stdout)["items"]
    ] == [key]
    run("keys", "create", "--data-dir", there)
    unsure = run("restore", file, "--data-dir", there, "--force", input="n\n")
    assert (unsure.exit_code, "nothing was done" in unsure.stderr) == (1, True)
    assert len(json.loads(run("keys", "list", "--json", "--data-dir", there).stdout)["items"]) == 2
    assert run("restore", file, "--data-dir", there, "--force", "--yes").exit_code == 0
    assert len(json.loads(run("keys", "list", "--json", "--data-dir", there).stdout)["items"]) == 1
    Path(file).write_bytes(Path(file).read_bytes()[:-9])
    damaged = run("restore", file, "--data-dir", str(tmp_path / "third"))
    assert (damaged.exit_code, "is damaged" in damaged.stderr) == (1, True)
    assert len(damaged.stderr.strip().splitlines()) == 1


def test_a_key_is_printed_once_and_opens_the_database() -> None:
    made = run(
        "keys", "create", "--tenant", "acme", "--scopes", "read, admin", "--agent", "ann", "--session", "s1", "--json"
    )
    assert made.exit_code == 0, made.output
    shown = json.loads(made.stdout)
    assert shown["token"].startswith("sm_")
    assert (shown["tenant_id"], shown["scopes"], shown["agent_id"]) == ("acme", ["admin", "read"], "ann")
    plain = run("keys", "create")
    assert plain.stdout.strip().startswith("sm_")
    assert len(plain.stdout.split()) == 1
    assert "tenant 'default' with the scopes read, write;" in plain.stderr
    assert "scopes admin, read;" in run("keys", "create", "--scopes", "read,admin").stderr
    assert json.loads(run("keys", "create", "--json").stdout)["scopes"] == ["read", "write"]


def test_keys_are_listed_and_revoked() -> None:
    made = json.loads(run("keys", "create", "--name", "[red]Ann", "--days", "30", "--agent", "ann", "--json").stdout)
    other = run("keys", "create", "--tenant", "acme").stdout.strip()
    listed = json.loads(run("keys", "list", "--json").stdout)["items"]
    assert [key["tenant_id"] for key in listed] == ["acme", "default"]
    assert made["token"] not in str(listed)
    assert "token" not in listed[0]
    table = run("keys", "list", "--tenant", "default").stdout
    for text in (made["prefix"], "[red]Ann", "agent ann", "valid", "never"):
        assert text in table
    assert other[:15] not in table
    ended = run("keys", "revoke", other)  # the key itself will do
    assert (ended.exit_code, other[3:15] in ended.stdout) == (0, True)
    revoked = json.loads(run("keys", "revoke", made["key_id"], "--json").stdout)
    assert revoked["revoked_at"] is not None
    assert "revoked" in run("keys", "list", "--tenant", "acme").stdout
    with closing(sqlite3.connect(Path(os.environ["STRATAMEM_DATA_DIR"]) / "stratamem.db")) as database:
        noted = database.execute("SELECT tenant_id, action, subject, caller FROM audit ORDER BY number").fetchall()
    assert noted == [
        ("default", "keys.create", made["key_id"], None),
        ("acme", "keys.create", other[3:15], None),
        ("acme", "keys.revoke", other[3:15], None),
        ("default", "keys.revoke", made["key_id"], None),
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("keys", "revoke", "sm_nosuchkey000"), 1, "no key"),
        (("keys", "create", "--scopes", "root"), 2, "not scopes"),
        (("keys", "create", "--tenant", "no spaces"), 1, "not an id"),
        (("worker",), 2, "STRATAMEM_BROKER_URL"),
    ],
)
def test_a_command_that_makes_no_sense_says_so(arguments: tuple[str, ...], code: int, told: str) -> None:
    result = run(*arguments)
    assert (result.exit_code, told in result.stderr) == (code, True), result.output


def test_a_bad_setting_is_named() -> None:
    result = run("migrate", env={"STRATAMEM_PORT": "many"})
    assert result.exit_code == 1
    assert "STRATAMEM_PORT" in result.stderr


def test_a_port_in_use_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = run("serve", "--port", str(taken.getsockname()[1]))
    assert result.exit_code == 1
    assert "Address already in use" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("command", ["serve", "migrate"])
def test_a_data_folder_that_can_not_be_written_is_one_line(command: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = run(command, "--data-dir", str(tmp_path / "file"))
    assert result.exit_code == 1
    assert "STRATAMEM_DATA_DIR" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("command", ["serve", "migrate"])
@pytest.mark.parametrize("url", ["postgresql://u:hunter2@127.0.0.1:1/x", "nonsense"])
def test_a_database_that_can_not_be_reached_is_one_line(command: str, url: str) -> None:
    ended = subprocess.run(
        [*COMMAND, command],
        env={**os.environ, "STRATAMEM_DATABASE_URL": url, "STRATAMEM_PORT": "0"},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert ended.returncode == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    assert "hunter2" not in ended.stderr
    assert "database" in ended.stderr


@pytest.mark.parametrize("revoked", [False, True])
def test_an_open_address_without_a_key_is_refused_with_what_to_do(revoked: bool) -> None:
    if revoked:
        run("keys", "revoke", run("keys", "create").stdout.strip())
    ended = subprocess.run(
        [*COMMAND, "serve", "--host", "0.0.0.0", "--port", "0"], capture_output=True, text=True, timeout=180
    )
    assert ended.returncode == 2, ended.stderr
    assert "stratamem keys create" in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "environment", "told"),
    [
        (("--host", "0.0.0.0"), {}, "STRATAMEM_RUNTIME_KEY"),
        ((), {"STRATAMEM_MODEL": "http://127.0.0.1:8000/v1"}, "URL of another engine"),
    ],
)
def test_a_runtime_that_should_not_be_started_says_why(
    arguments: tuple[str, ...], environment: dict[str, str], told: str
) -> None:
    result = run("runtime", "--port", "0", *arguments, env=environment)
    assert (result.exit_code, told in result.stderr) == (2, True), result.output


def test_a_runtime_on_a_taken_port_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = run("runtime", "--port", str(taken.getsockname()[1]))
    assert result.exit_code == 1
    assert "STRATAMEM_RUNTIME_PORT" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_an_open_address_with_a_key_lets_its_bearer_in() -> None:
    token = run("keys", "create", "--scopes", "read").stdout.strip()
    with serving("--host", "0.0.0.0") as (_process, url):
        url = url.replace("0.0.0.0", "127.0.0.1")
        assert httpx.get(f"{url}/v1/sessions").status_code == 401
        assert httpx.get(f"{url}/v1/sessions", headers={"Authorization": f"Bearer {token}"}).status_code == 200


def test_an_open_address_with_an_issuer_needs_no_key_and_lets_in_whom_it_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with issuing() as issuer:
        monkeypatch.setenv("STRATAMEM_OIDC__ISSUER", issuer.url)
        monkeypatch.setenv("STRATAMEM_OIDC__AUDIENCE", AUDIENCE)
        with serving("--host", "0.0.0.0") as (_process, url):
            url = url.replace("0.0.0.0", "127.0.0.1") + "/v1/sessions"
            reader = issuer.token(scope="stratamem:read")
            for token, status in ((reader, 200), (issuer.token(aud="another"), 401), ("sm_no", 401)):
                assert httpx.get(url, headers={"Authorization": f"Bearer {token}"}).status_code == status
            assert httpx.get(url).status_code == 401
            refused = httpx.post(url, json={}, headers={"Authorization": f"Bearer {reader}"})
            assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")


def test_the_doctor_says_what_is_broken_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    async def well(settings: Settings) -> checkup.Finding:
        return checkup.Finding("embedder", HealthState.OK, "well")

    monkeypatch.setitem(checkup.CHECKS, "embedder", well)  # loading the model is what `serve` is tested for
    assert run("doctor").exit_code == 0
    monkeypatch.setenv("STRATAMEM_HOST", "0.0.0.0")
    told = run("doctor")
    assert told.exit_code == 1
    assert "stratamem keys create" in told.stdout
    findings = json.loads(run("doctor", "--json").stdout)["findings"]
    assert {one["name"]: one["state"] for one in findings}["keys"] == "down"


def test_it_serves_and_stops_cleanly_within_ten_seconds() -> None:
    event = {"events": [{"role": "user", "content": "The spare key is under the blue pot."}]}
    for said, number in enumerate((signal.SIGTERM, signal.SIGINT), 1):
        with serving() as (process, url):
            assert httpx.post(f"{url}/v1/sessions/demo/events", json=event, timeout=30).json()["last_seq"] == said
            assert httpx.get(f"{url}/health/ready", timeout=10).json()["database"]["state"] == "ok"
            with httpx.Client() as held, held.stream("GET", f"{url}/version"):  # an open connection does not hold it up
                asked = time.monotonic()
                process.send_signal(number)
                assert process.wait(12) == 0
            assert time.monotonic() - asked < 10
    with serving() as (_process, url):
        assert httpx.get(f"{url}/v1/sessions/demo", timeout=30).json()["event_count"] == said

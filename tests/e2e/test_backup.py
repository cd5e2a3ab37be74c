"""A backup that is made while four clients append has all that was acknowledged before it began."""

import json
import subprocess
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from tests.e2e.server import COMMAND, Server, append, environment, events_of, ok, recall, texts, until

CLIENTS = 4


class Talker(threading.Thread):
    """Appends one event after another until it is told to stop; remembers what was acknowledged."""

    def __init__(self, http: httpx.Client, number: int) -> None:
        super().__init__(daemon=True)
        self.http = http
        self.session = f"talk-{min(number, 2)}"  # two of them share one
        self.acknowledged: dict[str, tuple[int, str]] = {}
        self.enough = threading.Event()

    def run(self) -> None:
        with self.http:
            while not self.enough.wait(0.02):
                content = f"marker{uuid.uuid4().hex[:12]} was said"
                answer = append(self.http, self.session, content)
                self.acknowledged[answer["event_ids"][0]] = (answer["first_seq"], content)


def command(data: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, *arguments], env=environment(data, {}), cwd=data.parent, capture_output=True, text=True, timeout=180
    )


def done(data: Path, *arguments: str) -> Any:
    ended = command(data, *arguments, "--json")
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def test_what_was_acknowledged_before_a_backup_comes_back(new_server: Callable[..., Server], tmp_path: Path) -> None:
    server, other = new_server().start(), new_server("other")
    talkers = [Talker(server.client(), number) for number in range(CLIENTS)]
    for talker in talkers:
        talker.start()
    until(lambda: all(len(talker.acknowledged) >= 5 for talker in talkers))
    before = [dict(talker.acknowledged) for talker in talkers]
    manifest = done(server.data, "backup", str(tmp_path / "backup.tar.gz"))
    beyond = [len(talker.acknowledged) - len(known) for talker, known in zip(talkers, before, strict=True)]
    assert min(beyond) > 0, "nobody wrote meanwhile: it shows nothing"
    for talker in talkers:
        talker.enough.set()
        talker.join(30)
    refused = command(server.data, "restore", str(tmp_path / "backup.tar.gz"), "--force", "--yes")
    assert (refused.returncode, "stop it first" in refused.stderr) == (1, True), refused.stderr
    server.kill()

    assert done(other.data, "restore", str(tmp_path / "backup.tar.gz")) == manifest
    other.start()
    for talker, known in zip(talkers, before, strict=True):
        log = events_of(other.http, talker.session)
        assert [event["seq"] for event in log] == list(range(1, len(log) + 1))
        stored = {event["event_id"]: (event["seq"], event["content"]) for event in log}
        assert {event_id: stored.get(event_id) for event_id in known} == known
        assert ok(other.http.get(f"/v1/sessions/{talker.session}"))["last_seq"] == len(log)
        for content in [content for _, content in list(known.values())[::5]]:
            assert content in texts(recall(other.http, content.split()[0], session_ids=[talker.session], top_k=3))
        assert append(other.http, talker.session, "and on it goes")["first_seq"] == len(log) + 1

"""Nothing listens where the broker should be: the log goes on, and the background work is made up for later."""

import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.server import Process, Server, append, backlog, free_port, indexed, ok, recall, sound, until
from tests.services import missing


@pytest.fixture
def redis_server() -> str:
    found = shutil.which("redis-server")
    if found is None:
        missing("no redis-server in the PATH to start one's own")
    return found


def test_appends_go_on_and_the_sweep_catches_up(
    new_server: Callable[..., Server], tmp_path: Path, redis_server: str
) -> None:
    port = free_port()
    settings = {
        "BROKER_URL": f"redis://127.0.0.1:{port}/0",
        "JOBS__SWEEP_EVERY": 1,
        "JOBS__SWEEP_IDLE": 1,
        "JOBS__BACKLOG": 1,  # full at once: what does not fit is left to the sweep
    }
    server = new_server(**settings).start()
    for number in range(6):
        begun = time.monotonic()
        append(server.http, f"s{number}", f"The xylophone number {number} is in the attic.")
        assert time.monotonic() - begun < 2
    ready = server.http.get("/health/ready")
    assert ready.status_code == 200
    assert ready.json()["broker"]["state"] == "degraded"
    assert ready.json()["state"] == "degraded"
    for number in range(6):
        assert f"number {number}" in recall(server.http, f"xylophone {number}", top_k=1)[0]["text"]
    assert len(backlog(server.http)) == 6
    folder = tmp_path / "redis"
    folder.mkdir()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "", "--appendonly", "no"]
    broker = subprocess.Popen([redis_server, *options], stdout=subprocess.DEVNULL)
    worker = Process(server.data, "worker", **settings)
    try:
        worker.spawn()
        indexed(server.http, 60)
        assert sound(server.http)["longterm"]["pending"] == 0
        until(lambda: ok(server.http.get("/health/ready"))["broker"]["state"] == "ok", 20, what="the broker is well")
        assert worker.stop() == 0
    finally:
        worker.kill()
        broker.terminate()
        broker.wait(10)

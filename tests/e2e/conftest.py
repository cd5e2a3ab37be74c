"""Servers to share. Starting one takes seconds: only tests that kill it make their own with `new_server`."""

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.e2e.server import Server


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A running server for all tests that leave it alive; each works in sessions of its own."""
    with Server(tmp_path_factory.mktemp("shared") / "data") as server:
        yield server


@pytest.fixture
def new_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Makes servers that are not started yet; all end with the test."""
    made: list[Server] = []

    def make(folder: str = "data", **settings: Any) -> Server:
        made.append(Server(tmp_path / folder, **settings))
        return made[-1]

    yield make
    for server in made:
        server.__exit__()


@pytest.fixture
def name() -> str:
    """A session that no other test has."""
    return f"s-{uuid.uuid4().hex[:10]}"


@pytest.fixture(scope="module")
def broker(redis_url: str) -> Iterator[dict[str, str]]:
    """Settings of a queue of our own on Redis; its keys go afterwards."""
    url = redis_url.rsplit("/", 1)[0] + "/14"
    queue = f"stratamem-e2e-{os.getpid()}-{uuid.uuid4().hex[:6]}"
    yield {"BROKER_URL": url, "JOBS__QUEUE": queue}
    with redis.Redis.from_url(url) as client:
        for key in client.scan_iter(f"{queue}*"):
            client.delete(key)

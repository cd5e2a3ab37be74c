"""I2: every file of the index is a cache. Deleted or damaged, it is built again, and the answers are the same."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.server import Server, append, indexed, recall, said, same_answers, sound

TOPICS = "garden kitchen meeting train doctor holiday invoice guitar passport bicycle".split()
QUESTIONS = ["who repaired the bicycle?", "the doctor on Monday", "what happened to invoice 42?", "music"]


Answers = list[list[dict[str, object]]]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Answers]]:
    """A server that has an index on disk, and what it answered; each test finds it stopped and leaves it so."""
    with Server(tmp_path_factory.mktemp("caches") / "data") as server:
        for session in range(4):
            log = [
                said(f"On day {n} ann told bob about the {TOPICS[(n + session) % 10]} number {n}.", agent_id="ann")
                for n in range(40)
            ]
            append(server.http, f"s{session}", *log)
        long = " ".join(f"Sentence {n} speaks of the {TOPICS[n % 10]} and of nothing else." for n in range(120))
        append(server.http, "s0", long)
        memories = [{"text": f"Bob owns a {topic}.", "kind": "fact"} for topic in TOPICS]
        assert server.http.post("/v1/memories", json={"memories": memories}).status_code == 201
        indexed(server.http)
        yield server, answers(server)


def files(server: Server) -> list[Path]:
    folder = server.data / "index"
    return sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.endswith(".lock") and p.stat().st_size)


def restarted(server: Server) -> Answers:
    server.start()
    return answers(server)


def answers(server: Server) -> Answers:
    """Stops it in the end."""
    try:
        sound(server.http)
        return [
            recall(server.http, question, top_k=20, session_ids=ids)
            for question in QUESTIONS
            for ids in (None, ["s1"], ["s0", "s2"])
        ]
    finally:
        assert server.stop() == 0


def test_a_deleted_index_is_built_again(filled: tuple[Server, Answers]) -> None:
    server, before = filled
    shutil.rmtree(server.data / "index")
    for old, new in zip(before, restarted(server), strict=True):
        same_answers(old, new)


@pytest.mark.parametrize("kind", ["rows-", ".store"])
def test_a_flipped_byte_is_noticed(filled: tuple[Server, Answers], kind: str) -> None:
    """A start takes seconds: here a sample, every file in tests/invariants/test_caches.py."""
    server, before = filled
    path = next(path for path in files(server) if path.name.startswith(kind) or path.suffix == kind)
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 4
    path.write_bytes(content)
    for old, new in zip(before, restarted(server), strict=True):
        same_answers(old, new)

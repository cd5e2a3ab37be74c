"""Another embedding model: the old one serves until all is embedded anew, also when the process is killed meanwhile."""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.server import Server, append, backlog, indexed, ok, recall, sound, texts, until
from tests.embedders import small_embedder

SETTINGS = {
    "EMBEDDER_PRECISION": "float32",
    "JOBS__LEASE": 3,
    "JOBS__SWEEP_EVERY": 1,
    "JOBS__SWEEP_IDLE": 1,
    "JOBS__UPKEEP_EVERY": 2,
}
FILLING = " ".join(f"and then of something else that matters little {n}" for n in range(12))


@pytest.fixture(scope="module")
def embedders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    folder = tmp_path_factory.mktemp("embedders")
    return small_embedder(folder / "old-model", 64), small_embedder(folder / "new-model", 96)


def remark(session: str, number: int) -> str:
    return f"remark {number} in {session}: they spoke of thing{number} {FILLING}"


def reembedding(server: Server) -> dict[str, object]:
    (found,) = [one for one in backlog(server.http) if one["kind"] == "reembed"]
    return found


def served(server: Server) -> dict[str, object]:
    return ok(server.http.get("/v1/admin/embedder"))


def finds(server: Server, session: str, number: int) -> None:
    """Fails when the answer is degraded."""
    found = texts(recall(server.http, f"thing{number}", session_ids=[session], top_k=3, max_tokens=2_000))
    assert any(text.startswith(f"remark {number} in {session}") for text in found), found


def rows(server: Server, query: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(server.data / "stratamem.db")) as database:
        return database.execute(query).fetchall()


def spaces_in(server: Server) -> dict[str, int]:
    return dict(rows(server, "SELECT space, count(vector) FROM segments GROUP BY space"))


def test_another_model_takes_over_although_the_process_is_killed_in_the_middle(
    embedders: tuple[Path, Path], new_server: Callable[..., Server]
) -> None:
    old, new = embedders
    server = new_server(EMBEDDER=old, **SETTINGS).start()
    for session in ("kept", "purged"):
        append(server.http, session, *[remark(session, n) for n in range(300)])
    indexed(server.http, 120)
    former = served(server)["space"]
    assert server.stop() == 0

    server.settings["STRATAMEM_EMBEDDER"] = new
    server.start()
    finds(server, "kept", 7)
    until(lambda: reembedding(server)["progress"]["done"], what="some of it is embedded anew", every=0.01)
    server.kill()
    ((done, total),) = rows(server, "SELECT done, total FROM operations WHERE kind = 'reembed'")
    assert 0 < done < total == 600, "it was over before the kill: nothing is shown"
    assert rows(server, "SELECT space FROM tenants") == [(former,)]
    server.start()
    finds(server, "kept", 8)
    append(server.http, "kept", remark("kept", 5_000))
    finds(server, "kept", 5_000)
    purge = ok(server.http.delete("/v1/sessions/purged"), 200, 202)
    assert purge

    indexed(server.http, 180)
    until(lambda: served(server)["served_here"] != former, what="the new vectors are read")
    now = served(server)
    assert (now["space"], now["configured"], now["items_left"]) == (now["served_here"], now["served_here"], 0)
    for number in (3, 299, 5_000):
        finds(server, "kept", number)
    tiers = sound(server.http)
    assert (tiers["longterm"]["items"], tiers["longterm"]["pending"]) == (301, 0)
    verify = ok(server.http.post("/v1/admin/indexes/vectors/verify"), 202)
    indexed(server.http)
    assert ok(server.http.get(f"/v1/operations/{verify['operation_id']}"))["result"]["sound"]
    until(lambda: set(spaces_in(server)) == {now["space"]}, what="upkeep gives up the old vectors")
    assert spaces_in(server) == {now["space"]: 301}, "of what was purged there is nothing in either"
    finds(server, "kept", 11)
    assert server.stop() == 0

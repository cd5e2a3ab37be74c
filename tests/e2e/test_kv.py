"""A session's KV over HTTP: seen, pinned, brought up, laid to rest, dropped; after a restart and beside a purge."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.e2e.server import Server, ok, recall, until
from tests.e2e.test_purge import indexed_terms

MODEL = "stratamem-fixture-handwired-recall"
LONG = "the garden behind the house " * 60


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("kv") / "data", MODEL="fixture") as server:
        yield server


def ask(server: Server, key: str, text: str) -> Any:
    body = {"model": MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": 8, "temperature": 0}
    return ok(server.http.post("/v1/chat/completions", json=body | {"memory_key": key}))


def warmed(server: Server, key: str) -> Any:
    """The session's KV, once its next prompt is computed ahead."""

    def kept() -> Any:
        found = ok(server.http.get(f"/v1/sessions/{key}/kv"))["kept"]
        return found if found and found["generation"] >= 2 else None

    return until(kept, what="the next prompt is computed ahead")


def test_a_session_s_kv_is_seen_moved_and_dropped(serving: Server, name: str) -> None:
    assert serving.http.get(f"/v1/sessions/{name}/kv").status_code == 404
    usage = ask(serving, name, LONG)["usage"]
    assert usage["memory"]["fidelity"] == "exact"
    kept = warmed(serving, name)
    assert kept["blocks"]["device"] >= 3
    assert (len(kept["fingerprint"]), kept["lost"], kept["tail"]) == (64, 0, "device")

    pinned = ok(serving.http.post(f"/v1/sessions/{name}/kv/pin", json={"ttl_seconds": 600}))
    assert pinned["pinned_blocks"] == kept["blocks"]["device"]
    rested = ok(serving.http.post(f"/v1/sessions/{name}/kv/suspend"))
    assert (rested["moved"], rested["tail_tokens"]) == (kept["blocks"]["device"], kept["tail_tokens"])
    brought = ok(serving.http.post(f"/v1/sessions/{name}/kv/prefetch"))
    assert sum(brought["brought"].values()) == rested["moved"]

    memory = ask(serving, name, "short")["usage"]["memory"]
    assert memory["cached"]["device"] >= kept["tokens"] - 16
    dropped = ok(serving.http.delete(f"/v1/sessions/{name}/kv"))
    assert dropped["blocks"] >= kept["blocks"]["device"]
    report = ok(serving.http.get(f"/v1/sessions/{name}/kv"))
    assert report["kept"] is None
    refused = serving.http.post(f"/v1/sessions/{name}/kv/pin", json={"ttl_seconds": 600})
    assert (refused.status_code, refused.json()["code"]) == (409, "no_kv")


def test_a_pin_survives_a_kill_and_its_session_is_brought_up_before_anybody_asks(
    new_server: Callable[..., Server], name: str
) -> None:
    with new_server(MODEL="fixture") as server:
        first = ask(server, name, LONG)
        kept = warmed(server, name)
        ok(server.http.post(f"/v1/sessions/{name}/kv/pin", json={"ttl_seconds": 600}))
        ok(server.http.post(f"/v1/sessions/{name}/kv/suspend"))
        manifests = lambda: any(b'"pinned_until": 1' in p.read_bytes() for p in (server.data / "kv").rglob("*.json"))  # noqa: E731
        until(manifests, what="the manifest is on disk")
        server.kill()
        server.start()
        report = ok(server.http.get(f"/v1/sessions/{name}/kv"))["kept"]
        assert (report["tokens"], report["pinned_blocks"]) == (kept["tokens"], kept["blocks"]["device"])
        brought = ok(server.http.post(f"/v1/sessions/{name}/kv/prefetch"))
        assert (brought["brought"]["disk"], brought["tail_tokens"]) == (kept["blocks"]["device"], kept["tail_tokens"])
        memory = ask(server, name, "short")["usage"]["memory"]
        assert memory["cached"]["device"] >= kept["tokens"] - 16
        assert first["usage"]["memory"]["cached"]["disk"] == 0
        assert 'stratamem_kv_prefetched_blocks_total{tier="disk"}' in server.http.get("/metrics").text


def test_a_purge_takes_manifests_and_tails_along(new_server: Callable[..., Server], name: str) -> None:
    with new_server(MODEL="fixture") as server:
        ask(server, name, LONG)
        warmed(server, name)
        ok(server.http.post(f"/v1/sessions/{name}/kv/suspend"))
        files = lambda: [p for p in (server.data / "kv").rglob("*") if p.suffix in (".json", ".tail") and p.is_file()]  # noqa: E731
        until(lambda: {p.suffix for p in files() if "fixture-model" not in str(p)} == {".json", ".tail"})
        assert ok(server.http.delete(f"/v1/sessions/{name}"))["verified"]
        assert [p for p in files() if "fixture-model" not in str(p)] == []


def test_a_purge_takes_along_what_processes_under_other_names_left(
    new_server: Callable[..., Server], tmp_path: Path, name: str
) -> None:
    said = "The quetzalkoatl of the garden. "
    patterns = [b"quetzalkoatl", np.array(list(said.encode()), "<u4").tobytes()]
    first = new_server(MODEL="fixture", NODE="first", LONGTERM__SNAPSHOT_SECONDS=0.3, LONGTERM__COMMIT_AFTER=1)
    second = new_server(MODEL="fixture", NODE="second")
    data = first.data

    def holding(folder: Path) -> list[Path]:
        files = [path for path in folder.rglob("*") if path.is_file()]
        return [path for path in files if any(pattern in path.read_bytes() for pattern in patterns)]

    with first:
        ask(first, name, said * 60)
        warmed(first, name)
        recall(first.http, "quetzalkoatl")
        assert first.stop() == 0
    assert holding(data / "kv" / "first")
    assert indexed_terms(data / "index" / "first") == {"quetzalkoatl"}
    for kind in ("kv", "index"):
        shutil.copytree(data / kind / "first", tmp_path / kind)
    with second:
        assert holding(data / "kv") == []  # a start clears them
        assert indexed_terms(data / "index") == set()
        for kind in ("kv", "index"):  # and one that ended meanwhile is part of the purge
            shutil.copytree(tmp_path / kind, data / kind / "third")
        assert holding(data / "kv" / "third")
        assert indexed_terms(data / "index" / "third")
        assert ok(second.http.delete(f"/v1/sessions/{name}"), 200)["verified"] is True
        assert holding(data) == []
        assert indexed_terms(data) == set()
        assert not [path for path in (data / "index" / "third").iterdir() if path.name != ".lock"]  # no vectors


def test_without_a_model_there_is_no_kv_to_speak_of(shared: Server, name: str) -> None:
    ok(shared.http.post(f"/v1/sessions/{name}/events", json={"events": [{"role": "user", "content": "hello"}]}))
    refused = shared.http.get(f"/v1/sessions/{name}/kv")
    assert (refused.status_code, refused.json()["code"]) == (503, "no_model_configured")

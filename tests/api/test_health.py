"""What works, what does not, and what that means for whoever calls."""

import asyncio
from typing import Any

import httpx
import pytest

from memory.domain.errors import BrokerUnavailable, EmbedderUnavailable, StorageUnavailable
from memory.services.health import Health

NAMES = ("database", "broker", "tiers", "embedder", "runtime")


def test_a_whole_service_is_ready_and_says_that_it_does_not_generate(client: Any) -> None:
    answer = client.get("/health/ready")
    report = answer.json()
    assert answer.status_code == 200
    assert {name: report[name]["state"] for name in NAMES} == dict.fromkeys(NAMES, "ok")
    assert report["state"] == "ok"
    assert report["runtime"]["reason"] == "no model configured: generation is off; set STRATAMEM_MODEL"


def test_without_its_database_it_can_not_serve(client: Any, container: Any) -> None:
    container.store.failure = StorageUnavailable("the database does not answer")
    answer = client.get("/health/ready")
    assert (answer.status_code, answer.json()["state"], answer.json()["database"]["state"]) == (503, "down", "down")
    assert "the database does not answer" in answer.json()["database"]["reason"]
    assert client.get("/health/live").json() == {"state": "ok"}


@pytest.mark.parametrize(
    ("entry", "service", "method", "error"),
    [
        ("broker", "jobs", "check", BrokerUnavailable("away")),
        ("embedder", "embedder", "embed", EmbedderUnavailable("no model")),
        ("embedder", "embedder", "embed", ValueError("a secret path")),
    ],
)
def test_what_is_missing_degrades_and_is_named(
    client: Any, container: Any, entry: str, service: str, method: str, error: Exception
) -> None:
    getattr(container, service).answers[method] = error
    answer = client.get("/health/ready")
    assert (answer.status_code, answer.json()["state"], answer.json()[entry]["state"]) == (200, "degraded", "degraded")
    assert answer.json()[entry]["reason"]
    assert "secret" not in answer.text


def test_a_tier_that_can_not_follow_is_named(client: Any, container: Any) -> None:
    container.longterm.failure = "checksum"
    assert client.get("/health/ready").json()["tiers"]["state"] == "degraded"


async def test_texts_that_no_vector_finds_are_told_and_nobody_is_named(make: Any, settings: Any) -> None:
    container = make.container(settings)
    parts = (container.store, container.jobs, container.embedder, container.longterm)
    report = await Health(*parts, words_only=lambda: 2).check()
    assert (report.embedder.state, report.serving) == ("degraded", True)
    assert "embedding model" in str(report.embedder.reason)


async def test_a_hanging_check_does_not_hang_the_probe(make: Any, settings: Any) -> None:
    async def hang(*_: Any) -> None:
        await asyncio.sleep(60)

    container = make.container(settings)
    container.jobs.check = hang
    container.embedder.embed = hang
    health = Health(container.store, container.jobs, container.embedder, container.longterm, timeout=0.05)
    async with asyncio.timeout(1):
        report = await health.check()
    assert (report.broker.state, report.embedder.state, report.database.state) == ("degraded", "degraded", "ok")
    assert "0.05 s" in str(report.broker.reason)


def test_the_version_is_told(client: Any) -> None:
    answer = client.get("/version").json()
    assert (answer["name"], answer["api"]) == ("stratamem", "v1")
    assert answer["version"].count(".") == 2


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/version", "/metrics"])
def test_probes_that_want_no_body_are_answered_like_others(service: str, path: str) -> None:
    asked, read = httpx.head(service + path), httpx.get(service + path)
    assert (asked.status_code, asked.content) == (read.status_code, b"") == (200, b"")
    assert asked.headers["content-type"] == read.headers["content-type"]
    assert int(asked.headers["content-length"]) > 0


def test_the_description_names_each_probe_once(client: Any) -> None:
    assert set(client.get("/openapi.json").json()["paths"]["/health/live"]) == {"get"}

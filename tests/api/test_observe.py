"""Every request leaves one line, one count and one id; no failure leaves without an answer."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from prometheus_client import REGISTRY
from starlette.testclient import TestClient

from api import logs, observe
from api.app import create_app


def count(**labels: str) -> float:
    return REGISTRY.get_sample_value("stratamem_http_requests_total", labels) or 0


def test_an_unexpected_failure_is_answered_without_internals(client: Any, container: Any) -> None:
    container.sessions.answers["get"] = RuntimeError("the password is hunter2")
    with structlog.testing.capture_logs() as lines:
        answer = client.get("/v1/sessions/s1", headers={"X-Request-Id": "mine"})
    assert (answer.status_code, answer.headers["content-type"]) == (500, "application/problem+json")
    assert answer.json()["code"] == "internal_error"
    assert answer.json()["request_id"] == answer.headers["x-request-id"] == "mine"
    assert "hunter2" not in answer.text
    failure = next(line for line in lines if line["log_level"] == "error")
    assert failure["error"] == ["builtins.RuntimeError"]
    assert failure["request_id"] == "mine"
    assert "hunter2" not in str(failure)


def test_a_request_id_is_made_where_none_or_a_bad_one_is_sent(client: Any) -> None:
    assert len(client.get("/version").headers["x-request-id"]) == 36
    assert client.get("/version", headers={"X-Request-Id": "a b\t"}).headers["x-request-id"] != "a b"


def test_metrics_count_route_templates_not_paths(client: Any) -> None:
    labels = {"method": "GET", "route": "/v1/sessions/{session_id}", "status": "200"}
    before = count(**labels)
    for name in ("s1", "s2"):
        client.get(f"/v1/sessions/{name}")
    client.get("/no/such/path")
    assert count(**labels) == before + 2
    text = client.get("/metrics").text
    assert "/v1/sessions/s1" not in text
    assert "/no/such/path" not in text
    assert 'route="unmatched",status="404"' in text
    assert "stratamem_http_request_seconds_bucket" in text


def test_the_log_has_no_query_and_no_body(client: Any) -> None:
    with structlog.testing.capture_logs() as lines:
        client.get("/v1/memories", params={"agent_id": "very-secret-name"})
        client.post("/v1/sessions", json={"title": "very secret title"})
    requests = [line for line in lines if line["event"] == "request"]
    assert [line["route"] for line in requests] == ["/v1/memories", "/v1/sessions"]
    assert [line["status"] for line in requests] == [200, 201]
    assert "secret" not in str(lines)


def test_errors_have_the_request_id_too(client: Any) -> None:
    assert "x-request-id" in client.get("/nothing").headers
    assert "x-request-id" in client.get("/v1/sessions?limit=x").headers


def test_the_application_opens_and_closes_its_own_container(settings: Any, container: Any, monkeypatch: Any) -> None:
    from contextlib import asynccontextmanager

    from memory import bootstrap

    steps = []

    @asynccontextmanager
    async def build(given: Any) -> Any:
        assert given is settings
        steps.append("open")
        yield container
        steps.append("close")

    monkeypatch.setattr(bootstrap, "build", build)
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as client:
        assert client.get("/v1/sessions").status_code == 200
    assert steps == ["open", "close"]


def test_a_log_that_can_not_be_written_takes_no_answer_with_it(client: Any, monkeypatch: Any) -> None:
    def closed(*_: Any, **__: Any) -> None:
        raise ValueError("I/O operation on closed file")

    monkeypatch.setattr(observe, "_log", SimpleNamespace(info=closed, debug=closed, error=closed))
    assert client.get("/v1/sessions/s1").status_code == 200


@pytest.mark.parametrize("form", ["json", "console"])
def test_logged_exceptions_show_no_message_and_no_variables(settings: Any, capsys: Any, form: str) -> None:
    handlers = logging.root.handlers[:]
    try:
        logs.configure(settings.model_copy(update={"log_format": form}))
        password = "hunter2"
        try:
            raise RuntimeError(password)
        except RuntimeError:
            logging.getLogger("some.library").exception("it failed")
            structlog.get_logger("api").exception("it failed too")
    finally:
        structlog.reset_defaults()
        logging.root.handlers[:] = handlers
    shown = capsys.readouterr().err
    assert shown.count("builtins.RuntimeError") == 2
    assert "test_observe.py" in shown
    assert "hunter2" not in shown


def test_work_behind_the_scenes_knows_when_a_request_is_answered(container, client, make):
    seen = []

    def noted(answer):
        return lambda *_, **__: seen.append(container.traffic._requests) or answer

    container.sessions.answers |= {"page": noted([]), "create": noted(make.view(1))}
    client.get("/v1/sessions")
    client.post("/v1/sessions", json={})
    assert (seen, container.traffic._requests) == ([0, 1], 0)


def test_metrics_tell_what_the_runtime_counts(container, client):
    from memory.domain.generation import RuntimeStats

    tiers = {"device": 1, "host": 2, "disk": 3}
    stats = RuntimeStats(
        reused_tokens=tiers,
        missed_tokens={"disk": 12},
        computed_tokens=4,
        written_tokens=5,
        seconds={"prefill": 2.0, "decode": 0.0},
        blocks=tiers,
        bytes=tiers,
        capacity=tiers,
        evicted={"host": {"least_value": 6}},
        prefetched={"host": 13},
        sessions=14,
        pinned_bytes=15,
        quota_used={"host": 0.5},
        streamed_bytes=tiers,
        lost=7,
        quarantined=8,
        gate={"load": 9},
        sparse={"steps": 11},
        coverage=0.75,
        answers={"running": 10},
    )
    assert "stratamem_kv" not in client.get("/metrics").text
    container.generation.stats = lambda: stats
    lines = client.get("/metrics").text.splitlines()
    assert 'stratamem_kv_reused_tokens_total{tier="disk"} 3.0' in lines
    assert 'stratamem_kv_missed_tokens_total{tier="disk"} 12.0' in lines
    assert 'stratamem_kv_evicted_blocks_total{reason="least_value",tier="host"} 6.0' in lines
    assert 'stratamem_kv_prefetched_blocks_total{tier="host"} 13.0' in lines
    assert 'stratamem_tokens_per_second{phase="prefill"} 2.0' in lines
    assert 'stratamem_kv_quota_used_ratio{tier="host"} 0.5' in lines
    assert "stratamem_kv_pinned_bytes 15.0" in lines
    assert 'stratamem_kv_streamed_bytes_total{tier="host"} 2.0' in lines
    assert "stratamem_kv_quarantined_blocks_total 8.0" in lines
    assert 'stratamem_sparse_total{count="steps"} 11.0' in lines
    assert "stratamem_sparse_coverage 0.75" in lines
    assert 'stratamem_answers{state="running"} 10.0' in lines

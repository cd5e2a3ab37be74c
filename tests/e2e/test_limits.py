"""I10: over a limit there is a clear error, and the process stays as small as it was."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.e2e.server import Server, append, indexed, ok, recall, said, sound, until

MIB = 1024 * 1024


def test_requests_over_a_limit_are_refused(shared: Server, name: str) -> None:
    path = f"/v1/sessions/{name}/events"
    headers = {"Content-Type": "application/json"}
    assert shared.http.post(path, content=b" " * (16 * MIB + 1), headers=headers).status_code == 413
    parts = (b" " * MIB for _ in range(17))  # no Content-Length
    with shared.client() as http:
        answer = http.post(path, content=parts, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert shared.http.post(path, json={"events": [said("x")] * 1001}).status_code == 422
    assert shared.http.post(path, json={"events": [said("x" * (MIB + 1))]}).status_code == 413
    assert shared.http.post(path, json={"events": []}).status_code == 422
    many = {"memories": [{"text": f"m{n}", "kind": "fact"} for n in range(1001)]}
    assert shared.http.post("/v1/memories", json=many).status_code == 422
    assert shared.http.post("/v1/recall", json={"query": "x", "top_k": 201}).status_code == 422
    assert ok(shared.http.post("/v1/recall", json={"query": "word " * 40_000}))["degraded"] == []
    assert shared.http.post("/v1/recall", json={"query": "word " * 240_000}).status_code in (413, 422)
    assert shared.http.get(f"/v1/sessions/{name}").status_code == 404, "nothing of it was stored"
    assert ok(shared.http.post(path, json={"events": [said(f"ok {n}") for n in range(1000)]}))["last_seq"] == 1000
    assert ok(shared.http.get("/health/live"))
    ok(shared.http.delete(f"/v1/sessions/{name}"), 200, 202)


def test_an_event_of_a_mebibyte_is_indexed_and_found(shared: Server, name: str) -> None:
    text = " ".join(f"word{n % 997}" for n in range(140_000))[: MIB - 200]
    append(shared.http, name, text + " the xylotomous needle")
    found = recall(shared.http, "xylotomous needle", session_ids=[name], top_k=1)[0]
    assert found["tokens"] <= 512
    ok(shared.http.delete(f"/v1/sessions/{name}"), 200, 202)
    assert recall(shared.http, "xylotomous needle", top_k=200, kinds=["event"]) == [] or sound(shared.http)


def resident(server: Server) -> float:
    """MiB."""
    assert server.process is not None
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


def test_memory_does_not_grow_with_the_work(shared: Server, name: str) -> None:
    def talk(part: int) -> None:
        with shared.client() as http:
            for number in range(80):
                append(http, f"{name}-{part}", f"Line {number} of part {part} is about the weather.")
                if number % 4 == 0:
                    recall(http, f"line {number} of part {part}", top_k=10)

    def work(parts: range) -> None:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(talk, parts))
        indexed(shared.http, 120)

    work(range(4))  # models, pools and caches are warm
    before = resident(shared)
    work(range(4, 8))
    until(lambda: resident(shared) < before + 80, 10, what=f"no more than {before:.0f} + 80 MiB")
    sound(shared.http)

"""Does everybody get as many as asked, however many others there are? Tenants and sessions with ten items each."""

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from benchmarks.machine import out
from benchmarks.scale_peers import EACH, USERS
from benchmarks.service import Service, running
from memory.adapters.sql.storage import SqlStorage
from memory.bootstrap import SystemClock
from memory.domain.principals import ALL_SCOPES
from memory.services.keys import Keys
from memory.settings import Settings


def crowd(texts: Sequence[str]) -> dict[str, Any]:
    """`texts`: real ones, no two alike. How many of ten each asker got, over HTTP, while all are there."""
    with tempfile.TemporaryDirectory(prefix="stratamem-bench-") as name:
        folder = Path(name)
        tokens = asyncio.run(_keys(folder / "data"))
        with running(folder=folder, settings={"STRATAMEM_AUTH": "required"}) as service:
            tenants = _tenants(service, tokens, texts)
            sessions = _sessions(service, tokens[0], texts)
    return {"tenants": _figures(tenants), "sessions_of_one_tenant": _figures(sessions)}


async def _keys(data: Path) -> list[str]:
    """One a tenant."""
    settings = Settings(_env_file=None, data_dir=data, database_url=None)
    data.mkdir(parents=True)
    storage, clock = SqlStorage(settings.storage_url, settings.database), SystemClock()
    try:
        await storage.migrate()
        keys = Keys(storage, clock)
        return [(await keys.create(f"tenant-{number}", ALL_SCOPES)).token for number in range(USERS)]
    finally:
        await storage.close()


def _tenants(service: Service, tokens: Sequence[str], texts: Sequence[str]) -> list[int]:
    for number, token in enumerate(track(tokens, "tenants", console=out, transient=True)):
        own = [{"text": _text(texts, number, n), "kind": "fact", "visibility": "tenant"} for n in range(EACH)]
        _post(service, token, "/v1/memories", {"memories": own})
    return [
        _asked(service, token, {"query": _text(texts, number, 0)}, f"tenant-{number}")
        for number, token in enumerate(track(tokens, "ask", console=out, transient=True))
    ]


def _sessions(service: Service, token: str, texts: Sequence[str]) -> list[int]:
    names = [f"session-{number}" for number in range(USERS)]
    for number, name in enumerate(track(names, "sessions", console=out, transient=True)):
        own = [{"role": "user", "content": _text(texts, number, n)} for n in range(EACH)]
        _post(service, token, f"/v1/sessions/{name}/events", {"events": own})
    return [
        _asked(service, token, {"query": _text(texts, number, 0), "session_ids": [name], "kinds": ["event"]}, name)
        for number, name in enumerate(track(names, "ask", console=out, transient=True))
    ]


def _asked(service: Service, token: str, body: dict[str, Any], owner: str) -> int:
    """How many of its own came; anything of another's is an error."""
    answer = _post(service, token, "/v1/recall", body | {"top_k": EACH})
    place = int(owner.rpartition("-")[2])
    strange = [r["text"] for r in answer["results"] if not r["text"].startswith(f"{place} ")]
    if strange or answer["degraded"]:
        raise RuntimeError(f"{owner} was shown what is not its own, or not everything: {strange} {answer['degraded']}")
    return len(answer["results"])


def _text(texts: Sequence[str], owner: int, number: int) -> str:
    return f"{owner} {texts[(owner * EACH + number) % len(texts)]}"


def _post(service: Service, token: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = service.client.post(path, json=body, headers={"Authorization": f"Bearer {token}"})
    answer.raise_for_status()
    found: dict[str, Any] = answer.json()
    return found


def _figures(got: Sequence[int]) -> dict[str, Any]:
    return {"askers": len(got), "asked": EACH, "got_mean": round(float(np.mean(got)), 2), "got_least": min(got)}

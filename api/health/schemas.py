"""What a probe and a curious client get to read."""

from typing import Literal

from api.values import Answer
from memory.services.health import HealthState


class Live(Answer):
    state: Literal["ok"] = "ok"


class Entry(Answer):
    state: HealthState
    reason: str | None


class Ready(Answer):
    """`state` is the worst of all entries; only `down` answers 503."""

    state: HealthState
    database: Entry
    broker: Entry
    tiers: Entry
    embedder: Entry
    runtime: Entry


class Version(Answer):
    name: Literal["stratamem"] = "stratamem"
    version: str
    api: Literal["v1"] = "v1"

"""What is the engine asked for, and what does it say about it?"""

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from model_runtime.generators.sampling import SamplingOptions


@dataclass(frozen=True, slots=True)
class Text:
    """The next piece of the answer, never empty."""

    text: str


@dataclass(frozen=True, slots=True)
class Done:
    """`reason`: stop, length, cancelled, or warmed. `cached`: tokens of the prompt by the tier they came from.

    `policy`: how exactly its KV is kept and read; where the job left that open, what was chosen.
    """

    reason: str
    prompt_tokens: int
    completion_tokens: int
    cached: dict[str, int]
    prefill_ms: float
    restore_ms: float
    coverage: float | None = None
    """Of sparse steps: the measured share of the softmax's mass that they read."""
    policy: str = "exact"


@dataclass(frozen=True, slots=True)
class Failed:
    """The engine could not go on with this job; others are not touched."""

    message: str


Event = Text | Done | Failed


@dataclass(frozen=True, slots=True)
class Job:
    """`emit` is called in the engine's thread and must not block; after Done or Failed it is not called again.

    Exact KV gives way to `instead` (namespace, codec) where the tenant's share has no room for it.
    """

    prompt: tuple[int, ...]
    options: SamplingOptions
    namespace: bytes
    codec: str
    emit: Callable[[Event], None]
    prepared: float = math.inf
    """Monotonic seconds before its prompt was put together: what is purged later may be in it."""
    sparse: bool = False
    """Steps may leave blocks out; its namespace says so."""
    tenant: str = ""
    memory_key: str | None = None
    """The session that has this KV from then on."""
    warm: bool = False
    """Computed ahead, when there is nothing else to do: the KV of the prompt, and no answer."""
    instead: tuple[bytes, str] | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)

    @property
    def policy(self) -> str:
        return "sparse" if self.sparse else self.codec

    @property
    def session(self) -> tuple[str, str | None]:
        return self.tenant, self.memory_key

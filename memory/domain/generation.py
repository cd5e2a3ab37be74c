"""What is a model asked to write, and what comes back?"""

import re
from dataclasses import dataclass
from enum import StrEnum

_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f]")


@dataclass(frozen=True, slots=True)
class ChatMessage:
    role: str
    content: str
    name: str | None = None


class Fidelity(StrEnum):
    """How close the kept KV must be to what was computed; `auto` gives up exactness only under a quota."""

    EXACT = "exact"
    INT8 = "int8"
    INT4 = "int4"
    SPARSE = "sparse"
    AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Sampling:
    """`temperature` 0 is greedy; `max_tokens` bounds the answer; `logprobs`: how many alternatives per token."""

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    logprobs: int | None = None


WHOLE_TENANT = "tenant"
"""The share group of what any agent of a tenant may read (decision 16)."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """`memory_key`: the session whose KV may be kept. KV is shared within one tenant's `share_group` only."""

    messages: tuple[ChatMessage, ...]
    sampling: Sampling
    memory_key: str | None
    tenant_id: str
    share_group: str
    fidelity: Fidelity = Fidelity.EXACT
    prepared: str | None = None
    """`Generator.moment()` before it was put together: what is purged from then on may be in it."""


@dataclass(frozen=True, slots=True)
class TurnRequest:
    """New messages to answer. With a `memory_key` they go on with that session, and are kept in it if `store`.

    `context_tokens`: the most that window and recall take. `top_k`: memories considered, 0: none.
    """

    model: str
    messages: tuple[ChatMessage, ...]
    sampling: Sampling
    memory_key: str | None = None
    context_tokens: int | None = None
    top_k: int | None = None
    store: bool = True
    fidelity: Fidelity = Fidelity.EXACT


@dataclass(frozen=True, slots=True)
class Ticket:
    """A turn's place in the queue of its session, in whichever process: of all that are there the lowest key is next.

    `ahead`: how many there were before it when it was drawn.
    """

    key: int
    tenant_id: str
    session_id: str
    ahead: int


@dataclass(frozen=True, slots=True)
class CachedTokens:
    """Tokens of the prompt that were really not computed again, by the tier their KV came from."""

    device: int = 0
    host: int = 0
    disk: int = 0

    @property
    def total(self) -> int:
        return self.device + self.host + self.disk


@dataclass(frozen=True, slots=True)
class Usage:
    """`prompt_tokens` includes the cached ones. `restore_ms`: bringing KV back; `prefill_ms`: computing the rest."""

    prompt_tokens: int
    completion_tokens: int
    cached: CachedTokens
    prefill_ms: float
    restore_ms: float
    coverage: float | None = None
    """Where fidelity is sparse: the share of the attention's mass that was read, measured now and then."""
    fidelity: Fidelity | None = None
    """How exactly the KV is kept; None where that is the engine's affair."""


@dataclass(frozen=True, slots=True)
class RuntimeStats:
    """Of this process since its start. Tiers are device, host and disk; what is not tokens or bytes is blocks."""

    reused_tokens: dict[str, int]
    """Tokens of prompts that were not computed again, by the tier they came from."""
    missed_tokens: dict[str, int]
    """Tokens of prompts that a tier was asked for and did not have: it is asked for what those above it lack."""
    computed_tokens: int
    written_tokens: int
    seconds: dict[str, float]
    """Spent on prompts (prefill) and on answers (decode)."""
    blocks: dict[str, int]
    bytes: dict[str, int]
    capacity: dict[str, int]
    """Bytes by tier that there may be."""
    evicted: dict[str, dict[str, int]]
    """By tier and reason."""
    prefetched: dict[str, int]
    """By the tier that they came from."""
    sessions: int
    """That have a manifest."""
    pinned_bytes: int
    quota_used: dict[str, float]
    """By tier, of the tenant that has the most of its share: above 1, others' need makes it give up blocks first."""
    streamed_bytes: dict[str, int]
    """Read from a tier for a forward pass, because the device had no room."""
    lost: int
    """Known, and damaged, late or gone when it was to be read."""
    quarantined: int
    gate: dict[str, int]
    """Blocks that were loaded, and that were quicker computed again."""
    sparse: dict[str, int]
    """Steps (`dense_steps`: read all where they might have been sparse), and blocks over the layers of sparse ones."""
    coverage: float | None
    """Mean of all measurements; None before the first."""
    answers: dict[str, int]
    """In the making, and waiting for a place."""


class Finish(StrEnum):
    """Why the answer ends: the model or a stop string ended it, `max_tokens` did, or it was broken off on request."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Delta:
    """The next piece of the answer, never empty."""

    text: str


@dataclass(frozen=True, slots=True)
class Finished:
    reason: Finish
    usage: Usage


Chunk = Delta | Finished


def storable(text: str) -> str:
    """What a model wrote without the control characters that no event and no memory may hold."""
    return _CONTROLS.sub("", text)

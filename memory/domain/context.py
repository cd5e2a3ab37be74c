"""What an agent gets to read: ready messages within a token budget."""

from dataclasses import dataclass, field
from enum import StrEnum

from memory.domain.recall import Degraded, RecallResult

# What a chat template adds to each message (role, separators), in tokens; counted so that totals are never too low.
MESSAGE_TOKENS = 4


class ContextFormat(StrEnum):
    MESSAGES = "messages"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class Include:
    window: bool = True
    summary: bool = True
    recall: bool = True


@dataclass(frozen=True, slots=True)
class ContextRequest:
    """`top_k`: how many recalled memories are considered at most."""

    max_tokens: int
    query: str | None = None
    top_k: int = 20
    include: Include = field(default_factory=Include)
    format: ContextFormat = ContextFormat.MESSAGES


@dataclass(frozen=True, slots=True)
class Message:
    role: str
    content: str
    name: str | None = None


@dataclass(frozen=True, slots=True)
class ContextTokens:
    total: int
    window: int
    summary: int
    recall: int


@dataclass(frozen=True, slots=True)
class PrefixCache:
    """The part that a later context of the same agent and budget begins with, until the next compaction."""

    prefix_tokens: int
    prefix_fingerprint: str


@dataclass(frozen=True, slots=True)
class Context:
    """`text` instead of `messages` where the format says so."""

    messages: tuple[Message, ...]
    text: str | None
    sources: tuple[RecallResult, ...]
    tokens: ContextTokens
    cache: PrefixCache
    degraded: tuple[Degraded, ...]
    private: bool = False
    """Whether it holds text that only this agent may see."""

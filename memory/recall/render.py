"""How do events and memories read as messages? Append-only and byte-stable: what was rendered once never changes."""

import hashlib
import json
from collections.abc import Sequence

from memory.domain.context import Message
from memory.domain.events import Event
from memory.domain.recall import RecallResult

SUMMARY_HEAD = "Summary of the earlier conversation:"
RECALL_HEAD = "Recalled from memory, most relevant first:"


def event_message(event: Event) -> Message:
    return Message(event.role, event.content, event.name or event.agent_id)


def summary_message(lines: Sequence[str]) -> Message:
    return Message("system", "\n".join([SUMMARY_HEAD, *(f"- {line}" for line in lines)]))


def recall_line(result: RecallResult) -> str:
    who = result.agent_id or result.role or result.kind
    return f"- [{result.created_at:%Y-%m-%d %H:%M} {who}] {result.text}"


def recall_message(lines: Sequence[str]) -> Message:
    return Message("system", "\n".join([RECALL_HEAD, *lines]))


def as_text(messages: Sequence[Message]) -> str:
    return "\n\n".join(f"{message.name or message.role}: {message.content}" for message in messages)


def fingerprint(*parts: object) -> str:
    """Equal for contexts of which the later begins with the earlier one's prefix."""
    canonical = json.dumps(parts, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]

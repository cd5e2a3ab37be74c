"""How does a conversation become tokens? The model's own template around texts that can't pretend to be it.

The template is rendered with a mark in the place of each text; the parts around the marks are read as the template's
author meant them, the texts as plain characters. So "<|end|>" in what somebody said is seven characters, not an end.
"""

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

_PLAIN = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}assistant: "


class ChatTokenizer:
    """Synchronous. Messages are mappings with `role`, `content` and maybe `name`."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._template = tokenizer.chat_template or _PLAIN
        self._mark = secrets.token_hex(16)

    def ids(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """The prompt, up to where the assistant begins to write."""
        marked = [dict(message) | {"content": f"{self._mark}{n}."} for n, message in enumerate(messages)]
        rendered: str = self._tokenizer.apply_chat_template(
            marked, chat_template=self._template, tokenize=False, add_generation_prompt=True
        )
        ids: list[int] = []
        for n, message in enumerate(messages):
            before, found, rendered = rendered.partition(f"{self._mark}{n}.")
            if not found:
                raise ValueError(f"the model's chat template leaves out the message {n} ({message['role']})")
            ids += self._read(before) + self.text_ids(message["content"])
        return ids + self._read(rendered)

    def text_ids(self, text: str) -> list[int]:
        """Of plain text: nothing in it is a control token."""
        return self._encoded(text, plain=True)

    def _read(self, text: str) -> list[int]:
        return self._encoded(text, plain=False)

    def _encoded(self, text: str, *, plain: bool) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False, split_special_tokens=plain)
        return ids

"""How does a conversation become tokens? The model's own template around texts that can't pretend to be it.

The template is rendered with a mark in the place of each text; the parts around the marks are read as the template's
author meant them, the texts as plain characters. So "<|end|>" in what somebody said is seven characters, not an end.
"""

import copy
import secrets
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError

_PLAIN = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}assistant: "


class UnfitMessages(Exception):
    """The model has no way to read such a conversation: roles that do not take turns, for instance."""


class ChatTokenizer:
    """Synchronous. Messages are mappings with `role`, `content` and maybe `name`."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = copy.deepcopy(tokenizer)  # a flag of it is set for each text: one thread at a time, and ours
        self._turn = threading.Lock()
        self._template = tokenizer.chat_template or _PLAIN
        self._mark = secrets.token_hex(16)

    def ids(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """The prompt, up to where the assistant begins to write."""
        marked = [dict(message) | {"content": f"{self._mark}{n}."} for n, message in enumerate(messages)]
        try:
            rendered: str = self._tokenizer.apply_chat_template(
                marked, chat_template=self._template, tokenize=False, add_generation_prompt=True
            )
        except TemplateError as error:
            raise UnfitMessages(f"the model's chat template refuses these messages: {error}") from error
        ids: list[int] = []
        with self._turn:
            for n, message in enumerate(messages):
                before, found, rendered = rendered.partition(f"{self._mark}{n}.")
                if not found:
                    raise UnfitMessages(f"the model's chat template leaves out the message {n} ({message['role']})")
                ids += self._read(before) + self._encoded(message["content"], plain=True)
            return ids + self._read(rendered)

    def text_ids(self, text: str) -> list[int]:
        """Of plain text: nothing in it is a control token."""
        with self._turn:
            return self._encoded(text, plain=True)

    def _read(self, text: str) -> list[int]:
        return self._encoded(text, plain=False)

    def _encoded(self, text: str, *, plain: bool) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False, split_special_tokens=plain)
        return ids

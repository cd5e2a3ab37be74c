"""How does a conversation become tokens? The model's own template around texts that can't pretend to be it.

The template is rendered with a mark in the place of each text; the parts around the marks are read as the template's
author meant them, the texts as plain characters. So "<|end|>" in what somebody said is seven characters, not an end.
What was read lately is remembered text by text: a conversation that is counted and then asked, or that goes on, is
tokenised once.
"""

import copy
import hashlib
import secrets
import threading
from array import array
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

from jinja2 import TemplateError

from model_runtime.generators.roles import learn

_PLAIN = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}assistant: "
_REMEMBERED_TOKENS = 1 << 21
"""8 MiB of ids: two conversations of a million tokens, or those of many sessions that go on."""


class UnfitMessages(Exception):
    """The model has no way to read such a conversation."""


class ChatTokenizer:
    """Any number of threads may call it; one at a time is served. Messages are mappings with `role`, `content`."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = copy.deepcopy(tokenizer)  # a flag of it is set for each text: one thread at a time, and ours
        self._turn = threading.Lock()
        self._known = _Remembered(_REMEMBERED_TOKENS)
        self._template = tokenizer.chat_template or _PLAIN
        self._mark = secrets.token_hex(16)
        self._manners = learn(self._renders)

    @property
    def template(self) -> str:
        """Its fingerprint."""
        return hashlib.sha256(self._template.encode()).hexdigest()

    def ids(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """The prompt, up to where the assistant begins to write. Raises UnfitMessages."""
        marked = [{"role": message["role"], "content": self._place(n)} for n, message in enumerate(messages)]
        try:
            rendered = self._render(self._manners.fit(marked))
        except TemplateError as error:
            raise UnfitMessages(f"the model's chat template refuses these messages: {error}") from error
        ids: list[int] = []
        with self._turn:
            for n, message in enumerate(messages):
                before, found, rendered = rendered.partition(self._place(n))
                if not found:
                    raise UnfitMessages(f"the model's chat template leaves out the message {n} ({message['role']})")
                ids += self._encoded(before, plain=False)
                ids += self._encoded(message["content"], plain=True)
            ids += self._encoded(rendered, plain=False)
            return ids

    def beginning(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """What every prompt begins with that goes on after these messages with one of the user."""
        one, other = (self.ids([*messages, {"role": "user", "content": probe}]) for probe in "01")
        return [a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))]

    def forget(self) -> None:
        """What was read is not remembered: some of it is purged."""
        with self._turn:
            self._known = _Remembered(_REMEMBERED_TOKENS)

    def _place(self, n: int) -> str:
        return f"{self._mark}{n}."

    def _render(self, messages: list[dict[str, str]]) -> str:
        rendered: str = self._tokenizer.apply_chat_template(
            messages, chat_template=self._template, tokenize=False, add_generation_prompt=True
        )
        return rendered

    def _renders(self, roles: Sequence[str]) -> bool:
        try:
            rendered = self._render([{"role": role, "content": self._place(n)} for n, role in enumerate(roles)])
        except TemplateError:
            return False
        places = [rendered.find(self._place(n)) for n in range(len(roles))]
        return -1 not in places and places == sorted(places)

    def _encoded(self, text: str, *, plain: bool) -> "array[int]":
        name = hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16, person=b"plain" if plain else b"")
        known = self._known.get(name.digest())
        if known is None:
            known = array("I", self._tokenizer.encode(text, add_special_tokens=False, split_special_tokens=plain))
            self._known.put(name.digest(), known)
        return known


class _Remembered:
    """Token ids by the digest of their text, the least used leave first."""

    def __init__(self, most_tokens: int) -> None:
        self._ids: OrderedDict[bytes, array[int]] = OrderedDict()
        self._room = most_tokens

    def get(self, name: bytes) -> "array[int] | None":
        if name not in self._ids:
            return None
        self._ids.move_to_end(name)
        return self._ids[name]

    def put(self, name: bytes, ids: "array[int]") -> None:
        self._ids[name] = ids
        self._room -= len(ids) + 1
        while self._room < 0:
            self._room += len(self._ids.popitem(last=False)[1]) + 1

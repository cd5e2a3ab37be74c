"""How do tokens become text piece by piece, and where does an answer end?"""

from collections.abc import Sequence
from typing import Any

_UNFINISHED = "\ufffd"
_LONGEST_CHARACTER = 8
"""Tokens; what is no text after so many never will be."""


class Detokenizer:
    """Gives out text as soon as no later token can change it: a character may be spread over several tokens."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._shown = 0
        """Tokens whose text was given out; those just before it decide about spaces."""
        self._context = 0

    def add(self, token_id: int) -> str:
        self._ids.append(token_id)
        text = self._text(self._context)
        if text.endswith(_UNFINISHED) and len(self._ids) - self._shown < _LONGEST_CHARACTER:
            return ""
        return self._give_out(text)

    def rest(self) -> str:
        """What is left when the answer is over."""
        return self._give_out(self._text(self._context))

    def _give_out(self, text: str) -> str:
        before = self._tokenizer.decode(self._ids[self._context : self._shown], skip_special_tokens=True)
        self._context, self._shown = self._shown, len(self._ids)
        return text[len(before) :]

    def _text(self, start: int) -> str:
        found: str = self._tokenizer.decode(self._ids[start:], skip_special_tokens=True)
        return found


class StopStrings:
    """Holds back what may be the beginning of a stop string; what follows one is never shown."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.hit = False

    def add(self, text: str) -> str:
        """The text that can be shown now."""
        self._held += text
        ends = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if ends:
            self.hit = True
            shown, self._held = self._held[: min(ends)], ""
            return shown
        keep = max((n for stop in self._stops for n in range(1, len(stop)) if self._held.endswith(stop[:n])), default=0)
        shown, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return shown

    def rest(self) -> str:
        shown, self._held = self._held, ""
        return shown

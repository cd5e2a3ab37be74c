"""How many tokens has a text, and where does each begin and end?

The embedder's own vocabulary through the `tokenizers` library, without torch. What the vocabulary can't split is one
unknown token to the library, however long it is: here it counts as its UTF-8 bytes, so that a word of a megabyte or
a line of emoji is as long as it looks.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from model_runtime.embedders.folder import DEFAULT, UnusableModel, find

if TYPE_CHECKING:
    from tokenizers import Tokenizer

UNKNOWN_PIECE = 4
"""Characters of an unknown word that are one span."""

_PIECE = 4_096
_LONGEST_PIECE = 65_536
_PIECE_BORDER = re.compile(r"(?<=\S)(?=\s)|(?<=[。！？])")


class TextTokenizer:
    """Synchronous; any number of threads may call it at once. Never truncates, adds no special tokens."""

    def __init__(self, tokenizer: "Tokenizer", unknown_id: int | None, fingerprint: str) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True  # "[SEP]" in a text is five characters, not a control token
        self.fingerprint = fingerprint
        self._tokenizer = tokenizer
        self._unknown_id = unknown_id

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text; an unknown one counts as its UTF-8 bytes; at least 1 for a text that is not empty."""
        return [max(sum(map(self._length, _pieces(text))), min(1, len(text))) for text in texts]

    def spans(self, text: str) -> list[tuple[int, int]]:
        """The characters [start, end) of each token, ascending and disjoint.

        Tokens that share a character (a decomposed Hangul syllable) are one span with it and empty ones after it, so
        that there are as many spans as tokens. Empty where nothing is left of the text but spaces and controls.
        """
        spans: list[tuple[int, int]] = []
        begin = 0
        for piece in _pieces(text):
            spans.extend((begin + start, begin + end) for start, end in self._disjoint(piece))
            begin += len(piece)
        return spans

    def _length(self, piece: str) -> int:
        (counted,) = self._tokenizer.encode_batch_fast([piece], add_special_tokens=False)  # fast: without offsets
        if self._unknown_id not in counted.ids:
            return len(counted.ids)
        encoding = self._tokenizer.encode(piece, add_special_tokens=False)
        ids = encoding.ids
        unknown = [span for i, span in zip(ids, encoding.offsets, strict=True) if i == self._unknown_id]
        return len(ids) - len(unknown) + sum(len(piece[start:end].encode()) for start, end in unknown)

    def _disjoint(self, piece: str) -> Iterator[tuple[int, int]]:
        encoding = self._tokenizer.encode(piece, add_special_tokens=False)
        reached = 0
        for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            start, end = max(start, reached), max(end, reached)
            reached = end
            if token == self._unknown_id and end - start > UNKNOWN_PIECE:
                yield from pairwise([*range(start, end, UNKNOWN_PIECE), end])
            else:
                yield start, end


def _pieces(text: str) -> Iterator[str]:
    """`text` cut where no token crosses: before a space or after a CJK full stop, else after 65,536 characters.

    The library holds up to 900 bytes per token and slows down with the length: a megabyte of prose took 229 MB at
    1.3 MB/s in one piece, and 65 MB (nearly all of it the answer) at 2.6 MB/s in pieces.
    """
    start = 0
    while len(text) - start > _PIECE:
        border = _PIECE_BORDER.search(text, start + _PIECE, start + _LONGEST_PIECE)
        end = border.start() if border else start + _LONGEST_PIECE
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]


def load(name: str = DEFAULT) -> TextTokenizer:
    """The tokenizer of the model "minilm" (packaged), in a folder, or of a hub id. Raises UnusableModel."""
    file = find(name).tokenizer_file()
    try:
        return parse(file.read_text(encoding="utf-8"))
    except UnusableModel as e:
        raise UnusableModel(f"{file}: {e}") from e


def parse(text: str) -> TextTokenizer:
    """The tokenizer of a `tokenizer.json`. Raises UnusableModel."""
    from tokenizers import Tokenizer

    # Embedding a text costs a hundred times its tokenizing, so threads gain nothing here, and a process that forks
    # (Celery) after the library started threads may hang in the child.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as e:  # the library raises bare Exception for what it can't read
        raise UnusableModel(f"this is not a tokenizer: {e}") from e
    return TextTokenizer(
        tokenizer, _unknown_id(json.loads(text)["model"], tokenizer), hashlib.sha256(text.encode()).hexdigest()[:12]
    )


def _unknown_id(model: dict[str, Any], tokenizer: "Tokenizer") -> int | None:
    """The token for what the vocabulary can't split; byte-level vocabularies have none."""
    if model.get("unk_id") is not None:
        return int(model["unk_id"])
    return tokenizer.token_to_id(model["unk_token"]) if model.get("unk_token") else None

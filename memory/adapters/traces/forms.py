"""In which forms may a text have been kept? As letters, as terms, as a model's tokens, as a vector."""

import json
from collections.abc import Sequence

import numpy as np

from memory.adapters.lexical.analysis import Analyzer
from memory.domain.traces import Marks
from memory.ports.models import Vectors

_LEAST_TOKENS = 3
"""Fewer than that are found by chance."""


def marks(text: str, vector: Vectors | None = None, tokens: Sequence[int] = ()) -> Marks:
    """`vector`: its embedding, [1, dimensions]; `tokens`: its ids, as they stand in the middle of a text."""
    lower = text.lower()
    words = {"UTF-8": text, "UTF-8, lower case": lower}
    encoded = {name: spelled.encode().lower() for name, spelled in words.items()}
    encoded["JSON"] = json.dumps(text)[1:-1].encode().lower()
    for name, encoding in (("UTF-16", "utf-16-le"), ("UTF-16, big-endian", "utf-16-be"), ("UTF-32", "utf-32-le")):
        encoded[name] = text.encode(encoding).lower()
    numbers = {}
    if vector is not None:
        numbers["vector, float16"] = vector.astype("<f2").tobytes()
        numbers["vector, float32"] = vector.astype("<f4").tobytes()
        numbers["vector, float32 of float16"] = vector.astype("<f2").astype("<f4").tobytes()
    if len(tokens) >= _LEAST_TOKENS:
        numbers["token ids, 32 bits"] = np.array(tokens, "<u4").tobytes()
        numbers["token ids, 64 bits"] = np.array(tokens, "<i8").tobytes()
        numbers["token ids, JSON"] = ", ".join(map(str, tokens)).encode()
    distinct = {pattern: name for name, pattern in reversed(encoded.items())}
    return Marks(
        text,
        {name: pattern for pattern, name in reversed(distinct.items())},
        numbers,
        tuple(dict.fromkeys(Analyzer().terms(text))),
    )

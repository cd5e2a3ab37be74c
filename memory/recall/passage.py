"""Where does a passage begin and end?"""

import re

from memory.domain.segments import Span

_BORDER = re.compile(r"(?<=[.!?\n])\s+")
_WORD = re.compile(r"\w{3,}")


def densest(text: str, within: Span, query: str, length: int) -> Span:
    """Of the sentences in `within`, the one from which `length` characters have most of the query's words."""
    words = {word.lower() for word in _WORD.findall(query)}
    borders = [within.start, *(m.end() for m in _BORDER.finditer(text, within.start, within.end))]

    def common(start: int) -> int:
        return len(words & {word.lower() for word in _WORD.findall(text, start, min(start + length, within.end))})

    best = max(borders, key=lambda start: (common(start), -start))
    # The last sentence that still shows as much: what stands before it is not needed.
    best = max(start for start in borders if common(start) == common(best))
    return Span(best, min(best + length, within.end))


def around(text: str, best: Span, length: int) -> Span:
    """About `length` characters with `best` in the middle, from the beginning of a word to the end of one.

    Never longer than `length`; where `best` itself is longer, its beginning.
    """
    spare = length - (best.end - best.start)
    start = max(0, min(best.start - max(0, spare) // 2, len(text) - length))
    end = min(len(text), start + length)
    if start > 0 and not text[start - 1].isspace():
        blank = text.find(" ", start, max(start, best.start) or end)
        start = blank + 1 if blank >= 0 else start
    if end < len(text) and not text[end].isspace():
        blank = text.rfind(" ", max(start, min(best.end, end)), end)
        end = blank if blank > start else end
    return Span(start, end)

"""Where does a passage begin and end?"""

from memory.domain.segments import Span


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

"""What was the earlier conversation about? Key sentences, chosen without a model and the same every time.

Recursive: each step reads the previous summary and the next stretch of the log, and keeps the sentences that say most.
A sentence says much when its words are frequent in the stretch and rare words of function are left out (after
SumBasic, Nenkova and Vanderwende 2005); words that a chosen sentence has said count less for the next.
"""

import re
from collections import Counter
from collections.abc import Sequence

STEP_TOKENS = 4_096
"""A summary is made anew after so many tokens of the shared log."""
SENTENCES = 24
_LONGEST = 240
_SHORTEST = 20
_SENTENCE = re.compile(r"[^.!?\n]+[.!?]*")
_WORD = re.compile(r"[^\W\d_]{4,}")
_FUNCTION_WORDS = frozenset(
    "about after again also because been before being could doing down during each every from have having here just"
    " like more most much only other over really same should some such than that their them then there these they"
    " thing things this those through under until very want were what when where which while will with would your"
    " yeah know think going".split()
)


def sentences(author: str, text: str) -> list[str]:
    """The statements of one event, each with its author; questions tell nothing."""
    found = (match.group().strip() for match in _SENTENCE.finditer(text))
    return [f"{author}: {s}" for s in found if _SHORTEST <= len(s) <= _LONGEST and not s.endswith("?")]


def extend(previous: Sequence[str], stretch: Sequence[str]) -> list[str]:
    """At most SENTENCES of both, in their order."""
    pool = list(dict.fromkeys([*previous, *stretch]))
    words = [_words(sentence) for sentence in pool]
    weight = {word: float(count) for word, count in Counter(w for ws in words for w in ws).items()}
    left = list(range(len(pool)))
    chosen: list[int] = []
    while left and len(chosen) < SENTENCES:
        best = max(left, key=lambda at: (_value(words[at], weight), -at))
        left.remove(best)
        chosen.append(best)
        for word in words[best]:
            weight[word] /= 2
    return [pool[at] for at in sorted(chosen)]


def _value(words: frozenset[str], weight: dict[str, float]) -> float:
    return sum(weight[word] for word in words) / (len(words) + 4)  # + 4: one frequent word alone says little


def _words(sentence: str) -> frozenset[str]:
    return frozenset(_WORD.findall(sentence.lower())) - _FUNCTION_WORDS

"""What does a question ask for? Which tiers must be asked, and which facts beside its words can answer it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from memory.domain.recall import TierName

_MONTHS = "january february march april may june july august september october november december".split()
_MONTH_STEMS = frozenset("januari februari march april may june juli august septemb octob novemb decemb".split())
_NUMBER = re.compile(r"\d+(st|nd|rd|th)?")
_WORD = re.compile(r"[^\W_]+")
_YEAR = re.compile(r"(19|20)\d\d")
_WHEN = re.compile(
    r"^\W*(when|what (date|day|month|year|time)|which (date|day|month|year)"
    r"|(on|in|since|until|by) (what|which) (date|day|month|year))\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class QuestionFacts:
    """months: 1–12. wants_time: it asks for a date or time."""

    months: frozenset[int]
    years: frozenset[int]
    wants_time: bool


def read_question(text: str) -> QuestionFacts:
    words = _WORD.findall(text)
    # "May" the month, "may" the verb: months are capitalised in English.
    months = {_MONTHS.index(w.lower()) + 1 for w in words if w[0].isupper() and w.lower() in _MONTHS}
    years = {int(word) for word in words if _YEAR.fullmatch(word)}
    return QuestionFacts(
        months=frozenset(months),
        years=frozenset(years),
        wants_time=bool(_WHEN.search(text)),
    )


def is_date_term(term: str) -> bool:
    """A number, or a month as the stemmer leaves it."""
    return term in _MONTH_STEMS or _NUMBER.fullmatch(term) is not None


def tiers_to_ask(wanted: frozenset[TierName]) -> Sequence[TierName]:
    """The tiers are inclusive: what the window or the clusters would find, long-term finds as well."""
    return (TierName.LONGTERM,) if TierName.LONGTERM in wanted else sorted(wanted)


def tiers_instead(wanted: frozenset[TierName]) -> Sequence[TierName]:
    """Who answers when long-term can't: the tiers that read the database without an index."""
    return sorted(wanted - {TierName.LONGTERM})

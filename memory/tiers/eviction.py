"""What is a piece of a tier worth, and which pieces go when there is no room? One family of policies for all tiers.

A piece's score is the logarithm of what a byte of it is expected to save (economy.py): it falls with disuse and with
likeness to what stays, and rises with use, importance and the cost of having it back. The parts add up, so a decision
can be read: nothing else went into it. Disuse is counted in arrivals, never in seconds: a clock that jumps, a night
without a word, or a thousand pieces at once change no decision.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memory.domain.moves import Parts, PolicyName, Reason

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Places = NDArray[np.int64]

_AT_ONCE = 512
_COMPARED = 1_024
"""Of so many that are worth least is it asked how like they are to the others, so that the cost is bounded: 4,096
pieces of 256 dimensions gave up 64 in 36 to 119 ms on one core of a busy machine."""


@dataclass(frozen=True, slots=True)
class Pieces:
    """n pieces of one tier in the order of their arrival, as arrays of length n.

    idle: what came into the tier since the piece was last used, as a share of the tier's capacity. uses: since it came.
    around: a part of the uses of its neighbours, which tell of it too.
    importance: 0 to 1. costs: seconds that its absence costs when it is asked for, per byte. protected: it stays.
    audiences: 0 is seen by all, every other number by some; only what everybody sees who sees the piece can stand in
    for it. vectors: float32 [n, d], unit length.
    """

    idle: Doubles
    uses: Places
    around: Doubles
    importance: Doubles
    costs: Doubles
    protected: NDArray[np.bool_]
    audiences: Places
    vectors: Floats

    def __len__(self) -> int:
        return len(self.idle)


@dataclass(frozen=True, slots=True)
class Weights:
    """Of the parts of a score, in units of one tierful of disuse.

    Likeness counts from the cosine `unlike` on: any two turns of a conversation are that like each other. Chosen on
    three conversations of LoCoMo, 23 meetings of QMSum and three chats of BEAM, see benchmarks/eviction_quality.py.
    """

    use: float = 0.6
    importance: float = 4.0
    redundancy: float = 1.0
    unlike: float = 0.3


TUNED = Weights()


@dataclass(frozen=True, slots=True)
class Leaving:
    """`place`: of the piece among those given. `nearest`: of the kept one that it is most like, None: of none."""

    place: int
    reason: Reason
    score: float
    parts: Parts | None = None
    nearest: int | None = None


def leaving(
    pieces: Pieces, surplus: int, policy: PolicyName = PolicyName.LRU_SIMILARITY, weights: Weights = TUNED
) -> list[Leaving]:
    """Which pieces go, those that go first first: `surplus`, or all that are not protected if these are fewer."""
    most = min(surplus, int((~pieces.protected).sum()))
    if most <= 0:
        return []
    if policy is PolicyName.LRU_SIMILARITY:
        return _least_valuable(pieces, most, weights)
    reason, keys = _BASELINES[policy]
    order = np.lexsort(keys(pieces))
    gone = order[~pieces.protected[order]][:most]
    return [Leaving(int(at), reason, float(keys(pieces)[-1][at])) for at in gone]


def base_parts(pieces: Pieces, weights: Weights = TUNED) -> tuple[Doubles, Doubles, Doubles, Doubles]:
    """Recency, use, importance and cost: all of a score but what it loses for its likeness to others."""
    return (
        -_disuse(pieces.idle),
        weights.use * np.log1p(pieces.uses + pieces.around),
        weights.importance * pieces.importance,
        np.log(pieces.costs),
    )


def _disuse(idle: Doubles) -> Doubles:
    """Tierfuls, beyond the first by their logarithm: who outlived a tierful unused is hardly worse off after ten."""
    return np.asarray(np.where(idle < 1, idle, 1 + np.log(np.maximum(idle, 1))), np.float64)


def _least_valuable(pieces: Pieces, most: int, weights: Weights) -> list[Leaving]:
    parts = np.stack(base_parts(pieces, weights))
    base = parts.sum(axis=0)
    # What would go if likeness counted for nothing: whatever is worth more than that goes for its likeness.
    border = np.partition(np.where(pieces.protected, np.inf, base), most - 1)[most - 1]
    staying = np.ones(len(pieces), np.bool_)
    gone: list[Leaving] = []
    while len(gone) < most:
        for at, lost, nearest in _round(pieces, base, staying, min(most - len(gone), _AT_ONCE), weights):
            reason = Reason.REDUNDANT if base[at] > border else Reason.LEAST_VALUE
            recency, use, importance, cost = (float(part[at]) for part in parts)
            explained = Parts(recency, use, importance, cost, -lost)
            gone.append(Leaving(at, reason, float(base[at]) - lost, explained, nearest))
    return gone


def _round(
    pieces: Pieces, base: Doubles, staying: NDArray[np.bool_], most: int, weights: Weights
) -> list[tuple[int, float, int | None]]:
    """The next `most` that go: place, what likeness took from it, and the kept one it is most like.

    Changes `staying`. One at a time: of two doubles the first to go leaves the other the only one of its kind.
    """
    considered = _considered(pieces, base, staying, most, weights)
    cosines = pieces.vectors[considered] @ pieces.vectors.T
    cosines[:, ~staying] = -1
    cosines[_hidden(pieces.audiences[considered], pieces.audiences)] = -1
    cosines[np.arange(len(considered)), considered] = -1
    nearest = cosines.argmax(axis=1)
    lost = _loss(cosines[np.arange(len(considered)), nearest], weights)
    score = base[considered] - lost
    found: list[tuple[int, float, int | None]] = []
    while len(found) < most:
        lowest = int(score.argmin())
        at, like = int(considered[lowest]), int(nearest[lowest])
        found.append((at, float(lost[lowest]), like if lost[lowest] > 0 else None))
        staying[at] = False
        score[lowest] = np.inf
        cosines[:, at] = -1
        alone = np.flatnonzero((nearest == at) & np.isfinite(score))
        if len(alone):  # only those that were most like the one that left are compared anew
            nearest[alone] = cosines[alone].argmax(axis=1)
            lost[alone] = _loss(cosines[alone, nearest[alone]], weights)
            score[alone] = base[considered[alone]] - lost[alone]
    return found


def _considered(pieces: Pieces, base: Doubles, staying: NDArray[np.bool_], most: int, weights: Weights) -> Places:
    """Those that can go: whoever is worth more than the last of them by all that likeness can take stays for sure."""
    free = np.flatnonzero(staying & ~pieces.protected)
    border = np.partition(base[free], most - 1)[most - 1] + weights.redundancy
    near = free[base[free] <= border]
    room = max(_COMPARED, most)
    return near if len(near) <= room else np.sort(near[np.argsort(base[near], kind="stable")[:room]])


def _hidden(of: Places, others: Places) -> NDArray[np.bool_]:
    """[of, others]: whether somebody who sees the one does not see the other."""
    return np.asarray((others != 0) & (others != of[:, None]), np.bool_)


def _loss(cosines: Floats, weights: Weights) -> Doubles:
    likeness = np.clip((cosines.astype(np.float64) - weights.unlike) / (1 - weights.unlike), 0, 1)
    return np.asarray(weights.redundancy * likeness, np.float64)


def _drawn(pieces: Pieces) -> Doubles:
    """A number per piece that nobody can foresee and that is the same each time: from the bits of its vector."""
    bits = np.ascontiguousarray(pieces.vectors).view(np.uint32).astype(np.uint64)
    odd = np.arange(1, 2 * bits.shape[1], 2, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (bits * odd).sum(axis=1, dtype=np.uint64)
    mixed ^= mixed >> np.uint64(31)
    return np.asarray((mixed * np.uint64(0xBF58476D1CE4E5B9) >> np.uint64(11)) / 2.0**53, np.float64)


_Keys = Callable[[Pieces], tuple[NDArray[np.float64], ...]]
_BASELINES: dict[PolicyName, tuple[Reason, _Keys]] = {
    PolicyName.LRU: (Reason.LONGEST_UNUSED, lambda pieces: (-pieces.idle,)),
    PolicyName.LFU: (Reason.LEAST_USED, lambda pieces: (-pieces.idle, pieces.uses.astype(np.float64))),
    PolicyName.FIFO: (Reason.FIRST_IN, lambda pieces: (np.arange(len(pieces), dtype=np.float64),)),
    PolicyName.RANDOM: (Reason.DRAWN, lambda pieces: (_drawn(pieces),)),
}
"""What to compare with: the last key decides, the ones before break ties, then who came first goes first."""

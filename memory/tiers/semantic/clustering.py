"""Which partition of the segments is the best that splits, merges and moves can reach? Pure, over unit vectors [n, d].

Spherical k-means (Dhillon and Modha 2001) by its objective alone: a cluster is worth the length of the sum of its
members, since that is the sum of their cosines with the centroid. So a split gains |s1| + |s2| - |s|, a merger costs
|s1| + |s2| - |s1 + s2|, and all that changes disjoint clusters adds up exactly. What is done always gains, so it ends,
and where it has ended it finds nothing more to do. Single moves are judged as by Hartigan and Wong (1979): with the
few members of our clusters, a segment's own part in its centroid keeps Lloyd's algorithm where it begins.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]

_WORTH = 1e-3
"""A change that gains less, in cosines, is left: far above the rounding of float32, far below what recall notices."""
_TRIES = 8
"""Steps of two-means within one cluster."""


@dataclass(frozen=True, slots=True)
class _Split:
    """`members`: their places; `apart`: bool, those that leave to found a cluster of their own."""

    label: int
    members: Labels
    apart: NDArray[np.bool_]
    gain: float


@dataclass(frozen=True, slots=True)
class _Merger:
    """The smaller, `label`, goes into `into`."""

    label: int
    into: int
    cost: float


def arranged(segments: Floats, of: Labels, *, count: int) -> Labels:
    """The cluster of each segment, from the partition `of` on, in `count` clusters (fewer when there is nothing apart).

    Clusters keep their labels while they last; new ones count on from the highest. A second call changes nothing.
    """
    if not len(segments):
        return of.copy()
    now, highest = _settled(segments, of), int(of.max())
    while True:
        highest = max(highest, int(now.max()))  # the label of a cluster that is gone is not given out again
        changed = _reshaped(segments, now, count, highest)
        if changed is None:
            return now
        changed = _settled(segments, changed)
        # Where the number was right already, only what gains: said again for the rounding.
        if _number(now) == count and worth(segments, changed) < worth(segments, now) + _WORTH / 2:
            return now
        now = changed


def worth(segments: Floats, of: Labels) -> float:
    """The sum of all cosines with the own centroid: n when each segment is its centroid."""
    return float(np.linalg.norm(sums(segments, of)[1], axis=1).sum())


def sums(segments: Floats, of: Labels) -> tuple[Labels, Floats]:
    """The labels that have members, ascending, and the sum of the members of each."""
    labels, dense = np.unique(of, return_inverse=True)
    order = np.argsort(dense, kind="stable")
    starts = np.searchsorted(dense[order], np.arange(len(labels)))
    if not len(labels):
        return labels, np.zeros((0, segments.shape[1]), np.float32)
    return labels, np.asarray(np.add.reduceat(segments[order], starts, axis=0), np.float32)


def counts(sizes: Sequence[int], *, per_cluster: int, most: int) -> list[int]:
    """How many clusters each of several sets of segments may have: one for so many segments, `most` in all.

    Each has at least one, so there are more than `most` when there are more sets than that.
    """
    wanted = [-(-size // per_cluster) for size in sizes]
    if sum(wanted) <= most:
        return wanted
    if most <= len(sizes):
        return [min(1, size) for size in sizes]
    each = -(-sum(sizes) // (most - len(sizes)))  # rounding up adds at most one for each set
    return [-(-size // each) for size in sizes]


def _number(of: Labels) -> int:
    return len(np.unique(of))


def _settled(segments: Floats, of: Labels) -> Labels:
    """Until no segment would gain by another cluster. None is ever emptied: alone, a segment has a cosine of 1."""
    labels, dense = np.unique(of, return_inverse=True)
    _, held = sums(segments, of)
    while moves := _moves(segments, dense, held):
        for at, to in moves:
            held[dense[at]] -= segments[at]
            held[to] += segments[at]
            dense[at] = to
    return np.asarray(labels[dense], np.int64)


def _moves(segments: Floats, of: Labels, held: Floats) -> list[tuple[int, int]]:
    """(segment, its new cluster), the most gaining first; no two touch the same cluster, so their gains add up."""
    if len(held) < 2:
        return []
    lengths = np.linalg.norm(held, axis=1)
    cosines = segments @ held.T
    rows = np.arange(len(segments))
    gained = np.sqrt(np.maximum(lengths**2 + 2 * cosines + 1, 0)) - lengths
    own, length = cosines[rows, of], lengths[of]
    lost = length - np.sqrt(np.maximum(length**2 - 2 * own + 1, 0))
    gained[rows, of] = -np.inf
    to = gained.argmax(axis=1)
    gain = gained[rows, to] - lost
    found: list[tuple[int, int]] = []
    touched: set[int] = set()
    for at in np.argsort(-gain, kind="stable")[: int((gain > _WORTH).sum())].tolist():
        pair = {int(of[at]), int(to[at])}
        if not pair & touched:
            touched |= pair
            found.append((at, int(to[at])))
    return found


def _reshaped(segments: Floats, of: Labels, count: int, highest: int) -> Labels | None:
    """With the number of clusters nearer to `count`; when it is right, with what gains by a split and a merger.

    New labels count on from the `highest`. None: there is nothing to gain.
    """
    labels, held = sums(segments, of)
    surplus = len(labels) - count
    if surplus > 0:
        return _applied(of, [], _disjoint(_mergers(labels, held, of))[:surplus], highest)
    if surplus < 0:
        splits = sorted(_splits(segments, of, labels, held, _WORTH), key=lambda split: -split.gain)
        return _applied(of, splits[:-surplus], [], highest) if splits else None
    mergers = _mergers(labels, held, of)
    if not mergers:
        return None
    splits = sorted(_splits(segments, of, labels, held, mergers[0].cost + _WORTH), key=lambda split: -split.gain)
    chosen = _exchanges(splits, mergers)
    if not chosen:
        return None
    return _applied(of, [split for split, _ in chosen], [merger for _, merger in chosen], highest)


def _exchanges(splits: Sequence[_Split], mergers: Sequence[_Merger]) -> list[tuple[_Split, _Merger]]:
    """Splits, the best first, each paid for by the cheapest merger that is left; no two touch the same cluster."""
    touched: set[int] = set()
    found: list[tuple[_Split, _Merger]] = []
    for split in splits:
        if split.label in touched:
            continue
        away = touched | {split.label}
        merger = next((one for one in mergers if one.label not in away and one.into not in away), None)
        if merger is None or split.gain <= merger.cost + _WORTH:
            break
        touched = away | {merger.label, merger.into}
        found.append((split, merger))
    return found


def _applied(of: Labels, splits: Sequence[_Split], mergers: Sequence[_Merger], highest: int) -> Labels:
    after = of.copy()
    for label, split in enumerate(splits, start=highest + 1):
        after[split.members[split.apart]] = label
    for merger in mergers:
        after[of == merger.label] = merger.into
    return after


def _mergers(labels: Labels, held: Floats, of: Labels) -> list[_Merger]:
    """The cheapest of each cluster, ascending in cost."""
    if len(labels) < 2:
        return []
    lengths = np.linalg.norm(held, axis=1)
    together = np.sqrt(np.maximum(lengths[:, None] ** 2 + lengths[None, :] ** 2 + 2 * (held @ held.T), 0))
    costs = lengths[:, None] + lengths[None, :] - together
    np.fill_diagonal(costs, np.inf)
    sizes = np.unique(of, return_counts=True)[1]
    found = []
    for at, other in enumerate(costs.argmin(axis=1).tolist()):
        small, large = (at, other) if (sizes[at], -at) < (sizes[other], -other) else (other, at)
        found.append(_Merger(int(labels[small]), int(labels[large]), float(costs[at, other])))
    return sorted(found, key=lambda merger: merger.cost)


def _disjoint(mergers: Sequence[_Merger]) -> list[_Merger]:
    touched: set[int] = set()
    found = []
    for merger in mergers:
        if not {merger.label, merger.into} & touched:
            touched |= {merger.label, merger.into}
            found.append(merger)
    return found


def _splits(segments: Floats, of: Labels, labels: Labels, held: Floats, least: float) -> Iterator[_Split]:
    """Those that gain more than `least`. What a cluster lacks to its size is the most that a split could gain."""
    order = np.argsort(of, kind="stable")
    starts = np.searchsorted(of[order], labels)
    for at, members in enumerate(np.split(order, starts[1:])):
        length = _length(held[at])
        if len(members) - length <= least:
            continue
        apart = _halves(segments[members], held[at])
        parting = segments[members[apart]].sum(axis=0)
        gain = _length(parting) + _length(held[at] - parting) - length
        if gain > least and 0 < apart.sum() < len(members):
            yield _Split(int(labels[at]), members, apart, gain)


def _halves(members: Floats, held: Floats) -> NDArray[np.bool_]:
    """Two-means, from the member that is least like all and the one least like that; True: the smaller half."""
    first = members[int((members @ held).argmin())]
    second = members[int((members @ first).argmin())]
    apart = members @ (first - second) > 0
    for _ in range(_TRIES):
        one = members[apart].sum(axis=0)
        two = held - one
        again = members @ (one / max(_length(one), 1e-12) - two / max(_length(two), 1e-12)) > 0
        if (again == apart).all() or not 0 < again.sum() < len(members):
            break
        apart = again
    smaller: NDArray[np.bool_] = apart if apart.sum() <= len(members) / 2 else ~apart
    return smaller


def _length(vector: Floats) -> float:
    return math.sqrt(float(vector @ vector))

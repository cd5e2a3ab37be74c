"""How sure is a share that was counted? Intervals of 95 %."""

from math import sqrt
from typing import Any

import numpy as np

_Z = 1.96


def wilson(hits: int, asked: int) -> tuple[float, float]:
    """After Wilson (1927); (0, 1) where nothing was asked."""
    if not asked:
        return 0.0, 1.0
    share, z2 = hits / asked, _Z**2 / asked
    middle, half = share + z2 / 2, _Z * sqrt(share * (1 - share) / asked + z2 / (4 * asked))
    return max(0.0, (middle - half) / (1 + z2)), min(1.0, (middle + half) / (1 + z2))


def bootstrap_ratio(found: Any, reference: Any, seed: int, rounds: int = 2_000) -> tuple[float, float]:
    """Of sum(found) ÷ sum(reference), both bool [n] over the same questions, drawn together."""
    draw = np.random.default_rng(seed)
    chosen = draw.integers(0, len(found), (rounds, len(found)))
    ratios = found[chosen].sum(1) / np.maximum(reference[chosen].sum(1), 1)
    low, high = np.quantile(ratios, (0.025, 0.975))
    return float(low), float(high)


def bootstrap_mean(scores: Any, seed: int, rounds: int = 2_000) -> tuple[float, float]:
    """Of the mean of float [n], drawn with repetition."""
    found = np.asarray(scores)
    chosen = np.random.default_rng(seed).integers(0, len(found), (rounds, len(found)))
    low, high = np.quantile(found[chosen].mean(1), (0.025, 0.975))
    return float(low), float(high)

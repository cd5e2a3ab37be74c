"""What does a codec keep? Of vectors it has not seen, how often is the nearest among the ten best by codes?"""

from collections.abc import Sequence

import numpy as np

from memory.domain.codecs import Retention
from memory.ports.codecs import Coder
from memory.ports.models import Vectors

_ASKED = 1_000
_AMONG = 10
_SEED = 0


def measured(coder: Coder, unseen: Sequence[Vectors]) -> Retention:
    """Asks with the vectors themselves, exact; searches what their codes give back, without the one that asks."""
    codes = [coder.encode(part) for part in unseen]
    found = np.concatenate([coder.decode(code) for code in codes])
    exact = np.concatenate(list(unseen))
    size = sum(map(len, codes)) / len(exact)
    drawn = np.random.default_rng(_SEED).permutation(len(exact))[:_ASKED]
    asked = exact[drawn]
    rows = np.arange(len(drawn))
    wanted, ranked = asked @ exact.T, asked @ found.T
    wanted[rows, drawn] = ranked[rows, drawn] = -np.inf
    nearest = wanted.argmax(1)
    better = (ranked > ranked[rows, nearest][:, np.newaxis]).sum(1)
    return Retention(float((better < _AMONG).mean()), len(drawn), size)

"""Do the figures of the clustering benchmark mean what they say? Scorers and data are not needed."""

from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.clustering import (
    adjusted_rand,
    anew,
    components,
    consolidations,
    count_of,
    error,
    first_come,
    mutual_information,
    online,
)
from memory.tiers.semantic import policy


def labels(*found: int) -> np.ndarray:
    return np.array(found, np.int64)


def test_the_same_partition_agrees_whatever_its_labels() -> None:
    one, two = labels(0, 0, 1, 1, 2), labels(7, 7, 3, 3, 5)
    assert adjusted_rand(one, two) == pytest.approx(1)
    assert mutual_information(one, two) == pytest.approx(1)


def test_the_adjusted_rand_index_is_that_of_the_textbook() -> None:
    assert adjusted_rand(labels(0, 0, 0, 1, 1, 1), labels(0, 0, 1, 1, 2, 2)) == pytest.approx(0.2424, abs=1e-4)


def test_partitions_that_know_nothing_of_each_other_do_not_agree() -> None:
    rng = np.random.default_rng(0)
    one, two = rng.integers(0, 5, 5_000), rng.integers(0, 5, 5_000)
    assert abs(adjusted_rand(one, two)) < 0.01
    assert mutual_information(one, two) < 0.01


def stream(n: int) -> tuple[SimpleNamespace, np.ndarray]:
    rng = np.random.default_rng(1)
    middles = rng.standard_normal((8, 64))
    said = middles[rng.integers(0, 8, n)] + 0.5 * rng.standard_normal((n, 64))
    return SimpleNamespace(items=np.arange(n) // 3), policy.unit(said.astype(np.float32))


def test_a_consolidation_takes_whole_events_and_nothing_twice() -> None:
    coded, _ = stream(50)
    parts = list(consolidations(coded))  # type: ignore[arg-type]
    assert [at for part in parts for at in range(part.start, part.stop)] == list(range(50))
    assert all(part.stop % 3 == 0 or part.stop == 50 for part in parts)


@pytest.mark.parametrize("keep", [30, 120])
def test_both_ways_label_what_is_kept_and_arranged_clusters_fit_as_those_made_anew(keep: int) -> None:
    coded, vectors = stream(120)
    kept = vectors[-keep:]
    found = {make: make(coded, vectors, keep) for make in (online, first_come)}  # type: ignore[operator]
    assert all(len(of) == keep for of in found.values())
    assert len(np.unique(found[online])) == count_of(keep)
    assert error(kept, found[online]) <= 1.02 * error(kept, anew(kept))


def test_principal_components_are_orthonormal_and_the_best_of_their_number() -> None:
    _, vectors = stream(300)
    wide = policy.unit(np.hstack([vectors, vectors @ np.random.default_rng(2).standard_normal((64, 320))]))
    onto = components(wide.astype(np.float32))
    np.testing.assert_allclose(onto.T @ onto, np.eye(256), atol=1e-4)
    assert np.linalg.norm(wide @ onto) >= np.linalg.norm(wide @ policy.projection(384))

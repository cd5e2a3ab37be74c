"""Retention is the share of nearest neighbours that are still among the ten best."""

import numpy as np
import pytest

from memory.adapters.codecs.plain import Float16
from memory.adapters.codecs.sealed import SealedCodec
from memory.services.retention import measured


class Blind:
    """Gives back vectors that say nothing."""

    def encode(self, stretch):
        return bytes(len(stretch))

    def decode(self, code):
        vectors = np.random.default_rng(5).standard_normal((len(code), 16)).astype(np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def unseen():
    vectors = np.random.default_rng(1).standard_normal((40, 30, 16)).astype(np.float32)
    return list(vectors / np.linalg.norm(vectors, axis=2, keepdims=True))


def test_what_keeps_everything_keeps_all(unseen):
    coder = SealedCodec(Float16()).open(SealedCodec(Float16()).train(unseen, lambda done: True), 16)
    found = measured(coder, unseen)
    assert (found.recall, found.asked) == (1.0, 1_000)
    assert found.bytes_per_segment == pytest.approx(32 + 9 / 30)


def test_what_keeps_nothing_finds_by_chance(unseen):
    found = measured(Blind(), unseen)
    assert found.recall < 0.05
    assert found.bytes_per_segment == 1

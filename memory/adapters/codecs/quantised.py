"""How few bytes does a vector need when a codebook knows what vectors are like? Quantised by product or residual.

Product (Jégou et al. 2011), after a learned rotation (OPQ, Ge et al. 2013): a byte for each part of a vector. Residual
(Chen et al. 2010): a byte for what each of the steps before left over.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np

from memory.ports.codecs import GoesOn
from memory.ports.models import Vectors

SMALL_BYTES = 42
"""With the nine bytes of a code's seals over eight vectors: 43 each, 17.8 times smaller than 384 numbers in float16."""
_CENTROIDS = 256
_ITERATIONS = 8
"""Of k-means: FAISS' 25 take three times as long."""
_ROTATIONS = 6
_SEED = 1234
_BEAM = 4


@dataclass(frozen=True, slots=True)
class Quantised:
    """`make`: an untrained FAISS index for so many dimensions and bytes a vector."""

    name: str
    make: Callable[[int, int], Any]
    size: int = SMALL_BYTES
    least: int = 4 * _CENTROIDS

    def learn(self, stretches: Sequence[Vectors], goes_on: GoesOn) -> bytes:
        """Can't be interrupted: bounded by the number of vectors."""
        vectors = np.ascontiguousarray(np.concatenate(stretches), np.float32)
        goes_on(0)
        with _one_thread():
            index = self.make(vectors.shape[1], self.size)
            index.train(vectors)
        return bytes(faiss.serialize_index(index))

    def load(self, body: bytes, dimensions: int) -> "_Quantised":
        try:
            index = faiss.deserialize_index(np.frombuffer(body, np.uint8))
        except RuntimeError as error:
            raise ValueError("not an index of FAISS") from error
        if index.d != dimensions or index.sa_code_size() != self.size or index.ntotal or not index.is_trained:
            raise ValueError("another index of FAISS")
        return _Quantised(index)


class _Quantised:
    def __init__(self, index: Any) -> None:
        self._index = index

    def encode(self, stretch: Vectors) -> bytes:
        with _one_thread():
            return bytes(self._index.sa_encode(stretch).tobytes())

    def decode(self, payload: bytes, count: int) -> Vectors:
        codes = np.frombuffer(payload, np.uint8).reshape(count, self._index.sa_code_size())
        with _one_thread():
            found: Vectors = self._index.sa_decode(codes)
        return found


def product(size: int = SMALL_BYTES) -> Quantised:
    return Quantised("pq", _product, size)


def residual(size: int = SMALL_BYTES) -> Quantised:
    return Quantised("rq", _residual, size)


def _product(dimensions: int, size: int) -> Any:
    kept = dimensions // size * size
    index: Any = faiss.index_factory(dimensions, f"OPQ{size}_{kept},PQ{size}x8np")
    # np: without the annealing that orders centroids for Hamming distances: minutes, for what nobody asks
    rotation: Any = faiss.downcast_VectorTransform(index.chain.at(0))
    rotation.niter, rotation.niter_pq, rotation.niter_pq_0 = _ROTATIONS, 2, _ITERATIONS
    inner: Any = faiss.ProductQuantizer(kept, size, 8)
    outer: Any = faiss.downcast_index(index.index)
    for quantiser in (inner, outer.pq):
        _few(quantiser.cp)
    rotation.pq, index.referenced_objects = inner, [inner]  # FAISS keeps a bare pointer: this keeps what it points to
    return index


def _residual(dimensions: int, size: int) -> Any:
    index: Any = faiss.index_factory(dimensions, f"RQ{size}x8")
    index.rq.train_type = faiss.ResidualQuantizer.Train_default
    index.rq.max_beam_size = _BEAM
    _few(index.rq.cp)
    return index


def _few(parameters: Any) -> None:
    """Iterations and vectors. FAISS warns below 39 vectors a centroid; here retention is measured before adoption."""
    parameters.niter, parameters.seed, parameters.min_points_per_centroid = _ITERATIONS, _SEED, 1


@contextmanager
def _one_thread() -> Iterator[None]:
    """Of OpenMP, for the calling thread: work behind the scenes leaves the other cores alone."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)

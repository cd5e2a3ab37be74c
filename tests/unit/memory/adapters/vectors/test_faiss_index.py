from concurrent.futures import ThreadPoolExecutor

import numpy as np

from memory.adapters.vectors.faiss_index import FaissIndex
from memory.adapters.vectors.flat import FlatIndex


def unit(n: int, d: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_searches_beside_each_other_give_what_they_give_alone():
    index, queries = FaissIndex(32), unit(64, 32, seed=1)
    index.add(unit(20_000, 32))
    masks = np.random.default_rng(3).random((64, 20_000)) < np.linspace(0.0005, 1, 64)[:, None]

    def search(n: int) -> list[int]:
        return index.search(queries[n], 10, masks[n]).rows.tolist()

    alone = [search(n) for n in range(64)]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            assert list(pool.map(search, range(64))) == alone


def test_faiss_and_numpy_agree_on_realistic_vectors_with_repetitions():
    vectors = unit(3_000, 384)
    vectors[1_000:1_500] = vectors[17]
    flat, scanned = FlatIndex(384), FaissIndex(384)
    flat.add(vectors)
    scanned.add(vectors)
    for query in [vectors[17], *unit(20, 384, seed=9)]:
        assert scanned.search(query, 25).rows.tolist() == flat.search(query, 25).rows.tolist()

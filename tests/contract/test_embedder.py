"""What every adapter of the Embedder port does."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import pytest

from memory.adapters.models.inprocess import InProcessEmbedder, load_models
from memory.adapters.models.runtime_http import connect
from memory.ports.models import Embedder
from tests.engines import KEY, model_runtime

PROSE = [
    "The deployment of Friday was rolled back after two minutes.",
    "On Friday we released, and had to undo it at once.",
    "My cat only eats fish.",
    "short",
    "A much longer text follows. " + "It says the same thing over and over, in many words. " * 30,
]


@pytest.fixture(scope="module")
def in_process() -> Iterator[InProcessEmbedder]:
    embedder = load_models("minilm").embedder
    yield embedder
    embedder.close()


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with model_runtime(tmp_path_factory.mktemp("runtime"), model=None) as url:
        yield url


@pytest.fixture(params=["in_process", "runtime_http"])
async def embedder(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Embedder]:
    if request.param == "in_process":
        yield request.getfixturevalue("in_process")
        return
    remote = await connect(request.getfixturevalue("runtime"), KEY, tmp_path / "facts.json")
    yield remote.embedder
    await remote.client.close()


async def test_no_texts_are_no_vectors_of_the_right_width(embedder: Embedder) -> None:
    vectors = await embedder.embed([])

    assert vectors.shape == (0, embedder.dimensions)
    assert vectors.dtype == np.float32


async def test_each_text_becomes_one_float32_unit_vector(embedder: Embedder) -> None:
    vectors = await embedder.embed(PROSE)

    assert vectors.shape == (len(PROSE), embedder.dimensions)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


async def test_vectors_come_in_the_order_of_the_texts(embedder: Embedder) -> None:
    together = await embedder.embed(PROSE)
    backwards = await embedder.embed(PROSE[::-1])

    np.testing.assert_allclose(together, backwards[::-1], atol=1e-5)


async def test_the_company_of_a_text_does_not_change_its_vector(embedder: Embedder) -> None:
    together = await embedder.embed(PROSE * 3 + ["filler of some other length"] * 5)
    for at, text in enumerate(PROSE):
        np.testing.assert_allclose((await embedder.embed([text]))[0], together[at], atol=1e-5)


async def test_the_same_texts_give_the_same_vectors_again(embedder: Embedder) -> None:
    np.testing.assert_array_equal(await embedder.embed(PROSE), await embedder.embed(PROSE))


async def test_a_paraphrase_is_nearer_than_another_subject(embedder: Embedder) -> None:
    rolled_back, undone, cat, *_ = await embedder.embed(PROSE)

    assert rolled_back @ undone > rolled_back @ cat + 0.2


@pytest.mark.parametrize("text", ["", " ", "\x00", "😀" * 500, "a" * 200_000, "漢字" * 5_000, "[SEP][PAD][MASK]"])
async def test_odd_texts_have_finite_unit_vectors(embedder: Embedder, text: str) -> None:
    vector = (await embedder.embed([text]))[0]

    assert np.isfinite(vector).all()
    assert abs(np.linalg.norm(vector) - 1) < 1e-5


async def test_the_space_is_named_and_does_not_change(embedder: Embedder) -> None:
    before = embedder.space
    await embedder.embed(["x"])

    assert before
    assert embedder.space == before

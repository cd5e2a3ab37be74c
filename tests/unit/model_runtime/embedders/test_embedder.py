import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_runtime.embedders.embedder import SentenceEmbedder, batches, load
from model_runtime.embedders.folder import UnusableModel, find
from model_runtime.embedders.precision import Precision

TEXTS = ["one short query", "Some longer text about the deployment on Friday. " * 8, "", "漢字 and café", "x" * 3_000]


@pytest.fixture(scope="module")
def minilm() -> SentenceEmbedder:
    return load("minilm")


def copy_of_minilm(to: Path) -> Path:
    return Path(shutil.copytree(find("minilm").path, to / "model", copy_function=shutil.copyfile))


def test_vectors_are_those_of_the_sentence_transformers_library(minilm: SentenceEmbedder) -> None:
    from sentence_transformers import SentenceTransformer

    library = SentenceTransformer(str(find("minilm").path), device=minilm.device, local_files_only=True)
    expected = library.encode(TEXTS, normalize_embeddings=True, show_progress_bar=False)

    np.testing.assert_allclose(minilm.embed(TEXTS), expected, atol=1e-5)


def test_the_space_names_model_width_weights_and_pooling(minilm: SentenceEmbedder) -> None:
    assert minilm.space == "all-MiniLM-L6-v2:384:53aa51172d14:mean-unit"
    assert (minilm.dimensions, minilm.max_tokens) == (384, 254)


def test_text_beyond_the_limit_is_not_read(minilm: SentenceEmbedder) -> None:
    limit = "word " * minilm.max_tokens

    np.testing.assert_allclose(minilm.embed([limit + "and more"]), minilm.embed([limit]), atol=1e-6)


def test_a_pipeline_with_other_layers_is_run_by_the_library(minilm: SentenceEmbedder, tmp_path: Path) -> None:
    folder = copy_of_minilm(tmp_path)
    pooling = json.loads((folder / "1_Pooling/config.json").read_text())
    pooling |= {"pooling_mode_mean_tokens": False, "pooling_mode_max_tokens": True}
    (folder / "1_Pooling/config.json").write_text(json.dumps(pooling))
    model = load(str(folder))

    assert model.space == "model:384:53aa51172d14:pipeline-unit"
    assert model.embed(TEXTS).shape == (len(TEXTS), 384)
    assert not np.allclose(model.embed(TEXTS[:1]), minilm.embed(TEXTS[:1]), atol=1e-2)


@pytest.mark.parametrize("missing", ["tokenizer.json", "model.safetensors", "config.json"])
def test_an_incomplete_folder_is_refused_by_name(tmp_path: Path, missing: str) -> None:
    folder = copy_of_minilm(tmp_path)
    (folder / missing).unlink()

    with pytest.raises(UnusableModel, match=str(folder)):
        load(str(folder))


def test_threads_share_one_model_and_get_their_own_vectors(minilm: SentenceEmbedder) -> None:
    expected = minilm.embed(TEXTS)
    with ThreadPoolExecutor(4, initializer=minilm.prepare_thread) as pool:
        for vectors in pool.map(minilm.embed, [TEXTS] * 8):
            np.testing.assert_allclose(vectors, expected, atol=1e-5)


def test_a_thread_on_one_core_computes_on_one(minilm: SentenceEmbedder) -> None:
    import torch

    seen = []
    thread = threading.Thread(target=lambda: (minilm.prepare_thread(), seen.append(torch.get_num_threads())))
    thread.start()
    thread.join()

    assert seen == [1]


@given(st.lists(st.integers(1, 256), max_size=200), st.integers(1, 2_000))
def test_every_text_is_in_one_batch_within_the_budget_and_little_is_padding(lengths: list[int], budget: int) -> None:
    plan = list(batches([[7] * n for n in lengths], budget))

    assert sorted(row for batch in plan for row in batch.rows) == list(range(len(lengths)))
    for batch in plan:
        assert [len(ids) for ids in batch.ids] == [lengths[row] for row in batch.rows]
        padded = len(batch.ids) * max(map(len, batch.ids))
        assert len(batch.rows) == 1 or padded <= budget
        assert padded * 7 <= 8 * sum(map(len, batch.ids))


def test_auto_is_int8_only_for_the_packaged_model_and_only_where_it_pays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model_runtime.embedders.int8.pays", lambda: False)

    assert not load("minilm", Precision.AUTO, tmp_path).space.endswith("-int8")

    monkeypatch.setattr("model_runtime.embedders.int8.pays", lambda: True)

    assert not load(str(copy_of_minilm(tmp_path)), Precision.AUTO, tmp_path).space.endswith("-int8")


def test_a_pipeline_that_only_the_library_runs_has_no_int8(tmp_path: Path) -> None:
    folder = copy_of_minilm(tmp_path)
    (folder / "modules.json").write_text("[]")

    with pytest.raises(UnusableModel, match="STRATAMEM_EMBEDDER_PRECISION=float32"):
        load(str(folder), Precision.INT8, tmp_path)

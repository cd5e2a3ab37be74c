import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from model_runtime.embedders import int8
from model_runtime.embedders.embedder import SentenceEmbedder, load
from model_runtime.embedders.folder import ModelFolder, UnusableModel, find
from model_runtime.embedders.precision import Precision

TEXTS = ["one short query", "Some longer text about the deployment on Friday. " * 8, "", "漢字 and café", "x" * 3_000]


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exports")
    int8.exported(find("minilm"), "mean", folder)
    return folder


@pytest.fixture(scope="module")
def minilm(exports: Path) -> SentenceEmbedder:
    return load("minilm", Precision.INT8, exports)


@pytest.fixture
def copies(exports: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """An export is a copy of the one that is there, and noted: making it takes seconds."""
    (graph,) = exports.glob("*/model.onnx")
    made: list[Path] = []

    def export(folder: ModelFolder, pooling: str, target: Path) -> None:
        shutil.copyfile(graph, target)
        made.append(target)

    monkeypatch.setattr(int8, "_export", export)
    return made


def test_vectors_are_near_those_in_float32(minilm: SentenceEmbedder) -> None:
    likeness = (minilm.embed(TEXTS) * load("minilm").embed(TEXTS)).sum(axis=1)

    assert likeness.min() > 0.97
    assert likeness.mean() > 0.98


def test_the_space_says_int8(minilm: SentenceEmbedder) -> None:
    assert minilm.space == "all-MiniLM-L6-v2:384:53aa51172d14:mean-unit-int8"
    assert (minilm.dimensions, minilm.max_tokens, minilm.device) == (384, 254, "cpu")


def test_the_company_of_a_text_changes_no_bit_of_its_vector(minilm: SentenceEmbedder) -> None:
    together = minilm.embed(TEXTS * 3 + ["filler of some other length"] * 5)

    for at, text in enumerate(TEXTS):
        np.testing.assert_array_equal(minilm.embed([text])[0], together[at])


def test_threads_share_one_model_and_get_their_own_vectors(minilm: SentenceEmbedder) -> None:
    expected = minilm.embed(TEXTS)
    with ThreadPoolExecutor(4, initializer=minilm.prepare_thread) as pool:
        for vectors in pool.map(minilm.embed, [TEXTS] * 8):
            np.testing.assert_array_equal(vectors, expected)


def test_what_was_made_once_is_loaded_without_torch(exports: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from model_runtime.embedders.embedder import load\n"
        "from model_runtime.embedders.precision import Precision\n"
        "print(load('minilm', Precision.INT8, Path(sys.argv[1])).embed(['a text']).shape)\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script, str(exports)], capture_output=True, text=True, check=True)

    assert (done.stdout.strip(), done.stderr) == ("(1, 384)", "")


def test_a_second_process_takes_what_the_first_made(tmp_path: Path, copies: list[Path]) -> None:
    first = int8.exported(find("minilm"), "mean", tmp_path)

    assert int8.exported(find("minilm"), "mean", tmp_path) == first
    assert len(copies) == 1


@pytest.mark.parametrize("damage", ["flipped", "cut", "no graph", "no checksum"])
def test_a_damaged_export_is_made_again(tmp_path: Path, copies: list[Path], damage: str) -> None:
    whole = int8.exported(find("minilm"), "mean", tmp_path)
    (kept,) = tmp_path.iterdir()
    if damage == "flipped":
        (kept / "model.onnx").write_bytes(whole[:5_000] + bytes([whole[5_000] ^ 1]) + whole[5_001:])
    elif damage == "cut":
        (kept / "model.onnx").write_bytes(whole[:-1])
    elif damage == "no graph":
        (kept / "model.onnx").unlink()
    else:
        (kept / "sha256").unlink()

    assert int8.exported(find("minilm"), "mean", tmp_path) == whole
    assert len(copies) == 2
    assert [path.name for path in tmp_path.iterdir()] == [kept.name]


def test_processes_that_make_it_at_once_end_with_one(tmp_path: Path, copies: list[Path]) -> None:
    with ThreadPoolExecutor(4) as pool:
        graphs = set(pool.map(lambda _: int8.exported(find("minilm"), "mean", tmp_path), range(4)))

    assert len(graphs) == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_weights_that_can_not_be_read_are_named_with_the_way_out(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(find("minilm").path, tmp_path / "model", copy_function=shutil.copyfile))
    (folder / "model.safetensors").write_bytes(b"not weights")

    with pytest.raises(UnusableModel, match="STRATAMEM_EMBEDDER_PRECISION=float32"):
        load(str(folder), Precision.INT8, tmp_path / "exports")
    assert list((tmp_path / "exports").iterdir()) == []

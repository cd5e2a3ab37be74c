import json
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from model_runtime.generators.fixture import FIXTURE_NAME, MAX_POSITIONS, SPECIAL_TOKENS, write_fixture

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Où est Zoë? <|end|>"}]


@dataclass(frozen=True)
class Recall:
    """Pairs of a key and its value in noise, then all keys once more: the last `len(values)` tokens ask."""

    ids: torch.Tensor
    values: torch.Tensor


def recall_task(length: int, pairs: int = 64, seed: int = 1) -> Recall:
    rng = random.Random(seed)
    tokens = rng.sample(range(256), 256)
    keys, others = tokens[:pairs], tokens[pairs:]
    values = rng.choices(others, k=pairs)
    ids = [256, *rng.choices(others, k=length - 1 - pairs)]
    places = rng.sample(range(1, len(ids) - 1, 2), pairs)
    for place, key, value in zip(places, keys, values, strict=True):
        ids[place : place + 2] = [key, value]
    asked = rng.sample(range(pairs), pairs)
    ids += [keys[i] for i in asked]
    return Recall(torch.tensor([ids]), torch.tensor([values[i] for i in asked]))


def answers(model: Any, task: Recall) -> torch.Tensor:
    """float32 [asked, vocabulary]: the logits after each key of the end."""
    with torch.inference_mode():
        logits: torch.Tensor = model(task.ids, logits_to_keep=len(task.values), use_cache=False).logits
    return logits[0]


def recalled(model: Any, task: Recall) -> float:
    """The share of pairs whose value is the greedy next token after its key."""
    return (answers(model, task).argmax(-1) == task.values).float().mean().item()


def load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fixture(tmp_path_factory.mktemp("fixture") / "model")


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return load(folder)


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


@pytest.mark.parametrize("length", [512, 2_048])
def test_every_pair_in_the_noise_is_recalled(model: Any, length: int) -> None:
    assert recalled(model, recall_task(length)) == 1.0


def test_it_recalls_in_half_precision(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, local_files_only=True).eval()

    assert recalled(model, recall_task(2_048)) == 1.0


def test_it_recalls_beyond_a_million_positions_from_the_start(model: Any) -> None:
    task = recall_task(512)
    positions = torch.arange(MAX_POSITIONS - 512, MAX_POSITIONS)[None]
    with torch.inference_mode():
        logits = model(task.ids, position_ids=positions, logits_to_keep=64, use_cache=False).logits

    assert torch.equal(logits[0].argmax(-1), task.values)


def test_a_thin_margin_forgets(tmp_path: Path) -> None:
    assert recalled(load(write_fixture(tmp_path / "thin", margin=1)), recall_task(2_048)) < 0.5


def test_outliers_leave_the_answers_as_they_are(model: Any, tmp_path: Path) -> None:
    task = recall_task(2_048)
    twin = load(write_fixture(tmp_path / "twin", outliers=50))
    expected = answers(model, task)

    assert twin.model.layers[1].self_attn.k_proj.bias.abs().max() == 50
    torch.testing.assert_close(answers(twin, task), expected, atol=1e-2, rtol=0)
    assert torch.equal(answers(twin, task).argmax(-1), expected.argmax(-1))


def test_a_generation_continues_what_followed_before(model: Any, tokenizer: Any) -> None:
    ids = tokenizer("> abcdefghij, then a", return_tensors="pt").input_ids

    written = model.generate(ids, max_new_tokens=9, do_sample=False)[0, ids.shape[1] :]

    assert tokenizer.decode(written).startswith("bcd")


def test_the_same_arguments_write_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    assert files(write_fixture(tmp_path / "again")) == files(folder)
    assert json.loads((folder / "config.json").read_text())["_name_or_path"] == FIXTURE_NAME


def test_what_is_there_is_not_written_again(folder: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    took = []

    for _ in range(3):
        begun = time.perf_counter()
        write_fixture(folder)
        took.append(time.perf_counter() - begun)

    assert min(took) < 0.05
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_another_version_is_replaced_and_nothing_is_left_beside_it(folder: Path, tmp_path: Path) -> None:
    path = write_fixture(tmp_path / "model", margin=10)
    write_fixture(path)

    assert files(path) == files(folder)
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")

    with pytest.raises(FileExistsError, match=str(tmp_path)):
        write_fixture(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


@given(text=st.text())
def test_text_is_its_bytes_and_comes_back(tokenizer: Any, text: str) -> None:
    ids = tokenizer(text).input_ids

    assert ids == list(text.encode())
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("token", SPECIAL_TOKENS)
def test_control_tokens_are_not_read_out_of_text(tokenizer: Any, token: str) -> None:
    assert tokenizer(f"a{token}b").input_ids == list(f"a{token}b".encode())


def test_messages_are_rendered(tokenizer: Any) -> None:
    text = tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)

    assert text == "<|bos|><|system|>Be brief.<|end|><|user|>Où est Zoë? <|end|><|end|><|assistant|>"


def test_control_tokens_are_read_where_they_are_asked_for(tokenizer: Any) -> None:
    ids = tokenizer.apply_chat_template(
        MESSAGES[:1],
        add_generation_prompt=True,
        return_dict=False,
        tokenizer_kwargs={"split_special_tokens": False},
    )

    bos, end, system, assistant = tokenizer.convert_tokens_to_ids(["<|bos|>", "<|end|>", "<|system|>", "<|assistant|>"])
    assert ids == [bos, system, *b"Be brief.", end, assistant]

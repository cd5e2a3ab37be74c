from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_runtime.embedders.folder import UnusableModel
from model_runtime.embedders.tokenizer import _pieces, load


@given(st.lists(st.sampled_from(["a" * 900, " ", "。", "漢" * 500, "\n\n", "x"]), max_size=300).map("".join))
def test_pieces_join_to_the_text_and_are_bounded(text: str) -> None:
    pieces = list(_pieces(text))

    assert "".join(pieces) == text
    assert all(0 < len(piece) <= 65_536 for piece in pieces)


def test_a_damaged_tokenizer_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")

    with pytest.raises(UnusableModel, match=r"tokenizer\.json"):
        load(str(tmp_path))


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnusableModel, match=r"holds no tokenizer\.json"):
        load(str(tmp_path))

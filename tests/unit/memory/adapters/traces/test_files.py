"""A text is found in whichever form and file it was left."""

import json
from pathlib import Path

import numpy as np
import pytest
import tantivy

from memory.adapters.lexical.analysis import ANALYSIS, Analyzer
from memory.adapters.lexical.committed import SCHEMA
from memory.adapters.traces import files, forms
from memory.domain.traces import Marks

TEXT = "The Quetzalkoatl stands"
VECTOR = np.array([[0.1, -0.5, 0.25]], np.float32)
TOKENS = [1084, 1104, 1101, 1032, 1081]


@pytest.fixture
def mark() -> Marks:
    return forms.marks(TEXT, VECTOR, TOKENS)


def traces(folder: Path, mark: Marks) -> list[str]:
    return [trace for look in files.looks(folder, [mark]) for trace in look.found]


@pytest.mark.parametrize(
    ("content", "form"),
    [
        (b"... " + TEXT.encode() + b" ...", "UTF-8"),
        (TEXT.upper().encode(), "UTF-8"),
        (TEXT.encode("utf-16-le"), "UTF-16"),
        (TEXT.encode("utf-32-le"), "UTF-32"),
        (VECTOR.astype("<f2").tobytes(), "vector, float16"),
        (VECTOR.tobytes(), "vector, float32"),
        (np.array(TOKENS, "<u4").tobytes(), "token ids, 32 bits"),
        (json.dumps({"tail": [1, *TOKENS, 2]}).encode(), "token ids, JSON"),
    ],
)
def test_every_form_is_found_wherever_it_lies(tmp_path: Path, mark: Marks, content: bytes, form: str) -> None:
    (tmp_path / "kv").mkdir()
    (tmp_path / "kv" / "left").write_bytes(b"x" * 1000 + content)
    (trace,) = traces(tmp_path, mark)
    assert trace == f"kv/left: {TEXT!r} as {form}"
    (tmp_path / "kv" / "left").write_bytes(b"x" * 1000)
    assert traces(tmp_path, mark) == []


def test_a_text_across_the_pieces_in_which_a_file_is_read_is_found(
    tmp_path: Path, mark: Marks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_CHUNK", 16)
    for at in range(40):
        (tmp_path / "file").write_bytes(b"x" * at + TEXT.encode() + b"y" * 20)
        assert traces(tmp_path, mark) == [f"file: {TEXT!r} as UTF-8"], at


def test_a_packed_archive_is_opened(tmp_path: Path, mark: Marks) -> None:
    (tmp_path / "index").mkdir()
    np.savez_compressed(tmp_path / "index" / "names.npz", names=np.array([TEXT, "other"]))
    assert traces(tmp_path, mark) == [f"index/names.npz!names.npy: {TEXT!r} as UTF-32"]


def test_the_words_of_an_index_are_asked_for_in_one_document(tmp_path: Path) -> None:
    index = tantivy.Index(SCHEMA, str(tmp_path))
    writer = index.writer()
    for item, text in enumerate(["The Quetzalkoatl is old.", "Somebody stands there."]):
        document = tantivy.Document()
        document.add_unsigned("item", item)
        document.add_text(ANALYSIS, " ".join(Analyzer().terms(text)))
        writer.add_document(document)
    writer.commit()
    assert traces(tmp_path, forms.marks("Quetzalkoatl")) != []
    assert traces(tmp_path, forms.marks("quetzalkoatl old")) != []
    assert traces(tmp_path, forms.marks("Quetzalkoatl stands")) == []
    assert traces(tmp_path, forms.marks("Xylofonist")) == []


def test_an_index_that_stores_its_documents_is_no_good(tmp_path: Path, mark: Marks) -> None:
    schema = tantivy.SchemaBuilder().add_text_field(ANALYSIS, stored=True).build()
    writer = tantivy.Index(schema, str(tmp_path)).writer()
    document = tantivy.Document()
    document.add_text(ANALYSIS, "anything at all")
    writer.add_document(document)
    writer.commit()
    (trace,) = traces(tmp_path, mark)
    assert trace.endswith("1 documents are stored with their fields")

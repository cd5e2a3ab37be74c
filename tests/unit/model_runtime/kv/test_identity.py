import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from model_runtime.kv import identity
from model_runtime.kv.identity import NamespaceFacts, block_id, chain, framed, namespace, weights_fingerprint
from model_runtime.kv.shape import BLOCK

FACTS = NamespaceFacts(
    format_version=1,
    weights="ab" * 32,
    architecture={"model_type": "llama", "rope_parameters": {"rope_theta": 1e6}, "sliding_window": None},
    kv_dtype="bfloat16",
    block_size=BLOCK,
    policy="exact",
    chunk_grid=16_384,
    libraries={"transformers": "5.23", "torch": "2.13"},
    adapter="",
    salt="00" * 32,
)
OTHERS: dict[str, Any] = {
    "format_version": 2,
    "weights": "ac" * 32,
    "architecture": {"model_type": "llama", "rope_parameters": {"rope_theta": 1e6}, "sliding_window": 4096},
    "kv_dtype": "float16",
    "block_size": 256,
    "policy": {"sparse": {"top_k": 16}},
    "chunk_grid": 8_192,
    "libraries": {"transformers": "5.23", "torch": "2.14"},
    "adapter": "lora",
    "salt": "01" * 32,
}
NAMESPACE = FACTS.namespace()

u32 = st.integers(0, 2**32 - 1)
tokens = st.lists(u32, max_size=8)
ids = st.binary(min_size=32, max_size=32).filter(any)


def test_the_name_of_a_block_is_what_the_design_says() -> None:
    import hashlib

    parent = b"\x01" * 32
    body = b"v1" + NAMESPACE + parent + b"\x02\x00\x00\x00" + b"\x05\x00\x00\x00" + b"\x00\x01\x00\x00"
    assert block_id(NAMESPACE, parent, [5, 256]) == hashlib.sha256(body).digest()
    assert block_id(NAMESPACE, None, []) == hashlib.sha256(b"v1" + NAMESPACE + bytes(36)).digest()


@pytest.mark.parametrize("field", OTHERS)
def test_each_fact_makes_another_namespace(field: str) -> None:
    assert replace(FACTS, **{field: OTHERS[field]}).namespace() != NAMESPACE


@pytest.mark.parametrize("field", OTHERS)
def test_a_namespace_without_a_fact_is_refused(field: str) -> None:
    facts = {name: getattr(FACTS, name) for name in OTHERS if name != field}
    with pytest.raises(ValueError, match=field):
        namespace(facts)


def test_the_order_of_facts_does_not_matter_and_more_facts_do() -> None:
    facts = {name: getattr(FACTS, name) for name in reversed(OTHERS)}
    assert namespace(facts) == NAMESPACE
    assert namespace(facts | {"more": 1}) != NAMESPACE


@pytest.mark.parametrize("value", [math.nan, math.inf, b"bytes", {1: "a key that JSON would rename"}, [{2: 3}]])
def test_facts_that_are_no_json_are_refused(value: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the text is json's own for some
        replace(FACTS, policy=value).namespace()


@given(st.lists(st.text(max_size=5), max_size=4), st.lists(st.text(max_size=5), max_size=4))
@example(["a", "bc"], ["ab", "c"])
@example(["", "a"], ["a", ""])
@example([], [""])
def test_two_lists_of_fields_never_have_one_framing(left: list[str], right: list[str]) -> None:
    assert (framed(*left) == framed(*right)) == (left == right)


@given(ids, st.none() | ids, tokens, ids, st.none() | ids, tokens)
def test_two_blocks_never_share_an_id(
    space: bytes, parent: bytes | None, own: list[int], other_space: bytes, other_parent: bytes | None, other: list[int]
) -> None:
    same = block_id(space, parent, own) == block_id(other_space, other_parent, other)
    assert same == ((space, parent, own) == (other_space, other_parent, other))


@pytest.mark.parametrize("bad", [[-1], [2**32], [1.0], ["1"]])
def test_a_token_that_is_no_u32_is_refused(bad: Any) -> None:
    with pytest.raises(ValueError, match="whole numbers"):
        block_id(NAMESPACE, None, bad)


@pytest.mark.parametrize(("space", "parent"), [(b"short", None), (NAMESPACE, b"short"), (NAMESPACE, bytes(32))])
def test_an_id_of_another_length_is_refused(space: bytes, parent: bytes | None) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        block_id(space, parent, [1])


@pytest.mark.parametrize(("length", "blocks"), [(0, 0), (511, 0), (512, 1), (1023, 1), (1024, 2)])
def test_a_chain_names_full_blocks_only(length: int, blocks: int) -> None:
    assert len(chain(NAMESPACE, range(length))) == blocks


def test_a_block_is_named_by_everything_before_it() -> None:
    first, second = chain(NAMESPACE, range(1024))
    changed = [1, *range(1, 1024)]

    assert first == block_id(NAMESPACE, None, range(512))
    assert second == block_id(NAMESPACE, first, range(512, 1024))
    assert chain(NAMESPACE, changed)[1] != second
    assert chain(NAMESPACE, [*range(1023), 5])[0] == first


def test_weights_are_named_by_content_and_file_name(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"one")
    (tmp_path / "b.safetensors").write_bytes(b"two")
    before = weights_fingerprint(tmp_path)

    (tmp_path / "config.json").write_bytes(b"{}")
    assert weights_fingerprint(tmp_path) == before
    (tmp_path / "b.safetensors").rename(tmp_path / "c.safetensors")
    assert weights_fingerprint(tmp_path) != before
    (tmp_path / "c.safetensors").rename(tmp_path / "b.safetensors")
    assert weights_fingerprint(tmp_path) == before


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="safetensors"):
        weights_fingerprint(tmp_path)


def test_changed_weights_are_seen_although_size_and_time_are_the_old_ones(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    file.write_bytes(b"one")
    before, times = weights_fingerprint(tmp_path), file.stat()
    file.write_bytes(b"two")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))

    assert weights_fingerprint(tmp_path) != before


def test_weights_are_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"one")
    before = weights_fingerprint(tmp_path)
    monkeypatch.setattr(Path, "open", lambda *_: pytest.fail("read again"))

    assert weights_fingerprint(tmp_path) == before
    assert identity._hashed

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model_runtime.kv.arena import Arena
from model_runtime.kv.shape import KVShape
from model_runtime.kv.tails import MOST_ON_DEVICE, StoredTail, TailFiles, TailKey, Tails

SHAPE = KVShape(layers=2, kv_heads=2, head_dim=8, dtype="float32")
KEY = (b"n" * 32, b"b" * 32)
START = (b"n" * 32, None)
OTHER = (b"o" * 32, None)


@pytest.fixture
def arena() -> Arena:
    made = Arena(SHAPE, 16)
    for layer in made.layers:
        layer.normal_()
    return made


@pytest.fixture
def files(tmp_path: Path) -> Iterator[TailFiles]:
    opened = TailFiles(tmp_path / "tails", 1 << 20)
    yield opened
    opened.close()


def stored(*tokens: int) -> StoredTail:
    return StoredTail(tokens, np.arange(len(tokens) * SHAPE.block_bytes // 512, dtype=np.uint8))


def reopened(folder: Path, quota: int = 1 << 20) -> TailFiles:
    return TailFiles(folder / "tails", quota)


def test_a_tail_that_rests_comes_back_bit_for_bit_in_a_new_process(tmp_path: Path, arena: Arena) -> None:
    tails = Tails(arena, reopened(tmp_path), arena.take)
    slot = arena.take()
    tails.put(KEY, (1, 2, 3), slot)
    written = [layer[slot, :, :, :3].clone() for layer in arena.layers]
    free = arena.free
    assert (tails.rest(KEY), tails.where(KEY), arena.free) == (3, "disk", free + 1)

    again = Tails(arena, reopened(tmp_path), lambda: 9)
    found = again.find(KEY)
    assert found is not None
    assert (found.tokens, found.slot, found.tier) == ((1, 2, 3), 9, "disk")
    assert all(torch.equal(layer[9, :, :, :3], part) for layer, part in zip(arena.layers, written, strict=True))
    assert again.where(KEY) == "device"


def test_the_end_of_a_process_keeps_the_tails_that_are_on_the_device(tmp_path: Path, arena: Arena) -> None:
    tails = Tails(arena, reopened(tmp_path), arena.take)
    for key in (KEY, START):
        tails.put(key, (1, 2), arena.take())
    tails.close()
    assert [reopened(tmp_path).has(key) for key in (KEY, START, OTHER)] == [True, True, False]


def test_more_tails_than_may_stay_let_the_oldest_go(arena: Arena) -> None:
    tails = Tails(arena, None, arena.take)
    for n in range(MOST_ON_DEVICE + 2):
        tails.put((b"n" * 32, bytes([n]) * 32), (n,), arena.take())
    assert arena.free == 16 - MOST_ON_DEVICE
    assert tails.find((b"n" * 32, bytes([1]) * 32)) is None
    while tails.give_up_one():
        pass
    assert arena.free == 16


def test_a_namespace_that_is_forgotten_leaves_no_file(tmp_path: Path, files: TailFiles) -> None:
    for key in (KEY, START, OTHER):
        assert files.put(key, stored(1, 2, 3))
    files.forget(frozenset({KEY[0]}))
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path.parent.name for path in left] == [OTHER[0].hex()]
    assert not files.has(KEY)
    assert files.get(OTHER) is not None


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "gone"])
def test_a_damaged_tail_is_no_tail(tmp_path: Path, files: TailFiles, damage: str) -> None:
    files.put(KEY, stored(*range(40)))
    (path,) = (path for path in tmp_path.rglob("*.tail"))
    content = path.read_bytes()
    at = random.Random(damage).randrange(len(content))
    match damage:
        case "flip":
            path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        case "cut":
            path.write_bytes(content[:at])
        case "empty":
            path.write_bytes(b"")
        case "gone":
            path.unlink()
    assert files.get(KEY) is None
    assert not files.has(KEY)
    assert files.put(KEY, stored(7))
    found = files.get(KEY)
    assert found is not None
    assert found.tokens == (7,)


@pytest.mark.parametrize("place", [START, OTHER])
def test_a_tail_in_the_place_of_another_one_is_no_tail(tmp_path: Path, files: TailFiles, place: TailKey) -> None:
    """The same tokens after other blocks, or with another model, have other KV."""
    tokens = range(40)
    files.put(KEY, stored(*tokens))
    (path,) = (path for path in tmp_path.rglob("*.tail"))
    files.put(place, stored(*tokens))
    (other,) = (found for found in tmp_path.rglob("*.tail") if found != path)
    path.replace(other)
    assert files.get(place) is None
    assert not other.exists()


def test_a_tail_of_another_shape_is_not_read_into_the_device(tmp_path: Path, arena: Arena, files: TailFiles) -> None:
    files.put(KEY, StoredTail((1, 2), np.zeros(12, np.uint8)))
    assert Tails(arena, files, arena.take).find(KEY) is None
    assert arena.free == 16


def test_files_stay_within_their_bound(tmp_path: Path) -> None:
    size = SHAPE.block_bytes // 512 * 40 + 1_000
    bounded = reopened(tmp_path, 3 * size)
    keys = [(b"n" * 32, bytes([n]) * 32) for n in range(9)]
    for key in keys:
        assert bounded.put(key, stored(*range(40)))
        assert bounded.used <= 3 * size
    assert [bounded.has(key) for key in keys[-2:]] == [True, True]
    assert not bounded.put(KEY, stored(*range(400)))


def test_a_full_disk_keeps_the_tail_on_the_device(
    arena: Arena, files: TailFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError("No space left on device")

    tails = Tails(arena, files, arena.take)
    tails.put(KEY, (1, 2), arena.take())
    monkeypatch.setattr(os, "fsync", full)
    assert tails.rest(KEY) == 0
    assert tails.where(KEY) == "device"

import errno
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model_runtime.kv import disk
from model_runtime.kv.disk import DiskStats, DiskTier
from model_runtime.kv.identity import block_id
from model_runtime.kv.shape import BLOCK
from model_runtime.kv.stored import BlockHeader, StoredBlock

NAMESPACE = b"\x07" * 32
FOREIGN = b"\x08" * 32
QUOTA = 1 << 20


def sealed(index: int = 0, parent: StoredBlock | None = None, namespace: bytes = NAMESPACE) -> StoredBlock:
    tokens = tuple(range(index * BLOCK, (index + 1) * BLOCK))
    above = parent.block_id if parent else None
    own = block_id(namespace, above, tokens)
    layers = tuple(bytes([index, layer]) * (500 + layer) for layer in range(3))
    return StoredBlock(own, above, index, namespace, tokens, "exact", layers)


FIRST = sealed()
SECOND = sealed(1, FIRST)


def tier(folder: Path, **options: Any) -> DiskTier:
    return DiskTier(folder / "kv", **{"quota_bytes": QUOTA} | options)


def file_of(folder: Path, block: StoredBlock) -> Path:
    name = block.block_id.hex()
    return folder / "kv" / name[:2] / name[2:4] / f"{name}.safetensors"


def got(kv: DiskTier, block: StoredBlock) -> StoredBlock | None:
    return kv.get(block.block_id, block.token_ids)


def test_a_block_survives_a_restart(tmp_path: Path) -> None:
    assert tier(tmp_path).put(FIRST) is True
    kv = tier(tmp_path)

    assert kv.has(FIRST.block_id)
    assert got(kv, FIRST) == FIRST
    assert kv.stats() == DiskStats(1, file_of(tmp_path, FIRST).stat().st_size, 0, 0, 0)


def test_an_absent_block_is_a_miss(tmp_path: Path) -> None:
    kv = tier(tmp_path)

    assert not kv.has(FIRST.block_id)
    assert got(kv, FIRST) is None
    assert kv.get(b"", FIRST.token_ids) is None
    assert kv.drop(FIRST.block_id) == 0


def test_only_the_layers_that_are_asked_for_are_read(tmp_path: Path) -> None:
    kv = tier(tmp_path)
    kv.put(FIRST)
    content = bytearray(file_of(tmp_path, FIRST).read_bytes())
    content[-1] ^= 1  # in layer 2
    file_of(tmp_path, FIRST).write_bytes(content)

    part = kv.get(FIRST.block_id, FIRST.token_ids, layers=[1, 0])
    assert part is not None
    assert part.layers == (FIRST.layers[1], FIRST.layers[0])
    assert kv.get(FIRST.block_id, FIRST.token_ids, layers=[2]) is None
    assert kv.stats().quarantined == 1


def test_files_and_folders_are_for_their_owner_only(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        tier(tmp_path).put(FIRST)
    finally:
        os.umask(old)
    for path in (tmp_path / "kv").rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600)
    assert (tmp_path / "kv").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("part", range(40))
def test_a_flipped_byte_anywhere_is_a_miss_and_goes_to_quarantine(tmp_path: Path, part: int) -> None:
    kv = tier(tmp_path)
    kv.put(FIRST)
    path = file_of(tmp_path, FIRST)
    content = bytearray(path.read_bytes())
    content[part * len(content) // 40] ^= 0x40
    path.write_bytes(content)

    assert got(kv, FIRST) is None
    assert not kv.has(FIRST.block_id)
    assert kv.stats() == DiskStats(0, 0, 1, 0, 0)
    assert (tmp_path / "kv" / "quarantine" / path.name).read_bytes() == content
    assert kv.put(FIRST)  # computed again
    assert got(kv, FIRST) == FIRST


@pytest.mark.parametrize("part", range(10))
def test_a_truncated_file_is_a_miss(tmp_path: Path, part: int) -> None:
    tier(tmp_path).put(FIRST)
    path = file_of(tmp_path, FIRST)
    os.truncate(path, path.stat().st_size * part // 10)
    kv = tier(tmp_path)

    assert got(kv, FIRST) is None
    assert kv.stats() == DiskStats(0, 0, 1, 0, 0)


def test_two_files_that_were_swapped_are_two_misses(tmp_path: Path) -> None:
    kv = tier(tmp_path)
    kv.put(FIRST)
    kv.put(SECOND)
    one, two = file_of(tmp_path, FIRST), file_of(tmp_path, SECOND)
    one.rename(tmp_path / "aside")
    two.rename(one)
    (tmp_path / "aside").rename(two)

    assert got(kv, FIRST) is None
    assert list(kv.scan()) == []
    assert kv.stats().quarantined == 2


def test_a_block_of_a_foreign_namespace_is_never_the_answer(tmp_path: Path) -> None:
    foreign = sealed(namespace=FOREIGN)
    kv = tier(tmp_path)
    kv.put(FIRST)
    kv.put(foreign)
    assert foreign.block_id != FIRST.block_id

    file_of(tmp_path, foreign).replace(file_of(tmp_path, FIRST))
    assert got(kv, FIRST) is None
    assert kv.stats().quarantined == 1


def test_a_question_with_other_tokens_is_a_miss_and_the_file_stays(tmp_path: Path) -> None:
    kv = tier(tmp_path)
    kv.put(FIRST)

    assert kv.get(FIRST.block_id, SECOND.token_ids) is None
    assert kv.get(FIRST.block_id, FIRST.token_ids[:-1]) is None
    assert kv.get(FIRST.block_id, FIRST.token_ids, layers=[3]) is None
    assert got(kv, FIRST) == FIRST
    assert kv.stats().quarantined == 0


def test_a_file_that_vanished_is_forgotten(tmp_path: Path) -> None:
    kv = tier(tmp_path)
    kv.put(FIRST)
    file_of(tmp_path, FIRST).unlink()

    assert got(kv, FIRST) is None
    assert kv.stats() == DiskStats(0, 0, 0, 0, 0)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    kv = tier(tmp_path)
    kv.put(FIRST)
    path = file_of(tmp_path, FIRST)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")

    assert got(kv, FIRST) is None
    assert not tier(tmp_path).has(FIRST.block_id)


def test_what_a_crash_left_unfinished_is_removed(tmp_path: Path) -> None:
    tier(tmp_path).put(FIRST)
    path = file_of(tmp_path, FIRST)
    unfinished = path.with_name(path.name + ".tmp")
    unfinished.write_bytes(path.read_bytes()[:100])
    path.unlink()
    kv = tier(tmp_path)

    assert not kv.has(FIRST.block_id)
    assert not unfinished.exists()
    assert kv.put(FIRST)


def test_other_files_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    kv = tier(tmp_path)
    kv.put(FIRST)
    strange = [file_of(tmp_path, FIRST).parent / name for name in ("notes.txt", "ab.safetensors")]
    strange.append(tmp_path / "kv" / "00" / "00" / file_of(tmp_path, FIRST).name)
    for path in strange:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    kv = tier(tmp_path)

    assert kv.stats().blocks == 1
    assert all(path.exists() for path in strange)


def test_a_block_beyond_the_quota_is_not_written(tmp_path: Path) -> None:
    size = DiskTier(tmp_path / "probe", quota_bytes=QUOTA)
    size.put(FIRST)
    kv = tier(tmp_path, quota_bytes=size.stats().bytes + 100)

    assert kv.put(FIRST)
    assert not kv.put(SECOND)
    assert kv.put(FIRST)  # is there: needs no room
    assert not file_of(tmp_path, SECOND).exists()
    assert kv.stats().failed_writes == 1
    assert kv.drop(FIRST.block_id) == size.stats().bytes
    assert kv.put(SECOND)


def full_at(call: int, original: Callable[..., Any]) -> Callable[..., Any]:
    calls = iter(range(1, 1_000))

    def fails(*arguments: Any) -> Any:
        if next(calls) == call:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(*arguments)

    return fails


@pytest.mark.parametrize(("function", "call"), [("write", 1), ("fsync", 1), ("fsync", 2), ("fsync", 3), ("fsync", 4)])
def test_a_full_disk_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, call: int
) -> None:
    kv = tier(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, function, full_at(call, getattr(os, function)))
        assert kv.put(FIRST) is False

    assert not kv.has(FIRST.block_id)
    assert got(kv, FIRST) is None
    assert [path for path in (tmp_path / "kv").rglob("*") if path.is_file()] == []
    assert kv.stats() == DiskStats(0, 0, 0, 1, 0)
    assert kv.put(FIRST)
    assert got(kv, FIRST) == FIRST


def test_a_write_in_small_pieces_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, pread = os.write, os.pread
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:333]))
    monkeypatch.setattr(os, "pread", lambda file, length, offset: pread(file, min(length, 777), offset))
    kv = tier(tmp_path)

    assert kv.put(FIRST)
    assert got(kv, FIRST) == FIRST


def test_a_slow_disk_is_a_miss_and_nothing_is_held_against_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kv = tier(tmp_path, deadline=0.2)
    kv.put(FIRST)
    released = threading.Event()
    pread = os.pread

    def hangs(*arguments: Any) -> bytes:
        released.wait(10)
        return pread(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", hangs)
        assert [got(kv, FIRST) for _ in range(6)] == [None] * 6  # more than there are readers
        waits = []
        for _ in range(3):  # all readers hang: nobody waits for one more
            begun = time.monotonic()
            assert got(kv, FIRST) is None
            waits.append(time.monotonic() - begun)
        assert min(waits) < 0.15
        released.set()
        while kv._hanging:
            time.sleep(0.001)
    kv._deadline = 5.0

    assert got(kv, FIRST) == FIRST
    assert kv.stats() == DiskStats(1, kv.stats().bytes, 0, 0, 9)


@pytest.mark.parametrize(("error", "quarantined"), [(errno.EIO, 1), (errno.ENOMEM, 0)])
def test_a_disk_that_raises_is_a_miss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int, quarantined: int
) -> None:
    kv = tier(tmp_path)
    kv.put(FIRST)

    def fails(*arguments: Any) -> bytes:
        raise OSError(error, os.strerror(error))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", fails)
        assert got(kv, FIRST) is None
    assert kv.stats().quarantined == quarantined
    assert kv.has(FIRST.block_id) == (not quarantined)


def test_a_scan_tells_what_is_there(tmp_path: Path) -> None:
    kv = tier(tmp_path)
    kv.put(FIRST)
    kv.put(SECOND)
    headers = sorted(tier(tmp_path).scan(), key=lambda header: header.index)

    sizes = [file_of(tmp_path, block).stat().st_size for block in (FIRST, SECOND)]
    assert headers == [
        BlockHeader(FIRST.block_id, None, 0, NAMESPACE, "exact", sizes[0]),
        BlockHeader(SECOND.block_id, FIRST.block_id, 1, NAMESPACE, "exact", sizes[1]),
    ]


def test_a_scan_passes_over_a_damaged_header(tmp_path: Path) -> None:
    kv = tier(tmp_path)
    kv.put(FIRST)
    kv.put(SECOND)
    path = file_of(tmp_path, FIRST)
    path.write_bytes(path.read_bytes().replace(b'"index":"0"', b'"index":"2"'))

    assert [header.index for header in kv.scan()] == [1]
    assert kv.stats().quarantined == 1


def test_a_dropped_block_is_gone(tmp_path: Path) -> None:
    kv = tier(tmp_path)
    kv.put(FIRST)

    assert kv.drop(FIRST.block_id) > 0
    assert got(kv, FIRST) is None
    assert kv.stats() == DiskStats(0, 0, 0, 0, 0)


def test_quarantine_does_not_fill_the_disk(tmp_path: Path) -> None:
    kv = tier(tmp_path)
    blocks = [sealed(0, None, bytes([i]) * 32) for i in range(1, 21)]
    for block in blocks:
        kv.put(block)
        os.truncate(file_of(tmp_path, block), 10)
        assert got(kv, block) is None

    kept = {path.name for path in (tmp_path / "kv" / "quarantine").iterdir()}
    assert len(kept) == disk._KEPT_IN_QUARANTINE
    assert file_of(tmp_path, blocks[-1]).name in kept
    assert kv.stats().quarantined == 20


def test_a_quarantine_that_can_not_be_made_loses_the_file(tmp_path: Path) -> None:
    kv = tier(tmp_path)
    kv.put(FIRST)
    (tmp_path / "kv" / "quarantine").write_bytes(b"in the way")
    os.truncate(file_of(tmp_path, FIRST), 10)

    assert got(kv, FIRST) is None
    assert not file_of(tmp_path, FIRST).exists()
    assert kv.stats() == DiskStats(0, 0, 1, 0, 0)


def test_a_forged_block_is_refused_and_no_file_written(tmp_path: Path) -> None:
    kv = tier(tmp_path)
    with pytest.raises(ValueError, match="follows"):
        kv.put(replace(FIRST, namespace=FOREIGN))
    assert kv.stats().blocks == 0


def test_many_threads_agree(tmp_path: Path) -> None:
    kv = tier(tmp_path)
    answers: list[StoredBlock | None] = []

    def work() -> None:
        for _ in range(5):
            kv.put(FIRST)
            answers.append(got(kv, FIRST))
            kv.drop(FIRST.block_id)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert set(answers) <= {FIRST, None}
    assert kv.stats().quarantined == kv.stats().late_reads == 0
    assert kv.stats().bytes == sum(f.stat().st_size for f in (tmp_path / "kv").rglob("*.safetensors"))
    kv.close()

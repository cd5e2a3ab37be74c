import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model_runtime.kv.manifests import Manifests, ManifestsBehind, SessionManifest

MANIFEST = SessionManifest(
    tenant="acme",
    memory_key="agent/../../1 ü",
    namespace=b"\x07" * 32,
    codec="exact",
    block_ids=(b"\x0a" * 32, b"\x0b" * 32),
    tail=(1, 2, 4_294_967_295),
    tokenizer="t1",
    template="t2",
    pinned_until=1_790_000_000.25,
    generation=3,
)


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def read(folder: Path) -> list[SessionManifest]:
    return sorted(Manifests(folder).all(), key=lambda manifest: manifest.name)


@pytest.fixture
def behind(tmp_path: Path) -> Iterator[ManifestsBehind]:
    opened = ManifestsBehind(Manifests(tmp_path))
    yield opened
    opened.close()


def test_a_manifest_survives_a_restart(tmp_path: Path) -> None:
    Manifests(tmp_path).write(MANIFEST)

    assert read(tmp_path) == [MANIFEST]
    assert MANIFEST.tokens == 1_027


def test_no_client_text_is_in_a_path(tmp_path: Path) -> None:
    Manifests(tmp_path / "m").write(MANIFEST)
    (path,) = files(tmp_path)

    assert path.parent.parent == tmp_path / "m"
    assert len(path.stem) == 64
    assert path.stat().st_mode & 0o777 == 0o600


def test_tenants_and_keys_have_manifests_of_their_own(tmp_path: Path) -> None:
    manifests = Manifests(tmp_path)
    one, two = (replace(MANIFEST, tenant=t, memory_key=k) for t, k in (("a", "bc"), ("ab", "c")))
    manifests.write(one)
    manifests.write(two)

    assert read(tmp_path) == [one, two]


def test_the_next_one_replaces_the_one_before(tmp_path: Path) -> None:
    manifests = Manifests(tmp_path)
    manifests.write(MANIFEST)
    manifests.write(replace(MANIFEST, generation=4, tail=()))

    assert read(tmp_path) == [replace(MANIFEST, generation=4, tail=())]


def test_no_flipped_byte_gives_another_manifest(tmp_path: Path) -> None:
    manifests = Manifests(tmp_path)
    manifests.write(MANIFEST)
    (path,) = files(tmp_path)
    content = path.read_bytes()
    for i in range(len(content)):
        path.write_bytes(content[:i] + bytes([content[i] ^ 0x02]) + content[i + 1 :])
        assert list(manifests.all()) == []

    assert [file.parent.name for file in files(tmp_path)] == ["quarantine"]


@pytest.mark.parametrize("part", range(10))
def test_a_truncated_manifest_is_a_miss_and_can_be_written_again(tmp_path: Path, part: int) -> None:
    manifests = Manifests(tmp_path)
    manifests.write(MANIFEST)
    (path,) = files(tmp_path)
    os.truncate(path, path.stat().st_size * part // 10)

    assert list(manifests.all()) == []
    manifests.write(replace(MANIFEST, generation=0))
    assert read(tmp_path) == [replace(MANIFEST, generation=0)]


def test_the_manifest_of_another_session_is_never_the_answer(tmp_path: Path) -> None:
    manifests = Manifests(tmp_path)
    other = replace(MANIFEST, tenant="other")
    manifests.write(MANIFEST)
    (path,) = files(tmp_path)
    manifests.write(other)
    (other_path,) = (file for file in files(tmp_path) if file != path)
    other_path.replace(path)

    assert read(tmp_path) == []
    assert [file.parent.name for file in files(tmp_path)] == ["quarantine"]


def test_a_write_that_a_crash_left_unfinished_is_removed(tmp_path: Path) -> None:
    Manifests(tmp_path).write(MANIFEST)
    (path,) = files(tmp_path)
    path.with_name(path.name + ".tmp").write_bytes(b"{")

    assert read(tmp_path) == [MANIFEST]
    assert files(tmp_path) == [path]


def test_a_write_that_fails_leaves_the_manifest_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifests = Manifests(tmp_path)
    manifests.write(MANIFEST)

    def full(*arguments: Any) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            manifests.write(replace(MANIFEST, generation=4))
    assert read(tmp_path) == [MANIFEST]
    assert len(files(tmp_path)) == 1


def test_a_dropped_manifest_is_gone(tmp_path: Path) -> None:
    manifests = Manifests(tmp_path)
    manifests.write(MANIFEST)

    assert manifests.drop(MANIFEST.name) is True
    assert manifests.drop(MANIFEST.name) is False
    assert read(tmp_path) == []


@pytest.mark.parametrize(
    "change",
    [{"namespace": b"short"}, {"block_ids": (b"x" * 33,)}, {"tail": tuple(range(512))}, {"tail": (-1,)}],
)
def test_a_manifest_that_can_not_be_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"32 bytes|full block|whole numbers"):
        replace(MANIFEST, **change)


def test_a_time_that_is_no_number_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        Manifests(tmp_path).write(replace(MANIFEST, pinned_until=float("nan")))
    assert files(tmp_path) == []


def test_behind_the_newest_of_a_session_is_written_and_all_of_it_before_the_end(
    tmp_path: Path, behind: ManifestsBehind, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    written: list[int] = []
    write = Manifests.write

    def slow(manifests: Manifests, manifest: SessionManifest) -> None:
        written.append(manifest.generation)
        begun.set()
        go_on.wait(5)
        write(manifests, manifest)

    monkeypatch.setattr(Manifests, "write", slow)
    for generation in (1, 2, 3):
        behind.put(replace(MANIFEST, generation=generation))
        begun.wait(5)  # the first one is being written
    go_on.set()
    behind.close()

    assert written == [1, 3]
    assert read(tmp_path) == [MANIFEST]


def test_behind_what_is_dropped_while_it_is_written_does_not_come_back(
    tmp_path: Path, behind: ManifestsBehind, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, write = threading.Event(), Manifests.write

    def slow(manifests: Manifests, manifest: SessionManifest) -> None:
        begun.set()
        write(manifests, manifest)

    monkeypatch.setattr(Manifests, "write", slow)
    for generation in range(50):
        behind.put(replace(MANIFEST, generation=generation))
        begun.wait(5)
        behind.drop(MANIFEST.name)
        begun.clear()
        assert read(tmp_path) == []


def test_behind_a_full_disk_is_counted_and_ends_nothing(
    tmp_path: Path, behind: ManifestsBehind, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        behind.put(MANIFEST)
        while not behind.failed_writes:
            pass
    behind.put(MANIFEST)
    behind.close()
    assert read(tmp_path) == [MANIFEST]

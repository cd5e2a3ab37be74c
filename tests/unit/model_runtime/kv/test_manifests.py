import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model_runtime.kv.manifests import Manifests, OlderGeneration, SessionManifest

MANIFEST = SessionManifest(
    memory_key="agent/../../1 ü",
    tenant="acme",
    namespace="07" * 32,
    block_ids=("0a" * 32, "0b" * 32),
    tail=(1, 2, 4_294_967_295),
    position=1_027,
    tokenizer="t1",
    template="t2",
    fork_parent=None,
    pinned_until=1_790_000_000.25,
    generation=3,
)


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def read(folder: Path) -> SessionManifest | None:
    return Manifests(folder).read("acme", MANIFEST.memory_key)


def test_a_manifest_survives_a_restart(tmp_path: Path) -> None:
    Manifests(tmp_path).write(MANIFEST)

    assert read(tmp_path) == MANIFEST
    assert list(Manifests(tmp_path).all()) == [MANIFEST]


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
    assert manifests.read("ab", "c") is None
    manifests.write(two)

    assert (manifests.read("a", "bc"), manifests.read("ab", "c")) == (one, two)
    assert sorted(m.tenant for m in manifests.all()) == ["a", "ab"]


def test_an_older_generation_is_refused(tmp_path: Path) -> None:
    manifests = Manifests(tmp_path)
    manifests.write(MANIFEST)
    with pytest.raises(OlderGeneration) as refused:
        manifests.write(replace(MANIFEST, generation=2, tail=()))

    assert (refused.value.stored, refused.value.offered) == (3, 2)
    assert read(tmp_path) == MANIFEST
    manifests.write(MANIFEST)
    manifests.write(replace(MANIFEST, generation=4, tail=()))
    assert read(tmp_path) == replace(MANIFEST, generation=4, tail=())


def test_no_flipped_byte_gives_another_manifest(tmp_path: Path) -> None:
    manifests = Manifests(tmp_path)
    manifests.write(MANIFEST)
    (path,) = files(tmp_path)
    content = path.read_bytes()
    for i in range(len(content)):
        path.write_bytes(content[:i] + bytes([content[i] ^ 0x02]) + content[i + 1 :])
        assert manifests.read("acme", MANIFEST.memory_key) is None

    assert [file.parent.name for file in files(tmp_path)] == ["quarantine"]


@pytest.mark.parametrize("part", range(10))
def test_a_truncated_manifest_is_a_miss_and_can_be_written_again(tmp_path: Path, part: int) -> None:
    manifests = Manifests(tmp_path)
    manifests.write(MANIFEST)
    (path,) = files(tmp_path)
    os.truncate(path, path.stat().st_size * part // 10)

    assert list(manifests.all()) == []
    manifests.write(replace(MANIFEST, generation=0))
    assert read(tmp_path) == replace(MANIFEST, generation=0)


def test_the_manifest_of_another_session_is_never_the_answer(tmp_path: Path) -> None:
    manifests = Manifests(tmp_path)
    other = replace(MANIFEST, tenant="other")
    manifests.write(MANIFEST)
    (path,) = files(tmp_path)
    manifests.write(other)
    (other_path,) = (file for file in files(tmp_path) if file != path)
    other_path.replace(path)

    assert read(tmp_path) is None
    assert [file.parent.name for file in files(tmp_path)] == ["quarantine"]


def test_a_write_that_a_crash_left_unfinished_is_removed(tmp_path: Path) -> None:
    Manifests(tmp_path).write(MANIFEST)
    (path,) = files(tmp_path)
    path.with_name(path.name + ".tmp").write_bytes(b"{")

    assert read(tmp_path) == MANIFEST
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
    assert read(tmp_path) == MANIFEST
    assert len(files(tmp_path)) == 1


def test_a_dropped_manifest_is_gone(tmp_path: Path) -> None:
    manifests = Manifests(tmp_path)
    manifests.write(MANIFEST)

    assert manifests.drop("acme", MANIFEST.memory_key) is True
    assert manifests.drop("acme", MANIFEST.memory_key) is False
    assert manifests.read("acme", MANIFEST.memory_key) is None


@pytest.mark.parametrize(
    "change",
    [
        {"namespace": "../etc"},
        {"block_ids": ("0A" * 32,)},
        {"block_ids": ("0a" * 32, "../x")},
        {"tail": tuple(range(512))},
        {"tail": (-1,)},
    ],
)
def test_a_manifest_that_can_not_be_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"hex digits|full block|whole numbers"):
        replace(MANIFEST, **change)


def test_a_time_that_is_no_number_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        Manifests(tmp_path).write(replace(MANIFEST, pinned_until=float("nan")))
    assert files(tmp_path) == []

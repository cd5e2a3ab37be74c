import multiprocessing
import os
import threading
import time
from pathlib import Path

import pytest

from memory.adapters.node_folders import FolderInUse, clear, clear_abandoned, held


def plant(data: Path, *names: str) -> None:
    for name in names:
        (data / name / "inside").mkdir(parents=True)
        (data / name / "inside" / "block").write_text("tokens")
        (data / name / "manifest.json").write_text("tokens")


def files(data: Path) -> set[str]:
    return {str(path.relative_to(data)) for path in data.rglob("*") if path.is_file() and path.name != ".lock"}


def test_what_no_process_holds_is_cleared_and_the_rest_stays(tmp_path: Path) -> None:
    plant(tmp_path, "kv/mine", "kv/left", "index/mine", "index/left", "other/left")
    with held(tmp_path / "kv/mine"), held(tmp_path / "index/mine"):
        assert clear_abandoned(tmp_path) == 2
        kept = {
            f"{name}/{file}"
            for name in ("kv/mine", "index/mine", "other/left")
            for file in ("inside/block", "manifest.json")
        }
        assert files(tmp_path) == kept
        assert clear_abandoned(tmp_path) == 0
    assert clear_abandoned(tmp_path) == 2
    assert files(tmp_path) == {"other/left/inside/block", "other/left/manifest.json"}


def test_only_the_kinds_asked_for_and_none_that_is_spared(tmp_path: Path) -> None:
    plant(tmp_path, "kv/left", "kv/runtime", "index/left")
    assert clear_abandoned(tmp_path, kinds=("kv",), spare=(tmp_path / "kv/runtime",)) == 1
    assert {name.split("/in")[0].split("/man")[0] for name in files(tmp_path)} == {"kv/runtime", "index/left"}


def test_a_data_folder_without_any_is_clear(tmp_path: Path) -> None:
    assert clear_abandoned(tmp_path / "none") == 0


def test_a_link_is_removed_and_not_followed(tmp_path: Path) -> None:
    plant(tmp_path, "elsewhere", "kv/left")
    (tmp_path / "kv/left/link").symlink_to(tmp_path / "elsewhere")
    assert clear_abandoned(tmp_path) == 1
    assert files(tmp_path) == {"elsewhere/inside/block", "elsewhere/manifest.json"}


def test_what_cannot_be_removed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(tmp_path, "kv/left")

    def refuse(_: Path) -> None:
        raise PermissionError("not ours")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(PermissionError):
        clear_abandoned(tmp_path)


def test_a_folder_has_one_holder_whose_death_frees_it(tmp_path: Path) -> None:
    plant(tmp_path, "kv/theirs")
    context = multiprocessing.get_context("spawn")
    there = context.Event()
    other = context.Process(target=_hold, args=(tmp_path / "kv/theirs", there))
    other.start()
    assert there.wait(30)
    try:
        assert clear_abandoned(tmp_path) == 0
        with pytest.raises(FolderInUse), held(tmp_path / "kv/theirs", patience=0.1):
            pass
    finally:
        other.kill()
        other.join(10)
    assert clear_abandoned(tmp_path) == 1


def test_a_process_that_starts_while_its_folder_is_cleared_waits_for_that(tmp_path: Path) -> None:
    folder = tmp_path / "kv/mine"
    clearing = held(folder)
    clearing.__enter__()
    ended = threading.Timer(0.2, clearing.__exit__, (None, None, None))
    begun = time.monotonic()
    ended.start()
    with held(folder, patience=10):
        assert time.monotonic() - begun >= 0.2
        assert (folder / ".lock").stat().st_ino == next(os.scandir(folder)).inode()
    ended.join()


def test_clearing_leaves_the_lock_that_others_wait_for(tmp_path: Path) -> None:
    plant(tmp_path, "kv/mine")
    with held(tmp_path / "kv/mine"):
        assert clear(tmp_path / "kv/mine") is True
        with pytest.raises(FolderInUse), held(tmp_path / "kv/mine", patience=0):
            pass


def _hold(folder: Path, there: "multiprocessing.synchronize.Event") -> None:  # type: ignore[name-defined]
    with held(folder):
        there.set()
        time.sleep(60)

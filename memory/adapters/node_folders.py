"""Whose are the folders of KV and of indexes, and what becomes of those whose process has ended?

`kv/<name>` and `index/<name>` in the data folder belong to the process that holds the lock in them. All of it is cache
that only its process can clean: what lies in a folder without a process is removed before a purge is confirmed.
"""

import fcntl
import os
import shutil
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

KINDS = ("kv", "index")
_LOCK = ".lock"
_PATIENCE = 3.0
"""Seconds: somebody else may only be clearing the folder."""
_GLANCE = 0.05


class FolderInUse(Exception):
    """Another process has it."""


@contextmanager
def held(folder: Path, patience: float = _PATIENCE) -> Iterator[None]:
    """The folder, made if need be, is this process's inside the block. Raises FolderInUse, OSError."""
    lock = _taken(folder, patience)
    if lock is None:
        raise FolderInUse(str(folder))
    try:
        yield
    finally:
        os.close(lock)


def clear_abandoned(data_dir: Path, kinds: Collection[str] = KINDS, spare: Collection[Path] = ()) -> int:
    """Removes what lies in folders that no process holds, but for `spare`; the number that had something.

    Holds each of them meanwhile, so that no process begins to use it; its lock stays, for that is what others wait for.
    Folders of this process are held like any other's. Raises OSError: something is left.
    """
    cleared = 0
    for kind in kinds:
        with suppress(FileNotFoundError, NotADirectoryError):
            for folder in sorted((data_dir / kind).iterdir()):
                if folder.is_dir() and folder not in spare:
                    cleared += _cleared(folder)
    return cleared


def clear(folder: Path) -> bool:
    """Removes all but the lock of a folder that this process holds; was there anything? Raises OSError."""
    found = [path for path in folder.iterdir() if path.name != _LOCK]
    for path in found:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    return bool(found)


def _cleared(folder: Path) -> bool:
    lock = _taken(folder, patience=0.0)
    if lock is None:
        return False
    try:
        return clear(folder)
    finally:
        os.close(lock)


def _taken(folder: Path, patience: float) -> int | None:
    """None: another process has it for longer than that."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = os.open(folder / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    until = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except BlockingIOError:
            if time.monotonic() >= until:
                os.close(lock)
                return None
            time.sleep(_GLANCE)
        except OSError:
            os.close(lock)
            raise

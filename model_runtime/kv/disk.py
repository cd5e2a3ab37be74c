"""Which blocks lie on disk, and is what comes back what was put there?

    ab/cd/abcd….safetensors    one file per block, complete and on disk before it has this name
    quarantine/                the last files that were not as they were written

A file is read by `pread`: under a memory map a truncated file kills the process instead of raising. Every answer is
verified (`stored`); a damaged file, a slow disk, a full disk: the block is not there. One process owns a folder.
"""

import os
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from model_runtime.kv import stored
from model_runtime.kv.stored import BlockHeader, DamagedBlock, NotWhatWasAsked, StoredBlock

T = TypeVar("T")

_READERS = 4
_KEPT_IN_QUARANTINE = 16
_TMP = ".tmp"
_SUFFIX = ".safetensors"


@dataclass(frozen=True, slots=True)
class DiskStats:
    blocks: int
    bytes: int
    """Of all block files, without those in quarantine."""
    quarantined: int
    failed_writes: int
    """No space, no room in the quota, or another error of the disk."""
    late_reads: int


class DiskTier:
    """`quota_bytes` bound the block files; `deadline` (seconds) bounds one read. Any number of threads may call.

    Raises OSError where the folder can't be made or listed; no method does.
    """

    def __init__(self, folder: Path, *, quota_bytes: int, deadline: float = 2.0) -> None:
        make_private(folder)
        self._folder = folder
        self.quota_bytes = quota_bytes
        self._deadline = deadline
        self._sizes: dict[bytes, int] = dict(_survey(folder))
        self._total = sum(self._sizes.values())
        self._quarantined = self._failed_writes = self._late_reads = self._hanging = 0
        self._changing = threading.Lock()
        """Held while files and the sizes change; reading never waits for it."""
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="kv-disk")

    def has(self, block_id: bytes) -> bool:
        """Whether a complete file was there when last seen. Only `get` knows whether it is good."""
        return block_id in self._sizes

    def put(self, block: StoredBlock) -> bool:
        """True once the block is durable. False, and counted, where there is no room: evict, or go without.

        Takes two fsyncs. Raises ValueError where the id does not follow from the block.
        """
        content = stored.to_file(block)
        with self._changing:
            if block.block_id in self._sizes:
                return True
            if self._total + len(content) > self.quota_bytes or not self._written(block.block_id, content):
                self._failed_writes += 1
                return False
            self._sizes[block.block_id] = len(content)
            self._total += len(content)
            return True

    def get(
        self, block_id: bytes, token_ids: Sequence[int] | None, layers: Sequence[int] | None = None
    ) -> StoredBlock | None:
        """The block with `layers` (None: all), if it is whole, of these tokens, and read before the deadline.

        `token_ids` None: whichever tokens the id stands for.
        """
        if block_id not in self._sizes:
            return None
        return self._in_time(block_id, partial(_read_block, self._path(block_id), block_id, token_ids, layers))

    def drop(self, block_id: bytes) -> int:
        """The bytes that are free now: 0 where there was no such block."""
        with self._changing, suppress(OSError):
            self._path(block_id).unlink(missing_ok=True)
            return self._forget(block_id)
        return 0

    def scan(self) -> Iterator[BlockHeader]:
        """The headers of all blocks, in no order. A file whose header is damaged goes to quarantine."""
        for block_id in list(self._sizes):
            header = self._in_time(block_id, partial(_read_header, self._path(block_id), block_id))
            if header is not None:
                yield header

    def size(self, block_id: bytes) -> int:
        """Bytes of its file; 0 where there is none."""
        return self._sizes.get(block_id, 0)

    def ids(self) -> list[bytes]:
        return list(self._sizes)

    def lacks(self, nbytes: int) -> int:
        """Bytes that must go before so many more fit."""
        return max(0, self._total + nbytes - self.quota_bytes)

    def empty_quarantine(self) -> None:
        """Damaged or not, the files hold token ids."""
        for file in (self._folder / "quarantine").glob("*"):
            file.unlink(missing_ok=True)

    def stats(self) -> DiskStats:
        """Without the lock, which a write holds across a flush: who watches must not wait for a slow disk."""
        return DiskStats(len(self._sizes), self._total, self._quarantined, self._failed_writes, self._late_reads)

    def close(self) -> None:
        """Waits for no read: one that hangs ends by itself."""
        self._readers.shutdown(wait=False, cancel_futures=True)

    def _in_time(self, block_id: bytes, read: Callable[[], T]) -> T | None:
        if self._hanging >= _READERS:  # on a disk that hangs, not each miss waits for the deadline
            self._count(late=1)
            return None
        future = self._readers.submit(read)
        try:
            return future.result(self._deadline)
        except TimeoutError:
            hanging = 0 if future.cancel() else 1
            self._count(late=1, hanging=hanging)
            future.add_done_callback(lambda _: self._count(hanging=-hanging))
        except FileNotFoundError:
            with self._changing:
                if not self._path(block_id).exists():  # else it was put again meanwhile
                    self._forget(block_id)
        except DamagedBlock:
            self._to_quarantine(block_id)
        except (NotWhatWasAsked, OSError):
            pass  # the question was wrong, or the machine is short of something: nothing is known against the file
        return None

    def _count(self, *, late: int = 0, hanging: int = 0) -> None:
        with self._changing:
            self._late_reads += late
            self._hanging += hanging

    def _to_quarantine(self, block_id: bytes) -> None:
        path = self._path(block_id)
        with self._changing:
            try:
                quarantine(path, self._folder)
            except FileNotFoundError:  # another reader was first
                return
            except OSError:
                with suppress(OSError):  # out of the index all the same
                    path.unlink(missing_ok=True)
            finally:
                self._forget(block_id)
            self._quarantined += 1

    def _forget(self, block_id: bytes) -> int:
        size = self._sizes.pop(block_id, 0)
        self._total -= size
        return size

    def _written(self, block_id: bytes, content: bytes) -> bool:
        path = self._path(block_id)
        try:
            write_durably(path, content)
        except OSError:
            with suppress(OSError):  # named, but perhaps not for good: gone is better than uncounted
                path.unlink(missing_ok=True)
            return False
        return True

    def _path(self, block_id: bytes) -> Path:
        name = block_id.hex()
        return self._folder / name[:2] / name[2:4] / (name + _SUFFIX)


def write_durably(path: Path, content: bytes) -> None:
    """Visible under its name only when complete; 0600 in folders of 0700. Leaves no other file. Raises OSError."""
    make_private(path.parent)
    tmp = path.with_name(path.name + _TMP)
    try:
        file = os.open(tmp, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(file, rest) :]
            os.fsync(file)
        finally:
            os.close(file)
        tmp.replace(path)
    except OSError:
        tmp.unlink(missing_ok=True)
        raise
    _fsync_folder(path.parent)


def make_private(folder: Path) -> None:
    """Makes the folder, and those above it that are missing, for this user only, and durable. Raises OSError."""
    if folder.is_dir():
        return
    make_private(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    _fsync_folder(folder.parent)


def quarantine(path: Path, folder: Path) -> None:
    """Moves a damaged file to `folder`/quarantine, which keeps the last 16. Raises OSError."""
    kept = folder / "quarantine"
    make_private(kept)
    path.replace(kept / path.name)
    by_age = sorted(kept.iterdir(), key=lambda file: file.stat().st_ctime_ns)
    for old in by_age[:-_KEPT_IN_QUARANTINE]:
        old.unlink(missing_ok=True)


def remove_unfinished(folder: Path, pattern: str) -> None:
    for tmp in folder.glob(pattern + _TMP):
        tmp.unlink(missing_ok=True)


def _survey(folder: Path) -> Iterator[tuple[bytes, int]]:
    """(id, bytes of the file); what a crash left unfinished is removed."""
    remove_unfinished(folder, f"??/??/*{_SUFFIX}")
    for path in folder.glob(f"??/??/*{_SUFFIX}"):
        name, facts = path.name.removesuffix(_SUFFIX), path.lstat()
        if len(name) == 64 and name[:4] == path.parent.parent.name + path.parent.name and stat.S_ISREG(facts.st_mode):
            try:
                yield bytes.fromhex(name), facts.st_size
            except ValueError:
                continue  # not ours


def _read_block(
    path: Path, block_id: bytes, token_ids: Sequence[int] | None, layers: Sequence[int] | None
) -> StoredBlock:
    with stored.opened(path) as (read, file_bytes):
        return stored.read_block(read, file_bytes, block_id, token_ids, layers)


def _read_header(path: Path, block_id: bytes) -> BlockHeader:
    with stored.opened(path) as (read, file_bytes):
        header = stored.read_container(read, file_bytes).header
    if header.block_id != block_id:
        raise DamagedBlock("the block is not the one that its name promises")
    return header


def _fsync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

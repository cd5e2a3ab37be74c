"""How does a file become complete or stay as it was, and how is damage noticed?

A sealed file ends with a trailer (magic, length and CRC-32 of what stands before it), checked before any parser
sees the bytes: FAISS takes vector lengths from the file and would ask for hundreds of gigabytes when one is wrong.
Readers that know nothing of the trailer (`numpy.load`, `faiss.read_index`) stop before it.
"""

import os
import struct
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from memory.domain.errors import IndexDamaged

_TRAILER = struct.Struct("<8sQI")
_MAGIC = b"STRTSEAL"
_CHUNK = 1 << 20


@contextmanager
def replaced(path: Path, *, sealed: bool = False) -> Iterator[Path]:
    """Yields a file beside `path` to write to; it takes its place, flushed to disk, when the block succeeds.

    Only the owner may read it (0600). A failure leaves `path` as it was.
    """
    draft = path.with_name(path.name + ".draft")
    draft.unlink(missing_ok=True)
    os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        yield draft
        if sealed:
            _seal(draft)
        sync(draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    sync(path.parent)


def sync(path: Path) -> None:
    """Flushes a file's content, or a folder's entries, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_seal(path: Path) -> None:
    """Raises IndexDamaged when the file is missing, cut off, changed, or was never sealed."""
    try:
        content = path.stat().st_size - _TRAILER.size
        if content < 0:
            raise IndexDamaged("the index file is cut off", path=str(path))
        checksum = _checksum(path, content)
        with path.open("rb") as file:
            file.seek(content)
            trailer = _TRAILER.unpack(file.read(_TRAILER.size))
    except OSError as error:
        raise IndexDamaged("the index file can't be read", path=str(path)) from error
    if trailer != (_MAGIC, content, checksum):
        raise IndexDamaged("the index file's checksum is wrong", path=str(path))


def remove_others(folder: Path, keep: Collection[str]) -> None:
    """Removes all files of a folder but these; a folder that is not there is empty. Raises OSError."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if path.name not in keep:
            path.unlink()
    sync(folder)


def _seal(path: Path) -> None:
    content = path.stat().st_size
    checksum = _checksum(path, content)
    with path.open("ab") as file:
        file.write(_TRAILER.pack(_MAGIC, content, checksum))


def _checksum(path: Path, length: int) -> int:
    checksum = 0
    with path.open("rb") as file:
        while length > 0 and (chunk := file.read(min(_CHUNK, length))):
            checksum = zlib.crc32(chunk, checksum)
            length -= len(chunk)
    return checksum

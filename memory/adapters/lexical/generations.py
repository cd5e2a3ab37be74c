"""Where are the files of an index, and are they whole?

    folder/index-00000001/        what is read; exactly one after `newest` has swept
    folder/index-00000002.draft/  being written; one rename makes it the newest

A rewrite is complete or never happened: there is no moment with no index, and a crash leaves at most a folder
that the next start deletes. Raises IndexDamaged for what can't be an index.
"""

import json
import re
import shutil
import struct
import zlib
from pathlib import Path
from typing import Any

from memory.adapters.files import sync
from memory.domain.errors import IndexDamaged

_NAME = re.compile(r"index-(\d{8})")
# The files of a segment; one with deleted documents has a .del besides.
_PARTS = {".fast", ".fieldnorm", ".idx", ".pos", ".store", ".term"}
_DRAFT = ".draft"
_FOOTER = struct.Struct("<II")
_FOOTER_MAGIC = 1337


def newest(folder: Path) -> Path | None:
    """The index to read, None in an empty folder. Mutates: drafts and older generations are deleted."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for draft in folder.glob("*" + _DRAFT):
            shutil.rmtree(draft)
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise IndexDamaged("the index folder can't be read", path=str(folder)) from error
    if not all(_NAME.fullmatch(name) for name in names):
        raise IndexDamaged("the folder holds something else", path=str(folder))
    for name in names[:-1]:
        shutil.rmtree(folder / name)
    return folder / names[-1] if names else None


def draft(folder: Path) -> Path:
    """An empty folder for the generation after the newest."""
    numbers = [int(match[1]) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    path = folder / f"index-{max(numbers, default=0) + 1:08d}{_DRAFT}"
    if path.exists():
        shutil.rmtree(path)
    path.mkdir(mode=0o700)
    return path


def publish(path: Path) -> Path:
    """Makes a complete draft the newest generation, flushed to disk, and deletes the older ones. Where it is now."""
    published = path.with_name(path.name.removesuffix(_DRAFT))
    sync(path)
    path.rename(published)
    sync(path.parent)
    for other in path.parent.iterdir():
        if other != published:
            shutil.rmtree(other)
    return published


def documents_counted(generation: Path) -> int:
    """The documents in all segments, deleted ones included: what tantivy takes for N in its BM25."""
    return sum(int(segment["max_doc"]) for segment in _segments(generation))


def verify(generation: Path) -> None:
    """Compares every file of the committed segments with the CRC-32 in its footer; tantivy itself doesn't.

    A damaged posting list would be read through a memory map, with any result. About 1 ms for 2 MB.
    """
    for segment in _segments(generation):
        files = list(generation.glob(str(segment["segment_id"]).replace("-", "") + ".*"))
        if not _PARTS <= {path.suffix for path in files}:
            raise IndexDamaged("a part of a segment is missing", path=str(generation))
        for path in files:
            _verify_file(path)


def _segments(generation: Path) -> list[dict[str, Any]]:
    try:
        segments: list[dict[str, Any]] = json.loads((generation / "meta.json").read_bytes())["segments"]
        return segments
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IndexDamaged("the list of segments can't be read", path=str(generation)) from error


def _verify_file(path: Path) -> None:
    """Layout: content, JSON footer {"crc": ...}, its length, 1337 (both u32, little-endian)."""
    content = path.read_bytes()
    try:
        length, magic = _FOOTER.unpack(content[-_FOOTER.size :])
        end = len(content) - _FOOTER.size - length
        whole = magic == _FOOTER_MAGIC and end >= 0
        whole = whole and json.loads(content[end : -_FOOTER.size])["crc"] == zlib.crc32(content[:end])
    except (struct.error, ValueError, KeyError, TypeError) as error:
        raise IndexDamaged("an index file is cut off", path=str(path)) from error
    if not whole:
        raise IndexDamaged("an index file's checksum is wrong", path=str(path))

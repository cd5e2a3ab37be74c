"""What is a backup as one file, and is what comes out what was put in?

A gzipped tar: `manifest.json`, then the parts that it names, each with its length and its SHA-256. It is complete or
not there, and only its owner may read it. Nothing is written before its name was checked, and only plain files are; a
byte that is not as it was written is found by the part's digest, or by gzip's checksum over everything.
"""

import gzip
import hashlib
import io
import shutil
import tarfile
import zlib
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import IO, Literal

from pydantic import BaseModel, ConfigDict, Field

from memory.adapters.files import replaced

FORMAT = 1
MANIFEST = "manifest.json"

_LEVEL = 1
"""Of gzip's nine: vectors don't get smaller. A database of 2,500 short events became 57 % of its size at 62 MB/s, and
with level 6 only half a percent less."""
_CHUNK = 1 << 20
_GIB = 1 << 30
_MOST_MANIFEST = 16 << 20

Told = Callable[[str, int, int | None], None]
"""(what is done, bytes so far, bytes in all or None)"""


class BackupRefused(Exception):
    """Nothing was changed. The message says why, and what to do."""


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    size: int = Field(ge=0)
    sha256: str


class Manifest(BaseModel):
    """`version`: of the program. `revision`: of the database's schema."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    format: int = FORMAT
    version: str
    database: Literal["sqlite", "postgresql"]
    revision: str
    created_at: datetime
    parts: tuple[Part, ...] = ()

    @property
    def size(self) -> int:
        return sum(part.size for part in self.parts)


def pack(archive: Path, manifest: Manifest, sources: Mapping[str, Path], told: Told) -> Manifest:
    """Writes an archive of these files by their names in it; gives the manifest with its parts. Raises OSError."""
    parts = tuple(Part(name=name, size=path.stat().st_size, sha256=_digest(path)) for name, path in sources.items())
    manifest = manifest.model_copy(update={"parts": parts})
    body = manifest.model_dump_json(indent=1).encode()
    with (
        replaced(archive) as draft,
        draft.open("wb") as file,
        gzip.GzipFile("", "wb", _LEVEL, file, mtime=0) as stream,
        tarfile.open(fileobj=stream, mode="w|") as tar,
    ):
        tar.addfile(_member(MANIFEST, len(body), manifest), io.BytesIO(body))
        tally = _Tally("packing", manifest.size, told)
        for part in parts:
            with sources[part.name].open("rb") as source:
                tar.addfile(_member(part.name, part.size, manifest), _Counted(source, tally))
    return manifest


def unpack(archive: Path, folder: Path, told: Told) -> Manifest:
    """Everything into a folder that has none of it. Raises BackupRefused; what is in the folder then is of no use."""
    try:
        with gzip.open(archive, "rb") as stream:
            with tarfile.open(fileobj=stream, mode="r|") as tar:
                manifest = _manifest(tar)
                _check_room(folder, manifest.size)
                tally = _Tally("unpacking", manifest.size, told)
                for part in manifest.parts:
                    _unpack(tar, part, folder, tally)
                if tar.next() is not None:
                    raise BackupRefused(f"{archive} has more in it than its manifest names: it is not ours")
            while stream.read(_CHUNK):  # to the end: only there does gzip compare its checksum
                pass
    except (gzip.BadGzipFile, EOFError, zlib.error, tarfile.TarError, ValueError, KeyError) as error:
        raise BackupRefused(f"{archive} is damaged, or no backup of ours ({error}): use another one") from error
    except OSError as error:
        raise BackupRefused(f"{error.filename or archive}: {error.strerror or error}") from error
    return manifest


class _Tally:
    """Tells how many bytes of all parts are done."""

    def __init__(self, what: str, total: int, told: Told) -> None:
        self._what = what
        self._total = total
        self._told = told
        self._done = 0

    def add(self, count: int) -> None:
        self._done += count
        self._told(self._what, self._done, self._total)


class _Counted(io.RawIOBase):
    """A file that counts what is read of it."""

    def __init__(self, file: IO[bytes], tally: _Tally) -> None:
        self._file = file
        self._tally = tally

    def read(self, size: int = -1) -> bytes:
        part = self._file.read(size)
        self._tally.add(len(part))
        return part


def _member(name: str, size: int, manifest: Manifest) -> tarfile.TarInfo:
    """Whose it was and on which machine does not matter."""
    member = tarfile.TarInfo(name)
    member.size = size
    member.mode = 0o600
    member.mtime = manifest.created_at.timestamp()
    return member


def _manifest(tar: tarfile.TarFile) -> Manifest:
    """Raises ValueError, BackupRefused."""
    member = tar.next()
    if member is None or member.name != MANIFEST or not member.isreg() or member.size > _MOST_MANIFEST:
        raise ValueError("it does not begin with a manifest")
    body = tar.extractfile(member)
    assert body is not None
    manifest = Manifest.model_validate_json(body.read())
    if manifest.format != FORMAT:
        raise BackupRefused(
            f"the backup has the format {manifest.format}, this version reads {FORMAT}: use a newer one"
        )
    return manifest


def _unpack(tar: tarfile.TarFile, part: Part, folder: Path, tally: _Tally) -> None:
    """Raises ValueError, OSError."""
    member = tar.next()
    if member is None or not member.isreg() or (member.name, member.size) != (part.name, part.size):
        raise ValueError(f"{part.name!r} is not where the manifest says")
    target = folder / _safe(part.name)
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    source = tar.extractfile(member)
    assert source is not None
    digest = hashlib.sha256()
    with target.open("xb") as file:
        target.chmod(0o600)
        while chunk := source.read(_CHUNK):
            tally.add(len(chunk))
            digest.update(chunk)
            file.write(chunk)
    if digest.hexdigest() != part.sha256:
        raise ValueError(f"{part.name!r} is not as it was written")


def _safe(name: str) -> PurePosixPath:
    """A path below the folder that it is joined to. Raises ValueError."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name or "\\" in name:
        raise ValueError(f"{name!r} is no name of a part")
    return path


def _check_room(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if size > free:
        raise BackupRefused(
            f"{size / (1 << 30):.1f} GiB have no room in {folder}, which has {free / (1 << 30):.1f} GiB"
        )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

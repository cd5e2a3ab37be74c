"""What is on disk, and can it be believed?

    lexical.json            how far the words are complete
    lexical/                the words, which check themselves
    vectors.json            how far vectors and catalogue are complete, and in which files they are
    catalogue-<id>.npz
    vectors-<id>/           the vectors, which check themselves

Files are written under new names, then a manifest that names them takes the place of the one before, then what no
manifest names is removed. So whatever ends the process leaves the old index or the new one. A file that is missing, cut
off or changed, a manifest of another format or vector space: the index is rebuilt from the database.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memory.domain.changes import Position
from memory.domain.errors import IndexDamaged
from memory.domain.ids import new_id

FORMAT = 3
VECTORS = "vectors"
LEXICAL = "lexical"

_CATALOGUE = "catalogue-*.npz"
_VECTORS = "vectors-*"


@dataclass(frozen=True, slots=True)
class Manifest:
    """`position`: the place in the change feed up to which a part is complete. Of the vectors also where they are.

    folder: in the tenant's. files: in it. catalogue: the file's name; digest: BLAKE2 of its content.
    """

    space: str
    position: Position
    folder: str = ""
    files: tuple[str, ...] = ()
    catalogue: str = ""
    digest: str = ""


def write_manifest(folder: Path, part: str, manifest: Manifest) -> None:
    """Last of all: what it describes is complete and on disk."""
    body = {
        "format": FORMAT,
        "space": manifest.space,
        "position": [manifest.position.xid, manifest.position.number],
        "folder": manifest.folder,
        "files": list(manifest.files),
        "catalogue": manifest.catalogue,
        "digest": manifest.digest,
    }
    content = json.dumps(body | {"checksum": _sum(body)}, indent=1).encode()
    with _replaced(folder / f"{part}.json") as partial:
        partial.write_bytes(content)


def read_manifest(folder: Path, part: str, space: str) -> Manifest:
    """Raises IndexDamaged."""
    try:
        body = json.loads((folder / f"{part}.json").read_bytes())
        if body.pop("checksum") != _sum(body):  # a position that is too high would skip changes
            raise IndexDamaged(f"the manifest of the {part} index is not as it was written")
        if body["format"] != FORMAT or body["space"] != space:
            raise IndexDamaged(f"the {part} index is of another format or vector space")
        position, files = Position(*body["position"]), tuple(body["files"])
        return Manifest(body["space"], position, body["folder"], files, body["catalogue"], body["digest"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise IndexDamaged(f"the {part} index has no readable manifest: {error}") from error


def save_catalogue(folder: Path, arrays: dict[str, NDArray[Any]]) -> tuple[str, str]:
    """The name of a new file, and its digest."""
    name = _CATALOGUE.replace("*", new_id())
    with _replaced(folder / name) as partial:
        with partial.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        digest = _digest(partial)
    return name, digest


def load_catalogue(folder: Path, manifest: Manifest) -> dict[str, NDArray[Any]]:
    """Raises IndexDamaged."""
    path = folder / manifest.catalogue
    try:
        if _digest(path) != manifest.digest:
            raise IndexDamaged(f"{path.name} is not as it was written")
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise IndexDamaged(f"{path.name} can't be read: {error}") from error


def new_vectors_folder(folder: Path) -> Path:
    made = folder / _VECTORS.replace("*", new_id())
    made.mkdir(mode=0o700)
    return made


def vectors_folders(folder: Path) -> list[Path]:
    return [path for path in folder.glob(_VECTORS) if path.is_dir()]


def remove_others(folder: Path, manifest: Manifest, spared: Path | None = None) -> None:
    """What the manifest does not name; of other folders of vectors, what is left of them."""
    for path in folder.glob(_CATALOGUE):
        if path.name != manifest.catalogue:
            path.unlink()
    for path in vectors_folders(folder):
        if path.name != manifest.folder and path != spared:
            shutil.rmtree(path)


@contextmanager
def _replaced(path: Path) -> Iterator[Path]:
    """Yields a file beside `path`; it takes its place, flushed to disk, when the block succeeds."""
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        _sync(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sum(body: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(body, sort_keys=True).encode(), digest_size=16).hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()

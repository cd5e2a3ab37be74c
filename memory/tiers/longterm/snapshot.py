"""What is on disk, and can it be believed?

A tenant's folder holds `lexical/` (words, which check themselves), `vectors.index`, `catalogue.npz`, and a manifest for
each of the two parts: the place in the change feed up to which the part is complete, and the size and checksum of its
files. A file that is missing, cut off or changed, a manifest of another format or vector space: the index is rebuilt
from the database.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memory.domain.changes import Position
from memory.domain.errors import IndexDamaged

FORMAT = 2
VECTORS = "vectors"
LEXICAL = "lexical"


@dataclass(frozen=True, slots=True)
class Manifest:
    """Files by name relative to the tenant's folder: size in bytes and BLAKE2 checksum."""

    space: str
    position: Position
    files: dict[str, tuple[int, str]]


def write_manifest(folder: Path, part: str, space: str, position: Position, files: list[Path]) -> None:
    """Last of all: what it describes is complete and on disk."""
    described = {str(file.relative_to(folder)): _describe(file) for file in files}
    body = {"format": FORMAT, "space": space, "position": [position.xid, position.number], "files": described}
    write_durably(folder / f"{part}.json", json.dumps(body | {"checksum": _sum(body)}, indent=1).encode())


def read_manifest(folder: Path, part: str, space: str) -> Manifest:
    """Raises IndexDamaged unless every file is there as it was written."""
    try:
        body = json.loads((folder / f"{part}.json").read_bytes())
        manifest = Manifest(
            body["space"], Position(*body["position"]), {n: (int(s), str(d)) for n, (s, d) in body["files"].items()}
        )
        if body.pop("checksum") != _sum(body):  # a position that is too high would skip changes
            raise IndexDamaged(f"the manifest of the {part} index is not as it was written")
        if body["format"] != FORMAT or manifest.space != space:
            raise IndexDamaged(f"the {part} index is of another format or vector space")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise IndexDamaged(f"the {part} index has no readable manifest: {error}") from error
    for name, (size, digest) in manifest.files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size or _digest(path) != digest:
            raise IndexDamaged(f"{name} is not as it was written")
    return manifest


def save_arrays(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def load_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Raises IndexDamaged."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise IndexDamaged(f"{path.name} can't be read: {error}") from error


def write_durably(path: Path, content: bytes) -> None:
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _describe(path: Path) -> tuple[int, str]:
    return path.stat().st_size, _digest(path)


def _sum(body: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(body, sort_keys=True).encode(), digest_size=16).hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()

"""Of which blocks does a session's KV consist?

A manifest is small and rewritten at each commit: written beside, then renamed, with a checksum inside. It only saves
work: the token log says what the session's tokens are, and without a manifest they are read from there. File names are
hashes, so no client's text becomes a path.
"""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from model_runtime.kv import identity
from model_runtime.kv.disk import make_private, quarantine, remove_unfinished, write_durably
from model_runtime.kv.shape import BLOCK

FORMAT = 1

_HEX_ID = re.compile(r"[0-9a-f]{64}")
_SUFFIX = ".json"


@dataclass(frozen=True, slots=True)
class SessionManifest:
    """Raises ValueError where an id is not 64 hex digits or the tail is as long as a block."""

    memory_key: str
    tenant: str
    namespace: str
    block_ids: tuple[str, ...]
    tail: tuple[int, ...]
    """The token ids after the last full block."""
    position: int
    """Of the token log, up to which this is complete."""
    tokenizer: str
    template: str
    """Fingerprints, as is `tokenizer`: KV does not depend on them, the ids that are asked for next do."""
    fork_parent: str | None
    pinned_until: float | None
    """Seconds since 1970."""
    generation: int

    def __post_init__(self) -> None:
        if not all(map(_HEX_ID.fullmatch, (self.namespace, *self.block_ids))):
            raise ValueError("namespace and block ids are 64 hex digits")
        if len(self.tail) >= BLOCK:
            raise ValueError(f"a tail of {len(self.tail)} tokens has a full block in it")
        identity.packed(self.tail)


class OlderGeneration(Exception):
    """Somebody has written a newer manifest of the session: read it, and start from there."""

    def __init__(self, stored: int, offered: int) -> None:
        super().__init__(f"generation {offered} would replace generation {stored}")
        self.stored = stored
        self.offered = offered


class Manifests:
    """Any number of threads may call; one process owns a folder. Raises OSError where the disk does."""

    def __init__(self, folder: Path) -> None:
        make_private(folder)
        remove_unfinished(folder, f"??/*{_SUFFIX}")
        self._folder = folder
        self._changing = threading.Lock()

    def read(self, tenant: str, memory_key: str) -> SessionManifest | None:
        """None where there is none, and where it is not as it was written: that one goes to quarantine."""
        with self._changing:
            manifest = self._read(self._path(tenant, memory_key))
        return manifest

    def write(self, manifest: SessionManifest) -> None:
        """Durable on return. Raises OlderGeneration where a newer one is stored; the same one may be written again."""
        content = _to_file(manifest)
        path = self._path(manifest.tenant, manifest.memory_key)
        with self._changing:
            stored = self._read(path)
            if stored is not None and stored.generation > manifest.generation:
                raise OlderGeneration(stored.generation, manifest.generation)
            write_durably(path, content)

    def drop(self, tenant: str, memory_key: str) -> bool:
        """False where there was none."""
        with self._changing:
            try:
                self._path(tenant, memory_key).unlink()
            except FileNotFoundError:
                return False
        return True

    def all(self) -> Iterator[SessionManifest]:
        """Every manifest that is as it was written, in no order."""
        for path in self._folder.glob(f"??/*{_SUFFIX}"):
            with self._changing:
                manifest = self._read(path)
            if manifest is not None:
                yield manifest

    def _read(self, path: Path) -> SessionManifest | None:
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            manifest = _from_file(content)
            if self._path(manifest.tenant, manifest.memory_key) != path:
                raise ValueError("the manifest of another session")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            quarantine(path, self._folder)
            return None
        return manifest

    def _path(self, tenant: str, memory_key: str) -> Path:
        name = hashlib.sha256(identity.framed(tenant, memory_key)).hexdigest()
        return self._folder / name[:2] / (name + _SUFFIX)


def _to_file(manifest: SessionManifest) -> bytes:
    body = {"format": FORMAT, **asdict(manifest)}
    return json.dumps(body | {"checksum": _checksum(body)}, allow_nan=False).encode()


def _from_file(content: bytes) -> SessionManifest:
    body: dict[str, Any] = json.loads(content)
    if body.pop("checksum") != _checksum(body) or body.pop("format") != FORMAT:
        raise ValueError("the manifest is not as it was written")
    manifest = SessionManifest(**body)
    return replace(manifest, block_ids=tuple(manifest.block_ids), tail=tuple(manifest.tail))


def _checksum(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()

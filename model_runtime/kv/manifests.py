"""Of which blocks does a session's KV consist, also after a restart?

A manifest is small and rewritten whenever an answer of its session ends: written beside, then renamed, with a checksum
inside. It only saves work: blocks are found by their content, and without a manifest a session's tokens are read from
its log. File names are hashes, so no client's text becomes a path. Manifests hold token ids: a purge takes them along.
"""

import hashlib
import json
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from model_runtime.kv import identity
from model_runtime.kv.disk import make_private, quarantine, remove_unfinished, write_durably
from model_runtime.kv.identity import BlockId
from model_runtime.kv.shape import BLOCK

FORMAT = 2

_SUFFIX = ".json"
_LAST_WRITES = 2.0
"""Seconds for what is not on disk yet when the service stops."""

logger = logging.getLogger(__name__)

SessionName: TypeAlias = tuple[str, str]
"""Tenant, memory key."""


@dataclass(frozen=True, slots=True)
class SessionManifest:
    """Raises ValueError where an id has not 32 bytes or the tail is as long as a block."""

    tenant: str
    memory_key: str
    namespace: bytes
    codec: str
    block_ids: tuple[BlockId, ...]
    tail: tuple[int, ...]
    """The token ids after the last full block."""
    tokenizer: str
    template: str
    """Fingerprints, as is `tokenizer`: KV does not depend on them, the ids that are asked for next do."""
    pinned_until: float | None = None
    """Seconds since 1970."""
    generation: int = 1
    """How often it was written."""

    def __post_init__(self) -> None:
        if any(len(id_) != identity.ID_BYTES for id_ in (self.namespace, *self.block_ids)):
            raise ValueError("namespace and block ids have 32 bytes")
        if len(self.tail) >= BLOCK:
            raise ValueError(f"a tail of {len(self.tail)} tokens has a full block in it")
        identity.packed(self.tail)

    @property
    def name(self) -> SessionName:
        return self.tenant, self.memory_key

    @property
    def tokens(self) -> int:
        return len(self.block_ids) * BLOCK + len(self.tail)


class Manifests:
    """One process owns a folder. Not to be called by two threads at once. Raises OSError where the disk does."""

    def __init__(self, folder: Path) -> None:
        make_private(folder)
        remove_unfinished(folder, f"??/*{_SUFFIX}")
        self._folder = folder

    def write(self, manifest: SessionManifest) -> None:
        """Durable on return."""
        write_durably(self._path(manifest.name), _to_file(manifest))

    def drop(self, name: SessionName) -> bool:
        """False where there was none."""
        try:
            self._path(name).unlink()
        except FileNotFoundError:
            return False
        return True

    def all(self) -> Iterator[SessionManifest]:
        """Every manifest that is as it was written, in no order; the others go to quarantine."""
        for path in list(self._folder.glob(f"??/*{_SUFFIX}")):
            try:
                manifest = _from_file(path.read_bytes())
                if self._path(manifest.name) != path:
                    raise ValueError("the manifest of another session")
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                quarantine(path, self._folder)
                continue
            yield manifest

    def empty_quarantine(self) -> None:
        """Damaged or not, the files hold token ids."""
        for file in (self._folder / "quarantine").glob("*"):
            file.unlink(missing_ok=True)

    def _path(self, name: SessionName) -> Path:
        hashed = hashlib.sha256(identity.framed(*name)).hexdigest()
        return self._folder / hashed[:2] / (hashed + _SUFFIX)


class ManifestsBehind:
    """Writes manifests in a thread of its own: nobody waits for the disk but who drops. Of a session, the newest."""

    def __init__(self, manifests: Manifests) -> None:
        self.failed_writes = 0
        self._manifests = manifests
        self._pending: dict[SessionName, SessionManifest | None] = {}
        """None: it is to be dropped."""
        self._changed = threading.Condition()
        self._on_disk = threading.Lock()
        """Held from taking a manifest until it is written, so that what is dropped can't come back."""
        self._closing = False
        self._thread = threading.Thread(target=self._main, name="kv-manifests", daemon=True)
        self._thread.start()

    @property
    def pending(self) -> int:
        return len(self._pending)

    def put(self, manifest: SessionManifest) -> None:
        with self._changed:
            self._pending[manifest.name] = manifest
            self._changed.notify()

    def drop_soon(self, name: SessionName) -> None:
        with self._changed:
            self._pending[name] = None
            self._changed.notify()

    def drop(self, name: SessionName) -> None:
        """Gone from the disk on return. Raises OSError."""
        with self._on_disk:
            with self._changed:
                self._pending.pop(name, None)
            self._manifests.drop(name)

    def empty_quarantine(self) -> None:
        with self._on_disk:
            self._manifests.empty_quarantine()

    def close(self) -> None:
        """Writes what is pending, for two seconds at most."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(_LAST_WRITES)

    def _main(self) -> None:
        while True:
            with self._changed:
                while not self._pending and not self._closing:
                    self._changed.wait()
                if not self._pending:
                    return
            with self._on_disk:
                self._write_one()

    def _write_one(self) -> None:
        with self._changed:
            if not self._pending:
                return
            name = next(iter(self._pending))
            manifest = self._pending.pop(name)
        try:
            if manifest is None:
                self._manifests.drop(name)
            else:
                self._manifests.write(manifest)
        except OSError as error:  # a full disk: the session is found by its content all the same
            self.failed_writes += 1
            logger.warning("a session's manifest could not be written: %s", error)


def _to_file(manifest: SessionManifest) -> bytes:
    body = {
        "format": FORMAT,
        "tenant": manifest.tenant,
        "memory_key": manifest.memory_key,
        "namespace": manifest.namespace.hex(),
        "codec": manifest.codec,
        "block_ids": [block_id.hex() for block_id in manifest.block_ids],
        "tail": list(manifest.tail),
        "tokenizer": manifest.tokenizer,
        "template": manifest.template,
        "pinned_until": manifest.pinned_until,
        "generation": manifest.generation,
    }
    return json.dumps(body | {"checksum": _checksum(body)}, allow_nan=False).encode()


def _from_file(content: bytes) -> SessionManifest:
    body: dict[str, Any] = json.loads(content)
    if body.pop("checksum") != _checksum(body) or body.pop("format") != FORMAT:
        raise ValueError("the manifest is not as it was written")
    ids = tuple(map(bytes.fromhex, body.pop("block_ids")))
    namespace, tail = bytes.fromhex(body.pop("namespace")), tuple(body.pop("tail"))
    return SessionManifest(**body, namespace=namespace, block_ids=ids, tail=tail)


def _checksum(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()

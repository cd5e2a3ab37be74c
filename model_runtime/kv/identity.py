"""What names the KV of a block, so that two computations share a name only if they compute the same?

    namespace = SHA-256(canonical JSON of everything but the tokens that decides the numbers)
    block id  = SHA-256("v1", namespace, id of the parent, count, token ids)

so an id stands for all tokens from the start of the sequence. The salt in a namespace keeps tenants apart: without the
server's secret nobody can ask for, or probe, the blocks of another one.
"""

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeAlias

from model_runtime.kv.shape import BLOCK

JSON: TypeAlias = bool | int | float | str | Sequence["JSON"] | Mapping[str, "JSON"] | None

BlockId: TypeAlias = bytes
"""32 bytes, kept whole."""

ID_BYTES = 32

_NO_PARENT = bytes(ID_BYTES)
_HASHED_AT_ONCE = 1 << 20


@dataclass(frozen=True, slots=True)
class NamespaceFacts:
    """Everything but the token ids that decides what KV is computed, or who may share it."""

    format_version: int
    weights: str
    """A hub commit or `weights_fingerprint`, with the epoch of hot updates where there are any."""
    architecture: Mapping[str, JSON]
    """With the rope parameters and the sliding window."""
    kv_dtype: str
    block_size: int
    policy: JSON
    """The attention policy: "exact", or what was sparse or quantised."""
    chunk_grid: int
    """Tokens of a prefill chunk; the merge order of partial attentions follows it."""
    libraries: Mapping[str, JSON]
    """Names to versions (major.minor)."""
    adapter: str
    salt: str
    """Of those who may share KV, made by the server from whom it authenticated, never from a request."""

    def namespace(self) -> bytes:
        return namespace(asdict(self))


def namespace(facts: Mapping[str, JSON]) -> bytes:
    """32 bytes. Raises ValueError unless `facts` has the fields of NamespaceFacts and is JSON (no NaN)."""
    missing = NamespaceFacts.__dataclass_fields__.keys() - facts.keys()
    if missing:
        raise ValueError(f"a namespace needs {', '.join(sorted(missing))}")
    _refuse_other_keys(facts)
    try:
        text = json.dumps(facts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except TypeError as error:
        raise ValueError(f"the facts of a namespace are JSON: {error}") from error
    return hashlib.sha256(text.encode()).digest()


def framed(*fields: str) -> bytes:
    """Each field behind its length, so that ("a", "bc") and ("ab", "c") differ."""
    encoded = [field.encode() for field in fields]
    return b"".join(struct.pack("<Q", len(field)) + field for field in encoded)


def block_id(namespace: bytes, parent: bytes | None, token_ids: Sequence[int]) -> bytes:
    """32 bytes, kept whole. Raises ValueError for ids of another length and for tokens that are no u32."""
    if len(namespace) != ID_BYTES or (parent is not None and (len(parent) != ID_BYTES or parent == _NO_PARENT)):
        raise ValueError("a namespace and a parent have 32 bytes, and a parent is not all zeros")
    count = struct.pack("<I", len(token_ids))
    return hashlib.sha256(b"v1" + namespace + (parent or _NO_PARENT) + count + packed(token_ids)).digest()


def packed(token_ids: Sequence[int]) -> bytes:
    """The ids as little-endian u32. Raises ValueError."""
    try:
        return struct.pack(f"<{len(token_ids)}I", *token_ids)
    except struct.error as error:
        raise ValueError(f"token ids are whole numbers from 0 to 2^32 - 1: {error}") from error


def chain(namespace: bytes, token_ids: Sequence[int]) -> list[bytes]:
    """The ids of all full blocks of a sequence, first to last; tokens after the last full block name nothing."""
    ids: list[bytes] = []
    for start in range(0, len(token_ids) - BLOCK + 1, BLOCK):
        ids.append(block_id(namespace, ids[-1] if ids else None, token_ids[start : start + BLOCK]))
    return ids


def weights_fingerprint(folder: Path) -> str:
    """Hex SHA-256 over all safetensors files, each with its name, in the order of their names.

    Raises FileNotFoundError where there are none. A file is hashed once per process unless it changes.
    """
    files = sorted((str(file.relative_to(folder)), file) for file in folder.rglob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"{folder} holds no *.safetensors weights")
    digest = hashlib.sha256()
    for name, file in files:
        digest.update(framed(name) + _sha256(file))
    return digest.hexdigest()


_Seen: TypeAlias = tuple[int, int, int, int, int]
_hashed: dict[_Seen, bytes] = {}


def _sha256(file: Path) -> bytes:
    before = _seen(file)
    if before in _hashed:
        return _hashed[before]
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while part := stream.read(_HASHED_AT_ONCE):
            digest.update(part)
    if _seen(file) == before:  # a file that changed meanwhile is hashed again next time
        _hashed[before] = digest.digest()
    return digest.digest()


def _seen(file: Path) -> _Seen:
    """The time of the last change of the inode is in it too: a copy that keeps the modification time can't hide."""
    stat = file.stat()
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _refuse_other_keys(value: JSON) -> None:
    """json.dumps turns the key 1 into "1": two facts would become one."""
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise ValueError("the keys of facts are strings")
        for inner in value.values():
            _refuse_other_keys(inner)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for inner in value:
            _refuse_other_keys(inner)

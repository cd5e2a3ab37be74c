"""What is a block as bytes in a file, and is what was read what was written?

The file is a safetensors container: the token ids (u32), each layer as its codec wrote it (u8), and metadata that says
which block it is. The id is computed again from the tokens, the rest of the metadata has a seal, each layer a checksum.
The header is parsed here, because the library wants the whole file where one layer is asked for.
"""

import errno
import hashlib
import json
import os
import re
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from model_runtime.kv import identity
from model_runtime.kv.identity import BlockId
from model_runtime.kv.shape import BLOCK

FORMAT = "stratamem-kv-1"

Read = Callable[[int, int], bytes]
"""(offset, length) -> exactly that many bytes; raises DamagedBlock where the file ends before."""

_LARGEST_HEADER = 1 << 20
_METADATA = {"format", "id", "parent", "namespace", "index", "codec", "checksums", "seal"}


class DamagedBlock(Exception):
    """The file is not as it was written."""


class NotWhatWasAsked(Exception):
    """The file is whole, but of other tokens, or without a layer that was asked for."""


@dataclass(frozen=True, slots=True)
class StoredBlock:
    """A sealed block. `layers` are all of them or, where only some were asked for, those, in the order asked.

    The id says nothing of `codec`: who reads compares it with its own, as the policy in the namespace promises.

    Raises ValueError unless there are BLOCK tokens and a parent exactly where the index is not 0.
    """

    block_id: bytes
    parent: bytes | None
    index: int
    namespace: bytes
    token_ids: tuple[int, ...]
    codec: str
    layers: tuple[bytes, ...]

    def __post_init__(self) -> None:
        if len(self.token_ids) != BLOCK or self.index < 0 or (self.index == 0) != (self.parent is None):
            raise ValueError(f"block {self.index} with {len(self.token_ids)} tokens does not start or follow anything")

    @property
    def nbytes(self) -> int:
        return sum(map(len, self.layers))

    @property
    def checksums(self) -> tuple[int, ...]:
        return tuple(map(checksum, self.layers))


@dataclass(frozen=True, slots=True)
class BlockHeader:
    block_id: BlockId
    parent: BlockId | None
    index: int
    namespace: BlockId
    codec: str
    bytes: int
    """Of the file."""


@dataclass(frozen=True, slots=True)
class Container:
    """A parsed header. Spans are (offset, length) in the file."""

    header: BlockHeader
    tokens: tuple[int, int]
    layers: tuple[tuple[int, int], ...]
    checksums: tuple[int, ...]


def checksum(data: bytes) -> int:
    """CRC-32 against accidents: xxhash is not among the dependencies, and zlib's CRC does 5.6 GB/s on one core."""
    return zlib.crc32(data)


def to_file(block: StoredBlock) -> bytes:
    """Raises ValueError where the id does not follow from the rest."""
    if identity.block_id(block.namespace, block.parent, block.token_ids) != block.block_id:
        raise ValueError("the id of a block follows from its namespace, parent and tokens")
    if not block.layers or not all(block.layers):
        raise ValueError("a block has layers, and a layer has bytes")
    metadata = {
        "format": FORMAT,
        "id": block.block_id.hex(),
        "parent": block.parent.hex() if block.parent else "",
        "namespace": block.namespace.hex(),
        "index": str(block.index),
        "codec": block.codec,
        "checksums": " ".join(f"{sum_:08x}" for sum_ in block.checksums),
    }
    tensors: dict[str, Any] = {_layer(i): np.frombuffer(data, np.uint8) for i, data in enumerate(block.layers)}
    tensors["tokens"] = np.array(block.token_ids, np.uint32)
    return save(tensors, metadata=metadata | {"seal": _seal(metadata)})


@contextmanager
def opened(path: Path) -> Iterator[tuple[Read, int]]:
    """How to read the file, and its size in bytes. Raises OSError."""
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield partial(_pread, file), os.fstat(file).st_size
    finally:
        os.close(file)


def read_container(read: Read, file_bytes: int) -> Container:
    """Reads the header only. Raises DamagedBlock."""
    (length,) = struct.unpack("<Q", read(0, 8))
    if length > min(_LARGEST_HEADER, file_bytes - 8):
        raise DamagedBlock("the length of the header is not as it was written")
    try:
        entries: dict[str, Any] = json.loads(read(8, length))
        return _container(entries, 8 + length, file_bytes)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedBlock(f"the header is not as it was written: {error}") from error


def read_block(
    read: Read, file_bytes: int, block_id: bytes, token_ids: Sequence[int] | None, layers: Sequence[int] | None
) -> StoredBlock:
    """The block `block_id` of `token_ids` (None: those that the id stands for) with `layers` (None: all), checked.

    Raises DamagedBlock where the file is not whole or of another id, NotWhatWasAsked where only the question is wrong.
    """
    container = read_container(read, file_bytes)
    header = container.header
    tokens = read(*container.tokens)
    if header.block_id != block_id or _id(header, tokens) != block_id:
        raise DamagedBlock("the block is not the one that its name promises")
    ids = struct.unpack(f"<{BLOCK}I", tokens) if token_ids is None else tuple(token_ids)
    if tokens != identity.packed(ids):
        raise NotWhatWasAsked("other tokens")
    wanted = range(len(container.layers)) if layers is None else layers
    if not all(0 <= i < len(container.layers) for i in wanted):
        raise NotWhatWasAsked(f"there are {len(container.layers)} layers")
    data = tuple(_checked(read(*container.layers[i]), container.checksums[i]) for i in wanted)
    return StoredBlock(block_id, header.parent, header.index, header.namespace, ids, header.codec, data)


def _container(entries: dict[str, Any], start: int, file_bytes: int) -> Container:
    metadata: dict[str, str] = entries.pop("__metadata__")
    seal = metadata.pop("seal")
    if seal != _seal(metadata) or metadata.keys() | {"seal"} != _METADATA or metadata["format"] != FORMAT:
        raise ValueError("the metadata are sealed otherwise")
    checksums = tuple(int(sum_, 16) for sum_ in metadata["checksums"].split(" "))
    names = ["tokens", *map(_layer, range(len(checksums)))]
    if entries.keys() != set(names):
        raise ValueError("the tensors are others")
    spans, end = [], start
    # The library lays out the larger type first, then by name: nothing between two tensors, nothing after the last.
    for name in names:
        span = _span(entries[name], start, "U32" if name == "tokens" else "U8")
        if span[0] != end:
            raise ValueError(f"{name} lies elsewhere")
        spans.append(span)
        end += span[1]
    if end != file_bytes or spans[0][1] != 4 * BLOCK:
        raise ValueError("the file has another size")
    return Container(_header(metadata, file_bytes), spans[0], tuple(spans[1:]), checksums)


def _span(entry: dict[str, Any], start: int, dtype: str) -> tuple[int, int]:
    first, end = map(int, entry["data_offsets"])
    (count,) = map(int, entry["shape"])
    if entry["dtype"] != dtype or end - first != count * (4 if dtype == "U32" else 1) or not 0 <= first < end:
        raise ValueError("a tensor has another size or type")
    return start + first, end - first


def _header(metadata: dict[str, str], file_bytes: int) -> BlockHeader:
    parent, index = metadata["parent"], int(metadata["index"])
    if index < 0 or (index == 0) != (not parent):
        raise ValueError("a first block with a parent, or another one without")
    return BlockHeader(
        _hex(metadata["id"]),
        _hex(parent) if parent else None,
        index,
        _hex(metadata["namespace"]),
        metadata["codec"],
        file_bytes,
    )


def _id(header: BlockHeader, tokens: bytes) -> bytes:
    return identity.block_id(header.namespace, header.parent, struct.unpack(f"<{BLOCK}I", tokens))


def _checked(data: bytes, expected: int) -> bytes:
    if checksum(data) != expected:
        raise DamagedBlock("a layer is not as it was written")
    return data


def _seal(metadata: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(metadata, sort_keys=True).encode()).hexdigest()


def _hex(text: str) -> bytes:
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise ValueError("an id is 64 hex digits")
    return bytes.fromhex(text)


def _layer(i: int) -> str:
    return f"layer.{i:05d}"


def _pread(file: int, offset: int, length: int) -> bytes:
    parts: list[bytes] = []
    while length:
        try:
            part = os.pread(file, length, offset)
        except OSError as error:
            if error.errno == errno.EIO:
                raise DamagedBlock("the disk can't read the file") from error
            raise
        if not part:
            raise DamagedBlock("the file is cut off")
        parts.append(part)
        offset, length = offset + len(part), length - len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)

"""What becomes of the block that an answer did not fill? The next turn of its conversation goes on there.

A few tails stay on the device, the newest ones. One whose session rests, or whose process ends, is written to a file,
exactly as it was computed, and read again when a prompt comes to the place where it begins. Tails are found like
blocks: by namespace and the block before them; the tokens are compared where they are used.

    <namespace>/<id of the block before, or "start">.tail    checksum (of the place too), then a safetensors container
"""

import shutil
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from model_runtime.kv.arena import Arena, ArenaFull
from model_runtime.kv.disk import make_private, remove_unfinished, write_durably
from model_runtime.kv.shape import BLOCK, KVShape
from model_runtime.kv.stored import checksum

TailKey: TypeAlias = tuple[bytes, bytes | None]
"""Namespace, the block before."""

MOST_ON_DEVICE = 8
_DEADLINE = 2.0
"""Seconds for reading one."""
_SUFFIX = ".tail"


@dataclass(slots=True)
class Tail:
    """`tier`: where it comes from, told to who uses it next."""

    tokens: tuple[int, ...]
    slot: int
    tier: str = "device"


@dataclass(frozen=True, slots=True)
class StoredTail:
    """`kv`: uint8, the numbers of [layers, kv_heads, 2, len(tokens), head_dim]."""

    tokens: tuple[int, ...]
    kv: "np.ndarray[tuple[int], np.dtype[np.uint8]]"


class TailFiles:
    """Bounded: the files that were written longest ago go first. One thread only. Raises OSError when it is opened."""

    def __init__(self, folder: Path, quota_bytes: int, deadline: float = _DEADLINE) -> None:
        make_private(folder)
        remove_unfinished(folder, f"*/*{_SUFFIX}")
        self._folder = folder
        self._quota = quota_bytes
        self._deadline = deadline
        found = sorted(folder.glob(f"*/*{_SUFFIX}"), key=lambda path: path.stat().st_mtime_ns)
        self._sizes = OrderedDict((path, path.stat().st_size) for path in found)
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="kv-tails")

    def has(self, key: TailKey) -> bool:
        return self._path(key) in self._sizes

    def namespaces(self) -> frozenset[bytes]:
        return frozenset(bytes.fromhex(path.parent.name) for path in self._sizes)

    @property
    def used(self) -> int:
        return sum(self._sizes.values())

    def put(self, key: TailKey, tail: StoredTail) -> bool:
        """True once it is durable. False where the disk does not take it."""
        path = self._path(key)
        body = save({"tokens": np.array(tail.tokens, np.uint32), "kv": tail.kv})
        content = _checksum(key, body) + body
        try:
            self._make_room(len(content))
            write_durably(path, content)
        except OSError:
            return False
        self._sizes[path] = len(content)
        self._sizes.move_to_end(path)
        return True

    def get(self, key: TailKey) -> StoredTail | None:
        """None where there is none, where it is not as it was written, and where the disk is late."""
        path = self._path(key)
        if path not in self._sizes:
            return None
        try:
            return self._reader.submit(_read, path, key).result(self._deadline)
        except TimeoutError:
            return None
        except (OSError, ValueError, KeyError, SafetensorError):
            self.drop(key)
            return None

    def drop(self, key: TailKey) -> None:
        """Raises OSError."""
        path = self._path(key)
        path.unlink(missing_ok=True)
        self._sizes.pop(path, None)

    def forget(self, namespaces: frozenset[bytes]) -> None:
        """Raises OSError."""
        for folder in {self._folder / namespace.hex() for namespace in namespaces}:
            if folder.exists():
                shutil.rmtree(folder)
            for path in [path for path in self._sizes if path.parent == folder]:
                del self._sizes[path]

    def close(self) -> None:
        self._reader.shutdown(wait=False, cancel_futures=True)

    def _make_room(self, nbytes: int) -> None:
        if nbytes > self._quota:
            raise OSError("a tail larger than all of them may be")
        while self._sizes and self.used + nbytes > self._quota:
            path, _ = self._sizes.popitem(last=False)
            path.unlink(missing_ok=True)

    def _path(self, key: TailKey) -> Path:
        namespace, before = key
        return self._folder / namespace.hex() / ((before.hex() if before else "start") + _SUFFIX)


class Tails:
    """Those on the device, each in a slot that this owns; more than a few: the one used longest ago goes."""

    def __init__(self, arena: Arena, files: TailFiles | None, slot: Callable[[], int]) -> None:
        """`slot()`: a free one; raises ArenaFull."""
        self._arena = arena
        self._files = files
        self._slot = slot
        self._there: OrderedDict[TailKey, Tail] = OrderedDict()

    def find(self, key: TailKey) -> Tail | None:
        """From a file too: then it is on the device from now on, if that has room."""
        tail = self._there.get(key)
        if tail is not None:
            self._there.move_to_end(key)
            return tail
        stored = self._files.get(key) if self._files is not None else None
        if stored is None or not fits(stored, self._arena.shape):
            return None
        try:
            slot = self._slot()
        except ArenaFull:
            return None
        unpack(stored, self._arena, slot)
        return self._add(key, Tail(stored.tokens, slot, "disk"))

    def put(self, key: TailKey, tokens: tuple[int, ...], slot: int) -> None:
        """The slot is ours from now on."""
        if old := self._there.pop(key, None):
            self._arena.give_back(old.slot)
        self._add(key, Tail(tokens, slot))

    def give_up_one(self) -> bool:
        """False: there is none."""
        if not self._there:
            return False
        self._arena.give_back(self._there.popitem(last=False)[1].slot)
        return True

    def rest(self, key: TailKey) -> int:
        """Off the device, into a file; the number of tokens that are kept there."""
        tail = self._there.get(key)
        if tail is None:
            stored = self._files.get(key) if self._files is not None else None
            return len(stored.tokens) if stored is not None else 0
        if self._files is None or not self._files.put(key, pack(tail, self._arena)):
            return 0
        self._arena.give_back(self._there.pop(key).slot)
        return len(tail.tokens)

    def where(self, key: TailKey) -> str | None:
        """The tier that has it."""
        if key in self._there:
            return "device"
        return "disk" if self._files is not None and self._files.has(key) else None

    def drop(self, key: TailKey) -> bool:
        """Raises OSError."""
        there = self.where(key) is not None
        if old := self._there.pop(key, None):
            self._arena.give_back(old.slot)
        if self._files is not None:
            self._files.drop(key)
        return there

    def resting(self) -> frozenset[bytes]:
        """Namespaces of those in files."""
        return frozenset() if self._files is None else self._files.namespaces()

    def forget(self, namespaces: frozenset[bytes]) -> None:
        """Raises OSError."""
        for key in [key for key in self._there if key[0] in namespaces]:
            self._arena.give_back(self._there.pop(key).slot)
        if self._files is not None:
            self._files.forget(namespaces)

    def close(self) -> None:
        """All that are on the device go to files."""
        for key in list(self._there):
            self.rest(key)
        if self._files is not None:
            self._files.close()

    def _add(self, key: TailKey, tail: Tail) -> Tail:
        self._there[key] = tail
        if len(self._there) > MOST_ON_DEVICE:
            self.give_up_one()
        return tail


def pack(tail: Tail, arena: Arena) -> StoredTail:
    import torch

    parts = [layer[tail.slot, :, :, : len(tail.tokens)] for layer in arena.layers]
    return StoredTail(tail.tokens, torch.stack(parts).cpu().contiguous().view(torch.uint8).numpy().reshape(-1))


def fits(stored: StoredTail, shape: KVShape) -> bool:
    return 0 < len(stored.tokens) < BLOCK and len(stored.kv) * BLOCK == shape.block_bytes * len(stored.tokens)


def unpack(stored: StoredTail, arena: Arena, slot: int) -> None:
    import torch

    shape, n = arena.shape, len(stored.tokens)
    numbers = torch.from_numpy(stored.kv).view(shape.torch_dtype)
    for layer, part in zip(arena.layers, numbers.view(shape.layers, shape.kv_heads, 2, n, shape.head_dim), strict=True):
        layer[slot, :, :, :n].copy_(part)


def _read(path: Path, key: TailKey) -> StoredTail:
    """Raises OSError, and ValueError, KeyError or SafetensorError where it is not as it was written, or not there."""
    content = path.read_bytes()
    body = content[4:]
    if content[:4] != _checksum(key, body):
        raise ValueError("the tail is not as it was written")
    tensors = load(body)
    return StoredTail(tuple(map(int, tensors["tokens"])), tensors["kv"])


def _checksum(key: TailKey, body: bytes) -> bytes:
    """The same tokens after other blocks have other KV: a file in the place of another one is damaged."""
    namespace, before = key
    return checksum(namespace + (before or b"") + body).to_bytes(4, "little")

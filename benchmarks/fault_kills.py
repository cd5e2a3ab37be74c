"""What is left of blocks and manifests when their process gets SIGKILL while it writes them?

A child process answers prompts on a small disk, so that it writes and deletes all the time, and rewrites a manifest
beside that. It is killed at a moment drawn with the seed; then the same folder is asked.
"""

import multiprocessing
import random
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.fault_case import Case
from benchmarks.fault_world import CODECS, Asked, Room
from model_runtime.generators.checkpoint import load
from model_runtime.generators.runtime import Runtime, RuntimeOptions
from model_runtime.kv.manifests import Manifests, SessionManifest

_ROOM = Room(device=8, host=2, disk=6)
_PRELOAD = ["torch", "transformers.models.llama.modeling_llama", "transformers.models.auto", __name__]
_LONGEST = 0.4
"""Seconds from the first answer to the kill, at most."""


class Killer:
    """Makes children quickly: a server that has imported everything forks them."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(_PRELOAD)

    def play(self, case: Case) -> None:
        """`met`: an unfinished file was left, or a prompt of which some blocks are on disk and some are not."""
        world = case.world
        here, there = self._context.Pipe(duplex=False)
        model = world.folder / "model" / "model"
        child = self._context.Process(target=_write, args=(there, case.folder, model, world.prompts, case.number))
        child.start()
        there.close()
        try:
            here.recv()  # the first answer: it writes
            time.sleep(case.draw.uniform(0, _LONGEST))
        except EOFError:
            case.wrong.append("the process that writes ended by itself")
        finally:
            child.kill()
            child.join()
        acknowledged = _last(here)
        case.note(f"killed after generation {acknowledged} of the manifest")
        self._look(case, acknowledged)
        with case.runtime(_ROOM) as runtime:
            for _ in range(4):
                case.ask(runtime, case.prompt(), case.codec())

    def _look(self, case: Case, acknowledged: int) -> None:
        unfinished = list(case.folder.rglob("*.tmp"))
        there = {path.name[:64] for path in (case.folder / case.world.place).glob("??/??/*.safetensors")}
        parts = [sum(block.block_id.hex() in there for block in chain) for chain in case.world.blocks.values()]
        half = [n for n, chain in zip(parts, case.world.blocks.values(), strict=True) if 0 < n < len(chain)]
        case.met = bool(unfinished or half)
        case.note(f"{len(unfinished)} unfinished files, {len(half)} prompts in part on disk, {len(there)} blocks")
        found = next(Manifests(case.folder / "sessions").all(), None)
        if found is None or found.generation < acknowledged:
            case.wrong.append(f"generation {acknowledged} of the manifest was durable; found {found}")
        elif found != manifest(found.generation):
            case.wrong.append(f"a manifest that nobody wrote: {found}")


def _last(pipe: Connection) -> int:
    """What the child said last; it is dead."""
    last = 0
    try:
        while True:
            last = pipe.recv()
    except (EOFError, OSError):
        return last


def manifest(generation: int) -> SessionManifest:
    draw = random.Random(generation)
    ids = tuple(draw.randbytes(32) for _ in range(1 + generation % 50))
    tail = tuple(draw.randrange(256) for _ in range(generation % 500))
    return SessionManifest("tenant", "key", draw.randbytes(32), "exact", ids, tail, "t", "c", None, generation)


def _write(pipe: Connection, folder: Path, model: Path, prompts: Sequence[tuple[int, ...]], seed: int) -> None:
    """In the child, until it is killed: sends the generation of each manifest once it is durable."""
    import transformers

    draw = random.Random(seed)
    manifests = Manifests(folder / "sessions")
    manifests.write(manifest(1))
    transformers.utils.logging.disable_progress_bar()
    checkpoint = load(str(model), cache_dir=folder)
    unit = checkpoint.shape.block_bytes
    options = RuntimeOptions(
        checkpoint.name, folder, _ROOM.device * unit, _ROOM.host * unit, _ROOM.disk * (unit + 4_096), threads=1
    )
    runtime = Runtime(options, checkpoint)
    _answer(runtime, prompts, draw)
    pipe.send(1)
    threading.Thread(target=_rewrite, args=(manifests, pipe), daemon=True).start()
    while True:
        _answer(runtime, prompts, draw)


def _answer(runtime: Runtime, prompts: Sequence[tuple[int, ...]], draw: random.Random) -> Any:
    return Asked(runtime, draw.choice(prompts), draw.choice(CODECS)).answer()


def _rewrite(manifests: Manifests, pipe: Connection) -> None:
    generation = 1
    while True:
        generation += 1
        manifests.write(manifest(generation))
        pipe.send(generation)

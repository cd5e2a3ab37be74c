"""What does one case ask, and what of it was wrong? Drawn from a seed, so that it can be played again."""

import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.fault_world import CODECS, Answer, Room, Waited, World
from model_runtime.generators.runtime import Runtime
from model_runtime.kv.shape import BLOCK

SHARED_MEMORY = Path("/dev/shm")  # folders with random names are made there


@dataclass(slots=True)
class Case:
    """`met`: the fault was there when something was read, or stood in the way of it."""

    kind: str
    number: int
    world: World
    folder: Path
    draw: random.Random
    met: bool = False
    asked: int = 0
    noticed: int = 0
    """Blocks that were computed again instead of read: quarantined, lost, or late."""
    refused: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _fresh: bool = True
    """Nobody has asked this runtime yet: later prompts may go on from the tails of others, in chunks of other sizes."""

    def note(self, *what: object) -> None:
        self.notes.append(" ".join(map(str, what)))

    def prompt(self) -> int:
        return self.draw.randrange(len(self.world.prompts))

    def codec(self) -> str:
        """Exact in half of the cases."""
        return self.draw.choice((*CODECS, "exact"))

    @contextmanager
    def runtime(self, room: Room | None = None, **options: Any) -> Iterator[Runtime]:
        """On this case's folder. What it noticed is counted when it ends."""
        self.world.opened.clear()
        self._fresh = True
        with self.world.runtime(self.folder, room, **options) as runtime:
            yield runtime
            if runtime.disk is not None:
                seen = runtime.disk.stats()
                self.noticed += seen.quarantined + seen.late_reads + runtime.cache.counts.lost

    def ask(self, runtime: Runtime, prompt: int, codec: str, namespace: bytes | None = None) -> Answer:
        """Alone, and compared with the right answer: by its tokens, and the first one by every bit of its logits."""
        fresh, self._fresh = self._fresh, False
        try:
            answer = self.world.ask(runtime, prompt, codec, namespace)
        except Waited:
            answer = Answer("", "", 0, "")
            self.wrong.append("no answer and no error within a minute")
            return answer
        self.judge(answer, prompt, codec)
        right = self.world.cold[prompt, codec]
        # What goes on in the middle of a block is computed in other pieces than a cold run, and rounded otherwise.
        whole = fresh and not answer.cached % BLOCK
        if whole and answer.failed is None and answer.text == right.text and answer.states != right.states:
            self.wrong.append(f"prompt {prompt} ({codec}): the same tokens from other logits")
        return answer

    def judge(self, answer: Answer, prompt: int, codec: str) -> None:
        """By its tokens only: answers that are made together are rounded otherwise."""
        self.asked += 1
        right = self.world.cold[prompt, codec].text
        if answer.failed is not None:
            self.refused.append(answer.failed)
        elif answer.text != right:
            self.wrong.append(f"prompt {prompt} ({codec}): {answer.text!r} instead of {right!r}")

    def opened(self, *paths: Path) -> bool:
        """Whether the runtime that was started last has opened one of them."""
        return not set(paths).isdisjoint(self.world.opened)


@contextmanager
def new_case(world: World, kind: str, number: int, seed: int, *, folder: Path | None) -> Iterator[Case]:
    """`folder`: below which it gets one of its own; None: where temporary files are."""
    with tempfile.TemporaryDirectory(prefix="stratamem-fault-", dir=folder) as name:
        yield Case(kind, number, world, Path(name), random.Random(f"{seed} {kind} {number}"))


def memory_folder() -> Path | None:
    """Where files cost no disk: what is tested there is reading, not flushing."""
    return SHARED_MEMORY if SHARED_MEMORY.is_dir() else None

"""Can a wrong hit be provoked? Faults drawn from a seed, every answer compared with that of a cold run.

Each case damages what is kept (files, names, namespaces, the disk, the process itself), asks, and must end in the right
tokens or a clear error; a lone answer must have the right logits too, bit for bit. `met` counts the cases whose fault
stood in the way of something that was read: the others prove nothing. The control plays some kinds again with the
checksums switched off: the wrong answers that it finds are those that this measurement would see.

    python -m benchmarks.kv_faults --quick
    python -m benchmarks.kv_faults --cases 9800 --kills 200
    python -m benchmarks.kv_faults --case 4711           plays one again and says what it did
"""

import argparse
import logging
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from rich.progress import Progress
from rich.table import Table

from benchmarks.fault_case import Case, memory_folder, new_case
from benchmarks.fault_kills import Killer
from benchmarks.fault_kinds import KINDS
from benchmarks.fault_world import CHAINS, World
from benchmarks.machine import SEED, out, write_result
from model_runtime.kv import stored

CASES, KILLS, CONTROL = 9_800, 200, 120
QUICK_CASES, QUICK_KILLS, QUICK_CONTROL = 60, 2, 6
KILL = "kill -9 while writing"
CONTROLS = ("bits of the layers", "torn pages", "spliced files")
_SHOWN = 20


@dataclass(slots=True)
class Tally:
    """Of one kind. `refused`: answers that ended in an error, by its message."""

    cases: int = 0
    met: int = 0
    answers: int = 0
    noticed: int = 0
    wrong: int = 0
    refused: Counter[str] = field(default_factory=Counter)

    def add(self, case: Case) -> None:
        self.cases += 1
        self.met += case.met
        self.answers += case.asked
        self.noticed += case.noticed
        self.wrong += bool(case.wrong)
        self.refused.update(_plain(message) for message in case.refused)

    def facts(self) -> dict[str, Any]:
        return {
            "cases": self.cases,
            "met": self.met,
            "answers": self.answers,
            "refused": dict(self.refused),
            "blocks_not_believed": self.noticed,
            "wrong": self.wrong,
        }


def _plain(message: str) -> str:
    """Without its numbers."""
    return " ".join("N" if word.isdigit() else word for word in message.split())


def kind_of(number: int, seed: int) -> str:
    """Case `number` is always of the same kind."""
    names = sorted(KINDS)
    draw = random.Random(f"{seed} kind {number}")
    return draw.choices(names, [KINDS[name].weight for name in names])[0]


def play(world: World, kind: str, number: int, seed: int, killer: Killer | None = None) -> Case:
    """Killed processes write to a real disk, where a flush takes time."""
    with new_case(world, kind, number, seed, folder=None if kind == KILL else memory_folder()) as case:
        killer.play(case) if killer and kind == KILL else KINDS[kind].play(case)
    return case


@contextmanager
def believing() -> Iterator[None]:
    """The layers of a block are not checked."""
    with mock.patch.object(stored, "_checked", lambda data, expected: data):
        yield


def measure(world: World, seed: int, numbers: Sequence[int], kills: int, control: int) -> dict[str, Any]:
    killer = Killer()
    plan = [(KILL, number) for number in range(kills)] + [(kind_of(number, seed), number) for number in numbers]
    tallies = {kind: Tally() for kind in (*KINDS, KILL)}
    wrong = []
    with Progress(console=out) as progress:
        for kind, number in progress.track(plan, description="cases"):
            case = play(world, kind, number, seed, killer)
            tallies[kind].add(case)
            if case.wrong:
                wrong.append({"kind": kind, "case": number, "did": case.notes, "wrong": case.wrong})
                out.print(f"[red]wrong[/]: {wrong[-1]}")
        seen = Tally()
        for number in progress.track(range(control), description="control"):
            with believing():
                seen.add(play(world, CONTROLS[number % len(CONTROLS)], number, seed))
    return {
        "kinds": {kind: tally.facts() for kind, tally in tallies.items()},
        "wrong": wrong[:_SHOWN],
        "control_without_checksums": {"cases": seen.cases, "met": seen.met, "wrong": seen.wrong},
    }


def totals(kinds: dict[str, Any]) -> dict[str, int]:
    return {name: sum(found[name] for found in kinds.values()) for name in ("cases", "met", "answers", "wrong")}


def verdict(body: dict[str, Any]) -> dict[str, Any]:
    found = body["totals"]
    kills = body["kinds"][KILL]["cases"]
    return {
        "wrong": {"found": found["wrong"], "target": 0, "met": not found["wrong"]},
        "cases": {"found": found["cases"], "target": CASES + KILLS, "met": found["cases"] >= CASES + KILLS},
        "kills": {"found": kills, "target": KILLS, "met": kills >= KILLS},
    }


def show(body: dict[str, Any]) -> None:
    table = Table("fault", "cases", "met", "answers", "refused", "blocks not believed", "wrong", title_justify="left")
    for kind, found in body["kinds"].items():
        refused = sum(found["refused"].values())
        row = (found["cases"], found["met"], found["answers"], refused, found["blocks_not_believed"], found["wrong"])
        table.add_row(kind, *map(str, row))
    out.print(table, body["totals"], "control:", body["control_without_checksums"], body["targets"])


def show_case(case: Case) -> None:
    out.print(f"case {case.number}: {case.kind}", *case.notes, sep="\n  ")
    out.print(f"met: {case.met}; answers: {case.asked}; not believed: {case.noticed}; refused: {case.refused}")
    out.print(f"wrong: {case.wrong}")


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    logging.getLogger("model_runtime").setLevel(logging.CRITICAL)  # it tells of every fault
    begun = time.monotonic()
    body: dict[str, Any] = {"load_before": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory(prefix="stratamem-bench-", dir=memory_folder()) as name:
        world = World(Path(name), options.seed, 1 if options.quick else CHAINS)
        if options.case is not None:
            kind = options.kind or kind_of(options.case, options.seed)
            with believing() if options.believing else nullcontext():
                show_case(play(world, kind, options.case, options.seed, Killer()))
            return
        numbers = range(options.first, options.first + options.cases)
        body |= measure(world, options.seed, numbers, options.kills, options.control)
    body |= {"totals": totals(body["kinds"]), "minutes": round((time.monotonic() - begun) / 60, 1)}
    body["targets"] = verdict(body)
    path = write_result("kv_faults" + ("_quick" if options.quick else ""), body, options.seed)
    show(body)
    out.print(str(path))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kv_faults", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="few cases and prompts: does everything run?")
    parser.add_argument("--cases", type=int, help=f"in this process; default {CASES:,}")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--kills", type=int, help=f"of a child process; default {KILLS}")
    parser.add_argument("--control", type=int, help=f"cases without checksums; default {CONTROL}")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--case", type=int, help="only this one; says what it did")
    parser.add_argument("--kind", choices=[*KINDS, KILL], help="of --case, instead of the one that is drawn")
    parser.add_argument("--believing", action="store_true", help="--case without checksums")
    options = parser.parse_args(arguments)
    quick = (QUICK_CASES, QUICK_KILLS, QUICK_CONTROL) if options.quick else (CASES, KILLS, CONTROL)
    for name, default in zip(("cases", "kills", "control"), quick, strict=True):
        if getattr(options, name) is None:
            setattr(options, name, default)
    return options


if __name__ == "__main__":
    main()

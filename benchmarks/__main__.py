"""Which measurements are there, and how are all of them repeated?

python -m benchmarks                         all of them, one after the other: an hour and more
python -m benchmarks --quick                 does everything run? Its figures mean little
python -m benchmarks recall_latency crash    these two
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from benchmarks.machine import RESULTS, ROOT, out, read_result

NAMES = (
    "recall_latency",
    "append_throughput",
    "read_your_writes",
    "crash",
    "streaming",
    "multi_agent",
    "isolation",
    "recall_quality",
    "longterm_scale",
    "embedding",
    "summary_quality",
    "compression",
    "clustering",
    "eviction_quality",
    "kv_reuse",
    "kv_sharing",
    "kv_faults",
    "kv_fidelity",
    "kv_memory",
    "batching",
    "near_duplicates",
)
_WITH_POSTGRES = ("read_your_writes", "kv_sharing")
_BUSY = 0.5
"""Load average from which on a machine is not quiet."""


def run(name: str, quick: bool, arguments: Sequence[str]) -> tuple[int, float]:
    """Exit code and seconds. A process of its own, so that none finds what another left in memory."""
    started = time.monotonic()
    command = [sys.executable, "-m", f"benchmarks.{name}", *(["--quick"] if quick else []), *arguments]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        return process.wait(), time.monotonic() - started
    except BaseException:
        process.send_signal(signal.SIGTERM)  # it ends what it has started
        process.wait()
        raise


def targets(name: str, quick: bool) -> dict[str, Any]:
    """By what is asked for: found, target and met; empty when there is none."""
    found: dict[str, Any] = read_result(f"{name}_quick" if quick else name).get("targets", {})
    return {key: value for key, value in found.items() if isinstance(value, dict)}


def show(outcomes: dict[str, tuple[int, float]], quick: bool) -> None:
    table = Table("measurement", "", "minutes", "target", "found", title_justify="left")
    for name, (code, seconds) in outcomes.items():
        state = "[green]done[/]" if code == 0 else f"[red]ended with {code}[/]"
        table.add_row(name, state, f"{seconds / 60:.1f}")
        for key, value in targets(name, quick).items() if code == 0 else ():
            colour = "green" if value["met"] else "red"
            table.add_row("", "", "", f"{key}: {value['target']}", f"[{colour}]{value['found']}[/]")
    out.print(table, f"figures: {RESULTS.relative_to(ROOT)}")


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    if (load := os.getloadavg()[0]) > _BUSY and not options.quick:
        out.print(
            f"[yellow]The machine is not quiet (load average {load:.1f}): figures will be worse than they are.[/]"
        )
    outcomes = {}
    for place, name in enumerate(options.names, 1):
        out.rule(f"{place}/{len(options.names)} {name}")
        more = ["--postgres"] if options.postgres and name in _WITH_POSTGRES else []
        outcomes[name] = run(name, options.quick, more)
    out.rule()
    show(outcomes, options.quick)
    sys.exit(any(code for code, _ in outcomes.values()))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="small and short")
    parser.add_argument("--postgres", action="store_true", help="read_your_writes and kv_sharing also with PostgreSQL")
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - set(NAMES):
        parser.error(f"no measurement {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    options.names = options.names or list(NAMES)
    return options


if __name__ == "__main__":
    main()

"""How much of what will be asked about survives in a summary of 5, 10 and 20 % of the length?

For each question the terms of its gold evidence; the share of them that the summary of its conversation has. Ours is
made recursively, as the service makes it: a stretch at a time from the summary before. Beside it, cut to as many words:
the first sentences, and sentences drawn at random.
"""

import argparse
import os
import random
from collections.abc import Callable, Sequence
from typing import Any

from rich.progress import track
from rich.table import Table

from benchmarks.machine import SEED, out, write_result
from benchmarks.sets import Scorers, Selection, Task, tasks_of
from benchmarks.statistics import bootstrap_mean
from memory.adapters.lexical.analysis import Analyzer
from memory.recall.summary import extend, sentences

SETS = ("locomo", "qmsum", "beam-100K")
SHARES = (0.05, 0.1, 0.2)
STRETCH = 3_000
"""Words: about a step of the service."""


def ours(lines: Sequence[str], share: float, terms: Callable[[str], list[str]]) -> list[str]:
    kept: list[str] = []
    stretch: list[str] = []
    read = waiting = 0
    for place, line in enumerate(lines):
        stretch.append(line)
        waiting += words(line)
        if waiting >= STRETCH or place == len(lines) - 1:
            read += waiting
            kept = extend(kept, stretch, terms, words=int(share * read))
            stretch, waiting = [], 0
    return kept


def first(lines: Sequence[str], most: int) -> list[str]:
    kept: list[str] = []
    for line in lines:
        most -= words(line)
        if most < 0:
            break
        kept.append(line)
    return kept


def drawn(lines: Sequence[str], most: int) -> list[str]:
    return first(random.Random(SEED).sample(list(lines), len(lines)), most)


def words(text: str) -> int:
    return len(text.split())


def survived(task: Task, summary: Sequence[str], terms: Callable[[str], list[str]]) -> list[float]:
    """By question."""
    there = {term for line in summary for term in terms(line)}
    texts = {item.id: item.event["content"] for item in task.items}
    wanted = [{t for key in query["gold"] for t in terms(texts.get(key, ""))} for query in task.queries]
    return [len(evidence & there) / len(evidence) for evidence in wanted if evidence]


def measure(tasks: Sequence[Task], name: str) -> dict[str, Any]:
    terms = Analyzer().terms
    found: dict[str, dict[str, list[float]]] = {}
    for task in track(tasks, description=name, console=out):
        texts = [(str(item.event.get("agent_id") or "user"), item.event["content"]) for item in task.items]
        lines = [line for author, text in texts for line in sentences(author, text)]
        length = sum(words(text) for _, text in texts)
        for share in SHARES:
            most = int(share * length)
            summaries = {
                "stratamem": first(ours(lines, share, terms), most),
                "lead": first(lines, most),
                "random": drawn(lines, most),
            }
            for system, summary in summaries.items():
                scores = found.setdefault(system, {}).setdefault(f"{share:g}", [])
                scores += survived(task, summary, terms)
    return {
        "tasks": len(tasks),
        "questions": len(found["lead"]["0.1"]),
        "survived": {
            system: {share: _about(scores) for share, scores in by_share.items()} for system, by_share in found.items()
        },
    }


def _about(scores: Sequence[float]) -> dict[str, float]:
    low, high = bootstrap_mean(scores, SEED)
    return {"mean": round(sum(scores) / len(scores), 4), "low": round(low, 4), "high": round(high, 4)}


def show(sets: dict[str, Any]) -> None:
    table = Table("set", "questions", "summary", *(f"{share:.0%}" for share in SHARES), title_justify="left")
    for name, body in sets.items():
        for system, by_share in body["survived"].items():
            cells = (f"{one['mean']:.3f} ({one['low']:.3f}–{one['high']:.3f})" for one in by_share.values())
            table.add_row(name, str(body["questions"]), system, *cells)
    out.print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.summary_quality", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="one conversation a set: does everything run?")
    options = parser.parse_args(arguments)
    scorers, load_before = Scorers.found(), os.getloadavg()[0]
    selection = Selection(tasks=1) if options.quick else Selection()
    sets: dict[str, Any] = {}
    for name in SETS:
        if tasks := tasks_of(name, scorers, selection):
            sets[name] = measure(tasks, name)
    body = {"load_before": load_before, "seed": SEED, "sets": sets}
    path = write_result("summary_quality_quick" if options.quick else "summary_quality", body)
    show(sets)
    out.print(str(path))


if __name__ == "__main__":
    main()

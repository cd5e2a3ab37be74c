"""Does recall find what was said? Every set of BENCH_DATA over REST, beside pure dense and pure BM25.

One session a task, one event an item; the scorers next to BENCH_DATA decide. Each set is written to
benchmarks/results/recall_quality[_quick].json as soon as it is measured, and a set that is there already for the same
code and the same selection is not measured again.

    python -m benchmarks.recall_quality --quick            a few minutes
    python -m benchmarks.recall_quality --sets locomo --warm
"""

import argparse
import itertools
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import httpx
import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.baselines import SYSTEMS, Answers, Baselines, word_count
from benchmarks.machine import out, read_result, source_hash, write_result
from benchmarks.service import Service, StoringEmbedder, packaged_models, running
from benchmarks.sets import Scorers, Selection, Task, tasks_of

TOP_K = 20
"""Places that the ranked metrics look at."""
TOP_K_BUDGET = 200
"""Places that fill 2,000 words of short turns."""
TOP_K_CHARACTERS = 50
KS = (5, 10, 20)
CUAD_KS = (5, 10, 20, 50)
METRICS = ("recall", "ndcg", "hit", "full", "mrr")

QUICK = {
    "locomo": Selection(tasks=2),
    "locomo-plus": Selection(tasks=2),
    "prefeval-explicit": Selection(tasks=4),
    "prefeval-choice": Selection(tasks=4),
    "prefeval-persona": Selection(tasks=2),
    "qmsum": Selection(tasks=3),
    "scifact": Selection(items=600, queries=100),
    "cosqa": Selection(items=800, queries=100),
    "beam-100K": Selection(tasks=1, items=80),
    "cuad": Selection(tasks=6, queries=80),
    "beam-500K": Selection(tasks=1, items=80),
    "beam-1M": Selection(tasks=1, items=80),
}
"""Every set, in the order of measuring; the whole run takes each of them in full."""


def fill(service: Service, tasks: Sequence[Task], progress: Progress) -> float:
    """Seconds until everything is indexed."""
    total = sum(len(task.items) for task in tasks)
    bar = progress.add_task("append and index", total=total)
    started = time.perf_counter()
    for task in tasks:
        service.append(task.scope, [item.event for item in task.items])
    service.wait_until_indexed(lambda left: progress.update(bar, completed=max(0, total - left)))
    progress.update(bar, completed=total)
    return time.perf_counter() - started


def ask(service: Service, task: Task, top_k: int, budget: bool, answers: Answers, asked: Callable[[], None]) -> None:
    """A question that fails has no answer and so scores 0."""
    ids = {item.event["event_id"]: item.id for item in task.items}
    for query in task.queries:
        qid, text = query["qid"], query["text"]
        try:
            started = time.perf_counter()
            results = service.recall(text, task.scope, top_k)["results"]
            answers.milliseconds.append(1_000 * (time.perf_counter() - started))
            answers.ranked["stratamem"][qid] = [ids[event["event_id"]] for r in results for event in r["events"]]
            if budget:
                long = service.recall(text, task.scope, TOP_K_BUDGET)["results"]
                words = [({ids[event["event_id"]] for event in r["events"]}, word_count(r["text"])) for r in long]
                answers.words["stratamem"][qid] = words
        except httpx.HTTPError as error:
            answers.failed.append(f"{qid}: {error}")
        asked()


def measure(
    name: str,
    tasks: list[Task],
    scorers: Scorers,
    baselines: Baselines,
    warm: bool,
    settings: dict[str, str] | None = None,
) -> dict[str, Any]:
    """`settings`: of the service, beside the usual ones."""
    places = {"locomo": TOP_K_BUDGET, "cuad": TOP_K_CHARACTERS}.get(name, TOP_K)
    top_k = TOP_K_CHARACTERS if name == "cuad" else TOP_K
    answers = [Answers() for _ in tasks]
    columns = (TextColumn("{task.description:18}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=out) as progress:
        bar = progress.add_task("vectors", total=None)  # how many is known once they are cut
        for task in tasks:
            baselines.prepare(task, lambda done: progress.advance(bar, done))
        progress.update(bar, total=progress.tasks[bar].completed)
        with running(warm=warm, settings=settings) as service:
            seconds = fill(service, tasks, progress)
            bar = progress.add_task("ask", total=sum(len(task.queries) for task in tasks))
            for task, answer in zip(tasks, answers, strict=True):
                ask(service, task, top_k, name == "locomo", answer, lambda: progress.advance(bar))
        bar = progress.add_task("baselines", total=len(tasks))
        for task, answer in zip(tasks, answers, strict=True):
            baselines.answer(task, places, answer)
            progress.advance(bar)
    return _facts(tasks, answers, seconds, top_k) | score(name, tasks, answers, scorers)


def _facts(tasks: list[Task], answers: list[Answers], seconds: float, top_k: int) -> dict[str, Any]:
    took = [value for answer in answers for value in answer.milliseconds]
    return {
        "tasks": len(tasks),
        "items": sum(len(task.items) for task in tasks),
        "queries": sum(len(task.queries) for task in tasks),
        "failed": [failure for answer in answers for failure in answer.failed],
        "index_seconds": round(seconds, 1),
        "recall_ms": {f"p{p}": round(float(np.percentile(took, p)), 1) for p in (50, 95)} | {"top_k": top_k}
        if took
        else None,
    }


def score(name: str, tasks: list[Task], answers: list[Answers], scorers: Scorers) -> dict[str, Any]:
    """By system."""
    scored: dict[str, Any] = {}
    for system in SYSTEMS:
        ranked = [answer.ranked[system] for answer in answers]
        if name == "cuad":
            scored[system] = {"overall": _score_characters(tasks[0], ranked[0], scorers)}
            continue
        overall, by_type = _score_places(tasks, ranked, scorers)
        scored[system] = {"overall": overall, "by_type": by_type}
        if name == "locomo":
            words = {qid: found for answer in answers for qid, found in answer.words[system].items()}
            chosen = [c for c in scorers.conversations() if c["sample_id"] in {task.scope for task in tasks}]
            every = scorers.locomo.score_budget(words, chosen, categories=(1, 2, 3, 4, 5))
            scored[system]["budget"] = {key: round(value, 4) for key, value in every.items()}
    return scored


def _score_places(
    tasks: list[Task], ranked: list[dict[str, list[Any]]], scorers: Scorers
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """memory_eval.run asks for each task's items, then query by query: it gets the answers of the service."""
    remaining = iter(zip(tasks, ranked, strict=True))

    def retrieve(items: Any) -> Callable[[str, int], list[Any]]:
        task, found = next(remaining)
        in_order = iter(task.queries)
        return lambda text, k: found.get(next(in_order)["qid"], [])[:k]

    given = ({"scope": t.scope, "items": [(x.id, x.text) for x in t.items], "queries": t.queries} for t in tasks)
    overall, by_type = scorers.memory.run(given, retrieve, ks=KS)
    return _rounded(overall), {kind: _rounded(values) for kind, values in by_type.items()}


def _score_characters(task: Task, ranked: dict[str, list[Any]], scorers: Scorers) -> dict[str, float]:
    found = scorers.memory.score_cuad(ranked, task.queries, ks=CUAD_KS)
    return {f"{metric}@{k}": round(value, 4) for k, values in found.items() for metric, value in values.items()}


def _rounded(values: dict[str, float]) -> dict[str, float]:
    wanted = [f"{metric}@{k}" for metric, k in itertools.product(METRICS, KS)]
    return {"n": values["n"]} | {name: round(values[name], 4) for name in wanted}


def show(name: str, body: dict[str, Any]) -> None:
    shown = ("char_recall@10", "char_precision@10", "doc_hit@10") if name == "cuad" else ("recall@10", "ndcg@10")
    figures = "   ".join(
        f"{system} " + " / ".join(f"{body[system]['overall'][metric]:.3f}" for metric in shown) for system in SYSTEMS
    )
    out.print(f"[bold]{name}[/] {body['queries']} queries, {' / '.join(shown)}: {figures}   {body['recall_ms']}")
    if name == "locomo":
        for system in SYSTEMS:
            kinds = body[system]["by_type"].items()
            out.print(f"  {system:10}", *(f"{kind} {values['recall@10']:.3f}" for kind, values in kinds))
    for failure in body["failed"][:5]:
        out.print(f"  [red]failed[/] {failure}")


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that the service is stopped as well
    scorers = Scorers.found()
    result = "recall_quality_quick" if options.quick else "recall_quality"
    sets: dict[str, Any] = read_result(result).get("sets", {})
    models = packaged_models()
    baselines = Baselines(scorers, StoringEmbedder(models))
    try:
        for name in options.sets:
            selection = _selection(name, options)
            about = {"selection": {k: v for k, v in _fields(selection).items() if v}, "source": source_hash()}
            if not options.fresh and about.items() <= sets.get(name, {}).items():
                out.print(f"{name}: measured already (--fresh measures again)")
            elif tasks := tasks_of(name, scorers, selection):
                sets[name] = about | measure(name, tasks, scorers, baselines, options.warm)
                write_result(result, {"sets": sets})
            else:
                out.print(f"{name}: not in {scorers.data.name}")
                continue
            show(name, sets[name])
    finally:
        models.embedder.close()


def _selection(name: str, options: argparse.Namespace) -> Selection:
    chosen = QUICK[name] if options.quick else Selection()
    return Selection(options.tasks or chosen.tasks, options.items or chosen.items, options.queries or chosen.queries)


def _fields(selection: Selection) -> dict[str, int | None]:
    return {"tasks": selection.tasks, "items": selection.items, "queries": selection.queries}


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recall_quality", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="a part of every set, with all gold of its queries")
    parser.add_argument("--sets", type=_names, default=list(QUICK), help=f"of {','.join(QUICK)}")
    parser.add_argument("--warm", action="store_true", help="the service takes vectors that an earlier run stored")
    parser.add_argument("--fresh", action="store_true", help="measure again what is in the result file")
    parser.add_argument("--tasks", type=int, help="only the first of a set (CUAD: contracts)")
    parser.add_argument("--items", type=int, help="only so many items a task, gold always among them")
    parser.add_argument("--queries", type=int, help="only so many queries a task")
    return parser.parse_args(arguments)


def _names(value: str) -> list[str]:
    names = value.split(",")
    if unknown := set(names) - set(QUICK):
        raise argparse.ArgumentTypeError(f"no set {', '.join(sorted(unknown))}; there are {', '.join(QUICK)}")
    return names


if __name__ == "__main__":
    main()

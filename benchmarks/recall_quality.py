"""Does recall find what was said? Every set of BENCH_DATA over REST, beside pure dense and pure BM25.

One session a task, one event an item; the scorers next to BENCH_DATA decide. Each set is written to
benchmarks/results/recall_quality[_quick].json as soon as it is measured, and a set that is there already for the same
code and the same selection is not measured again.

    python -m benchmarks.recall_quality --quick            a few minutes
    python -m benchmarks.recall_quality --sets locomo --warm
"""

import argparse
import importlib
import itertools
import os
import random
import re
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.machine import ROOT, SEED, read_result, source_hash, write_result
from benchmarks.service import Event, Floats, Service, StoringEmbedder, running
from memory.adapters.models.inprocess import load_models
from memory.domain.segments import cut

TOP_K = 20
"""Places that the ranked metrics look at."""
TOP_K_BUDGET = 200
"""Places that fill 2,000 words of short turns."""
TOP_K_CHARACTERS = 50
KS = (5, 10, 20)
CUAD_KS = (5, 10, 20, 50)
SYSTEMS = ("stratamem", "dense", "bm25")
METRICS = ("recall", "ndcg", "hit", "full", "mrr")

_EVENT_ID = re.compile(r"[A-Za-z0-9._:\-]{1,128}")
_UNSTORABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff]")

out = Console()


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to remember. `text`: as memory_eval yields it, for BM25. `event`: as it is sent."""

    id: Any
    text: str
    event: Event


@dataclass(frozen=True, slots=True)
class Task:
    """One store to fill; every query (`qid, text, gold, type`) is asked of it alone."""

    scope: str
    items: list[Item]
    queries: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Selection:
    """How much of a set is measured; None: all. `items`: with every gold item, the others drawn with the seed."""

    tasks: int | None = None
    items: int | None = None
    queries: int | None = None


@dataclass(slots=True)
class Answers:
    """What each system answered: ranked item ids by qid, of one task. `words`: (ids, words) of the long answer."""

    ranked: dict[str, dict[str, list[Any]]] = field(default_factory=lambda: {name: {} for name in SYSTEMS})
    words: dict[str, dict[str, list[tuple[set[Any], int]]]] = field(
        default_factory=lambda: {name: {} for name in SYSTEMS}
    )
    milliseconds: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


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


class Scorers:
    """memory_eval and locomo_eval from beside BENCH_DATA: they alone decide."""

    def __init__(self, data: Path) -> None:
        self.data = data
        os.environ["BENCH_DATA"] = str(data)
        sys.path.insert(0, str(data.parent))
        self.memory: ModuleType = importlib.import_module("memory_eval")
        self.locomo: ModuleType = importlib.import_module("locomo_eval")

    @staticmethod
    def found() -> "Scorers":
        data = Path(os.environ.get("BENCH_DATA") or ROOT.parent / "shared" / "bench" / "data").resolve()
        if not (data.parent / "memory_eval.py").exists() or not data.is_dir():
            sys.exit(
                "The evaluation data is not there: set BENCH_DATA to the folder that holds LoCoMo, BEAM, … and that has"
                " memory_eval.py and locomo_eval.py beside it (default: ../shared/bench/data next to the checkout)."
            )
        return Scorers(data)

    def conversations(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.locomo.load(str(self.data / "LoCoMo" / "locomo10.json"))
        return found


def tasks_of(name: str, scorers: Scorers, selection: Selection) -> list[Task]:
    """A folder that lacks the set gives no task."""
    sets: dict[str, Callable[[], Iterable[Task]]] = {
        "locomo": lambda: _locomo(scorers),
        "locomo-plus": lambda: _locomo_plus(scorers),
        **{f"prefeval-{form}": partial(_prefeval, scorers, form) for form in ("explicit", "choice", "persona")},
        "qmsum": lambda: _plain(scorers.memory.qmsum()),
        "scifact": lambda: _plain(scorers.memory.scifact()),
        "cosqa": lambda: _plain(scorers.memory.cosqa()),
        **{f"beam-{size}": partial(_beam, scorers, size) for size in ("100K", "500K", "1M")},
        "cuad": lambda: _cuad(scorers, selection),
    }
    try:
        tasks = list(sets[name]())
    except FileNotFoundError:
        return []
    if name == "cuad":  # its corpus is one task: `tasks` selects contracts
        return tasks
    if name == "qmsum" and selection.tasks:  # in the file's order they would be of one domain
        tasks = random.Random(SEED).sample(tasks, selection.tasks)
    return [_part(task, selection) for task in tasks[: selection.tasks]]


def _part(task: Task, selection: Selection) -> Task:
    queries = task.queries
    if selection.queries is not None and selection.queries < len(queries):
        queries = random.Random(SEED).sample(queries, selection.queries)
    if selection.items is None or selection.items >= len(task.items):
        return Task(task.scope, task.items, queries)
    gold = set().union(*(query["gold"] for query in queries))
    others = [place for place, item in enumerate(task.items) if item.id not in gold]
    drawn = set(random.Random(SEED).sample(others, min(len(others), max(0, selection.items - len(gold)))))
    return Task(task.scope, [x for place, x in enumerate(task.items) if x.id in gold or place in drawn], queries)


def _prefeval(scorers: Scorers, form: str) -> Iterator[Task]:
    return _plain(scorers.memory.prefeval(form))


def _beam(scorers: Scorers, size: str) -> Iterator[Task]:
    return _plain(scorers.memory.beam(size))


def _plain(tasks: Iterable[dict[str, Any]]) -> Iterator[Task]:
    for task in tasks:
        items = [Item(key, text, _event(key, place, text)) for place, (key, text) in enumerate(task["items"])]
        yield Task(f"{task['name']}-{task['scope']}", items, task["queries"])


def _event(key: Any, place: int, content: str, **more: Any) -> Event:
    name = str(key)
    event_id = name if _EVENT_ID.fullmatch(name) else f"item-{place}"
    return {"event_id": event_id, "role": "user", "content": _UNSTORABLE.sub(" ", content), **more}


def _turns(conversation: dict[str, Any]) -> dict[str, Event]:
    """By turn id: speaker and date as fields, one second apart within a session."""
    events = {}
    for session in conversation["sessions"]:
        start = datetime.strptime(session["date_time"], "%I:%M %p on %d %B, %Y").replace(tzinfo=UTC)
        for place, turn in enumerate(session["turns"]):
            shared = f" [shared image: {turn['caption']}]" if turn["caption"] else ""
            moment = (start + timedelta(seconds=place)).isoformat()
            key = turn["dia_id"]
            events[key] = _event(key, 0, turn["text"] + shared, agent_id=_agent(turn["speaker"]), created_at=moment)
    return events


def _agent(speaker: str) -> str:
    return re.sub(r"[^A-Za-z0-9._:\-]", "-", speaker)


def _locomo(scorers: Scorers) -> Iterator[Task]:
    for task, conversation in zip(scorers.memory.locomo(), scorers.conversations(), strict=True):
        events = _turns(conversation)
        yield Task(task["scope"], [Item(key, text, events[key]) for key, text in task["items"]], task["queries"])


def _locomo_plus(scorers: Scorers) -> Iterator[Task]:
    """A cue has no date of its own: it takes that of the turn before it."""
    for task, conversation in zip(scorers.memory.locomo_plus(), scorers.conversations(), strict=True):
        events, items = _turns(conversation), []
        moment = min(event["created_at"] for event in events.values())
        for key, text in task["items"]:
            if key not in events:
                speaker, content = text.split(": ", 1)
                events[key] = _event(key, 0, content, agent_id=_agent(speaker), created_at=moment)
            moment = events[key]["created_at"]
            items.append(Item(key, text, events[key]))
        yield Task(f"plus-{task['scope']}", items, task["queries"])


def _cuad(scorers: Scorers, selection: Selection) -> Iterator[Task]:
    """All contracts in one store, in chunks of about 1,000 characters. No gold: it is scored by characters."""
    documents, queries = scorers.memory.cuad(n_docs=selection.tasks, n_queries=selection.queries)
    places = [(doc, a, b, text[a:b]) for doc, text in documents for a, b in scorers.memory.chunks(text)]
    items = [Item((doc, a, b), text, _event("", n, text)) for n, (doc, a, b, text) in enumerate(places)]
    yield Task("cuad", [item for item in items if item.text.strip()], [{**q, "gold": set()} for q in queries])


class Baselines:
    """Pure dense: exact, the best segment counts. Pure BM25: the scorer's own, over its own form of the text."""

    def __init__(self, scorers: Scorers, embedder: StoringEmbedder) -> None:
        self._scorers = scorers
        self._embedder = embedder
        self._segments: dict[str, list[str]] = {}

    def prepare(self, task: Task, progress: Callable[[int], None]) -> None:
        """Computes and stores the vectors of a task."""
        texts = [segment for item in task.items for segment in self._cut(item.event["content"])]
        self._embedder.embed(texts + [query["text"] for query in task.queries], progress)

    def answer(self, task: Task, places: int, answers: Answers) -> None:
        dense = self._dense(task)
        bm25 = self._scorers.locomo.BM25([item.text for item in task.items])
        for place, query in enumerate(task.queries):
            order = np.argsort(-dense[place], kind="stable")[:places].tolist()
            for name, ranked in (("dense", order), ("bm25", bm25.rank(query["text"], places))):
                found = [task.items[at] for at in ranked]
                answers.ranked[name][query["qid"]] = [item.id for item in found]
                answers.words[name][query["qid"]] = [({x.id}, _words(x.event["content"])) for x in found]

    def _dense(self, task: Task) -> Floats:
        """[queries, items]"""
        segments = [self._cut(item.event["content"]) for item in task.items]
        queries = [query["text"] for query in task.queries]
        vectors = self._embedder.embed([s for cut_ in segments for s in cut_] + queries)
        best = np.full((len(queries), len(segments)), -np.inf, np.float32)
        asked = np.stack([vectors[query] for query in queries])
        for place, cut_ in enumerate(segments):
            if cut_:
                best[:, place] = (asked @ np.stack([vectors[s] for s in cut_]).T).max(1)
        return best

    def _cut(self, text: str) -> list[str]:
        if text not in self._segments:
            spans = cut(text, self._embedder.models.tokenizer.spans(text))
            self._segments[text] = [text[span.start : span.end] for span in spans]
        return self._segments[text]


def _words(text: str) -> int:
    return len(text.split())


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
                words = [({ids[event["event_id"]] for event in r["events"]}, _words(r["text"])) for r in long]
                answers.words["stratamem"][qid] = words
        except httpx.HTTPError as error:
            answers.failed.append(f"{qid}: {error}")
        asked()


def measure(name: str, tasks: list[Task], scorers: Scorers, baselines: Baselines, warm: bool) -> dict[str, Any]:
    places = {"locomo": TOP_K_BUDGET, "cuad": TOP_K_CHARACTERS}.get(name, TOP_K)
    top_k = TOP_K_CHARACTERS if name == "cuad" else TOP_K
    answers = [Answers() for _ in tasks]
    columns = (TextColumn("{task.description:18}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=out) as progress:
        bar = progress.add_task("vectors", total=None)  # how many is known once they are cut
        for task in tasks:
            baselines.prepare(task, lambda done: progress.advance(bar, done))
        progress.update(bar, total=progress.tasks[bar].completed)
        with running(warm=warm) as service:
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
    models = load_models("minilm")
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

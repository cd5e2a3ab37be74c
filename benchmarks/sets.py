"""What is there to remember and to ask in each set of BENCH_DATA?

memory_eval and locomo_eval beside BENCH_DATA read the files; here their items become events, and a part can be drawn.
"""

import importlib
import os
import random
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.machine import ROOT, SEED
from benchmarks.service import Event

_EVENT_ID = re.compile(r"[A-Za-z0-9._:\-]{1,128}")
_UNSTORABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff]")


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

"""Where does the time of a recall go? Each part of it by the stopwatch, without HTTP.

In a process of its own, which recall_latency starts; FOLDER holds questions.json and the service's data.

    python -m benchmarks.recall_stages FOLDER
"""

import argparse
import asyncio
import inspect
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.machine import ROOT
from benchmarks.service import percentiles
from memory import bootstrap
from memory.adapters.lexical.tantivy_index import TantivyIndex
from memory.adapters.models.inprocess import InProcessEmbedder
from memory.domain.principals import DEFAULT_TENANT, Principal
from memory.domain.recall import RecallRequest
from memory.services import recall
from memory.settings import Settings
from memory.tiers.longterm import tier
from memory.tiers.longterm.opened import OpenTenant
from memory.tiers.longterm.search import Search
from memory.tiers.longterm.tenant_index import TenantIndex
from memory.tiers.longterm.tier import LongTermTier

NODE = "bench"
WARM_UP = 20


class Stopwatch:
    """How long do the parts of a recall take? Wraps them in this process. AttributeError: a part is gone."""

    def __init__(self) -> None:
        self.laps: list[dict[str, float]] = []
        self._now: dict[str, float] = {}

    def watch(self, name: str, owner: Any, attribute: str) -> None:
        plain = getattr(owner, attribute)

        async def later(*arguments: Any, **named: Any) -> Any:
            with self._timed(name):
                return await plain(*arguments, **named)

        def at_once(*arguments: Any, **named: Any) -> Any:
            with self._timed(name):
                return plain(*arguments, **named)

        setattr(owner, attribute, later if inspect.iscoroutinefunction(plain) else at_once)

    def lap(self) -> None:
        self.laps.append(self._now)
        self._now = {}

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        begun = time.perf_counter()
        try:
            yield
        finally:
            self._now[name] = self._now.get(name, 0.0) + 1_000 * (time.perf_counter() - begun)


def watched() -> Stopwatch:
    """Dots: the name before a dot contains the one after it."""
    watch = Stopwatch()
    for name, owner, attribute in (
        ("recall", recall.Recall, "recall"),
        ("recall.embed (beside the first parts of rank)", InProcessEmbedder, "embed"),
        ("recall.scope", recall.Recall, "_scope"),
        ("recall.rank", recall.Recall, "_ranked"),
        ("recall.rank.catch_up", OpenTenant, "catch_up"),
        ("recall.rank.embed_newest", LongTermTier, "_embed_newest"),
        ("recall.rank.filter_values", tier, "given_for"),
        ("recall.rank.without_vectors", TenantIndex, "without_vectors"),
        ("recall.rank.prepare", TenantIndex, "prepare"),
        ("recall.rank.prepare.view", TenantIndex, "_view"),
        ("recall.rank.prepare.words", TantivyIndex, "search"),
        ("recall.rank.search", TenantIndex, "search"),
        ("recall.rank.search.vectors", Search, "_nearest"),
        ("recall.rank.search.facts", Search, "_facts"),
        ("recall.rank.search.facts.population", Search, "_population"),
        ("recall.rank.fusion", recall, "fuse"),
        ("recall.read_texts", recall.Recall, "_read"),
        ("recall.fit", recall.Recall, "_fitted"),
    ):
        watch.watch(name, owner, attribute)
    return watch


def stages(folder: Path, questions: Sequence[str]) -> dict[str, dict[str, float]]:
    """Over all sessions, without HTTP, in a process of its own: p50 and p95 by part."""
    (folder / "questions.json").write_text(json.dumps(questions), "utf-8")
    command = [sys.executable, "-m", "benchmarks.recall_stages", str(folder)]
    process = subprocess.run(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, timeout=1_200
    )
    found: dict[str, dict[str, float]] = json.loads(process.stdout.splitlines()[-1])
    return found


def print_stages(folder: Path) -> None:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(_time_stages(folder))))


async def _time_stages(folder: Path) -> dict[str, dict[str, float]]:
    settings = Settings(_env_file=None, data_dir=folder / "data", database_url=None, node=NODE)
    questions = json.loads((folder / "questions.json").read_text("utf-8"))
    watch = watched()
    async with bootstrap.build(settings) as container:
        for text in questions[:WARM_UP] + questions:
            await container.recall.recall(Principal(DEFAULT_TENANT), RecallRequest(text))
            watch.lap()
    laps = watch.laps[min(WARM_UP, len(questions)) :]
    names = sorted({name for lap in laps for name in lap})
    return {name: percentiles([lap.get(name, 0.0) for lap in laps], (50, 95)) for name in names}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recall_stages", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="with questions.json and data/")
    print_stages(parser.parse_args(arguments).folder)


if __name__ == "__main__":
    main()

"""How many tokens a second do 1, 4 and 16 sessions get together, against one after the other?

A random Llama, written for the run, answers the same requests twice: all at once, and each when the one before is done.
Their prompts are known (device tier) but for a short tail, so what is timed is writing: a forward pass gives one token
to every session. Beside it, in the same run, what the model without its attention gains from a batch of that size: the
history of each session has to be read in any case, so that is the most that batching can bring.

    python -m benchmarks.batching --quick
    python -m benchmarks.batching --sessions 1 4 16 --tokens 64
"""

import argparse
import os
import queue
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import Progress
from rich.table import Table

from benchmarks.kv_reuse import write_model
from benchmarks.machine import SEED, out, write_result
from model_runtime.generators.checkpoint import Checkpoint, load, logits
from model_runtime.generators.job import Done, Failed, Job, Text
from model_runtime.generators.runtime import Runtime, RuntimeOptions
from model_runtime.generators.sampling import SamplingOptions
from model_runtime.kv.shape import BLOCK

SESSIONS = (1, 4, 16)
TOKENS, QUICK_TOKENS = 64, 8
CONTEXT = BLOCK
"""Tokens of a prompt that are known."""
TAIL = 16
ROUNDS = 3
MODEL: dict[str, Any] = {
    "hidden_size": 512,
    "intermediate_size": 1_408,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 8_192,
}
SMALL = MODEL | {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 4}


@dataclass(frozen=True, slots=True)
class Served:
    """Seconds from the first request to the last answer, and the median from a request to its end."""

    seconds: float
    each: float
    tokens: int


class Asked:
    """Of a runtime; `wait` returns the seconds from the request to its end."""

    def __init__(self, runtime: Runtime, prompt: Sequence[int], most: int) -> None:
        self._events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._begun = time.perf_counter()
        options = SamplingOptions(temperature=0, max_tokens=most)
        name = runtime.namespace("benchmark", "exact")
        runtime.engine.submit(Job(tuple(prompt), options, name, "exact", self._events.put))

    def wait(self) -> tuple[float, int]:
        while isinstance(event := self._events.get(timeout=3_600), Text):
            pass
        if isinstance(event, Failed):
            raise RuntimeError(event.message)
        assert isinstance(event, Done)
        return time.perf_counter() - self._begun, event.completion_tokens


def together(runtime: Runtime, prompts: Sequence[Sequence[int]], most: int) -> Served:
    begun = time.perf_counter()
    ended = [one.wait() for one in [Asked(runtime, prompt, most) for prompt in prompts]]
    return _served(begun, ended)


def one_by_one(runtime: Runtime, prompts: Sequence[Sequence[int]], most: int) -> Served:
    begun = time.perf_counter()
    return _served(begun, [Asked(runtime, prompt, most).wait() for prompt in prompts])


def _served(begun: float, ended: list[tuple[float, int]]) -> Served:
    seconds = time.perf_counter() - begun
    return Served(seconds, statistics.median(one for one, _ in ended), sum(tokens for _, tokens in ended))


def measure(checkpoint: Checkpoint, sessions: int, most: int, rounds: int, folder: Path) -> dict[str, Any]:
    """The two ways take turns; the order is reversed every other round."""
    room = (4 * sessions + 16) * checkpoint.shape.block_bytes
    runtime = Runtime(RuntimeOptions(checkpoint.name, folder, room, room, disk_bytes=0), checkpoint)
    found: dict[str, list[Served]] = {"together": [], "one_by_one": []}
    ways = {"together": together, "one_by_one": one_by_one}
    try:
        for session in range(sessions):
            Asked(runtime, _prompt(session, 0), 1).wait()
        for number in range(1, rounds + 1):
            for place, name in enumerate(sorted(ways, reverse=bool(number % 2))):
                prompts = [_prompt(session, 2 * number + place) for session in range(sessions)]
                found[name].append(ways[name](runtime, prompts, most))
    finally:
        runtime.close()
    rates = {name: [one.tokens / one.seconds for one in rows] for name, rows in found.items()}
    bare = bare_gain(checkpoint, sessions)
    gains = [a / b for a, b in zip(rates["together"], rates["one_by_one"], strict=True)]
    return {
        "tokens": found["together"][0].tokens,
        "tokens_per_second": {name: round(statistics.median(values), 1) for name, values in rates.items()},
        "gain": round(statistics.median(gains), 2),
        "gains": [round(gain, 2) for gain in gains],
        "seconds_to_the_end": {name: round(statistics.median(r.each for r in rows), 3) for name, rows in found.items()},
        "bare_gain": round(bare, 2),
    }


class _NoHistory:
    """Attention that reads nothing."""

    length = 0

    def attend(self, layer: int, q: Any, k: Any, v: Any, scale: float, window: int | None) -> Any:
        return q.transpose(0, 1)


def bare_gain(checkpoint: Checkpoint, sessions: int) -> float:
    """Of one forward pass for all over one for each, without engine, attention, sampling or text: the best of seven."""
    import torch

    def forward(rows: int) -> None:
        found = checkpoint.model.model(
            input_ids=torch.ones(rows, 1, dtype=torch.long),
            position_ids=torch.full((rows, 1), CONTEXT),
            use_cache=False,
            kv=[_NoHistory()] * rows,
        )
        logits(checkpoint, found.last_hidden_state[:, -1])

    with torch.inference_mode():
        alone = _best(lambda: forward(1))
        return alone * sessions / _best(lambda: forward(sessions))


def _best(act: Any) -> float:
    seconds = []
    for _ in range(7):
        begun = time.perf_counter()
        act()
        seconds.append(time.perf_counter() - begun)
    return min(seconds)


def _prompt(session: int, tail: int) -> list[int]:
    """A session's prompts differ in their tails only."""
    known, rest = random.Random(f"{SEED} {session}"), random.Random(f"{SEED} {session} {tail}")
    return [known.randrange(256) for _ in range(CONTEXT)] + [rest.randrange(256) for _ in range(TAIL)]


def show(body: dict[str, Any]) -> None:
    table = Table(
        "sessions", "tokens", "tokens/s, one by one", "together", "gain", "without attention", title_justify="left"
    )
    for sessions, one in body["sessions"].items():
        rates = one["tokens_per_second"]
        cells = (one["tokens"], rates["one_by_one"], rates["together"], f"{one['gain']}×", f"{one['bare_gain']}×")
        table.add_row(sessions, *map(str, cells))
    out.print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.batching", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="a small model and short answers: does everything run?")
    parser.add_argument("--sessions", type=int, nargs="+", default=SESSIONS)
    parser.add_argument("--tokens", type=int, help=f"of an answer; default {TOKENS}")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args(arguments)
    most = options.tokens or (QUICK_TOKENS if options.quick else TOKENS)
    sizes = SMALL if options.quick else MODEL
    body: dict[str, Any] = {"load_before": os.getloadavg()[0], "model": sizes, "answer_tokens": most, "sessions": {}}
    with tempfile.TemporaryDirectory(prefix="stratamem-bench-") as name, Progress(console=out) as progress:
        checkpoint = load(str(write_model(Path(name), sizes)), cache_dir=Path(name))
        body["parameters"] = sum(weights.numel() for weights in checkpoint.model.parameters())
        for sessions in progress.track(options.sessions, description="sessions"):
            body["sessions"][str(sessions)] = measure(
                checkpoint, sessions, most, options.rounds, Path(name, f"kv-{sessions}")
            )
    path = write_result("batching" + ("_quick" if options.quick else ""), body)
    show(body)
    out.print(str(path))


if __name__ == "__main__":
    main()

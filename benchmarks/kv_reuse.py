"""How much sooner does a session's answer begin when its KV comes back from a tier instead of being computed?

A random Llama of about 100M parameters, written for the run (figures of time need no sense). For each length and tier
the time from submitting a prompt to its first token: computed cold, then with its blocks on the device, in the host's
memory, on disk, and on disk for a runtime that was started anew, whose memory the system has yet to give. Its last
tokens are new each time: a short message of 32, and one of 100. Beside them, in the same run: transformers' own prefill
(DynamicCache), and the bound: bytes ÷ the measured rate of copying (from disk: of reading and checking), plus one
forward pass of the new tokens: measured without a history, and its attention over one by the bare kernel, on keys that
lie in one piece.

    python -m benchmarks.kv_reuse --quick
    python -m benchmarks.kv_reuse --lengths 2048 8192 32768
"""

import argparse
import itertools
import math
import os
import queue
import random
import statistics
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from safetensors import safe_open

from benchmarks.machine import SEED, out, write_result
from model_runtime.generators.checkpoint import Checkpoint, load
from model_runtime.generators.fixture import write_fixture
from model_runtime.generators.job import Done, Failed, Job
from model_runtime.generators.runtime import Runtime, RuntimeOptions
from model_runtime.generators.sampling import SamplingOptions
from model_runtime.kv.shape import BLOCK

LENGTHS = (2_048, 8_192, 32_768)
QUICK_LENGTHS = (1_536,)
TAILS = (32, 100)
"""New tokens of a prompt, beyond its full blocks: always computed, and attended over the whole history."""
SOURCES = ("device", "host", "disk", "restart")
_TIER = {source: source for source in SOURCES} | {"restart": "disk"}
ROUNDS = 3
_FORWARDS = 3
TARGETS = {"host": 40.0, "disk": 15.0}
"""Of the time to compute, at 8,192 tokens in float32 on a CPU."""
TARGET_OF_BOUND = 0.6
MODEL: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 2_048,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "max_position_embeddings": 65_536,
}
SMALL = MODEL | {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 4}


@dataclass(frozen=True, slots=True)
class Asked:
    seconds: float
    """To the first token."""
    done: Done


def write_model(folder: Path, sizes: dict[str, Any]) -> Path:
    """Random weights with the fixture's tokenizer of bytes."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(SEED)
    tokenizer: Any = AutoTokenizer.from_pretrained(write_fixture(folder / "tokenizer"))
    model: Any = LlamaForCausalLM(LlamaConfig(**sizes | {"vocab_size": len(tokenizer)}))
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return folder / "model"


def measure(checkpoint: Checkpoint, folder: Path, length: int, codec: str, rounds: int) -> dict[str, Any]:
    options = RuntimeOptions(
        checkpoint.name, folder, device_bytes=_room(checkpoint, 2 * length), host_bytes=_room(checkpoint, 2 * length)
    )
    runtime = Runtime(options, checkpoint)
    asked: dict[tuple[str, int], list[Asked]] = {(source, new): [] for source in SOURCES for new in TAILS}
    try:
        cold = _ask(runtime, _prompt(length, TAILS[-1], 0), codec)
        _settle(runtime)
        for new, n in itertools.product(TAILS, range(1, rounds + 1)):
            asked["device", new].append(_ask(runtime, _prompt(length, new, n), codec))
            asked["host", new].append(_after(runtime, _leave_device, _prompt(length, new, rounds + n), codec))
        for new, n in itertools.product(TAILS, range(1, rounds + 1)):
            asked["disk", new].append(_after(runtime, _leave_memory, _prompt(length, new, 3 * rounds + n), codec))
        for new, n in itertools.product(TAILS, range(1, rounds + 1)):  # the host begins empty each time
            runtime.close()
            runtime = Runtime(options, checkpoint)
            asked["restart", new].append(_ask(runtime, _prompt(length, new, 2 * rounds + n), codec))
        nbytes = _stored_bytes(runtime)
    finally:
        runtime.close()
    for (source, _), found in asked.items():
        tier = _TIER[source]
        if wrong := [one for one in found if one.done.cached[tier] < length // BLOCK * BLOCK]:
            raise RuntimeError(f"{tier} did not serve the whole prompt: {wrong[0].done.cached}")
    forward = {new: _forward_seconds(checkpoint, new, length) for new in TAILS}
    moved = {"device": 0.0, "host": nbytes / _copy_rate(), "disk": nbytes / _checked_read_rate(folder)}
    return {
        "mib": round(nbytes / 2**20, 1),
        "computed_s": round(cold.seconds, 3),
        "new": {
            str(new): _compared(
                {source: statistics.median(one.seconds for one in asked[source, new]) for source in SOURCES},
                {source: moved[_TIER[source]] + forward[new] for source in SOURCES},
                cold.seconds,
            )
            for new in TAILS
        },
    }


def _compared(seconds: dict[str, float], bound: dict[str, float], computed: float) -> dict[str, Any]:
    return {
        "from_s": {tier: round(value, 4) for tier, value in seconds.items()},
        "times_sooner": {tier: round(computed / value, 1) for tier, value in seconds.items()},
        "bound_s": {tier: round(value, 4) for tier, value in bound.items()},
        "of_bound": {tier: round(bound[tier] / value, 2) for tier, value in seconds.items()},
    }


def _ask(runtime: Runtime, prompt: Sequence[int], codec: str) -> Asked:
    events: queue.SimpleQueue[Any] = queue.SimpleQueue()
    options = SamplingOptions(temperature=0, max_tokens=1)
    begun = time.perf_counter()
    runtime.engine.submit(Job(tuple(prompt), options, runtime.namespace("benchmark", codec), codec, events.put))
    while not isinstance(event := events.get(timeout=3_600), Done):
        if isinstance(event, Failed):
            raise RuntimeError(event.message)
    return Asked(time.perf_counter() - begun, event)


def _after(runtime: Runtime, leave: Callable[[Runtime], None], prompt: Sequence[int], codec: str) -> Asked:
    _settle(runtime)
    _in_engine(runtime, lambda: leave(runtime))
    return _ask(runtime, prompt, codec)


def _leave_device(runtime: Runtime) -> None:
    runtime.cache.leave_device()


def _leave_memory(runtime: Runtime) -> None:
    """Every block stays on disk alone."""
    runtime.cache.leave_device()
    for node in runtime.cache.nodes():
        runtime.host.drop(node.block_id)


def _settle(runtime: Runtime) -> None:
    """Until what was computed lies on the host and on disk."""
    while _in_engine(runtime, lambda: runtime.cache.unwritten):
        time.sleep(0.05)


def _in_engine(runtime: Runtime, act: Any) -> Any:
    done: queue.SimpleQueue[Any] = queue.SimpleQueue()
    runtime.engine.errands.put(lambda: done.put(act()))
    return done.get(timeout=600)


def _parameters(folder: Path) -> int:
    """Those of the loaded model are packed, and so no parameters any more."""
    with safe_open(folder / "model.safetensors", "pt") as weights:
        return sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())


def transformers_prefill(folder: Path, length: int) -> float:
    """Seconds of one forward pass over the prompt into transformers' DynamicCache, logits of the last token."""
    import torch
    from transformers import AutoModelForCausalLM, DynamicCache

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.eval()
    ids = torch.tensor([_prompt(length, 0, 0)])
    with torch.inference_mode():
        model(ids[:, :64], past_key_values=DynamicCache(), logits_to_keep=1)
        begun = time.perf_counter()
        model(ids, past_key_values=DynamicCache(), logits_to_keep=1)
        return time.perf_counter() - begun


def _forward_seconds(checkpoint: Checkpoint, new: int, length: int) -> float:
    """Of the new tokens alone, by a runtime that knows nothing, and of the bare attention over a history."""
    with tempfile.TemporaryDirectory(prefix="stratamem-bench-") as name:
        options = RuntimeOptions("", Path(name), device_bytes=_room(checkpoint, BLOCK), disk_bytes=0)
        runtime = Runtime(options, checkpoint)
        try:
            alone = min(_ask(runtime, _prompt(0, new, seed), "exact").seconds for seed in range(1, 1 + _FORWARDS))
        finally:
            runtime.close()
    return alone + checkpoint.shape.layers * _attention_seconds(checkpoint, new, length)


def _attention_seconds(checkpoint: Checkpoint, new: int, length: int) -> float:
    """Of one layer; query heads that share keys are rows of one call."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    shape, heads = checkpoint.shape, checkpoint.model.config.num_attention_heads
    keys = torch.randn(1, shape.kv_heads, length, shape.head_dim)
    values = torch.randn_like(keys)
    queries = torch.randn(1, shape.kv_heads, heads // shape.kv_heads * new, shape.head_dim)
    return _best_seconds(lambda: scaled_dot_product_attention(queries, keys, values))


def _copy_rate() -> float:
    """Bytes a second of copying memory to memory."""
    import torch

    source = torch.ones(64 << 18)
    target = torch.empty_like(source)
    return _best_rate(lambda: target.copy_(source), source.numel() * 4)


def _checked_read_rate(folder: Path) -> float:
    """Bytes a second of reading the block files into fresh memory, with CRC-32 over them."""
    files = sorted(folder.rglob("*.safetensors"))[:16]
    return _best_rate(lambda: [zlib.crc32(file.read_bytes()) for file in files], sum(f.stat().st_size for f in files))


def _best_rate(act: Any, nbytes: int) -> float:
    return nbytes / _best_seconds(act)


def _best_seconds(act: Any) -> float:
    seconds = []
    for _ in range(5):
        begun = time.perf_counter()
        act()
        seconds.append(time.perf_counter() - begun)
    return min(seconds)


def _stored_bytes(runtime: Runtime) -> int:
    assert runtime.disk is not None
    return runtime.disk.stats().bytes


def _room(checkpoint: Checkpoint, tokens: int) -> int:
    return (tokens // BLOCK + 8) * checkpoint.shape.block_bytes


def _prompt(length: int, new: int, seed: int) -> list[int]:
    """Prompts of one length differ in their new tokens only."""
    blocks, rest = random.Random(SEED), random.Random(f"{SEED} {seed}")
    return [blocks.randrange(256) for _ in range(length)] + [rest.randrange(256) for _ in range(new)]


def show(body: dict[str, Any]) -> None:
    table = Table(title="time to the first token", title_justify="left")
    for heading in ("tokens", "new", "kept", "MiB", "computed", "transformers", *SOURCES, "of bound (host, disk)"):
        table.add_column(heading, justify="right")
    for (name, found), codec in itertools.product(body["lengths"].items(), body["codecs"]):
        one = found[codec]
        for new, times in one["new"].items():
            sooner = [f"{times['from_s'][tier] * 1e3:.0f} ms ({times['times_sooner'][tier]:.0f}×)" for tier in SOURCES]
            bound = f"{times['of_bound']['host']:.2f}, {times['of_bound']['disk']:.2f}"
            computed = (f"{one['computed_s']:.2f} s", f"{found['transformers_s']:.2f} s")
            table.add_row(f"{int(name):,}", new, codec, f"{one['mib']}", *computed, *sooner, bound)
    out.print(table, body["targets"])


def verdict(lengths: dict[str, Any]) -> dict[str, Any]:
    """At 8,192 tokens, exact, by the number of new tokens; False `measured` where that length was not run."""
    found = lengths.get("8192", {}).get("exact")
    if found is None:
        return {"measured": False}
    figures: dict[str, Any] = {"measured": True}
    for (new, times), tier in itertools.product(found["new"].items(), TARGETS):
        figures |= {
            f"{tier}_{new}_new": _met(times["times_sooner"][tier], TARGETS[tier]),
            f"{tier}_{new}_new_of_bound": _met(times["of_bound"][tier], TARGET_OF_BOUND),
        }
    return figures


def _met(found: float, target: float) -> dict[str, Any]:
    return {"found": found, "target": target, "met": found >= target}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kv_reuse", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="a small model and a short prompt: does everything run?")
    parser.add_argument("--lengths", type=int, nargs="+", help=f"tokens; {' '.join(map(str, LENGTHS))}")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args(arguments)
    lengths = options.lengths or (QUICK_LENGTHS if options.quick else LENGTHS)
    codecs = ("exact", "int8")
    sizes = SMALL if options.quick else MODEL
    body: dict[str, Any] = {"load_before": os.getloadavg()[0], "model": sizes, "codecs": codecs}
    with tempfile.TemporaryDirectory(prefix="stratamem-bench-") as name:
        model = write_model(Path(name), body["model"])
        checkpoint = load(str(model), cache_dir=Path(name))
        body["parameters"] = _parameters(model)
        found: dict[str, Any] = {}
        for length in lengths:
            out.print(f"{length:,} tokens")
            found[str(length)] = {"transformers_s": round(transformers_prefill(model, length), 3)}
            for codec in codecs:
                with tempfile.TemporaryDirectory(prefix="stratamem-bench-") as kv:
                    found[str(length)][codec] = measure(checkpoint, Path(kv), length, codec, options.rounds)
    body |= {"lengths": found, "targets": verdict(found)}
    path = write_result("kv_reuse" + ("_quick" if options.quick else ""), body)
    show(body)
    out.print(str(path))


if __name__ == "__main__":
    main()

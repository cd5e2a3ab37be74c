"""In how few bytes can the vectors of segments be kept, and what of recall is left?

Every codec on the same segments: pure dense recall@10 against the gold evidence, over what its codes give back,
relative to float16. `own`: codebooks learned from the segments that are coded, as a tenant's are. `others`: from the
first half of the conversations, asked of the second half.
"""

import argparse
import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from rich.table import Table

from benchmarks.machine import SEED, out, write_result
from benchmarks.service import Floats, StoringEmbedder, packaged_models
from benchmarks.sets import Scorers, Selection, Task, tasks_of
from benchmarks.statistics import bootstrap_ratio
from memory.adapters.codecs.plain import Float16, Int8
from memory.adapters.codecs.quantised import product, residual
from memory.adapters.codecs.sealed import Method, SealedCodec
from memory.adapters.models.vqvae import LearnedCodec
from memory.domain.codecs import ColdSegment, stretches
from memory.domain.segments import Span, cut

SETS = {"locomo": Selection(), "beam-100K": Selection(), "qmsum": Selection(tasks=20)}
TOP = 10
SMALLER_TARGET, KEPT_TARGET = 17.6, 0.92


@dataclass(frozen=True, slots=True)
class Coded:
    """The segments of one task: `vectors` float32 [n, d] as stored (float16), `items` [n] their items' places.

    `cuts`: where each stretch of about 1,000 tokens ends. `tokens`: of the texts, without overlaps.
    """

    task: Task
    vectors: Floats
    items: np.ndarray[Any, np.dtype[np.int64]]
    questions: Floats
    cuts: list[int]
    tokens: int

    @property
    def stretches(self) -> list[Floats]:
        return [part for part in np.split(self.vectors, self.cuts) if len(part)]


def prepared(task: Task, embedder: StoringEmbedder) -> Coded:
    tokenizer = embedder.models.tokenizer
    texts = [item.event["content"] for item in task.items]
    pieces = [(place, span) for place, text in enumerate(texts) for span in cut(text, tokenizer.spans(text))]
    asked = [query["text"] for query in task.queries]
    known = embedder.embed([texts[place][span.start : span.end] for place, span in pieces] + asked)
    vectors = np.stack([known[texts[place][span.start : span.end]] for place, span in pieces])
    lengths = [len(stretch) for stretch in stretches(list(_segments(pieces)), whole=False)]
    return Coded(
        task,
        vectors,
        np.array([place for place, _ in pieces]),
        np.stack([known[text] for text in asked]),
        np.cumsum(lengths)[:-1].tolist(),
        sum(map(int, tokenizer.count(texts))),
    )


def _segments(pieces: Sequence[tuple[int, Span]]) -> Iterator[ColdSegment]:
    for key, (place, span) in enumerate(pieces):
        yield ColdSegment(key, place, 0, "", span, b"")


def recalls(coded: Coded, vectors: Floats) -> list[float]:
    """By question: the share of its gold items among the ten best; an item is as good as its best segment."""
    best = np.full((len(coded.questions), len(coded.task.items)), -np.inf, np.float32)
    np.maximum.at(best.T, coded.items, vectors @ coded.questions.T)
    top = np.argsort(-best, axis=1, kind="stable")[:, :TOP]
    found = []
    for row, query in zip(top, coded.task.queries, strict=True):
        ids = {coded.task.items[at].id for at in row}
        found.append(len(ids & query["gold"]) / len(query["gold"]))
    return found


def methods(segments_per_stretch: float) -> dict[str, Method]:
    """All at 42 bytes a segment; then a VQ-VAE's latent for each stretch, and the other two at no fewer bytes."""
    learned = LearnedCodec()
    size = math.ceil(learned.groups * learned.stages / segments_per_stretch)
    each = replace(learned, segments=1, latent=126, groups=42, stages=1, width=256)
    return {
        "float16": Float16(),
        "int8": Int8(),
        "pq": product(),
        "rq": residual(),
        "vqvae, a latent a segment": each,
        "vqvae, a latent a stretch": learned,
        f"pq, {size} bytes a segment": product(size),
        f"rq, {size} bytes a segment": residual(size),
    }


def measured(method: Method, learned_from: Sequence[Coded], asked: Sequence[Coded], reference: list[float]) -> Any:
    codec, begun = SealedCodec(method), time.process_time()
    codebook = codec.train([part for coded in learned_from for part in coded.stretches], lambda done: True)
    trained, begun = time.process_time() - begun, time.process_time()
    coder = codec.open(codebook, asked[0].vectors.shape[1])
    found: list[float] = []
    code_bytes = 0
    for coded in asked:
        codes = [coder.encode(part) for part in coded.stretches]
        code_bytes += sum(map(len, codes))
        found += recalls(coded, np.concatenate([coder.decode(code) for code in codes]))
    plain = sum(coded.vectors.size * 2 for coded in asked)
    recall = float(np.mean(found))
    low, high = bootstrap_ratio(np.array(found), np.array(reference), SEED)
    return {
        "bytes_per_1k_tokens": round(1_000 * code_bytes / sum(coded.tokens for coded in asked), 1),
        "bytes_per_segment": round(code_bytes / sum(len(coded.vectors) for coded in asked), 2),
        "smaller": round(plain / code_bytes, 2),
        "recall@10": round(recall, 4),
        "kept": round(recall / float(np.mean(reference)), 4),
        "kept_interval": [round(low, 4), round(high, 4)],
        "codebook_bytes": len(codebook),
        "train_cpu_s": round(trained, 1),
        "code_and_ask_cpu_s": round(time.process_time() - begun, 1),
    }


def of_one(learned_from: Sequence[Coded], asked: Sequence[Coded], note: str) -> dict[str, Any]:
    reference = [recall for coded in asked for recall in recalls(coded, coded.vectors)]
    segments = sum(len(coded.vectors) for coded in asked)
    per_stretch = segments / sum(len(coded.stretches) for coded in asked)
    body: dict[str, Any] = {
        "questions": len(reference),
        "segments": segments,
        "segments_per_stretch": round(per_stretch, 1),
        "learned_from_segments": sum(len(coded.vectors) for coded in learned_from),
        "codecs": {},
    }
    for name, method in methods(per_stretch).items():
        body["codecs"][name] = found = measured(method, learned_from, asked, reference)
        out.print(note, name, found)
    return body


def verdict(sets: dict[str, Any]) -> dict[str, Any]:
    """Of each codec at 42 bytes a segment, on LoCoMo with codebooks of its own. Codebooks are not in the bytes."""
    codecs = sets["locomo"]["own"]["codecs"]
    each = {name: codecs[name]["kept"] for name in ("pq", "rq", "vqvae, a latent a segment")}
    smaller = min(codecs[name]["smaller"] for name in each)
    found: dict[str, Any] = {"smaller": {"found": smaller, "target": SMALLER_TARGET, "met": smaller >= SMALLER_TARGET}}
    for name, kept in each.items():
        found[f"kept, {name}"] = {"found": kept, "target": KEPT_TARGET, "met": kept >= KEPT_TARGET}
    return found


def show(sets: dict[str, Any]) -> None:
    table = Table(
        "set", "codebooks", "codec", "bytes / 1K tokens", "smaller", "recall@10", "kept", title_justify="left"
    )
    for name, modes in sets.items():
        for mode, body in modes.items():
            for codec, found in body["codecs"].items():
                figures = (found[k] for k in ("bytes_per_1k_tokens", "smaller", "recall@10", "kept"))
                table.add_row(name, mode, codec, *map(str, figures))
    out.print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compression", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="two conversations: does everything run?")
    options = parser.parse_args(arguments)
    scorers, load_before = Scorers.found(), os.getloadavg()[0]
    chosen = {"locomo": Selection(tasks=2)} if options.quick else SETS
    file = "compression_quick" if options.quick else "compression"
    models = packaged_models()
    embedder, sets = StoringEmbedder(models), dict[str, dict[str, Any]]()
    for name, selection in chosen.items():
        coded = [prepared(task, embedder) for task in tasks_of(name, scorers, selection) if task.queries]
        if not coded:
            continue
        half = len(coded) // 2
        ways = {"own": (coded, coded)} | ({"others": (coded[:half], coded[half:])} if name == "locomo" else {})
        for way, (learned_from, asked) in ways.items():
            sets.setdefault(name, {})[way] = of_one(learned_from, asked, f"{name}, {way}:")
            # each time: a run that is stopped keeps what it has measured
            path = write_result(file, {"load_before": load_before, "sets": sets, "targets": verdict(sets)})
    models.embedder.close()
    show(sets)
    out.print(str(path))


if __name__ == "__main__":
    main()

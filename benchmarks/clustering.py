"""How much work do centroids save, what of recall do they keep, and do clusters stay what they would be made anew?

The segments of each conversation come a few at a time, as consolidation takes them in: `whole` keeps all of them,
`recent` lets the oldest quarter leave. Probing: the members of the nearest centroids (256 dimensions; members are
compared in all) against all members, by inner products and recall@10 of the gold evidence. Stability: online clusters
beside those made anew, by the adjusted Rand index, normalised mutual information and the ratio of quantisation errors;
beside it the same between two that are made anew from other beginnings, which is the most that can be asked.
Projection: recall@10 in 256 dimensions by the fixed projection and by principal components, against all dimensions; and
when they only choose the 16 clusters whose members are then compared in all dimensions.
"""

import argparse
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rich.progress import track
from rich.table import Table

from benchmarks.compression import Coded, prepared
from benchmarks.machine import SEED, out, write_result
from benchmarks.service import Floats, StoringEmbedder, packaged_models
from benchmarks.sets import Scorers, Selection, tasks_of
from benchmarks.statistics import bootstrap_mean, bootstrap_ratio
from memory.tiers.semantic import policy
from memory.tiers.semantic.clustering import Labels, arranged, sums, worth
from memory.tiers.semantic.settings import SemanticSettings

SETS = {"locomo": Selection(), "beam-100K": Selection(tasks=2), "qmsum": Selection(tasks=22)}
TOP = 10
PROBES = (1, 2, 4, 8, 16, 32)
SETTINGS = SemanticSettings()
WAYS = ("online", "first come")
"""`first come`: a segment stays where it went when it came, as before clusters were arranged."""


@dataclass(slots=True)
class Scores:
    """One list a question or a conversation for each figure."""

    lists: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, *found: float) -> None:
        self.lists.setdefault(name, []).extend(found)

    def mean(self, name: str) -> float:
        return round(float(np.mean(self.lists[name])), 4)

    def about(self, name: str) -> dict[str, float]:
        low, high = bootstrap_mean(self.lists[name], SEED)
        return {"mean": self.mean(name), "low": round(low, 4), "high": round(high, 4)}


def count_of(segments: int) -> int:
    return min(SETTINGS.max_clusters, -(-segments // SETTINGS.segments_per_cluster))


def consolidations(coded: Coded) -> Iterator[slice]:
    """The segments of whole events, a cluster's worth or more at a time: about a turn or a few."""
    start = 0
    for end in [*(np.flatnonzero(np.diff(coded.items)) + 1).tolist(), len(coded.items)]:
        if end - start >= SETTINGS.segments_per_cluster or end == len(coded.items):
            yield slice(start, end)
            start = end


def taken_in(clustering: policy.Clustering, new: Floats) -> tuple[policy.Clustering, Labels]:
    return policy.assign(
        clustering,
        new,
        per_cluster=SETTINGS.segments_per_cluster,
        most=SETTINGS.max_clusters,
        join_similarity=SETTINGS.join_similarity,
    )


def online(coded: Coded, vectors: Floats, keep: int) -> Labels:
    """The cluster of each of the last `keep` segments, arranged after each consolidation."""
    of = np.zeros(0, np.int64)
    for new in consolidations(coded):
        first = max(0, new.stop - keep)
        labels, held = sums(vectors[new.start - len(of) : new.start], of)
        sizes = np.array([int((of == label).sum()) for label in labels], np.int64)
        _, joined = taken_in(policy.Clustering(held, sizes), vectors[new])
        founded = np.arange(len(joined)) + (int(of.max()) + 1 if len(of) else 0)
        of = np.concatenate([of, np.concatenate([labels, founded])[joined]])[first - new.stop :]
        of = arranged(vectors[first : new.stop], of, count=count_of(len(of)))
    return of


def first_come(coded: Coded, vectors: Floats, keep: int) -> Labels:
    of = np.zeros(0, np.int64)
    clustering = policy.Clustering(vectors[:0], of)
    for new in consolidations(coded):
        clustering, joined = taken_in(clustering, vectors[new])
        of = np.concatenate([of, joined])
        if len(of) > keep:  # as when segments leave: their cluster loses them, and goes with the last
            of, left = of[-keep:], vectors[new.stop - keep : new.stop]
            labels, held = sums(left, of)
            of = np.searchsorted(labels, of)
            clustering = policy.Clustering(held, np.bincount(of))
    return of


def anew(vectors: Floats, seed: int | None = None) -> Labels:
    """From one cluster, or from segments dealt out at random."""
    n = len(vectors)
    start = np.zeros(n, np.int64) if seed is None else np.random.default_rng(seed).integers(0, count_of(n), n)
    return arranged(vectors, start, count=count_of(n))


def _table(one: Labels, two: Labels) -> Floats:
    """How many segments the clusters of two partitions share: [c1, c2]."""
    _, first = np.unique(one, return_inverse=True)
    _, second = np.unique(two, return_inverse=True)
    table = np.zeros((first.max() + 1, second.max() + 1))
    np.add.at(table, (first, second), 1)
    return table


def adjusted_rand(one: Labels, two: Labels) -> float:
    """After Hubert and Arabie (1985)."""
    table = _table(one, two)

    def pairs(counts: Any) -> float:
        return float((counts * (counts - 1) / 2).sum())

    both, first, second = pairs(table), pairs(table.sum(1)), pairs(table.sum(0))
    expected = first * second / max(1.0, pairs(table.sum(keepdims=True)))
    most = (first + second) / 2
    return 1.0 if most == expected else (both - expected) / (most - expected)


def mutual_information(one: Labels, two: Labels) -> float:
    """Normalised by the mean of both entropies."""
    shares = _table(one, two) / len(one)

    def entropy(found: Any) -> float:
        return float(-(found[found > 0] * np.log(found[found > 0])).sum())

    first, second = entropy(shares.sum(1)), entropy(shares.sum(0))
    together = entropy(shares)
    return 1.0 if first + second == 0 else 2 * (first + second - together) / (first + second)


def error(vectors: Floats, of: Labels) -> float:
    """The mean squared distance of a segment to its centroid, as unit vectors."""
    return 2 * (1 - worth(vectors, of) / len(vectors))


def top_items(coded: Coded, cosines: Floats, seen: Any) -> set[Any]:
    """The ten best items of one question among the segments that were looked at."""
    best = np.full(len(coded.task.items), -np.inf, np.float32)
    np.maximum.at(best, coded.items[seen], cosines[seen])
    order = np.argsort(-best, kind="stable")[:TOP]
    return {coded.task.items[at].id for at in order if np.isfinite(best[at])}


def probing(coded: Coded, vectors: Floats, of: Labels, way: str, scores: Scores) -> None:
    labels, held = sums(vectors, of)
    centroids, n = policy.unit(held), len(vectors)
    questions = policy.project(coded.questions, policy.projection(coded.questions.shape[1]))
    exact = coded.questions @ coded.vectors.T
    for question, cosines, query in zip(questions, exact, coded.task.queries, strict=True):
        gold = query["gold"]
        all_found = top_items(coded, cosines, np.arange(n))
        if way == WAYS[0]:
            scores.add("scan", len(all_found & gold) / len(gold))
        nearest = labels[np.argsort(-(centroids @ question))]
        for probes in PROBES:
            seen = np.flatnonzero(np.isin(of, nearest[:probes]))
            found = top_items(coded, cosines, seen)
            scores.add(f"{way}, recall, {probes}", len(found & gold) / len(gold))
            scores.add(f"{way}, same, {probes}", len(found & all_found) / len(all_found))
            scores.add(f"{way}, work, {probes}", (len(labels) + len(seen)) / n)


def stability(vectors: Floats, by_way: dict[str, Labels], mode: str, scores: Scores) -> None:
    full, others = anew(vectors), [anew(vectors, SEED + draw) for draw in (1, 2)]
    pairs = {way: (of, full) for way, of in by_way.items()} | {"anew twice": (others[0], others[1])}
    for name, (one, two) in pairs.items():
        scores.add(f"{mode}, {name}, rand", adjusted_rand(one, two))
        scores.add(f"{mode}, {name}, information", mutual_information(one, two))
        scores.add(f"{mode}, {name}, error", error(vectors, one) / max(1e-9, error(vectors, two)))
        scores.add(f"{mode}, {name}, clusters", len(np.unique(one)) / count_of(len(vectors)))


def of_set(coded: Sequence[Coded], name: str) -> dict[str, Any]:
    scores, cpu = Scores(), dict.fromkeys(WAYS, 0.0)
    for one in track(coded, description=name, console=out):
        vectors = policy.project(one.vectors, policy.projection(one.vectors.shape[1]))
        for mode, keep in (("whole", len(vectors)), ("recent", 3 * len(vectors) // 4)):
            by_way: dict[str, Labels] = {}
            for way, make in zip(WAYS, (online, first_come), strict=True):
                begun = time.thread_time()
                by_way[way] = make(one, vectors, keep)
                cpu[way] += time.thread_time() - begun
            if mode == "whole":
                for way, of in by_way.items():
                    probing(one, vectors, of, way, scores)
            stability(vectors[-keep:], by_way, mode, scores)
    segments = sum(len(one.vectors) for one in coded)
    return {
        "conversations": len(coded),
        "segments": segments,
        "questions": len(scores.lists["scan"]),
        "recall@10_scan": scores.mean("scan"),
        "probing": {way: _probing(scores, way) for way in WAYS},
        "stability": {mode: _stability(scores, mode) for mode in ("whole", "recent")},
        "cpu_ms_per_segment": {way: round(1_000 * spent / segments / 2, 3) for way, spent in cpu.items()},
        "projection": projections(coded),
    }


def _probing(scores: Scores, way: str) -> dict[str, Any]:
    found = {}
    for probes in PROBES:
        recall = scores.lists[f"{way}, recall, {probes}"]
        low, high = bootstrap_ratio(np.array(recall), np.array(scores.lists["scan"]), SEED)
        kept = float(np.sum(recall) / np.sum(scores.lists["scan"]))
        found[str(probes)] = {
            "inner_products": scores.mean(f"{way}, work, {probes}"),
            "recall@10": scores.mean(f"{way}, recall, {probes}"),
            "kept": round(kept, 4),
            "kept_interval": [round(low, 4), round(high, 4)],
            "same_ten": scores.mean(f"{way}, same, {probes}"),
        }
    return found


def _stability(scores: Scores, mode: str) -> dict[str, Any]:
    figures = {"adjusted_rand": "rand", "mutual_information": "information", "error_ratio": "error"}
    return {
        name: {key: scores.about(f"{mode}, {name}, {short}") for key, short in figures.items()}
        | {"clusters_of_count": scores.mean(f"{mode}, {name}, clusters")}
        for name in (*WAYS, "anew twice")
    }


def components(vectors: Floats) -> Floats:
    """float32 [d, 256]: the principal components of the vectors, not centred: cosines are to stay."""
    _, axes = np.linalg.eigh(vectors.T.astype(np.float64) @ vectors)
    return np.asarray(axes[:, ::-1][:, : policy.DIMENSIONS], np.float32)


def projections(coded: Sequence[Coded]) -> dict[str, Any]:
    """`kept`: of what all members are asked in. `probed_kept`: of what only chooses clusters.

    All conversations of a set are one tenant's. `others`: components of one half, asked of the other half."""
    fixed = policy.projection(coded[0].vectors.shape[1])
    halves = (coded[: len(coded) // 2], coded[len(coded) // 2 :])
    ways: dict[str, list[Floats | None]] = {"all dimensions": [None] * len(coded), "fixed": [fixed] * len(coded)}
    own = components(np.concatenate([one.vectors for one in coded]))
    ways["components, own"] = [own] * len(coded)
    if len(coded) > 1:
        learned = [components(np.concatenate([one.vectors for one in half])) for half in halves]
        ways["components, others"] = [learned[1]] * len(halves[0]) + [learned[0]] * len(halves[1])
    scores = Scores()
    for name, onto in ways.items():
        for one, matrix in zip(coded, onto, strict=True):
            vectors = one.vectors if matrix is None else policy.project(one.vectors, matrix)
            questions = one.questions if matrix is None else policy.project(one.questions, matrix)
            _recalls(one, vectors @ questions.T, name, scores)
            _probed(one, vectors, questions, name, scores)
    return {name: _kept(scores, name) for name in ways}


def _recalls(one: Coded, cosines: Floats, name: str, scores: Scores) -> None:
    exact = one.vectors @ one.questions.T
    everything = np.arange(len(one.vectors))
    for at, query in enumerate(one.task.queries):
        found, best = (top_items(one, of[:, at], everything) for of in (cosines, exact))
        scores.add(f"{name}, recall", len(found & query["gold"]) / len(query["gold"]))
        scores.add(f"{name}, same", len(found & best) / len(best))
    scores.add(f"{name}, off", float(np.abs(cosines - exact).mean()))


def _probed(one: Coded, vectors: Floats, questions: Floats, name: str, scores: Scores) -> None:
    of = anew(vectors)
    labels, held = sums(vectors, of)
    near = np.argsort(-(questions @ policy.unit(held).T), axis=1)[:, : SETTINGS.probes]
    exact = one.questions @ one.vectors.T
    for chosen, cosines, query in zip(near, exact, one.task.queries, strict=True):
        found = top_items(one, cosines, np.flatnonzero(np.isin(of, labels[chosen])))
        scores.add(f"{name}, probed", len(found & query["gold"]) / len(query["gold"]))


def _kept(scores: Scores, name: str) -> dict[str, Any]:
    recall, reference = scores.lists[f"{name}, recall"], scores.lists["all dimensions, recall"]
    low, high = bootstrap_ratio(np.array(recall), np.array(reference), SEED)
    probed = scores.lists[f"{name}, probed"]
    between = bootstrap_ratio(np.array(probed), np.array(reference), SEED)
    return {
        "recall@10": scores.mean(f"{name}, recall"),
        "kept": round(float(np.sum(recall) / np.sum(reference)), 4),
        "kept_interval": [round(low, 4), round(high, 4)],
        "probed_kept": round(float(np.sum(probed) / np.sum(reference)), 4),
        "probed_kept_interval": [round(end, 4) for end in between],
        "same_ten": scores.mean(f"{name}, same"),
        "cosine_off": scores.mean(f"{name}, off"),
    }


def show(sets: dict[str, Any]) -> None:
    probed = Table("set", "clusters", *(f"{n} probes" for n in PROBES), title="kept of recall@10 (inner products)")
    stable = Table("set", "kept", "clusters", "Rand", "information", "error ratio", title="beside clusters made anew")
    projected = Table("set", "projection", "recall@10", "kept", "probed", "same ten", "off", title="256 dimensions")
    for name, body in sets.items():
        for way, found in body["probing"].items():
            probed.add_row(name, way, *(f"{one['kept']:.3f} ({one['inner_products']:.2f})" for one in found.values()))
        for mode, ways in body["stability"].items():
            for way, found in ways.items():
                figures = (
                    f"{found[key]['mean']:.3f}" for key in ("adjusted_rand", "mutual_information", "error_ratio")
                )
                stable.add_row(name, mode, way, *figures)
        for way, found in body["projection"].items():
            figures = (f"{found[key]:.4f}" for key in ("recall@10", "kept", "probed_kept", "same_ten", "cosine_off"))
            projected.add_row(name, way, *figures)
    for table in (probed, stable, projected):
        table.title_justify = "left"
        out.print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.clustering", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="two conversations: does everything run?")
    options = parser.parse_args(arguments)
    scorers, load_before = Scorers.found(), os.getloadavg()[0]
    chosen = {"locomo": Selection(tasks=2)} if options.quick else SETS
    file = "clustering_quick" if options.quick else "clustering"
    models = packaged_models()
    embedder, sets = StoringEmbedder(models), dict[str, Any]()
    for name, selection in chosen.items():
        coded = [prepared(task, embedder) for task in tasks_of(name, scorers, selection) if task.queries]
        if coded:
            sets[name] = of_set(coded, name)
            # each time: a run that is stopped keeps what it has measured
            path = write_result(file, {"load_before": load_before, "sets": sets})
    models.embedder.close()
    show(sets)
    out.print(str(path))


if __name__ == "__main__":
    main()

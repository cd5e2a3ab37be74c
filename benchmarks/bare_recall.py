"""How long do the bare calls take: embed, FAISS (float16), tantivy (BM25), without HTTP or database?

In a process of its own, which recall_latency starts and asks over a pipe; FOLDER holds vectors.npy and texts.json.

    python -m benchmarks.bare_recall FOLDER
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import faiss  # before torch, as in the service
import numpy as np
import tantivy

from benchmarks.machine import ROOT
from benchmarks.service import MODELS
from memory.adapters.lexical.analysis import Analyzer

BEST = 200
"""What each of the bare calls returns; the service ranks as many."""


class Bare:
    """The bare calls, in a process of their own, asked over a pipe; it measures itself."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._answer()

    def ask(self, text: str) -> dict[str, dict[str, float]]:
        """Milliseconds of each call, by number of threads."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(text) + "\n")
        self._process.stdin.flush()
        found: dict[str, dict[str, float]] = self._answer()
        return found

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the process of the bare calls ended; its error is above")
        return json.loads(line)


@contextmanager
def bare_calls(folder: Path) -> Iterator[Bare]:
    """Ended by its id."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.bare_recall", str(folder)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Bare(process)
    finally:
        process.kill()
        process.communicate()


def serve_bare(folder: Path) -> None:
    """Answers each question on stdin with the milliseconds of each call, on stdout."""
    from model_runtime.embedders import embedder

    model = embedder.load("minilm", embedder.Precision.AUTO, MODELS)
    model.prepare_thread()  # one core, as the service embeds a question
    search_vectors, search_words = _faiss(folder), _tantivy(folder)
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        text = json.loads(line)
        answer = {}
        for threads in sorted({1, os.cpu_count() or 1}):
            begun = time.perf_counter()
            vector = model.embed([text])
            embedded = time.perf_counter()
            search_vectors(vector, threads)
            near = time.perf_counter()
            search_words(text)
            end = time.perf_counter()
            parts = {"embed": embedded - begun, "vectors": near - embedded, "words": end - near}
            answer[str(threads)] = {name: 1_000 * seconds for name, seconds in parts.items()}
        print(json.dumps(answer), flush=True)


def _faiss(folder: Path) -> Callable[[Any, int], object]:
    vectors = np.load(folder / "vectors.npy").astype(np.float32)
    index = faiss.IndexScalarQuantizer(vectors.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    index.add(vectors)

    def search(vector: Any, threads: int) -> object:
        faiss.omp_set_num_threads(threads)
        return index.search(vector, BEST)

    return search


def _tantivy(folder: Path) -> Callable[[str], object]:
    """With the service's own terms (no stop words): with tantivy's default analysis the bare search is slower."""
    analyzer = Analyzer()
    builder = tantivy.SchemaBuilder().add_unsigned_field("item", stored=False, indexed=True, fast=True)
    schema = builder.add_text_field("words", tokenizer_name="whitespace", index_option="freq").build()
    index = tantivy.Index(schema)
    writer = index.writer(50_000_000, 1)
    for item, text in enumerate(json.loads((folder / "texts.json").read_text("utf-8"))):
        made = tantivy.Document()
        made.add_unsigned("item", item)
        made.add_text("words", " ".join(analyzer.terms(text)))
        writer.add_document(made)
    writer.commit()
    writer.wait_merging_threads()
    index.reload()
    searcher = index.searcher()

    def search(text: str) -> object:
        terms = [
            (tantivy.Occur.Should, tantivy.Query.term_query(schema, "words", term, index_option="freq"))
            for term in dict.fromkeys(analyzer.terms(text))
        ]
        hits = searcher.search(tantivy.Query.boolean_query(terms), BEST, count=False).hits
        return searcher.fast_field_values("item", [address for _, address in hits])

    return search


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bare_recall", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="with vectors.npy and texts.json")
    serve_bare(parser.parse_args(arguments).folder)


if __name__ == "__main__":
    main()

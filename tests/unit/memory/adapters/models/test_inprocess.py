import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from memory.adapters.models.inprocess import InProcessEmbedder, load_models
from memory.domain.errors import EmbedderUnavailable
from memory.ports.models import QUERY_TEXTS, Vectors
from model_runtime.embedders.embedder import Batch


class SlowModel:
    """A model whose batches wait until they are let go."""

    space, dimensions, device = "slow:2", 2, "cpu"

    def prepare_thread(self) -> None:
        pass

    def __init__(self) -> None:
        self.go = threading.Event()
        self.batch_began = threading.Event()
        self.threads: set[str] = set()
        self.error: Exception | None = None

    def plan(self, texts: Sequence[str]) -> list[Batch]:
        return [Batch([i], [[len(text)]]) for i, text in reversed(list(enumerate(texts)))]

    def run(self, batch: Batch) -> Vectors:
        self.threads.add(threading.current_thread().name)
        self.batch_began.set()
        assert self.go.wait(10)
        if self.error:
            raise self.error
        return np.array([[batch.ids[0][0], 0]], np.float32)

    def embed(self, texts: Sequence[str]) -> Vectors:
        if self.error:
            raise self.error
        return np.array([[len(text), 1] for text in texts], np.float32)


@pytest.fixture
def model() -> SlowModel:
    return SlowModel()


@pytest.fixture
def embedder(model: SlowModel) -> Iterator[InProcessEmbedder]:
    embedder = InProcessEmbedder(model, ingest_threads=1)  # type: ignore[arg-type]
    yield embedder
    model.go.set()
    embedder.close()


MANY = ["x" * n for n in range(QUERY_TEXTS + 4)]


async def test_a_query_is_answered_while_an_ingest_is_running(model: SlowModel, embedder: InProcessEmbedder) -> None:
    ingest = asyncio.create_task(embedder.embed(MANY))
    await asyncio.to_thread(model.batch_began.wait, 10)

    assert (await asyncio.wait_for(embedder.embed(["query"]), 5)).tolist() == [[5, 1]]
    assert not ingest.done()
    model.go.set()
    assert (await ingest)[:, 0].tolist() == [len(text) for text in MANY]


async def test_batches_run_off_the_event_loop(model: SlowModel, embedder: InProcessEmbedder) -> None:
    model.go.set()
    await embedder.embed(MANY)

    assert threading.current_thread().name not in model.threads
    assert all(name.startswith("embed-ingest") for name in model.threads)


async def test_an_ingest_gives_way_before_each_batch_a_query_never(model: SlowModel) -> None:
    gave_way: list[str] = []
    embedder = InProcessEmbedder(model, lambda: gave_way.append(threading.current_thread().name))  # type: ignore[arg-type]
    model.go.set()
    await embedder.embed(["query"])
    assert not gave_way
    await embedder.embed(MANY)
    embedder.close()

    assert len(gave_way) == len(MANY)
    assert all(name.startswith("embed-ingest") for name in gave_way)


@pytest.mark.parametrize("texts", [["query"], MANY])
@pytest.mark.parametrize("error", [RuntimeError("CUDA out of memory"), OSError("no such device"), MemoryError()])
async def test_an_error_of_torch_is_a_retryable_one(
    model: SlowModel, embedder: InProcessEmbedder, error: Exception, texts: list[str]
) -> None:
    model.go.set()
    model.error = error

    with pytest.raises(EmbedderUnavailable) as caught:
        await embedder.embed(texts)
    assert caught.value.__cause__ is error


async def test_a_closed_embedder_says_so(model: SlowModel, embedder: InProcessEmbedder) -> None:
    embedder.close()

    with pytest.raises(EmbedderUnavailable, match="closed"):
        await embedder.embed(["query"])


async def test_closing_ends_a_waiting_ingest_with_an_error(model: SlowModel, embedder: InProcessEmbedder) -> None:
    ingest = asyncio.create_task(embedder.embed(MANY))
    await asyncio.to_thread(model.batch_began.wait, 10)
    closing = asyncio.create_task(asyncio.to_thread(embedder.close))
    await asyncio.sleep(0.05)
    model.go.set()
    await closing

    with pytest.raises(EmbedderUnavailable, match="closed"):
        await ingest


async def test_a_cancelled_ingest_leaves_no_batches_behind(model: SlowModel, embedder: InProcessEmbedder) -> None:
    ingest = asyncio.create_task(embedder.embed(MANY))
    await asyncio.to_thread(model.batch_began.wait, 10)
    ingest.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ingest
    model.go.set()

    assert (await embedder.embed(MANY)).shape == (len(MANY), 2)


@pytest.mark.parametrize("name", ["/no/such/folder", "no such/model at all", "stratamem-tests/absent"])
def test_a_model_that_is_not_there_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    with pytest.raises(EmbedderUnavailable, match=name):
        load_models(name)


def test_the_packaged_model_loads_offline_in_silence_with_both_faces() -> None:
    script = (
        "import sys; from memory.adapters.models.inprocess import load_models; assert 'torch' not in sys.modules\n"
        "m = load_models('minilm'); print(m.embedder.dimensions, m.tokenizer.count(['hello world']))\n"
        "m.embedder.close()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["384", "[2]"]
    assert done.stderr == ""


def test_the_tokenizer_does_without_torch() -> None:
    script = (
        "import sys; from model_runtime.embedders.tokenizer import load; load('minilm').count(['x'])\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)

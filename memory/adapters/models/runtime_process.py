"""What does a process of its own serve, when it is the model runtime?"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memory.adapters.models.generation import open_local
from memory.adapters.models.settings import GenerationSettings
from memory.adapters.node_folders import FolderInUse, clear, clear_abandoned, held
from memory.domain.errors import EmbedderUnavailable, GeneratorUnavailable
from memory.ports.models import QUERY_TEXTS
from model_runtime.embedders.precision import Precision

if TYPE_CHECKING:
    from fastapi import FastAPI

    from model_runtime.embedders.lanes import Lanes


@asynccontextmanager
async def runtime_app(
    model: str | None,
    embedder: str,
    precision: Precision,
    exports: Path,
    folder: Path,
    settings: GenerationSettings,
    key: str | None,
    metrics: Callable[[dict[str, Any] | None], bytes],
    middleware: Sequence[Any],
) -> AsyncIterator["FastAPI"]:
    """Loads the models and gives the application that serves them; leaving the block closes what it opened.

    `exports`: where what int8 needs is kept.
    `folder`: of its KV, below a data folder's `kv`. KV that other processes left beside it goes now and with every
    purge; their indexes wait for an API, which hears of the purges before it confirms one.
    `metrics`: makes Prometheus' text of what the runtime counts. Raises GeneratorUnavailable, EmbedderUnavailable.
    """
    from model_runtime.server import Served, create_app

    async with AsyncExitStack() as stack:
        try:
            await asyncio.to_thread(stack.enter_context, held(folder))
        except FolderInUse as error:
            raise GeneratorUnavailable(
                f"another runtime keeps its KV in {folder}: give each its own data folder (--data-dir)"
            ) from error

        def clear_others() -> None:
            clear_abandoned(folder.parent.parent, kinds=("kv",))

        await asyncio.to_thread(clear_others)
        runtime = None
        if model is None:  # no purge would find the KV of a model that is not served any more
            await asyncio.to_thread(clear, folder)
        else:
            runtime = await asyncio.to_thread(open_local, model, folder, settings)
            stack.push_async_callback(asyncio.to_thread, runtime.close)
        lanes, tokenizer = await asyncio.to_thread(_embedder, embedder, precision, exports)
        stack.push_async_callback(asyncio.to_thread, lanes.close)
        counted = (lambda: metrics(None)) if runtime is None else (lambda: metrics(runtime.stats()))
        yield create_app(Served(runtime, lanes, tokenizer, key, counted, clear_others), middleware)


def _embedder(name: str, precision: Precision, exports: Path) -> "tuple[Lanes, str]":
    """The embedder, and the text of its tokenizer.json."""
    from model_runtime.embedders import embedder
    from model_runtime.embedders.folder import UnusableModel, find
    from model_runtime.embedders.lanes import Lanes

    try:
        tokenizer = find(name).tokenizer_file().read_text(encoding="utf-8")
        return Lanes(embedder.load(name, precision, exports), QUERY_TEXTS), tokenizer
    except (UnusableModel, OSError, ImportError) as error:
        raise EmbedderUnavailable(f"The embedder {name!r} can't be loaded: {error}", embedder=name) from error

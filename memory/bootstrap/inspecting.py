"""What does it take to look for traces? The database, the data folder, and for other forms of a text the models."""

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack

from memory.adapters.models.inprocess import load_models
from memory.adapters.models.tokens import ids_within
from memory.adapters.receipts.ed25519 import is_signed
from memory.adapters.traces import caches, files, forms
from memory.bootstrap.purging import operator
from memory.domain.errors import NotFound
from memory.domain.traces import Look, Marks
from memory.ports.models import Vectors
from memory.settings import Settings


async def of_texts(settings: Settings, texts: Sequence[str], *, models: bool) -> list[Look]:
    """Every file of the data folder and every table. `models`: whether to look for vectors and token ids as well.

    Raises StorageUnavailable, EmbedderUnavailable, GeneratorUnavailable.
    """
    wanted = await _marks(settings, texts, models=models)
    async with operator(settings) as reached:
        tables = await reached.storage.traces(wanted)
    return tables + await asyncio.to_thread(files.looks, settings.data_dir.resolve(), wanted)


async def of_receipt(settings: Settings, receipt_id: str) -> list[Look]:
    """Its signature and the chain, then by their keys all that it says is gone. Raises NotFound."""
    async with operator(settings) as reached:
        receipt = await reached.receipts.find(receipt_id)
        if receipt is None:
            raise NotFound(f"there is no receipt '{receipt_id}'")
        wrong = () if is_signed(receipt) else ("the signature is wrong",)
        ours = "this folder's" if receipt.public_key == await reached.receipts.public_key() else "another"
        found = [
            Look("signature", f"of the key {receipt.public_key} ({ours})", wrong),
            Look("chain", "all receipts of the database", tuple(await reached.receipts.problems())),
            *await reached.storage.left_of(receipt),
        ]
        standing = any(view.tenant.tenant_id == receipt.tenant_id for view in await reached.tenants.page(limit=100_000))
    data = settings.data_dir.resolve()
    return found + await asyncio.to_thread(caches.looks, data, receipt, tenant_is_there=standing)


async def _marks(settings: Settings, texts: Sequence[str], *, models: bool) -> list[Marks]:
    if not models:
        return [forms.marks(text) for text in texts]
    vectors = await _vectors(settings, texts)
    model = None if settings.engine_elsewhere else settings.model
    tokens = [await asyncio.to_thread(ids_within, model, text) for text in texts]
    return [forms.marks(*each) for each in zip(texts, vectors, tokens, strict=True)]


async def _vectors(settings: Settings, texts: Sequence[str]) -> list[Vectors]:
    with ExitStack() as stack:
        loaded = await asyncio.to_thread(
            load_models, settings.embedder, precision=settings.embedder_precision, exports=settings.exports_dir
        )
        stack.callback(loaded.embedder.close)
        return [await loaded.embedder.embed([text]) for text in texts]

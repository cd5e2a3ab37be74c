"""A real container over SQLite in a folder of its own, with quick stand-ins for the models; jobs are run by hand."""

import shutil
from dataclasses import dataclass

import pytest

from memory.bootstrap import Container, build
from memory.domain.events import EventVisibility, NewEvent, Role
from memory.domain.operations import UNFINISHED
from memory.domain.principals import Principal
from memory.settings import Settings
from memory.testing import WordHashEmbedder, WordTokenizer


@dataclass
class Models:
    embedder: WordHashEmbedder
    tokenizer: WordTokenizer


@pytest.fixture
def models():
    return Models(WordHashEmbedder(), WordTokenizer())


@pytest.fixture
def settings(tmp_path, _migrated_sqlite):
    shutil.copy(_migrated_sqlite, tmp_path / "stratamem.db")  # else a third of a test is the schema's history
    return Settings(_env_file=None, data_dir=tmp_path)


@pytest.fixture
async def container(settings, models):
    async with build(settings, models=models) as opened:
        yield opened


ME = Principal("default")


async def say(container: Container, session_id: str, *texts: str, by: Principal = ME, private=False, role=Role.USER):
    """Appends one event a text; `"ann: …"` names the author."""
    visibility = EventVisibility.PRIVATE if private else EventVisibility.SESSION
    events = []
    for text in texts:
        author, colon, rest = text.partition(": ")
        known = (author, rest) if colon and " " not in author else (None, text)
        events.append(NewEvent(role, known[1], agent_id=known[0], visibility=visibility))
    return await container.events.append(by, session_id, events)


async def work(container: Container, tenant_id: str = "default") -> None:
    """Does all that the workers would do."""
    steps = container.consolidation
    for _ in range(20):
        async with container.storage.read() as tx:
            left = await tx.operations.page(tenant_id, states=UNFINISHED, after_id=None, limit=100)
        if not left:
            return
        for operation in left:
            for step in (steps.consolidate, steps.embed, steps.evict):
                await step(operation.operation_id)
    raise AssertionError(f"there is always something left to do: {left}")

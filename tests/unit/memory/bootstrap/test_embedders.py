import shutil
from contextlib import AsyncExitStack

import pytest

from memory.adapters.clock import SystemClock
from memory.bootstrap import embedders
from memory.services.traffic import Traffic
from memory.settings import Settings
from tests.embedders import small_embedder
from tests.services import NOW, TENANT


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("embedders")
    return small_embedder(folder / "old", 32), small_embedder(folder / "new", 48)


@pytest.fixture
async def opened(storage, folders, tmp_path):
    """Loads as a process does that starts with this model; a tenant is served in the first one's space."""
    options = {"data_dir": tmp_path, "models_dir": folders[0].parent / "exports", "embedder_precision": "float32"}
    async with AsyncExitStack() as stack:

        async def start(folder):
            settings = Settings(_env_file=None, embedder=str(folder), **options)
            models = await embedders.configured(stack, settings, Traffic(), storage, SystemClock())
            async with storage.write() as tx:
                await tx.tenants.secret(TENANT, NOW)
                await tx.spaces.begin(TENANT, models.embedder.space)
            return models, await embedders.former(stack, settings, Traffic(), storage, models)

        yield start


async def test_the_model_that_tenants_are_still_served_by_is_loaded_too(opened, folders):
    old, former = await opened(folders[0])
    assert former == {}
    new, former = await opened(folders[1])
    assert list(former) == [old.embedder.space]
    kept = former[old.embedder.space]
    assert (kept.embedder.dimensions, new.embedder.dimensions) == (32, 48)
    assert (await kept.embedder.embed(["a text"])).tolist() == (await old.embedder.embed(["a text"])).tolist()


async def test_a_model_that_is_gone_or_has_other_weights_is_left_out(opened, folders, tmp_path):
    moved = tmp_path / "old"
    shutil.copytree(folders[0], moved)
    await opened(moved)
    shutil.rmtree(moved)
    assert (await opened(folders[1]))[1] == {}
    shutil.copytree(folders[1], moved)
    assert (await opened(folders[1]))[1] == {}

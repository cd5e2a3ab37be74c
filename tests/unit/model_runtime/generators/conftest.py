import pytest

from model_runtime.generators.checkpoint import load
from model_runtime.generators.runtime import Runtime, RuntimeOptions
from tests.unit.model_runtime.generators.asking import MIB


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    return load("fixture", cache_dir=tmp_path_factory.mktemp("models"))


@pytest.fixture
def started(checkpoint, tmp_path):
    opened = []

    def start(*, device=64, host=64, disk=256, **others):
        folder = tmp_path / "kv"
        folder.mkdir(exist_ok=True)
        options = RuntimeOptions("fixture", folder, device * MIB, host * MIB, disk * MIB, threads=1, **others)
        opened.append(Runtime(options, checkpoint))
        return opened[-1]

    yield start
    for runtime in opened:
        runtime.close()

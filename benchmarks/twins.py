"""On which models is fidelity measured? The hand-wired recall model, and others with the same function.

The outliers make the keys hard to quantise, the thin margin makes small errors decide, and the deep twin has the two
layers in the middle of six: the codec INT4 keeps the two layers at each end in INT8.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from model_runtime.generators.checkpoint import Checkpoint, load
from model_runtime.generators.fixture import write_fixture
from model_runtime.generators.runtime import Runtime, RuntimeOptions

_DEPTH, _FIRST = 6, 2
_MARGIN = 24.0


@dataclass(frozen=True, slots=True)
class Twin:
    """`margin` and `outliers` as in `write_fixture`. `longest`: tokens up to which it is measured by default."""

    margin: float = _MARGIN
    outliers: float = 1.0
    deep: bool = False
    longest: int = 32_768

    @property
    def codecs(self) -> tuple[str, ...]:
        """INT4 keeps a model of two layers as INT8 does."""
        return ("int8", "int4") if self.deep else ("int8",)

    def load(self, folder: Path) -> Checkpoint:
        written = write_fixture(folder / "model", margin=self.margin, outliers=self.outliers)
        if self.deep:
            deepen(written)
        return load(str(written), cache_dir=folder)


TWINS = {
    "hand-wired": Twin(longest=131_072),
    "outliers": Twin(outliers=50.0),
    "thin margin": Twin(margin=6.0, longest=8_192),
    "deep": Twin(deep=True, longest=8_192),
    "deep, outliers": Twin(outliers=50.0, deep=True, longest=8_192),
}
"""At 8,192 tokens the thin margin knows four keys in five; at 2,048 all."""


def deepen(folder: Path) -> None:
    """In place: layers that add nothing before and behind the two that work."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config["num_hidden_layers"] = _DEPTH
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    weights = load_file(folder / "model.safetensors")
    layers = [{}, {}]  # type: list[dict[str, np.ndarray]]
    for name in [name for name in weights if name.startswith("model.layers.")]:
        _, _, layer, rest = name.split(".", 3)
        layers[int(layer)][rest] = weights.pop(name)
    idle = {name: np.zeros_like(values) for name, values in layers[0].items()}
    for place in range(_DEPTH):
        works = _FIRST <= place < _FIRST + len(layers)
        own = layers[place - _FIRST] if works else idle
        weights |= {f"model.layers.{place}.{name}": values for name, values in own.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@contextmanager
def opened(options: RuntimeOptions, checkpoint: Checkpoint) -> Iterator[Runtime]:
    runtime = Runtime(options, checkpoint)
    try:
        yield runtime
    finally:
        runtime.close()

"""A thousand tokens of segments as one latent vector of indices: the VQ-VAE of the model runtime, as a codec."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from memory.ports.codecs import GoesOn
from memory.ports.models import Vectors

if TYPE_CHECKING:
    from model_runtime.codecs.vqvae import VQVAE


@dataclass(frozen=True, slots=True)
class LearnedCodec:
    """Shape: as `model_runtime.codecs.vqvae.Shape`; a latent takes groups · stages bytes."""

    name: str = "vqvae"
    least: int = 1_024
    segments: int = 32
    latent: int = 128
    groups: int = 32
    stages: int = 2
    width: int = 48
    steps: int = 2_000

    def learn(self, stretches: Sequence[Vectors], goes_on: GoesOn) -> bytes:
        from model_runtime.codecs.vqvae import VQVAE, Shape

        vectors = np.ascontiguousarray(np.concatenate(stretches), np.float32)
        shape = Shape(vectors.shape[1], self.segments, self.latent, self.groups, self.stages, self.width)
        return VQVAE.trained(shape, vectors, goes_on, steps=self.steps).saved()

    def load(self, body: bytes, dimensions: int) -> "_Learned":
        from model_runtime.codecs.vqvae import VQVAE

        model = VQVAE.loaded(body)
        if model.shape.dimensions != dimensions:
            raise ValueError("a VQ-VAE for other dimensions")
        return _Learned(model)


class _Learned:
    def __init__(self, model: "VQVAE") -> None:
        self._model = model

    def encode(self, stretch: Vectors) -> bytes:
        return self._model.encode(stretch)

    def decode(self, payload: bytes, count: int) -> Vectors:
        return self._model.decode(payload, count)

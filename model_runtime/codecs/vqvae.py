"""How do the vectors of some consecutive segments become one latent vector of codebook indices? A VQ-VAE.

After van den Oord et al. 2017. An encoder makes one latent of up to `segments` vectors; each group of its numbers is
replaced by the nearest entry of that group's codebook, `stages` times on what is left over (as SoundStream, Zeghidour
et al. 2021); a decoder gives the vectors back. Trained from scratch on the vectors themselves: small, on one thread.
Weights are safetensors in half precision; what was rounded is what encodes.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

Floats = NDArray[np.float32]
_ENTRIES = 256
_BATCH = 64
_WARM_UP = 0.2
"""Share of the steps that an autoencoder without codebooks takes: their first entries are then latents of worth."""
_REVIVE_EVERY = 50
_COMMITMENT = 0.25
_RATE = 2e-3
_SEED = 1234


@dataclass(frozen=True, slots=True)
class Shape:
    """`latent` numbers in `groups`; bytes of a latent: groups · stages. `width`: numbers a segment has inside."""

    dimensions: int
    segments: int = 32
    latent: int = 128
    groups: int = 32
    stages: int = 2
    width: int = 48
    hidden: int = 256

    @property
    def size(self) -> int:
        return self.groups * self.stages


class VQVAE:
    """Weights [out, in] by name. Threads may encode and decode beside each other; training belongs to one."""

    def __init__(self, shape: Shape, weights: "dict[str, torch.Tensor]") -> None:
        self.shape = shape
        self._weights = weights

    @classmethod
    def trained(cls, shape: Shape, vectors: Floats, goes_on: Callable[[float], bool], *, steps: int = 2_000) -> "VQVAE":
        """`vectors`: float32 [n, d] in the order of their log. `goes_on`: told the share done; False ends it."""
        import torch

        with _one_thread():
            model = cls(shape, _new_weights(shape))
            _Training(model, torch.from_numpy(vectors), steps).run(goes_on)
            return cls.loaded(model.saved())

    @classmethod
    def loaded(cls, data: bytes) -> "VQVAE":
        """Raises ValueError."""
        import torch
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            tensors = load(data)
            shape = Shape(*(int(number) for number in tensors.pop("shape")))
        except (SafetensorError, KeyError, TypeError) as error:
            raise ValueError(f"not a VQ-VAE: {error}") from error
        wanted = {name: tensor.shape for name, tensor in _new_weights(shape).items()}
        if {name: tensor.shape for name, tensor in tensors.items()} != wanted:
            raise ValueError("another VQ-VAE")
        return cls(shape, {name: tensor.to(torch.float32) for name, tensor in tensors.items()})

    def saved(self) -> bytes:
        import torch
        from safetensors.torch import save

        halves = {name: tensor.detach().to(torch.float16).contiguous() for name, tensor in self._weights.items()}
        return save({**halves, "shape": torch.tensor(list(asdict(self.shape).values()), dtype=torch.int32)})

    def encode(self, vectors: Floats) -> bytes:
        """`size` bytes for each `segments` vectors that were begun."""
        import torch

        with torch.no_grad(), _one_thread():
            batch = _padded(torch.from_numpy(vectors), self.shape.segments)
            indices, _ = self.quantise(self.latent(batch))
        return indices.to(torch.uint8).numpy().tobytes()

    def decode(self, data: bytes, count: int) -> Floats:
        """float32 [count, d]. Raises ValueError."""
        import torch

        shape = self.shape
        latents = -(-count // shape.segments)
        indices = np.frombuffer(data, np.uint8).reshape(latents, shape.stages, shape.groups).astype(np.int64)
        with torch.no_grad(), _one_thread():
            found = self.vectors(self._entries(torch.from_numpy(indices)).sum(1))
        return np.asarray(found.reshape(-1, shape.dimensions)[:count].numpy(), np.float32)

    def latent(self, batch: "torch.Tensor") -> "torch.Tensor":
        """[b, segments, d] → [b, groups, latent / groups]"""
        from torch.nn.functional import gelu, linear

        w = self._weights
        inside = linear(batch - w["mean"], w["down"]).flatten(1)
        latent = linear(inside, w["linear"]) + linear(gelu(linear(inside, w["enter"])), w["narrow"])
        return latent.reshape(len(latent), self.shape.groups, -1)

    def vectors(self, latent: "torch.Tensor") -> "torch.Tensor":
        """[b, groups, latent / groups] → [b, segments, d]"""
        from torch.nn.functional import gelu, linear

        w = self._weights
        flat = latent.flatten(1)
        inside = linear(flat, w["back"]) + linear(gelu(linear(flat, w["widen"])), w["leave"])
        return linear(inside.reshape(len(inside), self.shape.segments, -1), w["up"]) + w["mean"]

    def quantise(self, latent: "torch.Tensor") -> "tuple[torch.Tensor, torch.Tensor]":
        """indices [b, stages, groups] and the entries' sum [b, groups, latent / groups]."""
        import torch

        left, chosen, total = latent.detach(), [], torch.zeros_like(latent)
        for entries in self._weights["entries"]:
            nearest = torch.cdist(left.transpose(0, 1), entries.detach()).argmin(2).T
            found = entries[torch.arange(self.shape.groups), nearest]
            left, total = left - found.detach(), total + found
            chosen.append(nearest)
        return torch.stack(chosen, 1), total

    def _entries(self, indices: "torch.Tensor") -> "torch.Tensor":
        """[b, stages, groups] → [b, stages, groups, latent / groups]"""
        import torch

        stages, groups = torch.arange(self.shape.stages)[:, None], torch.arange(self.shape.groups)
        return self._weights["entries"][stages, groups, indices]


class _Training:
    def __init__(self, model: VQVAE, vectors: "torch.Tensor", steps: int) -> None:
        import torch

        self._model = model
        self._weights: dict[str, torch.Tensor] = model._weights
        self._vectors = _padded(vectors, model.shape.segments).flatten(0, 1)
        self._steps = steps
        self._draw = torch.Generator().manual_seed(_SEED)
        self._weights["mean"] = vectors.mean(0)
        self._used = torch.zeros(model.shape.stages, model.shape.groups, _ENTRIES, dtype=torch.bool)

    def run(self, goes_on: Callable[[float], bool]) -> None:
        import torch

        learned = [tensor.requires_grad_() for name, tensor in self._weights.items() if name != "mean"]
        optimiser = torch.optim.Adam(learned, lr=_RATE)
        warm = int(self._steps * _WARM_UP)
        for step in range(self._steps):
            if not step % _REVIVE_EVERY:
                if not goes_on(step / self._steps):
                    break
                self._revive(step >= warm)
            for group in optimiser.param_groups:
                group["lr"] = _RATE * (1 - step / self._steps) + _RATE / 50
            loss = self._loss(self._batch(), step >= warm)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call] # torch's own
            optimiser.step()
        for tensor in learned:
            tensor.requires_grad_(False)

    def _loss(self, batch: "torch.Tensor", quantised: bool) -> "torch.Tensor":
        latent = self._model.latent(batch)
        used, commitment = latent, latent.new_zeros(())
        if quantised:
            indices, entries = self._model.quantise(latent)
            self._mark(indices)
            used = latent + (entries - latent).detach()  # the decoder's gradient passes through to the encoder
            commitment = (entries - latent.detach()).square().mean()
            commitment = commitment + _COMMITMENT * (latent - entries.detach()).square().mean()
        found = self._model.vectors(used)
        there = batch.square().sum(2) > 0
        return (found - batch).square().sum(2)[there].mean() + commitment

    def _batch(self) -> "torch.Tensor":
        """Windows from anywhere in the log; a fifth of them end early, as the last of a session does."""
        import torch

        segments = self._model.shape.segments
        places = torch.randint(max(1, len(self._vectors) - segments + 1), (_BATCH,), generator=self._draw)
        window = torch.arange(segments)
        batch = self._vectors[places[:, None] + window]
        ends = torch.randint(1, segments + 1, (_BATCH // 5, 1), generator=self._draw)
        batch[: _BATCH // 5] *= (window < ends)[:, :, None]
        return batch

    def _mark(self, indices: "torch.Tensor") -> None:
        import torch

        stages, groups = torch.arange(self._model.shape.stages)[:, None], torch.arange(self._model.shape.groups)
        self._used[stages, groups, indices] = True

    def _revive(self, only_unused: bool) -> None:
        """Entries that nothing was near to begin again where latents lie: at the warm-up's end, all of them."""
        import torch

        with torch.no_grad():
            latents = torch.cat([self._model.latent(self._batch()) for _ in range(_ENTRIES // _BATCH)])
            left = latents.transpose(0, 1)
            for stage, entries in enumerate(self._weights["entries"]):
                unused = ~self._used[stage] if only_unused else torch.ones_like(self._used[stage])
                entries[unused] = left[unused]
                nearest = torch.cdist(left, entries).argmin(2)
                left = left - torch.take_along_dim(entries, nearest[:, :, None], 1)
        self._used[:] = not only_unused


def _new_weights(shape: Shape) -> "dict[str, torch.Tensor]":
    import torch

    generator = torch.Generator().manual_seed(_SEED)
    flat = shape.segments * shape.width

    def weight(out: int, into: int, scale: float = 1.0) -> torch.Tensor:
        drawn: torch.Tensor = torch.randn(out, into, generator=generator) * (scale / into**0.5)
        return drawn

    return {
        "mean": torch.zeros(shape.dimensions),
        "down": weight(shape.width, shape.dimensions),
        "linear": weight(shape.latent, flat),
        "enter": weight(shape.hidden, flat),
        "narrow": weight(shape.latent, shape.hidden, 0.1),
        "back": weight(flat, shape.latent),
        "widen": weight(shape.hidden, shape.latent),
        "leave": weight(flat, shape.hidden, 0.1),
        "up": weight(shape.dimensions, shape.width),
        "entries": torch.zeros(shape.stages, shape.groups, _ENTRIES, shape.latent // shape.groups),
    }


def _padded(vectors: "torch.Tensor", segments: int) -> "torch.Tensor":
    """[n, d] → [ceil(n / segments), segments, d]; zeros where there is none."""
    from torch.nn.functional import pad

    return pad(vectors, (0, 0, 0, -len(vectors) % segments)).reshape(-1, segments, vectors.shape[1])


@contextmanager
def _one_thread() -> Iterator[None]:
    """The sums of matrix products depend on the number of threads; codes must not."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)

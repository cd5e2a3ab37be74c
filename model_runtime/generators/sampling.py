"""Which token comes next?"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


_GREEDY = 1e-4
"""Below, a softmax would overflow."""


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """`temperature` 0 is greedy. `max_tokens`: of the answer. The same `seed` gives the same answer."""

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None


class Sampler:
    def __init__(self, options: SamplingOptions) -> None:
        import torch

        self._options = options
        self._drawing = torch.Generator()
        if options.seed is None:
            self._drawing.seed()
        else:
            self._drawing.manual_seed(options.seed % 2**63)

    def next(self, logits: "torch.Tensor") -> int:
        """`logits` [vocabulary]."""
        import torch

        if self._options.temperature < _GREEDY:
            return int(logits.argmax())
        chances = torch.softmax(logits.float().cpu() / self._options.temperature, -1)
        return int(torch.multinomial(self._nucleus(chances), 1, generator=self._drawing))

    def _nucleus(self, chances: "torch.Tensor") -> "torch.Tensor":
        """Without the least likely tokens beyond `top_p`; the likeliest always stays."""
        import torch

        if self._options.top_p >= 1:
            return chances
        ordered, places = chances.sort(descending=True)
        beyond = ordered.cumsum(-1) - ordered >= self._options.top_p
        beyond[0] = False
        return torch.zeros_like(chances).scatter(-1, places, ordered.masked_fill(beyond, 0.0))

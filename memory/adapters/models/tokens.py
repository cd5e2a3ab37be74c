"""Which tokens does the model that writes answers see in a text? Without loading the model."""

import tempfile
from pathlib import Path

from memory.domain.errors import GeneratorUnavailable


def ids_within(model: str | None, text: str) -> list[int]:
    """The ids that stand for it in the middle of another text: the first and the last may have joined their neighbours.

    None without a model of our own. Raises GeneratorUnavailable.
    """
    if model is None:
        return []
    from model_runtime.embedders.folder import UnusableModel
    from model_runtime.generators.checkpoint import token_ids

    with tempfile.TemporaryDirectory() as folder:  # the fixture is written somewhere first
        try:
            found = token_ids(model, Path(folder), text)
        except (UnusableModel, OSError, ImportError) as error:
            raise GeneratorUnavailable(f"the tokenizer of {model!r} can't be loaded: {error}") from error
    return found[1:-1]

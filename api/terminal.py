"""How does a command read its settings, print, and say in one line why it can't go on?"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from pydantic import ValidationError
from rich.console import Console

from api.start import StartError
from memory.settings import Settings

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

DataDir = Annotated[Path | None, typer.Option(help="Folder of the embedded database and the indexes.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def settings_of(**options: Any) -> Settings:
    """The environment's settings under what the command line says. Ends the process when they make no sense."""
    try:
        return Settings(**{name: value for name, value in options.items() if value is not None})
    except ValidationError as error:
        for wrong in error.errors(include_url=False, include_input=False):
            name = "STRATAMEM_" + "__".join(str(part) for part in wrong["loc"]).upper()
            err.print(f"{name}: {wrong['msg']}", markup=False)
        raise typer.Exit(1) from None


@contextmanager
def one_line_errors() -> Iterator[None]:
    try:
        yield
    except StartError as error:
        fail(str(error), error.exit_code)


def fail(message: str, exit_code: int) -> NoReturn:
    err.print(f"stratamem: {message}", markup=False, style="red")
    raise typer.Exit(exit_code)

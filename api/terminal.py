"""How does a command read its settings, print, and say in one line why it can't go on?"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

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


def table(*columns: str | Column) -> Table:
    return Table(*columns, box=None, pad_edge=False)


def number(name: str) -> Column:
    """Of a table: numbers stand below each other by their last digits."""
    return Column(name, justify="right", no_wrap=True)


def show(wanted: Table) -> None:
    """Cells are texts: what looks like markup in them is shown as it is. Long ones take more lines."""
    out.print(wanted, markup=False, soft_wrap=False)


def moment(when: datetime | str) -> str:
    """`when`: or as the API writes it."""
    when = datetime.fromisoformat(when) if isinstance(when, str) else when
    return when.strftime("%Y-%m-%d %H:%M UTC")


def progress(shown: bool = True) -> Progress:
    """A bar on standard error, where that is a terminal and somebody is to see it."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TimeRemainingColumn(),
        console=err,
        disable=not (shown and err.is_terminal),
        transient=True,
    )


def confirm(question: str, told: bool) -> None:
    """Ends the command unless somebody says yes; `told`: it was said on the command line."""
    if told:
        return
    try:
        typer.confirm(question, abort=True, err=True)
    except typer.Abort:
        err.print()
        fail("nothing was done: say yes, or --yes", 1)


def fail(message: str, exit_code: int) -> NoReturn:
    err.print(f"stratamem: {message}", markup=False, style="red")
    raise typer.Exit(exit_code)

"""`stratamem verify-purge`: is anything left of what was purged? Every store is looked at, one line each."""

import asyncio
import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from api.start import explained, prepare_data_folder
from api.terminal import AsJson, DataDir, fail, one_line_errors, out, settings_of
from memory.domain.traces import Look
from memory.settings import Settings


def verify_purge(
    receipt: Annotated[
        str | None, typer.Argument(help="A receipt_id: its signature, and that no key of what it names is left.")
    ] = None,
    marker: Annotated[
        list[str] | None, typer.Option(help="A text that must be in no file and no table; may be repeated.")
    ] = None,
    models: Annotated[
        bool, typer.Option("--models/--no-models", help="Load the models: look for vectors and token ids as well.")
    ] = True,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Look for traces of what was purged, in the database and in this machine's data folder. Exit code 1: found some.

    A text is looked for as UTF-8 (whatever its case), JSON, UTF-16 and UTF-32, as terms of the word index, as its
    vector and as token ids. Not looked at: other machines' folders, PostgreSQL's dead rows and log, backups.
    """
    if receipt is None and not marker:
        fail("say which receipt, or which --marker", 2)
    settings = settings_of(data_dir=data_dir)
    with one_line_errors():
        prepare_data_folder(settings)
        with explained():
            looks = asyncio.run(_look(settings, receipt, marker or [], models))
    if as_json:
        typer.echo(
            json.dumps({"clean": not any(look.found for look in looks), "stores": [asdict(look) for look in looks]})
        )
    else:
        _print(looks)
    if any(look.found for look in looks):
        raise typer.Exit(1)


async def _look(settings: Settings, receipt: str | None, markers: list[str], models: bool) -> list[Look]:
    from memory.bootstrap import inspecting

    found = [] if receipt is None else await inspecting.of_receipt(settings, receipt)
    return found + (await inspecting.of_texts(settings, markers, models=models) if markers else [])


def _print(looks: list[Look]) -> None:
    table = Table("store", "looked at", "found", box=None, pad_edge=False)
    for look in looks:
        table.add_row(look.store, look.looked_at, str(len(look.found) or "nothing"))
    out.print(table, markup=False)
    for trace in (trace for look in looks for trace in look.found):
        out.print(trace, markup=False)
    count = sum(len(look.found) for look in looks)
    out.print(f"{count} traces are left" if count else "nothing is left", markup=False)

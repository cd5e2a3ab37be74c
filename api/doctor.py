"""`stratamem doctor`: is everything there that the settings ask for, and if not, what is to be done?"""

import asyncio
import json
from dataclasses import asdict

import typer
from rich.markup import escape

from api.terminal import AsJson, DataDir, err, out, settings_of
from memory.settings import Settings

_BROKEN = "down"
_SIGNS = {"ok": "[green]ok    [/]", "degraded": "[yellow]look  [/]", _BROKEN: "[red]broken[/]"}


def doctor(as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """Check every dependency and say what to do. Changes nothing; ends with 1 when something is broken."""
    settings = settings_of(data_dir=data_dir)
    found = asyncio.run(_examined(settings, as_json))
    if as_json:
        typer.echo(json.dumps({"findings": found}))
    if any(one["state"] == _BROKEN for one in found):
        raise typer.Exit(1)


async def _examined(settings: Settings, quiet: bool) -> list[dict[str, object]]:
    from memory.bootstrap import checkup

    found = []
    with err.status("checking", spinner="dots") if not quiet else err.status(""):
        async for finding in checkup.checkup(settings):
            found.append(asdict(finding))
            if quiet:
                continue
            out.print(f"{_SIGNS[finding.state]} {finding.name:<16} {escape(finding.detail)}")
            if finding.remedy is not None:
                out.print(f"{'':<23} → {escape(finding.remedy)}")
    return found

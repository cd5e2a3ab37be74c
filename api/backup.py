"""`stratamem backup` and `stratamem restore`: save everything in one file while the service runs, and bring it back."""

import asyncio
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from api.start import explained
from api.terminal import AsJson, DataDir, confirm, fail, moment, one_line_errors, out, progress, settings_of
from api.version import VERSION

if TYPE_CHECKING:
    from memory.adapters.archive import Manifest, Told

_TERMINATED = 128 + signal.SIGTERM

File = Annotated[Path, typer.Argument(metavar="FILE", help="The backup, such as stratamem.tar.gz.", show_default=False)]


def backup(
    file: File,
    force: Annotated[bool, typer.Option("--force", help="Write over a file of that name.")] = False,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Save the database and the receipts in one file, as they are at one moment; the service may run.

    Indexes and KV are caches and not in it. What was said is in it as text: keep it where others can't read it.
    """
    from memory.bootstrap import backups

    settings = settings_of(data_dir=data_dir)
    with _told(as_json) as told:
        manifest = _done(backups.back_up(settings, file, VERSION, told, replace=force))
    _tell(manifest, f"saved in {file}", as_json)


def restore(
    file: File,
    force: Annotated[
        bool, typer.Option("--force", help="Let the database that is in the data folder give way, for good.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="With --force: don't ask.")] = False,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Bring a backup back, into an empty data folder or database, and its schema up to date. Stop the service first.

    What was purged after the backup was made is there again: purge it again.
    """
    from memory.bootstrap import backups

    settings = settings_of(data_dir=data_dir)
    if force:
        confirm(f"Everything in the database of {settings.data_dir.resolve()} will be gone. Go on?", yes)
    with _told(as_json) as told:
        manifest = _done(backups.restore(settings, file, told, replace=force))
    _tell(manifest, f"restored from {file}", as_json)
    if not as_json:
        out.print(f"what was purged after {moment(manifest.created_at)} is there again: purge it again", markup=False)


def _done(work: "Coroutine[Any, Any, Manifest]") -> "Manifest":
    from memory.adapters.archive import BackupRefused

    with one_line_errors(), explained():
        try:
            return asyncio.run(_stoppable(work))
        except BackupRefused as error:
            fail(str(error), 1)
        except asyncio.CancelledError:
            fail("stopped: what was there before is still there", _TERMINATED)


async def _stoppable(work: "Coroutine[Any, Any, Manifest]") -> "Manifest":
    """Cleans up when a supervisor ends the process, as for Ctrl-C."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await work


@contextmanager
def _told(quiet: bool) -> "Iterator[Told]":
    """A bar that shows what is done."""
    with progress(not quiet) as bar:
        task = bar.add_task("")

        def told(what: str, done: int, total: int | None) -> None:
            bar.update(task, description=what, completed=done, total=total)

        yield told


def _tell(manifest: "Manifest", what: str, as_json: bool) -> None:
    if as_json:
        typer.echo(manifest.model_dump_json())
        return
    parts = f"{len(manifest.parts) - 1} receipts" if len(manifest.parts) > 1 else "no receipts"
    size = f"{manifest.size / (1 << 20):,.1f} MiB"
    out.print(
        f"{what}: {manifest.database} of {moment(manifest.created_at)}, schema {manifest.revision}, {size}, {parts}",
        markup=False,
    )

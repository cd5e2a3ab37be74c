"""`stratamem append` and `stratamem sessions events`: say something into a session, read and follow its log."""

import json
import sys
import uuid
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import Annotated, BinaryIO

import typer
from rich.progress import Progress, TaskID

from api.remote import Agent, Json, Service, SessionId, Url, path_of
from api.terminal import AsJson, err, fail, moment, number, out, progress, show, table
from memory.domain.events import MAX_EVENTS_PER_APPEND, EventVisibility, Role

_BATCH_BYTES = 4 << 20
"""Of lines: a quarter of what one request may have, since JSON may write a character in three times its bytes."""
_MOST_LINE = 8 << 20


def append(
    session: SessionId,
    text: Annotated[
        str | None, typer.Argument(help="What is said; else standard input is read.", show_default=False)
    ] = None,
    role: Annotated[Role, typer.Option(help="Who says it, as models see it.")] = Role.USER,
    private: Annotated[bool, typer.Option("--private", help="For its agent alone.")] = False,
    file: Annotated[
        Path | None,
        typer.Option(help="Events as JSON, one a line, as the API takes them; - is standard input.", allow_dash=True),
    ] = None,
    as_json: AsJson = False,
    url: Url = None,
    agent: Agent = None,
) -> None:
    """Say something into a session, which is made when it is new: a text, standard input, or a file of events.

    Appending a file again changes nothing where its events have an event_id.
    """
    given: Json = {"role": role.value}
    if private:
        given["visibility"] = EventVisibility.PRIVATE.value
    if file is not None and text is not None:
        fail("a text or a file: not both", 2)
    with Service(url, agent) as service:
        if file is not None:
            _append_file(service, session, file, given, as_json)
            return
        answer = service.post(path_of("sessions", session, "events"), {"events": [given | {"content": _said(text)}]})
    _tell(answer, as_json)


def events(
    session: SessionId,
    after: Annotated[int | None, typer.Option(help="What came after this seq.", min=0, show_default=False)] = None,
    limit: Annotated[int, typer.Option(help="So many: the first after it, else the newest.", min=1)] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is said from now on.")] = False,
    as_json: AsJson = False,
    url: Url = None,
    agent: Agent = None,
) -> None:
    """Show a session's log, the newest events unless --after says where to begin; --follow stays for what comes."""
    path = path_of("sessions", session, "events")
    with Service(url, agent) as service:
        newest = {"order": "desc"} if after is None else {"after_seq": after}
        found = service.items(path, limit, **newest)
        shown = found.items if after is not None else found.items[::-1]
        if follow:
            _follow(service, f"{path}/stream", shown, after or 0, as_json)
            return
    if as_json:
        typer.echo(json.dumps({"items": shown, "more": found.more}))
        return
    listed = table(number("seq"), "at", "who", "what")
    for event in shown:
        listed.add_row(str(event["seq"]), moment(event["created_at"]), _who(event), _what(event))
    show(listed)


def _follow(service: Service, path: str, shown: list[Json], after: int, as_json: bool) -> None:
    """Line by line, until somebody has enough."""
    place = shown[-1]["seq"] if shown else after
    try:
        for event in chain(shown, service.follow(path, place)):
            if as_json:
                typer.echo(json.dumps(event))
            else:
                line = f"{event['seq']:>4}  {moment(event['created_at'])}  {_who(event)}: {_what(event)}"
                out.print(line, markup=False)
            sys.stdout.flush()
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


def _who(event: Json) -> str:
    private = ", private" if event["visibility"] == EventVisibility.PRIVATE else ""
    return f"{event['agent_id']} ({event['role']}{private})" if event["agent_id"] else f"{event['role']}{private}"


def _what(event: Json) -> str:
    return "(redacted)" if event.get("redacted") else str(event["content"])


def _said(text: str | None) -> str:
    if text is not None:
        return text
    if sys.stdin.isatty():
        err.print("say it, then Ctrl-D:", markup=False)
    try:
        return sys.stdin.buffer.read(_MOST_LINE).decode().rstrip("\r\n")
    except UnicodeDecodeError:
        fail("what comes in is no UTF-8", 1)


def _tell(answer: Json, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(answer))
        return
    first, last = answer["first_seq"], answer["last_seq"]
    place = f"event {first}" if first == last else f"events {first:,} to {last:,}"
    out.print(f"{place} of '{answer['session_id']}', {answer['token_count']:,} tokens", markup=False)


def _append_file(service: Service, session: str, file: Path, given: Json, as_json: bool) -> None:
    """Batch by batch, each of them whole or not at all."""
    path, done = path_of("sessions", session, "events"), 0
    try:
        opened = nullcontext(sys.stdin.buffer) if str(file) == "-" else file.open("rb")
        size = None if str(file) == "-" else file.stat().st_size
    except OSError as error:
        fail(f"{file}: {error.strerror}", 1)
    with opened as lines, progress(not as_json) as bar:
        task = bar.add_task("appending", total=size)
        for batch in _batches(lines, given, bar, task):
            bar.update(task, description=f"appending, {done:,} events are in")
            answer = service.post_once(path, {"events": batch}, uuid.uuid4().hex)
            done += len(batch)
            if as_json:
                typer.echo(json.dumps(answer))
    if not as_json:
        out.print(f"{done:,} events are appended to '{session}'", markup=False)


def _batches(lines: BinaryIO, given: Json, bar: Progress, task: TaskID) -> Iterator[list[Json]]:
    """At the end of each batch the bar has moved over what was sent."""
    batch: list[Json] = []
    size = number = 0
    while line := lines.readline(_MOST_LINE):
        number += 1
        if batch and (len(batch) == MAX_EVENTS_PER_APPEND or size + len(line) > _BATCH_BYTES):
            yield batch
            bar.advance(task, size)
            batch, size = [], 0
        size += len(line)
        if line.strip():
            batch.append(given | _event(line, number, number - 1 - len(batch)))
    if batch:
        yield batch
    bar.advance(task, size)


def _event(line: bytes, number: int, appended: int) -> Json:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError) as error:
        fail(f"line {number:,} is no JSON ({error}); {appended:,} lines before it are appended", 1)
    if not isinstance(event, dict):
        fail(f"line {number:,} is no JSON object; {appended:,} lines before it are appended", 1)
    return event

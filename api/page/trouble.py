"""Where is it said what went wrong with something that was asked for?"""

from collections.abc import Iterator
from contextlib import contextmanager

from nicegui import ui
from pydantic import ValidationError

from api.page.frame import fail
from memory.domain.errors import InvalidInput, StratamemError


class Trouble:
    """A place in a view. `watched`: what is raised within is shown there until the next one goes well."""

    def __init__(self) -> None:
        self._place = ui.element("div")

    @contextmanager
    def watched(self) -> Iterator[None]:
        self._place.clear()
        try:
            yield
        except StratamemError as error:
            self._show(error)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            self._show(InvalidInput(f"{'.'.join(map(str, first['loc'])) or 'input'}: {first['msg']}"))

    def _show(self, error: StratamemError) -> None:
        with self._place:
            fail(error)

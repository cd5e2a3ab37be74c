"""Why can't it start? What an operator can act on becomes one line and an exit code."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from memory.domain.errors import StratamemError
from memory.settings import Settings


class StartError(Exception):
    """The service can't start. The message is one line that says what to do."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def prepare_data_folder(settings: Settings) -> None:
    """Raises StartError when nothing can be written there."""
    folder = settings.data_dir.resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise StartError(
            f"can't write to the data folder {folder}: {error.strerror}; set STRATAMEM_DATA_DIR or --data-dir"
        ) from error


@contextmanager
def explained() -> Iterator[None]:
    """Around what opens the database or the container: raises StartError for what they say."""
    from sqlalchemy.exc import SQLAlchemyError  # here: commands that open no database do without it

    try:
        yield
    except StratamemError as error:
        raise StartError(error.detail) from error
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", None) or error).strip().splitlines() or [type(error).__name__]
        raise StartError(f"the database can't be used: {reason[0]}; check STRATAMEM_DATABASE_URL") from error
    except OSError as error:
        raise StartError(str(error)) from error

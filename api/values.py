"""What may a client send in one field? Types that endpoints' schemas are made of; each checks itself once."""

import json
import math
import re
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from api.errors import INVALID_TEXT, TOO_LARGE
from memory.domain.events import MAX_CONTENT_BYTES

MAX_METADATA_BYTES = 16 * 1_024
MAX_METADATA_DEPTH = 8
MAX_INT = 2**63 - 1
_DOUBLE_BITS = 1_023

CLIENT_ID_PATTERN = r"^[A-Za-z0-9._:\-]{1,128}$"

# All C0 control characters but tab, line feed and carriage return: PostgreSQL can't hold NUL, terminals obey the rest.
_CONTROLS = bytes(set(range(0x20)) - {0x09, 0x0A, 0x0D})
_UNSTORABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff]")
_COMPACT = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


class Body(BaseModel):
    """A request: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")


class Answer(BaseModel):
    """An answer, read from the attributes of a domain value."""

    model_config = ConfigDict(from_attributes=True)


def storable(text: str) -> bytes:
    """The text in UTF-8. Raises invalid_text for control characters and lone surrogates."""
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        raise _unstorable(text) from None
    if len(encoded.translate(None, _CONTROLS)) != len(encoded):
        raise _unstorable(text)
    return encoded


def _unstorable(text: str) -> PydanticCustomError:
    found = _UNSTORABLE.search(text)
    assert found is not None
    return PydanticCustomError(
        INVALID_TEXT,
        "character {position} is {character}: control characters (but tab, line feed, carriage return) and lone"
        " surrogates can't be stored",
        {"position": found.start(), "character": f"U+{ord(found[0]):04X}"},
    )


def _clean(text: str) -> str:
    storable(text)
    return text


def _sized(text: str) -> str:
    if len(storable(text)) > MAX_CONTENT_BYTES:
        raise PydanticCustomError(TOO_LARGE, "longer than 1 MiB of UTF-8")
    return text


def _content(text: str) -> str:
    _sized(text)
    if not text or text.isspace():
        raise PydanticCustomError("blank", "empty or only white space")
    return text


def check_json(value: Any, depth: int) -> None:
    """Raises for values that can't be stored and read again alike: bad text, NaN, infinities, too deep nesting."""
    match value:
        case str():
            storable(value)
        case float() if not math.isfinite(value):
            raise PydanticCustomError("finite_number", "NaN and infinities are not JSON")
        case bool() | float() | None:
            return
        case int() if value.bit_length() > _DOUBLE_BITS:
            raise PydanticCustomError("finite_number", "an integer that other JSON readers take for infinity")
        case dict() | list():
            if depth == 0:
                raise PydanticCustomError("too_deep", "nested too deeply")
            for key, part in value.items() if isinstance(value, dict) else enumerate(value):
                check_json(key, 0)
                check_json(part, depth - 1)


def _metadata(metadata: dict[str, Any]) -> dict[str, Any]:
    if not metadata:
        return metadata
    check_json(metadata, MAX_METADATA_DEPTH)
    if len(_COMPACT.encode(metadata).encode()) > MAX_METADATA_BYTES:
        raise PydanticCustomError("metadata_size", "more than 16 KiB of JSON")
    return metadata


def _written_date(value: Any) -> Any:
    if not isinstance(value, str) or not _DATE.match(value):
        raise PydanticCustomError("datetime_text", "not an RFC 3339 time such as 2026-03-31T12:00:00Z")
    return value


def _utc(moment: datetime) -> datetime:
    try:
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError:
        raise PydanticCustomError("datetime_range", "not within the years 1 to 9999 of UTC") from None


def parse_time(value: Any) -> datetime:
    """A time as clients write it, in UTC. Raises PydanticCustomError."""
    try:
        return _utc(datetime.fromisoformat(_written_date(value)))
    except ValueError:
        raise PydanticCustomError("datetime_text", "not an RFC 3339 time such as 2026-03-31T12:00:00Z") from None


ClientId = Annotated[str, Field(pattern=CLIENT_ID_PATTERN, examples=["session-1"])]
Text = Annotated[str, AfterValidator(_clean)]
Content = Annotated[
    str,
    AfterValidator(_content),
    Field(
        description="1 byte to 1 MiB of UTF-8, not only white space, without control characters but tab and line ends.",
        json_schema_extra={"minLength": 1, "maxLength": MAX_CONTENT_BYTES},
    ),
]
MaybeBlank = Annotated[str, AfterValidator(_sized)]
Name = Annotated[Text, Field(max_length=256)]
Reason = Annotated[Text, Field(max_length=1_024, description="Kept with the version, for whoever reads its history.")]
Title = Annotated[Text, Field(max_length=1_024)]
Metadata = Annotated[
    dict[str, Any],
    AfterValidator(_metadata),
    Field(description="JSON of at most 16 KiB and 8 levels; numbers are finite."),
]
Time = Annotated[
    datetime,
    BeforeValidator(_written_date),
    AfterValidator(_utc),
    Field(description="RFC 3339; without an offset it is taken as UTC."),
]
Flag = Annotated[bool, Field(strict=True)]
Count = Annotated[int, Field(strict=True, ge=0, le=MAX_INT)]
WindowTokens = Annotated[int, Field(strict=True, ge=1, le=100_000_000)]
MaxTokens = Annotated[int, Field(strict=True, ge=1, le=10_000_000)]


def absent(value: Any) -> bool:
    """For `exclude_if`: fields that an answer leaves out when there is nothing to say."""
    return value is None


def unsent() -> Any:
    """The default of a PATCH's field: what is not sent stays as it is, so its value here is never read."""
    return Field(default_factory=_nothing)


def _nothing() -> None:
    return None

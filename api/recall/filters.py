"""Conditions on what is recalled, as a tree of JSON.

`{"and": […]}`, `{"or": […]}`, `{"not": …}`, or `{"field", "op", "value"}`; at most 16 levels and 256 nodes.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from api.values import Body, check_json, parse_time, storable
from memory.domain.recall import AllOf, AnyOf, FieldTest, Filter, FilterOp, Not

MAX_DEPTH = 16
MAX_NODES = 256
_MAX_VALUE_DEPTH = 8
_COMPARISONS = frozenset({FilterOp.GT, FilterOp.GTE, FilterOp.LT, FilterOp.LTE})
_FIELD = re.compile(r"role|agent_id|kind|created_at|session_id|metadata(\.[^.]+)+")


def _field(name: str) -> str:
    storable(name)
    if not _FIELD.fullmatch(name):
        raise PydanticCustomError(
            "filter_field", "not a field: role, agent_id, kind, created_at, session_id or metadata.<path>"
        )
    return name


class FieldCondition(Body):
    """`created_at` is compared as a time; `exists` takes true (the default) or false."""

    field: Annotated[str, Field(max_length=256, examples=["metadata.topic"]), AfterValidator(_field)]
    op: FilterOp
    value: Any = None

    @model_validator(mode="after")
    def _fits(self) -> "FieldCondition":
        if "value" not in self.model_fields_set and self.op is not FilterOp.EXISTS:
            raise PydanticCustomError("filter_value", "`value` is missing; for what is not there use `exists`")
        check_json(self.value, _MAX_VALUE_DEPTH)
        match self.op:
            case FilterOp.EXISTS if self.value is not None and not isinstance(self.value, bool):
                raise PydanticCustomError("filter_value", "`exists` takes true or false")
            case FilterOp.IN if not isinstance(self.value, list) or len(self.value) > MAX_NODES:
                raise PydanticCustomError("filter_value", "`in` takes a list of at most 256 values")
            case FilterOp.CONTAINS if self.value is None or isinstance(self.value, dict | list):
                raise PydanticCustomError("filter_value", "`contains` takes one string, number or boolean")
        if self.op in _COMPARISONS and (isinstance(self.value, bool) or not isinstance(self.value, str | int | float)):
            raise PydanticCustomError("filter_value", "a comparison takes a string or a number")
        if self.field == "created_at":
            self.value = _seconds(self.op, self.value)
        return self

    def to_domain(self) -> Filter:
        return FieldTest(self.field, self.op, self.value)


def _seconds(op: FilterOp, value: Any) -> Any:
    """The tiers hold times as seconds since the epoch."""
    match op:
        case FilterOp.EXISTS:
            return value
        case FilterOp.CONTAINS:
            raise PydanticCustomError("filter_value", "`created_at` has no parts to contain")
        case FilterOp.IN:
            return [parse_time(moment).timestamp() for moment in value]
        case _:
            return parse_time(value).timestamp()


class AndCondition(Body):
    parts: Annotated[list["Condition"], Field(alias="and", min_length=1)]

    def to_domain(self) -> Filter:
        return AllOf(tuple(part.to_domain() for part in self.parts))


class OrCondition(Body):
    parts: Annotated[list["Condition"], Field(alias="or", min_length=1)]

    def to_domain(self) -> Filter:
        return AnyOf(tuple(part.to_domain() for part in self.parts))


class NotCondition(Body):
    part: Annotated["Condition", Field(alias="not")]

    def to_domain(self) -> Filter:
        return Not(self.part.to_domain())


def _shape(condition: Any) -> Literal["and", "or", "not", "field"]:
    if isinstance(condition, dict):
        for shape in ("and", "or", "not"):
            if shape in condition:
                return shape
    return "field"


Condition = Annotated[
    Annotated[AndCondition, Tag("and")]
    | Annotated[OrCondition, Tag("or")]
    | Annotated[NotCondition, Tag("not")]
    | Annotated[FieldCondition, Tag("field")],
    Discriminator(_shape),
]


def _bounded(root: Any) -> Any:
    """Counted before anything is built: a bomb is refused by its size."""
    level, nodes, depth = [root], 0, 0
    while level:
        nodes, depth = nodes + len(level), depth + 1
        if depth > MAX_DEPTH or nodes > MAX_NODES:
            raise PydanticCustomError("filter_size", "a filter has at most 16 levels and 256 conditions")
        level = [part for condition in level for part in _parts(condition)]
    return root


def _parts(condition: Any) -> list[Any]:
    if not isinstance(condition, dict):
        return []
    parts = [condition["not"]] if "not" in condition else []
    for shape in ("and", "or"):
        if isinstance(condition.get(shape), list):
            parts += condition[shape]
    return parts


BoundedFilter = Annotated[Condition, BeforeValidator(_bounded)]

"""Which rows meet a question's conditions? Each test of a filter becomes a mask over the catalogue's columns."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from memory.domain.principals import SHARED
from memory.domain.recall import FieldTest, FilterOp, evaluate
from memory.tiers.base import Conditions
from memory.tiers.longterm.catalogue import Catalogue, Mask, Rows
from memory.tiers.longterm.fields import Leaf

Leaves = Mapping[str, Leaf]
"""Of the fields that the catalogue does not hold: `metadata.…`, `session_id`."""

_ORDERS: dict[FilterOp, Callable[..., Mask]] = {
    FilterOp.GT: np.greater,
    FilterOp.GTE: np.greater_equal,
    FilterOp.LT: np.less,
    FilterOp.LTE: np.less_equal,
}


def is_plain(conditions: Conditions) -> bool:
    """Nothing is asked but that it be valid now."""
    return conditions == Conditions(now=conditions.now)


def matching(catalogue: Catalogue, rows: Rows | slice, conditions: Conditions, leaves: Leaves) -> Mask:
    """Bool [rows]. A slice of all rows is quicker than their numbers."""
    moment = conditions.now if conditions.as_of is None else conditions.as_of
    mask = catalogue.valid_at(rows, moment)
    if conditions.as_of is not None:
        mask &= catalogue.column("created_at")[rows] <= conditions.as_of
        items = catalogue.column("item")[rows]
        mask |= np.isin(items, list(conditions.shown))
        mask &= ~np.isin(items, list(conditions.hidden))
    if conditions.outside is not None:
        shared = catalogue.column("audience")[rows] == catalogue.audiences.codes.get(SHARED, -1)
        mask &= ~(shared & (catalogue.column("seq")[rows] >= conditions.outside))
    if conditions.kinds is not None:
        mask &= np.isin(catalogue.column("kind")[rows], catalogue.kinds.known(conditions.kinds))
    if conditions.filter is not None:
        mask &= evaluate(conditions.filter, lambda test: _passes(catalogue, test, rows, leaves))
    return np.asarray(mask)


def _passes(catalogue: Catalogue, test: FieldTest, rows: Rows | slice, leaves: Leaves) -> Mask:
    if test.field in leaves:
        return leaves[test.field].passes(test, rows)
    if test.field == "created_at":
        return _by_number(test, catalogue.column("created_at")[rows])
    names, column = {
        "role": (catalogue.roles, "role"),
        "agent_id": (catalogue.agents, "agent"),
        "kind": (catalogue.kinds, "kind"),
    }[test.field]
    passing = np.array([test.holds(name) for name in names.names] + [test.holds(None)], np.bool_)
    return np.asarray(passing[catalogue.column(column)[rows]])  # -1, no name, reads the last place


def _by_number(test: FieldTest, numbers: NDArray[np.float64]) -> Mask:
    """As `holds`, of all at once."""
    order = _ORDERS.get(test.op)
    if order is not None and isinstance(test.value, int | float):
        return order(numbers, test.value)
    wanted = test.value if test.op is FilterOp.IN else [test.value]
    if test.op not in (FilterOp.EQ, FilterOp.NE, FilterOp.IN) or not isinstance(wanted, list):
        return np.full(len(numbers), test.holds(0.0), np.bool_)  # of all numbers alike
    same = np.isin(numbers, [v for v in wanted if isinstance(v, int | float) and not isinstance(v, bool)])
    return ~same if test.op is FilterOp.NE else same

"""Which blocks are on the device, where it has no room for all that are read?"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from model_runtime.kv.nodes import Node


_LEFT_FREE = 1
"""Slots that reading leaves to what is computed next."""


def worth_bringing(nodes: "Sequence[Node]", free: int) -> "set[Node]":
    """Of those that are to be read: as many as there is room for, the first and the last ones.

    `free`: slots that are, or could be.
    """
    room = max(0, free - _LEFT_FREE)
    absent = [node for node in nodes if node.slot is None]
    return set(absent if len(absent) <= room else [*absent[:1], *absent[len(absent) - room + 1 :]][:room])


def yielding(held: "Sequence[Sequence[Node]]") -> "Iterator[Node]":
    """Blocks on the device in the order in which they should leave it; `held`: the blocks of each answer, in order.

    Of the answer with the most of them first; there those that fewest read, and of these the one that was used longest
    ago. First and newest blocks come last: every later token looks at them.
    """
    by_answer = [[node for node in nodes if node.slot is not None] for nodes in held]
    by_answer.sort(key=len, reverse=True)
    ends = {node for nodes in held if nodes for node in (nodes[0], nodes[-1])}
    for nodes in by_answer:
        yield from sorted((node for node in nodes if node not in ends), key=_standing)
    for nodes in by_answer:
        yield from sorted((node for node in nodes if node in ends), key=_standing)


def _standing(node: "Node") -> tuple[int, float, int]:
    return node.refs, node.last_use, node.index

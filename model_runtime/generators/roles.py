"""Which conversations can a chat template read, and how is another one put so that it can?

A session's window holds what was said: two users in a row, a note of the system in the middle, a tool's result. Some
templates (Mistral's, Llama 2's) take turns and nothing else. What a template can't read is put into the user's turn,
and neighbours of one role become one message. The rules are learned once for a template and look only backwards, so
a conversation that goes on begins with the same bytes as before.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

_BETWEEN = "\n\n"

Message = Mapping[str, str]
"""`role` and `content`."""


@dataclass(frozen=True, slots=True)
class Manners:
    """What a template reads as it is. `anywhere`: roles that may come after the first turn."""

    neighbours: bool
    assistant_begins: bool
    system_begins: bool
    anywhere: frozenset[str]

    def fit(self, messages: Sequence[Message]) -> list[dict[str, str]]:
        """The same texts in the same order, as the template reads them."""
        fitted: list[dict[str, str]] = []
        opening = True
        for message in messages:
            role = self._role(message["role"], opening)
            if opening and role == "assistant" and not self.assistant_begins:
                fitted.append({"role": "user", "content": ""})
            opening = opening and role == "system"
            if fitted and fitted[-1]["role"] == role and not self.neighbours:
                fitted[-1]["content"] += _BETWEEN + message["content"]
            else:
                fitted.append({"role": role, "content": message["content"]})
        return fitted

    def _role(self, role: str, opening: bool) -> str:
        if role in self.anywhere or (role == "system" and opening and self.system_begins):
            return role
        return "user"


def learn(renders: Callable[[Sequence[str]], bool]) -> Manners:
    """`renders(roles)`: whether the template renders messages of these roles, all of them, in their order."""
    system_begins = renders(["system", "user"])
    neighbours = renders(["user", "user"]) and (not system_begins or renders(["system", "system", "user"]))
    # A template that demands turns counts messages: there nothing else may stand between two of them.
    others = [role for role in ("system", "tool") if neighbours and renders(["user", "assistant", role, "user"])]
    return Manners(
        neighbours=neighbours,
        assistant_begins=renders(["assistant", "user"]),
        system_begins=system_begins,
        anywhere=frozenset({"user", "assistant", *others}),
    )

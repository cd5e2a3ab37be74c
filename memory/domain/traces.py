"""Is anything left of what was purged? Store by store: what was looked at, and what was found."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Look:
    """`looked_at`: in words, such as "12 files, 3,145,728 bytes". `found`: where, and in which form."""

    store: str
    looked_at: str
    found: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Marks:
    """The forms in which a text may have been kept. `words`: as letters, whatever their case; `numbers`: as bytes.

    `terms`: as the word index has it.
    """

    text: str
    words: dict[str, bytes] = field(default_factory=dict)
    numbers: dict[str, bytes] = field(default_factory=dict)
    terms: tuple[str, ...] = ()

    def found_in(self, content: bytes) -> list[str]:
        """The names of the forms that the bytes hold."""
        lower = content.lower()
        words = [name for name, pattern in self.words.items() if pattern in lower]
        return words + [name for name, pattern in self.numbers.items() if pattern in content]

    @property
    def longest(self) -> int:
        return max(map(len, (*self.words.values(), *self.numbers.values())), default=0)

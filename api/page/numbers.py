"""How does a number read at a glance?"""

_STEPS = ("", " k", " M", " G", " T")
_BYTES = ("B", "KiB", "MiB", "GiB", "TiB")
_WHOLE_UP_TO = 10_000
_ONE = {"memories": "memory"}


def count(number: float) -> str:
    """`9,999`, then `12.3 k`, `1.2 M`."""
    if abs(number) < _WHOLE_UP_TO:
        return f"{number:,.0f}"
    return _scaled(number, 1_000, _STEPS)


def size(number: float) -> str:
    """`512 B`, `3.4 GiB`."""
    return _scaled(number, 1_024, tuple(f" {unit}" for unit in _BYTES))


def share(part: float) -> str:
    return f"{100 * part:.0f} %" if part in (0, 1) or 0.1 <= part else f"{100 * part:.1f} %"


def rate(per_second: float) -> str:
    if 0 < per_second < 0.1:
        return "< 0.1/s"
    return f"{per_second:.0f}/s" if per_second >= 100 or per_second == 0 else f"{per_second:.1f}/s"


def seconds(number: float) -> str:
    """`0.4 s`, `2 min 5 s`, `3 h 2 min`."""
    if number < 60:
        return f"{number:.1f} s"
    minutes, rest = divmod(int(number), 60)
    hours, left = divmod(minutes, 60)
    return f"{hours} h {left} min" if hours else f"{minutes} min {rest} s"


def plural(number: int, one: str) -> str:
    return f"{count(number)} {one if number == 1 else one + 's'}"


def of(number: int, unit: str) -> str:
    """`unit` as it is counted: `1 event`, `12 events`."""
    return f"{count(number)} {_ONE.get(unit, unit.removesuffix('s')) if number == 1 else unit}"


def _scaled(number: float, step: int, units: tuple[str, ...]) -> str:
    place = 0
    while abs(number) >= step - 0.05 and place < len(units) - 1:
        number /= step
        place += 1
    digits = 0 if place == 0 or abs(number) >= 100 else 1
    return f"{number:,.{digits}f}{units[place]}"

"""The order of images whose names agree but for numbers: by a counter, by time stamps, or none that is certain.

Where several numbers vary, there are several readings: all of them from left to right, and each number that is different in
every name. If all readings give one order, it is taken. If they do not, a reading has to be clear: a counter in steps of one
behind a word such as `frame` or at the end, decimal numbers that go on from one second to the next, or a date and time. Numbers
that repeat for each value of another one, and are no time stamps, tell several series (`clip3_00001`, `clip4_00001`).
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

_COUNTER_WORD = re.compile(r"(?:^|[^a-z])(?:frames?|img|image|f)[^a-z]*$", re.IGNORECASE)
_STAMP = re.compile(  # date and time of day, either of which may be lacking
    r"(?<!\d)(?P<date>(?:19|20)\d\d(?P<a>[-_.]?)(?:0[1-9]|1[0-2])(?P=a)(?:0[1-9]|[12]\d|3[01]))?(?(date)[-_. T]{0,3})"
    r"(?:(?P<h>[01]\d|2[0-3])(?P<b>[-_.:h]?)(?P<m>[0-5]\d)(?:(?P=b)|m)(?P<s>[0-5]\d)s?(?:\.(?P<f>\d{1,9})|[-_,](?P<ms>\d{3}))?)?"
    r"(?!\d)"
)
_MINUTES = re.compile(r"(?<!\d)(?P<m>[0-5]\d)[-_.:m](?P<s>[0-5]\d)\.(?P<f>\d{1,9})s?(?!\d)")
_STEADY = 1.5  # largest gap from one second to the next, in gaps within a second: more is a new series
_LOOSE = 10.0  # the same where no fraction repeats, so that a new series is unlikely: frames may have been dropped
_ENOUGH = 5  # images that make a coincidence of their numbers unlikely
_SHOWN = 4  # names of an order that an error lists

Key = tuple[int, ...]
Numbered = tuple[Key, str]  # what an image is sorted by, and its name


@dataclass(frozen=True)
class Series:
    """Images in an order.

    Attributes:
        rows: sorted; a key of one number is that of a counter.
        fault: why their order is uncertain, to follow "The images of FOLDER"; or "".
    """

    rows: list[Numbered]
    fault: str = ""


@dataclass(frozen=True)
class Group:
    """Images whose names agree but for numbers.

    Attributes:
        texts: what is before each number, and after the last one.
        digits: the numbers of each image, as they are written.
        names: of the images.
    """

    texts: tuple[str, ...]
    digits: list[tuple[str, ...]]
    names: list[str]

    @cached_property
    def columns(self) -> list[tuple[int, ...]]:
        """The numbers by their place in the names."""
        return [tuple(map(int, column)) for column in zip(*self.digits, strict=True)]

    @cached_property
    def varying(self) -> list[int]:
        """Places of the numbers that vary."""
        return [at for at, column in enumerate(self.columns) if len(set(column)) > 1]

    def is_unique(self, at: int) -> bool:
        """Whether a number is different in each name."""
        return len(set(self.columns[at])) == len(self.names)

    def is_fraction(self, at: int) -> bool:
        """Whether a number may be a decimal fraction: the last of numbers with dots between them."""
        return at > 0 and self.texts[at] == "." and not (at + 1 < len(self.columns) and self.texts[at + 1] == ".")

    def is_decimal(self, at: int) -> bool:
        """Whether a number is the fraction of one decimal number, such as 1.033, and no part of 12.59.50."""
        return self.is_fraction(at) and not (at > 1 and self.texts[at - 1] == ".")

    def padded(self, at: int) -> tuple[int, ...]:
        """A number read as a decimal fraction, in units of its last digit."""
        written = [row[at] for row in self.digits]
        width = max(map(len, written))
        return tuple(int(text.ljust(width, "0")) for text in written)

    def sorted_by(self, columns: Sequence[tuple[int, ...]]) -> list[Numbered]:
        """The images in the order of these columns."""
        return sorted(zip(zip(*columns, strict=True), self.names, strict=True))


def series_in(group: Group) -> list[Series]:
    """The series of a group: one, unless their numbers tell several apart."""
    varying = group.varying
    if not varying:
        return [Series([((), name)]) for name in group.names]
    if len(varying) == 1 and not group.is_fraction(varying[0]):
        return [Series(group.sorted_by([group.columns[varying[0]]]))]
    readings = _readings(group)
    orders = _distinct([rows for rows in readings if _is_total(rows)])
    if not orders:  # two images have the same numbers
        return [Series(readings[0])]
    unique = any(map(group.is_unique, varying))
    if len(orders) == 1 and (unique or len(varying) == 1):
        return [Series(orders[0])]
    clear = _clear(group, orders)
    if len(clear) == 1:
        return [Series(clear[0])]
    if len(orders) == 1:
        return _by_last(group)
    return [Series(orders[0], _disagreement(orders))]


def _readings(group: Group) -> list[list[Numbered]]:
    """The images by each number that is different in every name, and by all that vary, from left to right."""
    alone = [group.sorted_by([group.columns[at]]) for at in group.varying if group.is_unique(at)]
    return [*alone, _whole(group), group.sorted_by([group.columns[at] for at in group.varying])]


def _whole(group: Group) -> list[Numbered]:
    """The images by all numbers that vary, fractions read as such."""
    return group.sorted_by([group.padded(at) if group.is_fraction(at) else group.columns[at] for at in group.varying])


def _is_total(rows: list[Numbered]) -> bool:
    return all(key != other for (key, _), (other, _) in pairwise(rows))


def _order(rows: list[Numbered]) -> tuple[str, ...]:
    return tuple(name for _, name in rows)


def _distinct(readings: list[list[Numbered]]) -> list[list[Numbered]]:
    """The first of all readings that give one order."""
    found: dict[tuple[str, ...], list[Numbered]] = {}
    for rows in readings:
        found.setdefault(_order(rows), rows)
    return list(found.values())


def _clear(group: Group, orders: list[list[Numbered]]) -> list[list[Numbered]]:
    """The orders of clear readings: one, if the names leave no doubt.

    A counter comes before decimal numbers that go on steadily, because confidences may happen to; not if it is their own
    fraction.
    """
    whole = _whole(group)
    counters = [at for at in group.varying if _is_counter(group, at, whole)]
    flowing = [at for at in group.varying if group.is_decimal(at) and _flows(group, at)]
    clear = [group.sorted_by([group.columns[at]]) for at in counters]
    if not set(counters) - set(flowing):
        steady = [group.sorted_by([group.columns[at - 1], group.padded(at)]) for at in flowing]
        clear += [rows for rows in steady if _order(rows) == _order(whole)]  # 03-02.950 comes after 02-57.236
    if _is_stamped(group):
        clear.append(whole)
    known = set(map(_order, orders))
    return [rows for rows in _distinct(clear) if _order(rows) in known]


def _is_counter(group: Group, at: int, whole: list[Numbered]) -> bool:
    """Whether a number counts in steps of one, where a counter belongs, and is no digit that overflows into another number."""
    column = group.columns[at]
    if not group.is_unique(at) or max(column) - min(column) + 1 != len(column):
        return False
    place = {name: row for row, name in enumerate(group.names)}
    by_whole = [column[place[name]] for _, name in whole]
    if group.varying == [at]:
        return True
    if _overflows(by_whole):
        return False
    return bool(_COUNTER_WORD.search(group.texts[at])) or _counts_at_the_end(group, at, by_whole)


def _counts_at_the_end(group: Group, at: int, by_whole: list[int]) -> bool:
    """Whether the last number is a counter rather than the tenths or seconds of a time, of which the one before is a part."""
    if at < len(group.columns) - 1:
        return False
    if group.is_decimal(at - 1) and group.texts[at] != ".":  # such as 0.97_001
        return True
    countdown = len(by_whole) >= _ENOUGH and all(before - after == 1 for before, after in pairwise(by_whole))
    return countdown or len(by_whole) > 10 or min(len(row[at]) for row in group.digits) > 2


def _overflows(by_whole: list[int]) -> bool:
    """Whether numbers in the order of all numbers go on from the largest to the smallest, as in 1.8, 1.9, 2.0, 2.1."""
    steps = [after - before for before, after in pairwise(by_whole)]
    return len({step % len(by_whole) for step in steps}) == 1 and min(steps) < 0 < max(steps)


def _flows(group: Group, at: int) -> bool:
    """Whether the decimal numbers that end in a column go on steadily from one integer to the next."""
    width = max(len(row[at]) for row in group.digits)
    whole, part = group.columns[at - 1], group.padded(at)
    values = [one * 10**width + other for one, other in zip(whole, part, strict=True)]
    uneven = len({len(row[at]) for row in group.digits}) > 1
    return _goes_on(values, whole, is_certain=group.is_unique(at)) and (len(set(whole)) > 1 or uneven)


def _goes_on(values: Sequence[int], blocks: Sequence[Hashable], *, is_certain: bool) -> bool:
    """Whether numbers are evenly spaced, or have no larger gaps between blocks, such as seconds, than inside them."""
    rows = sorted(zip(values, blocks, strict=True), key=lambda row: row[0])
    gaps = [(after - before, block == other) for (before, block), (after, other) in pairwise(rows)]
    steps = [gap for gap, _ in gaps]
    if min(steps) == 0:
        return False
    if len(steps) > 2 and max(steps) <= _STEADY * min(steps):
        return True
    inside, across = [gap for gap, same in gaps if same], [gap for gap, same in gaps if not same]
    return bool(inside and across) and max(across) <= (_LOOSE if is_certain else _STEADY) * max(inside)


def _is_stamped(group: Group) -> bool:
    """Whether all that varies is a date with or without a time, or a time of day or of a video that goes on steadily."""
    if found := _matches(group, _STAMP):
        if all(match["date"] for match in found):
            return True
        if not all(match["h"] and match["b"] for match in found):
            found = []
    found = found or _matches(group, _MINUTES)
    if not found:
        return False
    blocks, values = zip(*map(_time, found), strict=True)
    return _goes_on(values, blocks, is_certain=False)


def _matches(group: Group, pattern: re.Pattern[str]) -> list[re.Match[str]]:
    """The longest match in each name; none unless the names agree but for it."""
    found: list[re.Match[str]] = []
    around = set()
    for name in group.names:
        stem = name.rpartition(".")[0]
        match = max(pattern.finditer(stem), key=lambda match: len(match[0]), default=None)
        if match is None:
            return []
        found.append(match)
        around.add((stem[: match.start()], stem[match.end() :]))
    return found if len(around) == 1 else []


def _time(match: re.Match[str]) -> tuple[tuple[int, ...], int]:
    """What a time has before its last number, and the time in nanoseconds."""
    parts = match.groupdict()
    clock = int(parts.get("h") or 0), int(parts["m"]), int(parts["s"])
    fraction = parts["f"] or parts.get("ms")
    seconds = (clock[0] * 60 + clock[1]) * 60 + clock[2]
    return (clock if fraction else clock[:2]), seconds * 10**9 + int((fraction or "0").ljust(9, "0"))


def _by_last(group: Group) -> list[Series]:
    """The images by the last number that varies; those before it tell series apart."""
    *others, last = group.varying
    parts: dict[tuple[int, ...], list[Numbered]] = {}
    for row, name in enumerate(group.names):
        which = tuple(group.columns[at][row] for at in others)
        parts.setdefault(which, []).append(((group.columns[last][row],), name))
    return [Series(sorted(part)) for part in parts.values()]


def _disagreement(orders: list[list[Numbered]]) -> str:
    """Two orders of images, each by a few names from where they differ."""
    first, second = map(_order, orders[:2])
    differ = next(at for at, (one, other) in enumerate(zip(first, second, strict=True)) if one != other)
    start = max(0, differ - 1)
    shown = [("…, " if start else "") + ", ".join(order[start : start + _SHOWN]) for order in (first, second)]
    return (
        f"can be put in two orders by the numbers of their names: {shown[0]}, … or {shown[1]}, …. Call them img_00001.jpg, "
        "img_00002.jpg and so on in the order of the frames."
    )

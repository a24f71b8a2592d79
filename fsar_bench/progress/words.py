"""Times, rates and names in few characters."""

from __future__ import annotations


def clock(seconds: float) -> str:
    """Time as on a watch: 0:07, 12:30, 1:02:03."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def about(seconds: float) -> str:
    """Time as people say it, two digits or so: 40 s, 12 min, 3 h 20 min, 2 days 5 h."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    if minutes < 48 * 60:
        hours, minutes = divmod(10 * round(minutes / 10), 60)
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(round(minutes / 60), 24)
    return f"{days} days {hours} h" if hours else f"{days} days"


def rate(per_second: float, unit: str) -> str:
    """Units per second with two or three digits."""
    digits = 0 if per_second >= 100 else 1 if per_second >= 1 else 2
    return f"{per_second:.{digits}f} {unit}/s"


def shorten(text: str, room: int) -> str:
    """A text of at most `room` characters; "…" stands for what is left out at its end."""
    if len(text) <= room:
        return text
    return f"{text[: room - 1].rstrip()}…" if room > 0 else ""


def shorten_name(name: str, room: int) -> str:
    """A cell's name of at most `room` characters: the title gives way before dataset, way, shot and seed do."""
    title, on, rest = name.rpartition(" on ")
    place = on + rest
    if len(name) <= room or len(place) + 8 > room:
        return shorten(name, room)
    return shorten(title, room - len(place)) + place

"""Wrong inputs for tests: values of every wrong type for each field of a file, and files that are cut or altered."""

from __future__ import annotations

import copy
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from fsar_bench.errors import FsarBenchError

DEEP = 100_000  # levels, where a parser that recurses ends
JSON_VALUES = (
    "null", "true", "false", "0", "-0", "-1", "1", "1.5", "1e400", "-1e400", "NaN", "Infinity", "1e308", "9" * 30, "9" * 5000,
    '""', '" "', '"x"', '"\\u0000"', '"\\ud800"', '"a\\nb"', '"\\u001b[2J"', json.dumps("a" * 5000), '"../../x"', '"１"',
    '"/dev/zero"', "[]", "[[]]", '["x"]', "[null]", "{}", '{"type": "x"}', '{"": 1}', "[" * DEEP + "]" * DEEP,
    '{"a":' * DEEP + "1" + "}" * DEEP,
)  # fmt: skip
PYTHON_VALUES = (
    "None", "True", "0", "-1", "1.5", "float('nan')", "float('inf')", "10**30", "10**400", "10**5000", "''", "' '", "'x'",
    "'a' * 5000", "'a\\0b'", "'\\ud800'", "'a\\nb'", "'../../x'", "'/dev/zero'", "b'x'", "[]", "['x']", "[1]", "[[['x']]]", "{}",
    "{'a': 1}", "{1: 2}", "{None: 1}", "{('a',): 1}", "dict(type=1)", "dict(type='x' * 5000)", "dict(type='os.system')", "set()",
    "{'x'}", "('x',)", "print", "int", "object()", "lambda: 1", "(x for x in 'ab')", "...", "1j", "range(3)", "type",
    "__import__('pathlib').Path('x')", "__import__('numpy').zeros(3)", "__import__('numpy').float64('nan')",
    "__import__('decimal').Decimal(1)",
    "(lambda d: d.update(a=d) or d)({})", "(lambda d: d.append(d) or d)([])", "eval('[' * 80 + ']' * 80)",
    "__import__('functools').reduce(lambda a, _: [a], range(100_000), [])",
    "__import__('functools').reduce(lambda a, _: {'a': a}, range(100_000), {})",
)  # fmt: skip


@dataclass
class Tally:
    """What became of wrong inputs.

    Attributes:
        counts: how many were taken, and how many refused.
        unforeseen: those that ended in an error that is not ours, with it.
        silent: refusals that do not say what they must.
    """

    counts: Counter[str] = field(default_factory=Counter)
    unforeseen: list[str] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)

    def judge(self, label: str, call: Callable[[], Any], *says: str) -> None:
        """Call; a refusal must say each of these texts, in few words."""
        try:
            call()
        except FsarBenchError as error:
            self.counts["refused"] += 1
            if not all(text in str(error) for text in says) or len(str(error)) > 2000:
                self.silent.append(f"{label[:200]} -> {str(error)[:300]} ({len(str(error))} characters)")
        except (Exception, SystemExit) as error:
            self.counts["unforeseen"] += 1
            self.unforeseen.append(f"{label[:200]} -> {type(error).__name__}: {str(error)[:200]}")
        else:
            self.counts["taken"] += 1

    def check(self, *, least: int) -> None:
        """Every input was taken or refused in words, and there were enough of them."""
        assert not self.unforeseen, f"{len(self.unforeseen)} of {sum(self.counts.values())}:\n" + "\n".join(
            self.unforeseen[:20]
        )
        assert not self.silent, f"{len(self.silent)} of {sum(self.counts.values())}:\n" + "\n".join(self.silent[:20])
        assert sum(self.counts.values()) >= least, self.counts


def places(value: Any, at: tuple = ()) -> Iterator[tuple]:
    """Where each field of JSON is, as keys and numbers; of a list, its first element stands for all."""
    yield at
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*at, key))
    elif isinstance(value, list) and value:
        yield from places(value[0], (*at, 0))


def with_text(value: Any, at: tuple, text: str) -> str:
    """JSON with the text of another value at a place."""
    mark = "@@@@"
    if not at:
        return text
    value = copy.deepcopy(value)
    inner = value
    for key in at[:-1]:
        inner = inner[key]
    inner[at[-1]] = mark
    return json.dumps(value).replace(json.dumps(mark), text)


def without(value: Any, at: tuple) -> str:
    """JSON without the field at a place."""
    value = copy.deepcopy(value)
    inner = value
    for key in at[:-1]:
        inner = inner[key]
    del inner[at[-1]]
    return json.dumps(value)


def altered(data: bytes, rng: random.Random, count: int) -> Iterator[bytes]:
    """The same bytes cut, with bytes flipped, doubled, exchanged, left out, or with others put in."""
    odd = (
        b"\x00",
        b"\xff\xfe",
        b"\xed\xa0\x80",
        b'"',
        b"{",
        b"[",
        b"]",
        b"}",
        b",",
        b"\n",
        b"\r",
        b"=",
        b"9" * 400,
        b"\xc3",
        b"-",
        b"e9",
    )
    for number in range(count):
        at, other = rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)
        low, high = sorted((at, other))
        kind = number % 6
        if kind == 0:
            yield data[:at]
        elif kind == 1 and at < len(data):
            yield data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
        elif kind == 2:
            yield data[:low] + data[high:]
        elif kind == 3:
            yield data[:high] + data[low:]
        elif kind == 4:
            yield data[:at] + rng.choice(odd) + data[at:]
        else:
            yield data[:at] + bytes(rng.randrange(256) for _ in range(rng.randrange(1, 9))) + data[at:]

"""Correction files: parse, find the value for a run, add ranges; and sets of runs.

A correction file is a JSON object that maps ranges of runs to values::

    {
        "001110-004020": 5600,
        "004021": 1300
    }

Both ends belong to a range; a single number is a range of one run. ``*`` instead of a number leaves
that end open, which only files with ``_dev`` in their name may do.

The parameter `place` is the path or address of a file, for messages.
"""

import json
import math
import numbers
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from amstrax import strict_json
from amstrax.exceptions import InvalidCorrection, RunNotCovered

_FILE_NAME = re.compile(r"(?P<folder>\w+)_(?P<version>[A-Za-z0-9.-]+)\.json", re.ASCII)
_RANGE = re.compile(r"(?P<first>\d{1,18}|\*)(-(?P<last>\d{1,18}|\*))?", re.ASCII)
_STRING = re.compile(r'(?P<string>"(?:[^"\\]|\\.)*")(?P<colon>\s*:)?', re.DOTALL)
#: Texts that other languages write in JSON for numbers that are not finite
_NO_NUMBERS = ("nan", "inf", "infinity")

#: First and last run; the last may be infinite
Range = tuple[float, float]


class Entry(NamedTuple):
    """A range of runs with its value."""

    first: int  #: first run; 0 for an open range
    last: float  #: last run, which is included; infinite for an open range
    text: str  #: range in the file
    value: Any


def folder_of(file_name: str) -> str:
    """Return the folder of a correction file: NAME of NAME_VERSION.json.

    Other names raise InvalidCorrection.
    """
    match = _FILE_NAME.fullmatch(file_name)
    if match is None or ".." in file_name:
        raise InvalidCorrection(
            f"{file_name!r} is no name of a correction file: it must be NAME_VERSION.json, as "
            "elife_v1.json"
        )
    return match["folder"]


def is_development(file_name: str) -> bool:
    """Return whether a file may have open ranges."""
    return "_dev" in file_name


def run_number(run_id: str | int) -> int:
    """Return the number of a run; raise RunNotCovered if it has none, such as a superrun."""
    text = str(run_id)
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise RunNotCovered(
            f"run {text!r} has no number, so no correction can be looked up for it: give the "
            "option a value, with config={...} or --config_kwargs"
        )
    return int(text)


def parse(text: str, place: str) -> dict[str, Any]:
    """Return the content of a correction file or of the file of a version.

    The text must be a JSON object as in `amstrax.strict_json.parse`, in which lists with numbers
    have nothing else, and no text stands for NaN or an infinity. Otherwise InvalidCorrection names
    place, line and column.
    """
    content = strict_json.parse(text, place, InvalidCorrection)
    if not isinstance(content, dict):
        raise InvalidCorrection(f"{place}, line 1, column 1: this is no JSON object, as {{...}}")
    for name, value in content.items():
        if fault := _fault(value):
            raise InvalidCorrection(
                f"{place}, {find_name(text, name)}: the value of {name!r} has {fault}"
            )
    return content


def _fault(value: Any) -> str:
    """Return the error in a value, with the remedy; empty if it is valid."""
    if isinstance(value, str):
        is_number = value.strip().lstrip("+-").lower() in _NO_NUMBERS
        return f"{value!r}: give a finite number" if is_number else ""
    if not isinstance(value, (list, dict)):
        return ""
    kinds = set() if isinstance(value, dict) else set(map(kind_of_type, set(map(type, value))))
    if kinds == {"number"}:
        return ""  # fast path: maps have many thousand numbers
    items = value.values() if isinstance(value, dict) else value
    mixed = "a list with numbers and other values: make all of them numbers"
    return next(filter(None, map(_fault, items)), mixed if "number" in kinds else "")


def find_name(text: str, name: str) -> str:
    """Return line and column of a name in the text of a JSON object, for messages."""
    return _positions(text).get(name, "line 1, column 1")


@lru_cache(maxsize=1)
def _positions(text: str) -> dict[str, str]:
    """Return line and column of the first occurrence of each name in a JSON object."""
    found: dict[str, str] = {}
    line, begin, seen = 1, 0, 0
    for match in _STRING.finditer(text):
        line += text.count("\n", seen, match.start())
        begin = text.rfind("\n", seen, match.start()) + 1 or begin
        seen = match.start()
        if match["colon"]:
            name = json.loads(match["string"], strict=False)
            found.setdefault(name, f"line {line}, column {seen - begin + 1}")
    return found


def entry(range_text: str, value: Any, may_be_open: bool = True) -> Entry:
    """Return the entry of a range, or raise InvalidCorrection, which does not name the file."""
    match = _RANGE.fullmatch(range_text)
    if match is None or range_text == "*":
        raise InvalidCorrection(
            f"{range_text!r} is no range of runs: write it as '001110-004020', or as one run"
        )
    first, last = match["first"], match["last"] or match["first"]
    if "*" in range_text and not may_be_open:
        raise InvalidCorrection(
            f"the range {range_text!r} has an open end, which only files with _dev in their name "
            "may have: write the number of a run"
        )
    result = Entry(
        0 if first == "*" else int(first), math.inf if last == "*" else int(last), range_text, value
    )
    if result.first > result.last:
        raise InvalidCorrection(f"the range {range_text!r} ends before it begins: swap its ends")
    return result


def entries(content: dict[str, Any], file_name: str, place: str = "") -> list[Entry]:
    """Return the entries of a correction file, as parsed, in file order.

    `file_name` determines whether ranges may be open; it is also the default of `place`. Invalid
    ranges raise InvalidCorrection.
    """
    may_be_open = is_development(file_name)
    result = []
    for range_text, value in content.items():
        try:
            result.append(entry(range_text, value, may_be_open))
        except InvalidCorrection as error:
            raise InvalidCorrection(f"{place or file_name}: {error}") from None
    return result


def find(table: Iterable[Entry], run_id: str | int, place: str) -> Entry:
    """Return the entry of a run, ``'006724'`` or its number.

    Raises
    ------
    RunNotCovered
        When the run is in no range. The message has the nearest covered runs.
    InvalidCorrection
        When it is in more than one.
    """
    run = run_number(run_id)
    table = list(table)
    found = [entry_ for entry_ in table if entry_.first <= run <= entry_.last]
    if len(found) == 1:
        return found[0]
    if found:
        texts = " and ".join(repr(entry_.text) for entry_ in found)
        raise InvalidCorrection(
            f"{place}: run {run:06d} is in the ranges {texts}, which overlap: change one of them"
        )
    covered = as_text(merged(entry_[:2] for entry_ in table), around=run)
    raise RunNotCovered(
        f"{place}: run {run:06d} is in no range of runs; the file covers {covered}. Add a range, "
        "or take another version of the corrections"
    )


def frozen(value: Any) -> Any:
    """Return a value with all lists converted to tuples, also nested ones, as plugins expect."""
    if isinstance(value, dict):
        return {name: frozen(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        # Fast path: maps have lists of many thousand numbers
        has_inner = not {list, tuple, dict}.isdisjoint(map(type, value))
        return tuple(map(frozen, value)) if has_inner else tuple(value)
    return value


NOTHING, OTHER = "nothing", "other"
#: Types of values, and the name of each kind
_KINDS = (
    (bool, "truth value"),
    (numbers.Real, "number"),
    (str, "text"),
    ((list, tuple), "list"),
    (Mapping, "table"),
    (type(None), NOTHING),
)


def kind(value: Any) -> str:
    """Return the kind of a value, for messages; integers and floats are both numbers."""
    return kind_of_type(type(value))


def kind_of_type(type_: type) -> str:
    """Return the kind of the values of a type, for messages."""
    return next((name for types, name in _KINDS if issubclass(type_, types)), OTHER)


def full_kind(value: Any) -> str:
    """Return the kind of a value and of its items, for messages."""
    if isinstance(value, (list, tuple)):
        inner = sorted({full_kind(item) for item in value})
        return f"a list ({' and '.join(inner)})" if inner else "an empty list"
    if isinstance(value, dict):
        return f"a table ({', '.join(sorted(value))})"
    return f"a {kind(value)}"


# Adding ranges to files


def read_entries(path: Path) -> list[Entry]:
    """Load the sorted entries of a correction file; empty if the file does not exist.

    Invalid files, and overlapping ranges, raise InvalidCorrection.
    """
    folder_of(path.name)
    if not path.exists():
        return []
    content = parse(strict_json.read_text(path, InvalidCorrection), str(path))
    table = sorted(entries(content, path.name, str(path)), key=lambda e: e.first)
    for before, after in zip(table, table[1:], strict=False):
        if after.first <= before.last:
            raise InvalidCorrection(
                f"{path}: the ranges {before.text!r} and {after.text!r} overlap: change one of them"
            )
    return table


def with_entry(table: list[Entry], new: Entry, path: Path) -> list[Entry]:
    """Return sorted entries with a new one added.

    Values of runs must not change: an overlap with an existing range raises InvalidCorrection.
    """
    for entry_ in table:
        if entry_.first <= new.last and new.first <= entry_.last:
            raise InvalidCorrection(
                f"{path} has a value for the range {entry_.text!r} already, with which "
                f"{new.text!r} overlaps. Take another range, or, to change values, a new version "
                "of the file"
            )
    return sorted([*table, new], key=lambda e: e.first)


def write_entries(table: list[Entry], path: Path) -> None:
    """Write a correction file, one line per range; replace an existing file atomically.

    A value with NaN, an infinity or an integer of more than 8 bytes raises InvalidCorrection.
    """
    for entry_ in table:
        value = json.dumps({entry_.text: entry_.value})
        parse(value, f"{path}, the value of {entry_.text!r}")
    lines = [f"    {json.dumps(entry_.text)}: {json.dumps(entry_.value)}" for entry_ in table]
    path.parent.mkdir(parents=True, exist_ok=True)
    strict_json.write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")


def value_before(table: list[Entry], new: Entry) -> Any:
    """Return the value of the last range before a new one; None without such a range."""
    before = [entry_ for entry_ in table if entry_.last < new.first]
    return max(before, key=lambda e: e.last).value if before else None


# Sets of runs


def merged(ranges: Iterable[Range]) -> list[Range]:
    """Return sorted ranges, with overlapping and adjacent ones merged."""
    result: list[Range] = []
    for first, last in sorted(ranges):
        if result and first <= result[-1][1] + 1:
            result[-1] = result[-1][0], max(last, result[-1][1])
        else:
            result.append((first, last))
    return result


def common(one: Iterable[Range], other: Iterable[Range]) -> list[Range]:
    """Return the runs that are in both sets."""
    one, other = merged(one), merged(other)
    result = []
    i = j = 0
    while i < len(one) and j < len(other):
        first, last = max(one[i][0], other[j][0]), min(one[i][1], other[j][1])
        if first <= last:
            result.append((first, last))
        if one[i][1] < other[j][1]:
            i += 1
        else:
            j += 1
    return merged(result)


def without(one: Iterable[Range], other: Iterable[Range]) -> list[Range]:
    """Return the runs of `one` that are not in `other`."""
    result = []
    holes = merged(other)
    j = 0
    for first, last in merged(one):
        while j < len(holes) and holes[j][0] <= last:
            begin, end = holes[j]
            if begin > first:
                result.append((first, begin - 1))
            first = max(first, end + 1)
            if end > last:  # it may reach into the next range too
                break
            j += 1
        if first <= last and first < float("inf"):
            result.append((first, last))
    return result


#: Ranges on either side of a run in a shortened text
_NEAREST = 2


def as_text(ranges: Iterable[Range], around: int | None = None) -> str:
    """Return sorted ranges as in correction files, separated by commas; ``none`` for an empty set.

    With `around`, a run, only the ranges nearest to it are named, and ``...`` stands for others.
    """
    ranges = list(ranges)
    names = [[f"{run:06.0f}" if run < math.inf else "*" for run in range_] for range_ in ranges]
    texts = [first if first == last else f"{first}-{last}" for first, last in names]
    if around is not None:
        below = sum(last < around for _, last in ranges)
        first, end = max(below - _NEAREST, 0), below + _NEAREST
        left_out = ["..."] * (first > 0), ["..."] * (end < len(texts))
        texts = [*left_out[0], *texts[first:end], *left_out[1]]
    return ", ".join(texts) or "none"

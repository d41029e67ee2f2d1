"""Check a folder of correction files, on its own and against an older copy."""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from amstrax import strict_json
from amstrax.common import n_tpc_pmts
from amstrax.corrections import lookup, store
from amstrax.corrections.config import MAP_CHECKS
from amstrax.exceptions import InvalidCorrection, InvalidOption

#: Folder of the files that list the options of a version
VERSIONS = "_global"
#: Numbers of channels: five of the TPC, the NaI detector, and none to two SiPMs
_GAIN_LENGTHS = (6, 7, 8)


class Report(NamedTuple):
    """Result of a check: problems, each with file, line and column, and checks that were skipped.

    Without problems the folder is valid.
    """

    files: int
    problems: list[str]
    notes: list[str]


def check_folder(
    folder: Path, against: Path | None = None, gain_lengths: Collection[int] = ()
) -> Report:
    """Check all correction files ``NAME/NAME_VERSION.json`` in a folder.

    Each file must be JSON. Its ranges must be sorted and must not overlap, and only files with
    ``_dev`` in their name may have open ranges. Its values must be of one kind, with one gain per
    channel and complete maps. Versions must name existing files.

    Compared with an older copy, `against`, values of covered runs must be unchanged: only runs may
    be added. Open ranges and the versions ``dev`` and ``ONLINE`` may change.

    `gain_lengths` are the allowed numbers of channels of ``gain_to_pe_array``, at least those of
    the TPC. By default they are 6, 7, 8, and that of the first range of each file.
    """
    paths = sorted(folder.glob("*/*.json"))
    problems = [problem for path in paths for problem in check_file(path, folder, gain_lengths)]
    notes: list[str] = []
    if against is not None:
        for path in sorted(against.glob("*/*.json")):
            problems += _changes(path, folder / path.relative_to(against), notes)
    return Report(len(paths), problems, notes)


def check_file(path: Path, folder: Path, gain_lengths: Collection[int] = ()) -> Iterator[str]:
    """Yield the errors of a correction file in `folder`, as in `check_folder`."""
    try:
        text, content = _read(path)
        if store.folder_of(path.name) != path.parent.name:
            yield f"{path}: a file of this name belongs in {store.folder_of(path.name)}/"
            return
    except InvalidCorrection as error:
        yield str(error)
        return
    if path.parent.name == VERSIONS:
        for name, problem in _version_problems(content, folder, gain_lengths):
            yield f"{path}, {store.find_name(text, name)}: {problem}"
        return
    if not content:
        yield f"{path}, line 1, column 1: there is no range of runs in it"
    table = []
    for range_text, value in content.items():
        try:
            table.append(lookup.entry(range_text, value, store.is_development(path.name)))
        except InvalidCorrection as error:
            yield f"{path}, {store.find_name(text, range_text)}: {error}"
    for entry, problem in (
        *_order_problems(table),
        *_value_problems(table, path.parent.name, gain_lengths),
    ):
        yield f"{path}, {store.find_name(text, entry.text)}: {problem}"


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    text = strict_json.read_text(path, InvalidCorrection)
    return text, store.parse(text, str(path))


def _version_problems(
    content: dict[str, Any], folder: Path, gain_lengths: Collection[int]
) -> Iterator[tuple[str, str]]:
    for name, value in content.items():
        if lookup.is_file(value):
            try:
                there = (folder / store.folder_of(value) / value).is_file()
            except InvalidCorrection as error:
                yield name, str(error)
                continue
            if not there:
                yield name, f"{name} is {value!r}, and there is no such file"
        elif problem := _value_problem(name, value, value, gain_lengths):
            yield name, f"the value of {name!r}{problem}"
        same = lookup.OPTIONS.get(name)
        if same in content and content[same] != value:
            yield name, f"{name} and {same}, which is the same, differ: leave one of them out"


def _order_problems(table: list[lookup.Entry]) -> Iterator[tuple[lookup.Entry, str]]:
    """Yield ranges that are out of order or overlap with an earlier one."""
    furthest: lookup.Entry | None = None
    for entry in table:
        if furthest is not None:
            if entry.first <= furthest.last and entry.last >= furthest.first:
                yield entry, f"the ranges {furthest.text!r} and {entry.text!r} overlap"
            elif entry.first < furthest.first:
                yield entry, f"the range {entry.text!r} belongs before {furthest.text!r}"
        if furthest is None or entry.last > furthest.last:
            furthest = entry


def _value_problems(
    table: list[lookup.Entry], name: str, gain_lengths: Collection[int]
) -> Iterator[tuple[lookup.Entry, str]]:
    """Yield values of another kind than the first, or unsuitable for the correction."""
    for entry in table:
        first, this = strict_json.full_kind(table[0].value), strict_json.full_kind(entry.value)
        if this != first:
            yield entry, f"the value of {entry.text!r} is {this}, that of the first range {first}"
        elif problem := _value_problem(name, entry.value, table[0].value, gain_lengths):
            yield entry, f"the value of {entry.text!r}{problem}"


def _value_problem(name: str, value: Any, first: Any, gain_lengths: Collection[int]) -> str:
    """Return the error in the value of an option, to follow its name; empty if it is valid.

    `first` is the value of the first range.
    """
    try:
        if name == "gain_to_pe_array":
            length = len(first) if isinstance(first, list) else 0
            return _gain_problem(value, gain_lengths or {*_GAIN_LENGTHS, length})
        if name in MAP_CHECKS:
            MAP_CHECKS[name](value)
    except InvalidOption as error:
        return f": {error}"
    return ""


def _gain_problem(gains: Any, lengths: Collection[int]) -> str:
    numbers = isinstance(gains, list) and all(strict_json.kind(gain) == "number" for gain in gains)
    if not numbers or not all(0 <= gain < math.inf for gain in gains):
        return " must be a list of numbers that are not below 0"
    if len(gains) < n_tpc_pmts:
        return f" has {len(gains)} gains, and the TPC alone has {n_tpc_pmts} channels"
    if len(gains) not in lengths:
        return f" has {len(gains)} gains, and not {' or '.join(map(str, sorted(lengths)))}"
    return ""


def _changes(old_path: Path, new_path: Path, notes: list[str]) -> Iterator[str]:
    """Yield forbidden changes since an older copy of a file."""
    is_version = new_path.parent.name == VERSIONS

    def read(path: Path, place: str = "") -> tuple[str, dict[str, Any], list[lookup.Entry]]:
        text, content = _read(path)
        return text, content, [] if is_version else lookup.entries(content, path.name, place)

    try:
        _, old, old_table = read(old_path, str(old_path))
    except InvalidCorrection as error:
        notes.append(f"{new_path}: not compared with the older one, since that is wrong: {error}")
        return
    if not new_path.is_file():
        yield f"{new_path}: the file is gone, and {old_path} has it: put it back"
        return
    try:
        text, new, new_table = read(new_path)
    except InvalidCorrection as error:
        notes.append(f"{new_path}: not compared with the older one, since it is wrong: {error}")
        return
    if not is_version:
        closed = [entry for entry in old_table if "*" not in entry.text]
        changed = _changed_values(closed, new_table)
    elif store.is_development(new_path.name) or new_path.stem == f"{VERSIONS}_ONLINE":
        return
    else:
        changed = _changed_options(old, new)
    for name, problem in changed:
        yield f"{new_path}, {store.find_name(text, name)}: {problem}"


def _changed_options(old: dict[str, Any], new: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name in dict.fromkeys((*old, *new)):
        if name not in new:
            yield name, f"{name} was {old[name]!r}, and is gone: make a new version for that"
        elif name not in old:
            yield name, f"{name} is new: make a new version for that"
        elif not _same(old[name], new[name]):
            what = f"{name} was {old[name]!r}, and is {new[name]!r}"
            yield name, f"{what}: make a new version for that"


def _changed_values(old: list[lookup.Entry], new: list[lookup.Entry]) -> Iterator[tuple[str, str]]:
    overlapping = _overlapping(new)
    for entry in old:
        covered = overlapping(entry)
        kept = _overlapping(other for other in covered if _same(entry.value, other.value))
        for other in covered:
            same = [each[:2] for each in kept(other)]
            changed = lookup.without(lookup.common([entry[:2]], [other[:2]]), same)
            if changed:
                yield other.text, f"the value of the runs {lookup.as_text(changed)} has changed"
        lost = lookup.without([entry[:2]], [other[:2] for other in covered])
        if lost:
            yield entry.text, f"the runs {lookup.as_text(lost)} had a value, and have none"


def _overlapping(
    table: Iterable[lookup.Entry],
) -> Callable[[lookup.Entry], list[lookup.Entry]]:
    """Return a function that returns the entries of a table that overlap with an entry."""
    table = sorted(table, key=lambda entry: entry.first)
    firsts = [entry.first for entry in table]
    # In a table with overlaps, an earlier range may end later
    lasts = list(accumulate((entry.last for entry in table), max))

    def find(entry: lookup.Entry) -> list[lookup.Entry]:
        near = table[bisect_left(lasts, entry.first) : bisect_right(firsts, entry.last)]
        return [other for other in near if other.last >= entry.first]

    return find


def _same(one: Any, other: Any) -> bool:
    # Integers and floats compare as numbers, booleans do not
    return one == other and strict_json.full_kind(one) == strict_json.full_kind(other)

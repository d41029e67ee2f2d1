"""Values of options for runs: correction files, look-up strings, versions of the corrections.

A correction file is a JSON object that maps ranges of runs to values::

    {
        "001110-004020": 5600,
        "004021": 1300
    }

Both ends belong to a range; a single number is a range of one run. ``*`` instead of a number leaves
that end open, which only files with ``_dev`` in their name may do. A version is a file that names
an option's value, or its correction file. Look-up strings are those of
`amstrax.corrections.config`.

The parameter `place` is the path or address of a file, for messages.
"""

import json
import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from amstrax import strict_json
from amstrax.corrections import store
from amstrax.exceptions import (
    AmstraxError,
    CorrectionError,
    CorrectionNotFound,
    InvalidCorrection,
    InvalidOption,
    RunNotCovered,
)
from amstrax.run_values import DefaultChannelMap, RunValues, is_run_value

if TYPE_CHECKING:
    import strax

_VERSION = re.compile(r"[A-Za-z0-9.-]+", re.ASCII)
_NAME = re.compile(r"\w+", re.ASCII)
_RANGE = re.compile(r"(?P<first>\d{1,18}|\*)(-(?P<last>\d{1,18}|\*))?", re.ASCII)
#: First and last run; the last may be infinite
Range = tuple[float, float]


class Entry(NamedTuple):
    """A range of runs with its value."""

    first: int  #: first run; 0 for an open range
    last: float  #: last run, which is included; infinite for an open range
    text: str  #: range in the file
    value: Any


def run_number(run_id: str | int) -> int:
    """Return the number of a run; raise RunNotCovered if it has none, such as a superrun."""
    text = str(run_id)
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise RunNotCovered(
            f"run {text!r} has no number, so no correction can be looked up for it: give the "
            "option a value, with config={...} or --config_kwargs"
        )
    return int(text)


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
    may_be_open = store.is_development(file_name)
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


# Adding ranges to files


def read_entries(path: Path) -> list[Entry]:
    """Load the sorted entries of a correction file; empty if the file does not exist.

    Invalid files, and overlapping ranges, raise InvalidCorrection.
    """
    store.folder_of(path.name)
    if not path.exists():
        return []
    content = store.parse(strict_json.read_text(path, InvalidCorrection), str(path))
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
        store.parse(value, f"{path}, the value of {entry_.text!r}")
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
    one = merged(one)
    return without(one, without(one, other))


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


# Look-up strings and versions

#: Name in a version -> plugin option, where the names differ
OPTIONS = {"electron_drift_time_gate": "drift_time_gate"}


class Version(NamedTuple):
    """A version of the corrections in a branch of their repository, such as ``v1`` of master."""

    name: str
    branch: str

    @property
    def file_name(self) -> str:
        """Name of the file with its options."""
        return f"_global_{self.name}.json"


def parse_version(text: str) -> Version:
    """Parse the name of a version, ``'NAME'`` or ``'NAME@BRANCH'``, or raise InvalidOption."""
    name, at, branch = text.partition("@") if isinstance(text, str) else ("", "", "")
    try:
        if not _VERSION.fullmatch(name):
            raise InvalidCorrection(f"{name!r} is no name of a version")
        store.check_branch(branch if at else store.MASTER)
    except InvalidCorrection as error:
        raise InvalidOption(
            f"corrections_version={text!r}: {error}. Write 'v1', 'ONLINE', or 'v1@branch'"
        ) from None
    return Version(name, branch or store.MASTER)


def options(version: str) -> dict[str, Any]:
    """Return the plugin options that a version sets: option -> plain value or look-up string.

    Raises InvalidOption when `version` is not a valid name, and CorrectionError when its file
    cannot be read or is invalid.
    """
    name, branch = wanted = parse_version(version)
    try:
        file = store.find(wanted.file_name, branch)
    except CorrectionNotFound as error:
        raise CorrectionNotFound(
            f"there is no version {name!r} of the corrections: {error}"
        ) from None
    content = file.content()
    for given, option in OPTIONS.items():
        if given in content and content.get(option, content[given]) != content[given]:
            raise InvalidCorrection(
                f"{file.place}: {given} is {content[given]!r}, and {option}, which is the same, is "
                f"{content[option]!r}: leave one of them out"
            )
    return {
        OPTIONS.get(given, given): file_url(given, value, branch)
        if is_file(value)
        else strict_json.with_tuples(value)
        for given, value in content.items()
    }


def is_file(value: Any) -> bool:
    """Return whether a value in the file of a version is the name of a correction file."""
    return isinstance(value, str) and value.endswith(".json")


def file_url(option: str, file_name: str, branch: str = store.MASTER) -> str:
    """Return the look-up string of an option in a file, as it enters the lineage."""
    return f"file://{option}?filename={file_name}&github_branch={branch}"


def split(text: str) -> tuple[str, str, dict[str, str]]:
    """Split a look-up string into protocol, option and parameters, or raise InvalidOption."""
    protocol, _, rest = text.partition("://")
    option, _, query = rest.partition("?")
    pairs = [pair.partition("=") for pair in query.split("&")] if query else []
    parameters = {name: value for name, _, value in pairs}
    required, known = _PARAMETERS.get(protocol, (None, ()))
    good = (
        required in parameters
        and set(parameters) <= set(known)
        and len(parameters) == len(pairs)
        and all(parameters.values())
        and (not option or _NAME.fullmatch(option))
    )
    if not good:
        raise InvalidOption(
            f"{text!r} does not say where to look an option up: write "
            "'file://OPTION?filename=FILE&github_branch=BRANCH' or 'cmt://OPTION?version=VERSION'"
        )
    return protocol, option, parameters


#: Protocol -> (required parameter, optional parameters)
_PARAMETERS = {
    "file": ("filename", ("filename", "github_branch", "run_id", "take")),
    "cmt": ("version", ("version", "run_id", "take")),
}

#: Prefix of a parameter that stands for an attribute of the plugin
_REFERENCE = "plugin."


def fill(text: str, attribute: Callable[[str], Any]) -> str:
    """Replace each parameter ``plugin.NAME`` of a look-up string by ``attribute(NAME)``."""
    protocol, option, parameters = split(text)
    query = "&".join(
        f"{name}={attribute(value.removeprefix(_REFERENCE))}"
        if value.startswith(_REFERENCE)
        else f"{name}={value}"
        for name, value in parameters.items()
    )
    return f"{protocol}://{option}?{query}"


def source_of(text: str, name: str = "") -> tuple[store.File, str]:
    """Return the file in which an option is looked up, and its name in the file of a version.

    The latter is empty for a correction file. `name` is the name of the option, for a look-up
    string without it. Errors are those of `look_up`.
    """
    protocol, option, parameters = split(text)
    if protocol == "file":
        branch = parameters.get("github_branch", store.MASTER)
        return store.find(parameters["filename"], branch), ""
    option = option or name
    version = parse_version(parameters["version"])
    own = f"{option}_{version.name}.json"
    file, name = _in_version(version, option)
    if file is None or (value := file.content()[name]) == own:
        return store.find(own, version.branch), ""
    if store.exists(own, version.branch):
        raise InvalidCorrection(
            f"{text!r} may mean {own}, or {value!r}, which is what {version.file_name} has: give "
            f"the option that value, or {file_url(option, own, version.branch)!r}"
        )
    if is_file(value):
        return store.find(value, version.branch), ""
    return file, name


def _in_version(version: Version, option: str) -> tuple[store.File | None, str]:
    """Return the file of a version and the name of an option in it; None if it has none."""
    try:
        file = store.find(version.file_name, version.branch)
    except CorrectionNotFound:
        return None, ""
    content = file.content()
    for name in (option, *(given for given, real in OPTIONS.items() if real == option)):
        if name in content:
            return file, name
    return None, ""


class Found(NamedTuple):
    """Value of an option for a run, with its origin."""

    value: Any
    file: store.File
    range: str  #: range of runs; empty for all runs


def is_lookup(value: Any) -> bool:
    """Return whether the value of an option is a look-up string."""
    return isinstance(value, str) and "://" in value


def look_up(
    url: str,
    run_id: str,
    option: str | None = None,
    attribute: Callable[[str], Any] | None = None,
) -> Found:
    """Look up the value that a look-up string stands for.

    Parameters
    ----------
    url
        Look-up string.
    run_id
        Run to find the value for, unless the string names one.
    option
        Name of the option with this value; by default that in `url`.
    attribute
        Returns the attribute NAME of the plugin, for parameters ``plugin.NAME``; without it only
        ``plugin.run_id`` is known.

    Raises
    ------
    InvalidOption
        When `url` is not a look-up string.
    CorrectionError
        When the run has no value. The message names option, run, and file.
    """

    def value_of(name: str) -> Any:
        if name == "run_id":
            return run_id
        if attribute is None:
            raise InvalidOption(f"{url!r} needs plugin.{name}: only a plugin has its value")
        return attribute(name)

    text = fill(url, value_of)
    _, name, parameters = split(text)
    name = option or name
    run_id = parameters.get("run_id", run_id)
    try:
        file, in_version = source_of(text, name)
        content = file.content()
        if in_version:
            value, runs = content[in_version], ""
        else:
            entry = find(entries(content, file.name, file.place), run_id, file.place)
            value, runs = entry.value, entry.text
        if "take" in parameters:
            value = _take(value, parameters["take"], file.place)
    except CorrectionError as error:
        named = type(error)(f"option {name} for run {run_id}: {error}")
        named.option = name
        raise named from None
    return Found(strict_json.with_tuples(value), file, runs)


def _take(value: Any, key: str, place: str) -> Any:
    """Return one item of a list or table."""
    try:
        return value[key] if isinstance(value, dict) else value[int(key)]
    except (LookupError, TypeError, ValueError):
        raise InvalidCorrection(
            f"{place}: {strict_json.kind(value)} without an item {key!r}: correct take={key}"
        ) from None


# Values and coverage


class Option(NamedTuple):
    """An option with its value for a run."""

    name: str
    value: Any  #: value for the run; None with a `problem`
    default: Any  #: value if nothing is set
    source: str  #: correction file or run document with the value; empty for plain values
    runs: str  #: range of runs with this value in the file
    is_set: bool  #: whether the value differs from the default
    problem: str  #: reason why the run has no value; empty if it has one
    types: tuple[str, ...]  #: data types whose plugins take the option


def options_of(st: "strax.Context", run_id: str) -> list[Option]:
    """Return the options of all plugins of a context, by name, with their values for a run.

    Values in correction files and run documents are looked up.
    """
    import strax  # takes seconds

    taken: dict[str, tuple[strax.Option, list[str]]] = {}
    for data_type, plugin in st._plugin_class_registry.items():
        for option in plugin.takes_config.values():
            taken.setdefault(option.name, (option, []))[1].append(data_type)
    found = []
    for name, (option, types) in sorted(taken.items()):
        default = None if option.default is strax.OMITTED else option.default
        value: Any = st.config.get(name, default)
        hashes = map(strax.deterministic_hash, (value, default))
        is_set = name in st.config and len({*hashes}) > 1
        source = runs = problem = ""
        try:
            if isinstance(value, DefaultChannelMap) or is_run_value(value):
                given, value = value, RunValues(st).resolve(value, run_id)
                if value is not given:
                    source, runs = "run document", run_id
            elif is_lookup(value):
                entry = look_up(value, run_id, name)
                value, source, runs = entry.value, entry.file.name, entry.range or "all"
        except (AmstraxError, OSError) as error:
            source, problem = str(value), strict_json.one_line(error)
            value = None
        found.append(Option(name, value, default, source, runs, is_set, problem, tuple(types)))
    return found


def known_versions() -> list[str]:
    """Return the names of the versions in the corrections folders of this machine.

    Versions on a server are not included, since a server has no list of files.
    """
    names = store.names("_global_*.json")
    return sorted(name.removeprefix("_global_").removesuffix(".json") for name in names)


class Coverage(NamedTuple):
    """Runs for which a version of the corrections has a value of an option."""

    option: str
    file: str  #: correction file with the values
    runs: list[Range]  #: sorted ranges of runs; none with a `problem`
    problem: str = ""  #: reason why the ranges are unknown; empty if they are known


def coverage(version: str) -> list[Coverage]:
    """Return the runs that each file of a version covers; errors are those of `missing`."""
    found = []
    for option, value in options(version).items():
        if is_lookup(value):
            _, _, parameters = split(value)
            try:
                file, _ = source_of(value)
                table = entries(file.content(), file.name, file.place)
            except AmstraxError as error:
                problem = f"option {option}: {error}"
                found.append(Coverage(option, parameters["filename"], [], problem))
                continue
            runs = merged(entry[:2] for entry in table)
            found.append(Coverage(option, file.name, runs))
    return found


def covered(files: Iterable[Coverage]) -> tuple[list[Range], list[Range]]:
    """Return the runs that all files cover, and the gaps between them."""
    everywhere: list[Range] = [(0, float("inf"))]
    for file in files:
        everywhere = common(everywhere, file.runs)
    if not everywhere:
        return [], []
    return everywhere, without([(everywhere[0][0], everywhere[-1][1])], everywhere)


def missing(version: str, run_id: str) -> dict[str, str]:
    """Return the options of a version without a value for a run, with reasons.

    Errors are those of `options`.
    """
    found = {}
    for option, value in options(version).items():
        if is_lookup(value):
            try:
                look_up(value, run_id, option)
            except AmstraxError as error:
                found[option] = strict_json.one_line(error)
    return found

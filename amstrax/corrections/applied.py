"""Values of corrections and other options for a run, and the versions that cover it."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import strax

from amstrax.corrections import lookup, ranges, store, versions
from amstrax.exceptions import AmstraxError
from amstrax.run_values import DefaultChannelMap, RunValues, is_run_value


class Option(NamedTuple):
    """An option with its value for a run.

    Attributes
    ----------
    name
        Name of the option.
    value
        Value for the run; None with a `problem`.
    default
        Value if nothing is set.
    source
        Correction file or run document that holds the value; empty for plain values.
    runs
        Range of runs with this value in the file.
    is_set
        Whether the value differs from the default.
    problem
        Reason why the run has no value; empty if it has one.
    types
        Data types whose plugins take the option.
    """

    name: str
    value: Any
    default: Any
    source: str
    runs: str
    is_set: bool
    problem: str
    types: tuple[str, ...]


def options_of(st: strax.Context, run_id: str) -> list[Option]:
    """Return the options of all plugins of a context, by name, with their values for a run.

    Values in correction files and run documents are looked up.
    """
    taken: dict[str, tuple[strax.Option, list[str]]] = {}
    for data_type, plugin in st._plugin_class_registry.items():
        for option in plugin.takes_config.values():
            taken.setdefault(option.name, (option, []))[1].append(data_type)
    return [_option(st, option, run_id, types) for _, (option, types) in sorted(taken.items())]


def _option(st: strax.Context, option: strax.Option, run_id: str, types: Iterable[str]) -> Option:
    default = None if option.default is strax.OMITTED else option.default
    value: Any = st.config.get(option.name, default)
    is_set = option.name in st.config and strax.deterministic_hash(value) != (
        strax.deterministic_hash(default)
    )
    source = runs = problem = ""
    try:
        if isinstance(value, DefaultChannelMap) or is_run_value(value):
            given, value = value, RunValues(st).resolve(value, run_id)
            if value is not given:
                source, runs = "run document", run_id
        elif versions.is_lookup(value):
            found = versions.look_up(value, run_id, option.name)
            value, source, runs = found.value, found.file.name, found.range or "all"
    except (AmstraxError, OSError) as error:
        source, problem = str(value), " ".join(str(error).split())
        value = None
    return Option(option.name, value, default, source, runs, is_set, problem, tuple(types))


def known_versions() -> list[str]:
    """Return the names of the versions in the corrections folders of this machine.

    Versions on a server are not included, since a server has no list of files.
    """
    names = store.names("_global_*.json")
    return sorted(name.removeprefix("_global_").removesuffix(".json") for name in names)


class Coverage(NamedTuple):
    """Runs for which a version of the corrections has a value of an option.

    Attributes
    ----------
    option
        Name of the option.
    file
        Correction file with the values.
    runs
        Ranges of runs, sorted; none with a `problem`.
    problem
        Reason why the ranges are unknown; empty if they are known.
    """

    option: str
    file: str
    runs: list[ranges.Range]
    problem: str = ""


def coverage(version: str) -> list[Coverage]:
    """Return the runs that each file of a version covers; errors are those of `missing`."""
    found = []
    for option, value in versions.options(version).items():
        if versions.is_lookup(value):
            _, _, parameters = versions.split(value)
            try:
                file = versions.source_of(value).file
                table = lookup.entries(file.content(), file.name, file.place)
            except AmstraxError as error:
                problem = f"option {option}: {error}"
                found.append(Coverage(option, parameters["filename"], [], problem))
                continue
            runs = ranges.merged(entry[:2] for entry in table)
            found.append(Coverage(option, file.name, runs))
    return found


def covered(files: Iterable[Coverage]) -> tuple[list[ranges.Range], list[ranges.Range]]:
    """Return the runs that all files cover, and the gaps between them."""
    everywhere: list[ranges.Range] = [(0, float("inf"))]
    for file in files:
        everywhere = ranges.common(everywhere, file.runs)
    if not everywhere:
        return [], []
    return everywhere, ranges.without([(everywhere[0][0], everywhere[-1][1])], everywhere)


def missing(version: str, run_id: str) -> dict[str, str]:
    """Return the options for which a version has no value for a run, with reasons; empty if
    covered.

    Raises
    ------
    InvalidOption
        When `version` is no name of a version.
    CorrectionError
        When its file cannot be read or is invalid.
    """
    found = {}
    for option, value in versions.options(version).items():
        if versions.is_lookup(value):
            try:
                versions.look_up(value, run_id, option)
            except AmstraxError as error:
                found[option] = " ".join(str(error).split())
    return found

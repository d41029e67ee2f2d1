"""Versions of the corrections: the options that each sets, their values, and the covered runs."""

import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from amstrax import strict_json
from amstrax.corrections import lookup, store
from amstrax.exceptions import (
    AmstraxError,
    CorrectionError,
    CorrectionNotFound,
    InvalidCorrection,
    InvalidOption,
)
from amstrax.run_values import DefaultChannelMap, RunValues, is_run_value

if TYPE_CHECKING:
    import strax

#: Name in a version -> plugin option, where the names differ
OPTIONS = {"electron_drift_time_gate": "drift_time_gate"}

_VERSION = re.compile(r"[A-Za-z0-9.-]+", re.ASCII)
_NAME = re.compile(r"\w+", re.ASCII)


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

    Raises
    ------
    InvalidOption
        When `version` is not a valid name.
    CorrectionError
        When its file cannot be read or is invalid.
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
        else lookup.frozen(value)
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


class Source(NamedTuple):
    """Place where an option is looked up."""

    file: store.File
    #: Name in the file of a version, for values of all runs; empty for a correction file
    name: str = ""


def source_of(text: str, name: str = "") -> Source:
    """Return the place where an option is looked up; errors are those of `look_up`.

    `name` is the name of the option, for a look-up string without it.
    """
    protocol, option, parameters = split(text)
    if protocol == "file":
        branch = parameters.get("github_branch", store.MASTER)
        return Source(store.find(parameters["filename"], branch))
    option = option or name
    version = parse_version(parameters["version"])
    own = f"{option}_{version.name}.json"
    file, name = _in_version(version, option)
    if file is None or (value := file.content()[name]) == own:
        return Source(store.find(own, version.branch))
    if store.exists(own, version.branch):
        raise InvalidCorrection(
            f"{text!r} may mean {own}, or {value!r}, which is what {version.file_name} has: give "
            f"the option that value, or {file_url(option, own, version.branch)!r}"
        )
    if is_file(value):
        return Source(store.find(value, version.branch))
    return Source(file, name)


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
            entry = lookup.find(lookup.entries(content, file.name, file.place), run_id, file.place)
            value, runs = entry.value, entry.text
        if "take" in parameters:
            value = _take(value, parameters["take"], file.place)
    except CorrectionError as error:
        named = type(error)(f"option {name} for run {run_id}: {error}")
        named.option = name
        raise named from None
    return Found(lookup.frozen(value), file, runs)


def _take(value: Any, key: str, place: str) -> Any:
    """Return one item of a list or table."""
    try:
        return value[key] if isinstance(value, dict) else value[int(key)]
    except (LookupError, TypeError, ValueError):
        raise InvalidCorrection(
            f"{place}: {lookup.kind(value)} without an item {key!r}: correct take={key}"
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
    runs: list[lookup.Range]  #: sorted ranges of runs; none with a `problem`
    problem: str = ""  #: reason why the ranges are unknown; empty if they are known


def coverage(version: str) -> list[Coverage]:
    """Return the runs that each file of a version covers; errors are those of `missing`."""
    found = []
    for option, value in options(version).items():
        if is_lookup(value):
            _, _, parameters = split(value)
            try:
                file = source_of(value).file
                table = lookup.entries(file.content(), file.name, file.place)
            except AmstraxError as error:
                problem = f"option {option}: {error}"
                found.append(Coverage(option, parameters["filename"], [], problem))
                continue
            runs = lookup.merged(entry[:2] for entry in table)
            found.append(Coverage(option, file.name, runs))
    return found


def covered(files: Iterable[Coverage]) -> tuple[list[lookup.Range], list[lookup.Range]]:
    """Return the runs that all files cover, and the gaps between them."""
    everywhere: list[lookup.Range] = [(0, float("inf"))]
    for file in files:
        everywhere = lookup.common(everywhere, file.runs)
    if not everywhere:
        return [], []
    return everywhere, lookup.without([(everywhere[0][0], everywhere[-1][1])], everywhere)


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

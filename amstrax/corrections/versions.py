"""Versions of the corrections: the options that each sets, and where their values are."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from amstrax.corrections import lookup, store
from amstrax.exceptions import (
    CorrectionError,
    CorrectionNotFound,
    InvalidCorrection,
    InvalidOption,
)

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
    """Parse the name of a version, ``'NAME'`` or ``'NAME@BRANCH'``.

    Raises
    ------
    InvalidOption
        When it is no such name.
    """
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


def contents(version: str) -> dict[str, Any]:
    """Return the content of the file of a version: name -> file name or plain value.

    Raises
    ------
    InvalidOption
        When `version` is no name of a version.
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
    return content


def options(version: str) -> dict[str, Any]:
    """Return the plugin options that a version sets: option -> plain value or look-up string.

    Parameters
    ----------
    version
        As ``'v1'``, ``'ONLINE'`` or ``'v1@branch'``.

    Raises
    ------
    InvalidOption, CorrectionError
        As in `contents`.
    """
    branch = parse_version(version).branch
    return {
        OPTIONS.get(name, name): file_url(name, value, branch)
        if is_file(value)
        else lookup.frozen(value)
        for name, value in contents(version).items()
    }


def is_file(value: Any) -> bool:
    """Return whether a value in the file of a version is the name of a correction file."""
    return isinstance(value, str) and value.endswith(".json")


def file_url(option: str, file_name: str, branch: str = store.MASTER) -> str:
    """Return the look-up string of an option in a file, as it enters the lineage."""
    return f"file://{option}?filename={file_name}&github_branch={branch}"


def split(text: str) -> tuple[str, str, dict[str, str]]:
    """Split a look-up string into protocol, option and parameters.

    Raises
    ------
    InvalidOption
        When it is none.
    """
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
    """Return the place where an option is looked up.

    Parameters
    ----------
    text
        String that says so.
    name
        Name of the option, for a `text` without it.

    Raises
    ------
    InvalidOption
        When `text` does not say where an option is.
    CorrectionError
        When the file cannot be had.
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
    range: str  #: of runs; empty where it is for all


def is_lookup(value: Any) -> bool:
    """Return whether the value of an option is a look-up string."""
    return isinstance(value, str) and "://" in value


def look_up(
    url: str,
    run_id: str,
    option: str | None = None,
    attribute: Callable[[str], Any] | None = None,
) -> Found:
    """Return the value that a look-up string stands for.

    Parameters
    ----------
    url
        The string.
    run_id
        Run to find the value for, unless the string names one.
    option
        Name of the option that has this value; by default that in `url`.
    attribute
        Returns the attribute NAME of the plugin, for parameters ``plugin.NAME``; without it only
        ``plugin.run_id`` is known.

    Raises
    ------
    InvalidOption
        When it is no such string.
    CorrectionError
        When there is no value for the run. The message names option, run, and file.
    """

    def value_of(name: str) -> Any:
        if name == "run_id":
            return run_id
        if attribute is None:
            raise InvalidOption(
                f"{url!r} needs plugin.{name}: only the plugin itself can tell that"
            )
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

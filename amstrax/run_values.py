"""Option values from run documents.

The option value ``rundoc://?path=A,B&detector=xams&fallback=F`` stands for the value at the dotted
path A of the run document, or else at B, and so on. The fallback is used if the document has none
of them, or if the run is not in the run database:

- ``xams_default``: the channel map `amstrax.rundoc.XAMS_CHANNEL_MAP`. Values at the paths must then
  be channel maps; entries that are not pairs of channels are dropped.
- ``empty``: an empty list

Without a fallback a missing value is an error. A run database that cannot be reached is always an
error, since the fallback would silently change numbers.
"""

import contextlib
import logging
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple

from immutabledict import immutabledict

from amstrax import rundoc
from amstrax.exceptions import (
    InvalidOption,
    InvalidRunDocument,
    RunDatabaseUnreachable,
    RunNotFound,
)
from amstrax.strict_json import short

log = logging.getLogger(__name__)

_PREFIX = "rundoc://"
_PATH = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_CHANNEL_MAP, _EMPTY = "xams_default", "empty"


class DefaultChannelMap(immutabledict):
    """Channel map of a context for runs whose document has none.

    A plain dictionary as ``channel_map`` applies to every run.
    """


class Address(NamedTuple):
    """Parsed string ``rundoc://...``."""

    paths: tuple[str, ...]
    detector: str | None  #: whose run database is queried; None for the context's, or that of XAMS
    fallback: str | None  #: ``xams_default`` or ``empty``; None without fallback


def is_run_value(value: object) -> bool:
    """Return whether the value of an option is a string ``rundoc://...``."""
    return isinstance(value, str) and value.startswith(_PREFIX)


def _parse_address(text: str) -> Address:
    """Parse a string ``rundoc://...``, or raise InvalidOption."""
    name, _, query = text.removeprefix(_PREFIX).partition("?")
    pairs = [pair.partition("=") for pair in query.split("&")] if query else []
    parameters = {key: value for key, _, value in pairs}
    address = Address(
        tuple(parameters.get("path", "").split(",")),
        parameters.get("detector"),
        parameters.get("fallback"),
    )
    good = (
        not name
        and set(parameters) <= {"path", "detector", "fallback"}
        and len(parameters) == len(pairs)
        and all(_PATH.fullmatch(path) for path in address.paths)
        and address.detector != ""
        and address.fallback in (None, _CHANNEL_MAP, _EMPTY)
    )
    if not good:
        raise InvalidOption(
            f"{short(text)} names no value of a run document: write "
            f"'{_PREFIX}?path=A.B,C&detector=xams&fallback=F', F is {_CHANNEL_MAP} or {_EMPTY}"
        )
    return address


def _value_in(document: Mapping[str, Any] | None, address: Address, run_id: str) -> Any:
    """Return the value of an address in a run document; None stands for that of an unknown run."""
    is_channel_map = address.fallback == _CHANNEL_MAP
    for path in address.paths:
        value = rundoc.value_at(document, path)
        if value is not None and is_channel_map:
            value = rundoc.usable_pairs(value, path, f"run {run_id}") or None
        if value is not None:
            return rundoc.with_pairs(value) if isinstance(value, Mapping) else value
    if is_channel_map:
        return rundoc.XAMS_CHANNEL_MAP
    if address.fallback == _EMPTY:
        return []
    where = "has no" if document is not None else "is not in the run database, so it has no"
    raise InvalidRunDocument(
        f"run {run_id} {where} {' or '.join(address.paths)}: add it to the run document, or give "
        "the option a value"
    )


def get_rundoc_value(
    run_id: str | int, path: str, detector: str = "xams", default: Any = None
) -> Any:
    """Return a value of a run document in the run database.

    Parameters
    ----------
    run_id
        Name or number of the run.
    path
        Dotted path, such as ``"xams_bookkeeping.run_class"``; others raise InvalidOption.
    detector
        Detector whose run database is queried; raises RunDatabaseError if that fails.
    default
        Returned for an unknown run, and if the value is missing or null.
    """
    if not isinstance(path, str) or not _PATH.fullmatch(path):
        raise InvalidOption(f"{short(path)} is no path in a run document: write it as 'A.B'")
    value = rundoc.value_at(_fetch(run_id, [path], detector), path)
    return default if value is None else value


def _fetch(run_id: str | int, paths: Iterable[str], detector: str) -> dict[str, Any] | None:
    """Fetch the fields of a run document that hold some paths; None for an unknown run."""
    from amstrax.rundb import documents, get_mongo_collection  # imports pymongo

    collection = get_mongo_collection(detector)
    try:
        return documents.find_run(collection, run_id, projection=_fields(paths))
    except RunNotFound:
        return None


def _fields(paths: Iterable[str]) -> list[str]:
    """Return the top-level fields of some paths, preceded by the fields that name the run."""
    return list(dict.fromkeys(["name", "number", *(path.partition(".")[0] for path in paths)]))


class RunValues:
    """Values of run documents for the plugins of one context, each looked up once per run.

    Documents given to the context replace those in the run database. Plugins without a context use
    the run database of the settings.
    """

    def __init__(self, context: Any = None):
        self._context = context
        self._known: dict[tuple[str, str], Any] = {}
        #: Runs, and what is done without their documents, that were reported
        self._warned: set[tuple[str, str]] = set()

    def __getstate__(self) -> dict[str, Any]:
        # Worker processes get values, since a client belongs to one process
        return {"_context": None, "_known": self._known, "_warned": self._warned}

    def resolve(self, value: Any, run_id: str) -> Any:
        """Return the value of an option for a run, by `get` or `channel_map` if needed."""
        if isinstance(value, DefaultChannelMap):
            return self.channel_map(run_id, value)
        return self.get(value, run_id) if is_run_value(value) else value

    def get(self, url: str, run_id: str) -> Any:
        """Return the value that a string ``rundoc://...`` stands for.

        Raises InvalidOption when it has no path, an unknown parameter or an unknown fallback,
        InvalidRunDocument when the document has no such value and no fallback is given (both are
        ValueErrors), and RunDatabaseError when the run database cannot be queried.
        """
        if (url, run_id) not in self._known:
            address = _parse_address(url)
            try:
                document = self._document(run_id, address)
            except RunDatabaseUnreachable as error:
                raise RunDatabaseUnreachable(
                    f"run {run_id}: {' or '.join(address.paths)} of its document is needed: "
                    f"{error}; or give the option a value"
                ) from error
            self._known[url, run_id] = _value_in(document, address, run_id)
        return self._known[url, run_id]

    def channel_map(self, run_id: str, default: DefaultChannelMap) -> Mapping[str, Any]:
        """Return the channel map of a run, or `default` if its document has none.

        Only the context's own run database is queried. If it cannot be reached, `default` is
        returned with one warning per run.
        """
        if ("", run_id) in self._known:
            return self._known["", run_id]
        if not self._given(run_id) and self._frontend() is None:
            return default
        try:
            address = Address(rundoc.CHANNEL_MAP_FIELDS, None, _CHANNEL_MAP)
            found = rundoc.channel_map(self._document(run_id, address) or {})
        except RunDatabaseUnreachable:
            self._warn(
                run_id,
                "the default channel map is used: if the run has another, give the context "
                "config={'channel_map': {...}}",
            )
            return default
        return self._known.setdefault(("", run_id), default if found is None else found)

    def options(self, run_id: str) -> Mapping[str, Any] | None:
        """Return the options of plugins in the document of a run; None for an unknown run.

        Only the context's own run database is queried. While it cannot be reached, all runs are
        unknown, with one warning per run. Raises InvalidRunDocument if they are no table.
        """
        if ("options", run_id) not in self._known:
            document, frontend = self._given(run_id), self._frontend()
            if document is None and frontend is not None:
                try:
                    document = frontend.run_document(run_id, _fields([rundoc.OPTIONS_FIELD]))
                except RunDatabaseUnreachable:
                    self._warn(
                        run_id,
                        "options in it, as gains, are not used: if it has some, give the context "
                        "config={...}, or use set_run_document",
                    )
            if document is None:
                return None
            self._known["options", run_id] = rundoc.options(document)
        return self._known["options", run_id]

    def _warn(self, run_id: str, instead: str) -> None:
        """Say once what is done without the document of a run; the frontend has said why."""
        if (run_id, instead) not in self._warned:
            self._warned.add((run_id, instead))
            log.warning("run %s: its document cannot be read, so %s", run_id, instead)

    def check_options(self, run_id: str) -> None:
        """Raise RunDatabaseUnreachable while the options of a run cannot be read."""
        if self.options(run_id) is None and getattr(self._frontend(), "is_away", False):
            raise RunDatabaseUnreachable(
                f"run {run_id}: its document may have options, as gains, and the run database "
                "cannot be reached: see `amstrax rundb check`, or leave the run database out: "
                "--context_kwargs '{\"init_rundb\": false}'"
            )

    def fetch_options(self, run_ids: Iterable[str]) -> set[str]:
        """Fetch what `options` returns for several runs with one query; return the other runs."""
        left = {run for run in run_ids if ("options", run) not in self._known}
        left -= {run for run in left if self._given(run) is not None}
        frontend = self._frontend()
        if len(left) < 2 or frontend is None:
            return set()
        with contextlib.suppress(RunDatabaseUnreachable):
            for run_id, document in frontend.documents_with(rundoc.OPTIONS_FIELD, left).items():
                with contextlib.suppress(InvalidRunDocument):  # raised when the run is used
                    self._known["options", run_id] = rundoc.options(document)
                left.remove(run_id)
        return left

    def _document(self, run_id: str, address: Address) -> Mapping[str, Any] | None:
        """Return the document of a run; None for an unknown run."""
        if given := self._given(run_id):
            return given
        frontend = self._frontend() if address.detector is None else None
        if frontend is None:
            return _fetch(run_id, address.paths, address.detector or "xams")
        return frontend.run_document(run_id, _fields(address.paths))

    def _given(self, run_id: str) -> Mapping[str, Any] | None:
        return None if self._context is None else self._context.run_documents.get(run_id)

    def _frontend(self) -> Any:
        """Return the frontend of the context's run database; None without one."""
        frontends = () if self._context is None else self._context.storage
        return next((f for f in frontends if hasattr(f, "run_document")), None)


#: Runs whose options have been reported, with these options
_reported: set[tuple[str, ...]] = set()


def check_used_options(
    run_id: str,
    given: Mapping[str, Any],
    config: Mapping[str, Any],
    taken: Mapping[str, Any],
) -> None:
    """Check the options `given` in the document of a run, and log once which are used.

    `config` of the context overrides them; `taken` are the options of its plugins. An untracked
    option raises InvalidRunDocument.
    """
    used = sorted(taken.keys() & given.keys() - config.keys())
    if untracked := [name for name in used if not taken[name].track]:
        raise InvalidRunDocument(
            f"the run document of run {run_id} sets {untracked[0]}, which is not in the "
            "lineage, so data would not show it: remove it there, or set it in config"
        )
    others = sorted(taken.keys() & given.keys() & config.keys())
    others = [name for name in others if repr(given[name]) != repr(config[name])]
    for name in sorted(given.keys() - taken.keys()):
        # Options of other contexts are not similar
        near = get_close_matches(name, taken, 1, 0.8)
        if near and (run_id, "unknown", name) not in _reported:
            _reported.add((run_id, "unknown", name))
            log.warning(
                "run %s: no plugin takes the option %r in its run document; did you mean %s?",
                *(run_id, name, near[0]),
            )
    key = (run_id, *used, "", *others)
    if (used or others) and key not in _reported:
        _reported.add(key)
        log.info(
            "run %s: options of its run document are used: %s%s",
            run_id,
            ", ".join(used) or "none",
            f"; the config of the context overrides {', '.join(others)}" if others else "",
        )

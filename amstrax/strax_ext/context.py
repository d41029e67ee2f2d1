"""The class of amstrax's contexts."""

import contextlib
import copy
import functools
import inspect
import logging
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import PurePath
from types import MethodType
from typing import Any

import numpy as np
import pandas as pd
import strax
from immutabledict import immutabledict

from amstrax.exceptions import (
    InvalidOption,
    InvalidRunDocument,
    InvalidRunId,
    NoSuchDataType,
    RunNotCovered,
    UnknownMethod,
    did_you_mean,
)
from amstrax.run_values import RunValues, check_used_options
from amstrax.rundoc import DEAD_TIME, MISSING_LIVE_DATA
from amstrax.strax_ext import checks
from amstrax.strax_ext.equivalents import (
    EQUIVALENT_PARENTS,
    EquivalentData,
    other_release,
    parents_metadata,
)
from amstrax.strax_ext.plugin import Made, Plugin, Processor, State, dependencies

log = logging.getLogger(__name__)

#: Methods of the modules of `amstrax.analyses`
ANALYSES = {
    "on_context": (
        *("compare_runs", "event_display", "event_scatter", "plot_area_per_channel", "plot_bands"),
        *("plot_drift_time", "plot_kr83m_delays", "plot_led_areas", "plot_led_records"),
        *("plot_peak_records", "plot_peaks", "plot_peaks_aft_histogram"),
        *("plot_peaks_area_aft_histogram", "plot_peaks_area_width_histogram", "plot_positions"),
        *("plot_rates", "plot_records", "plot_records_matrix", "raw_records_matrix"),
        *("records_matrix", "waveform_display"),
    ),
    "calibrations": (
        *("plot_alphas", "plot_drift_edges", "plot_energy", "plot_lifetime", "plot_light_map"),
        "plot_single_electrons",
    ),
    "tables": ("cut_flow", "livetime", "plot_trends", "trends"),
}


def _check_data_types(names: Any, known: Iterable[str]) -> None:
    """Raise NoSuchDataType for a name that is not in `known`."""
    for name in strax.to_str_tuple(names):
        if name not in known:
            raise NoSuchDataType(f"this context does not make {name!r}{did_you_mean(name, known)}")


def _check_run_ids(run_ids: Any) -> None:
    """Raise InvalidRunId unless `run_ids` is text, or a sequence of text."""
    several = isinstance(run_ids, list | tuple | np.ndarray | pd.Series)
    if several and not len(run_ids):
        raise InvalidRunId("no run id is given: write one, as '006724', or a list of them")
    for run_id in run_ids if several else (run_ids,):
        if isinstance(run_id, str | bytes):
            continue
        text = "006724"
        if isinstance(run_id, int | np.integer) and run_id >= 0:
            text = f"{run_id:06d}"
        raise InvalidRunId(f"run id {run_id!r} is not text: write it in quotes, as {text!r}")


class _Analysis:
    """Method of the context that is imported at its first use.

    `strax.Context.add_method` would import matplotlib at once, and analyses of straxen with the
    same names would replace what it adds.
    """

    def __init__(self, name: str, module: str):
        self._name, self._module = name, module

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        module = import_module(self._module)
        function = getattr(module, self._name)
        return function if instance is None else MethodType(function, instance)


#: Arguments of ``get_iter``, which takes options of the context as well
_OF_GET_ITER = tuple(inspect.signature(strax.Context.get_iter).parameters)

_OF_GET_ARRAY = {*_OF_GET_ITER, *inspect.signature(strax.multi_run).parameters} | {
    "add_run_id_field",
    "run_id_as_bytes",
}

_TIME_SELECTIONS = ("fully_contained", "touching", "skip")

#: Serialises changes and copies of contexts, which take microseconds
_lock = threading.RLock()


def _on_snapshot(name: str, of_data_type: bool = False) -> Callable:
    """Return strax's method of that name, called on a snapshot; its data type may be checked."""
    of_strax = getattr(strax.Context, name)
    signature = inspect.signature(of_strax)

    @functools.wraps(of_strax)
    def method(self: "Context", *args: Any, **kwargs: Any) -> Any:
        snapshot = self._snapshot()
        if of_data_type:
            _, data_type, *_ = signature.bind(self, *args, **kwargs).arguments.values()
            _check_data_types(data_type, snapshot._plugin_class_registry)
        return getattr(super(Context, snapshot), name)(*args, **kwargs)

    method.__doc__ = f"Return what strax's ``{name}`` does, for the options of this moment."
    return method


def _serialised(name: str) -> Callable:
    """Return strax's method of that name, which changes a context, guarded by the lock."""

    @functools.wraps(getattr(strax.Context, name))
    def method(self: "Context", *args: Any, **kwargs: Any) -> Any:
        with _lock:
            # A snapshot belongs to one call, so its changes must not reach the common cache
            if self._is_snapshot:
                self._made = Made()
            return getattr(super(Context, self), name)(*args, **kwargs)

    method.__doc__ = f"Do what strax's ``{name}`` does, one thread at a time."
    return method


#: Warnings that have been reported
_reported: set[tuple[str, ...]] = set()


@strax.takes_config(
    strax.Option(
        "stored_chunk_size_mb",
        default=50,
        type=(int, float),
        help="Size of stored chunks of amstrax's plugins that set no chunk_target_size_mb [MB]. A "
        "job holds as much of each data type that it stores; strax has 200 MB",
    )
)
class Context(strax.Context):
    """Thread-safe context with the methods in `ANALYSES`, ``st.NAME(run_id, ...)``.

    Each call works on a snapshot of the options and registered plugins. So threads do not see the
    temporary plugins that strax registers to join several targets, and all plugins and keys of a
    call have the same options.

    Plugins and keys are cached until an option, a plugin class or an option of a plugin changes,
    also in place. strax compares only versions, and hashes all options before each look into its
    cache, some hundred times for a job.

    Parameters are as in strax; the default processor is `Processor`.
    """

    _is_snapshot = False
    #: Snapshot from which `_of_run` made this one; None for others
    _of_any_run: "Context | None" = None
    #: Run that this snapshot is for, and the options in its document
    _run_id = ""
    _run_options: Mapping[str, Any] = immutabledict()
    #: Runs without document; only in snapshots, since one may be added
    _unknown_runs: set[str] | frozenset[str] = frozenset()
    #: Version of the corrections that was applied last, and its options
    corrections_version = ""
    corrections: Mapping[str, Any] = immutabledict()
    #: Whether a run database was unreachable when runs were listed
    _lacks_runs = False
    #: Name of a run -> document that replaces the one in the run database
    run_documents: Mapping[str, Mapping[str, Any]] = immutabledict()
    #: Cache for the last state
    _made = Made()
    #: Unknown options of plugins that a warning has named
    _unknown_options: frozenset[str] = frozenset()
    #: Access to data of the other release; only in snapshots
    _equivalents: EquivalentData | None = None

    def __init__(
        self,
        storage: Any = None,
        config: Mapping[str, Any] | None = None,
        register: Any = None,
        register_all: Any = None,
        processors: Any = None,
        **kwargs: Any,
    ):
        if processors is None:
            processors = strax.PROCESSORS | {"default": Processor}
        super().__init__(storage, config, register, register_all, processors, **kwargs)

    @property
    def run_values(self) -> RunValues:
        """Values of run documents, for the options of plugins."""
        known = self.__dict__.get("_run_values")
        return known or self.__dict__.setdefault("_run_values", RunValues(self))

    def set_run_document(self, run_id: str, document: Mapping[str, Any]) -> None:
        """Take options of a run from a document instead of the run database."""
        self.run_documents = {**self.run_documents, run_id: document}
        self._run_values = RunValues(self)

    def run_defaults(self, run_id: str) -> Mapping[str, Any]:
        """Return the options in the document of a run.

        Options of the context's config take precedence. The document is the one given with
        `set_run_document`, or that in the run database. A superrun has the options of its runs.

        Raises
        ------
        InvalidRunDocument
            (a ValueError) when they are no table.
        InvalidOption
            (a ValueError) when the runs of a superrun have different options.
        """
        if self._of_any_run is not None:
            return self._run_options
        if run_id.startswith("_"):
            return self._superrun_options(run_id)
        # strax asks for run 0 where there is no run
        if run_id == "0" or not run_id.isdecimal() or run_id in self._unknown_runs:
            return {}
        options = self.run_values.options(run_id)
        if options is None and isinstance(self._unknown_runs, set):
            self._unknown_runs.add(run_id)
        return options or super().run_defaults(run_id)

    def _superrun_options(self, run_id: str) -> Mapping[str, Any]:
        try:
            runs = list(self.run_metadata(run_id, projection="sub_run_spec")["sub_run_spec"])
        except (strax.RunMetadataNotAvailable, LookupError):
            return {}
        found = {run: self.run_defaults(run) for run in runs}
        first = next(iter(found), "")
        for run, options in found.items():
            names = sorted(
                name
                for name in {*options, *found[first]} - {*self.config}
                if repr(options.get(name)) != repr(found[first].get(name))
            )
            if names:
                raise InvalidOption(
                    f"runs {first} and {run} of superrun {run_id} have different options in their "
                    f"documents: {', '.join(names)}: set these in the config of the context"
                )
        return found.get(first, {})

    def _of_run(self, run_id: str) -> "Context":
        """Return a snapshot with the options in the document of a run, which are logged once."""
        if self._of_any_run is not None and self._run_id == run_id:
            return self
        snapshot = self._of_any_run or self._snapshot()
        given = snapshot.run_defaults(run_id)
        options = {name: value for name, value in given.items() if name not in snapshot.config}
        if given:
            taken = snapshot._options_of_plugins()
            check_used_options(run_id, given, snapshot.config, taken)
        of_run = snapshot._copy()
        of_run._is_snapshot, of_run._run_values = True, snapshot.run_values
        of_run._of_any_run, of_run._run_id, of_run._run_options = snapshot, run_id, given
        of_run._made = snapshot._made.for_options(options) if options else snapshot._made
        if not run_id.startswith("_"):
            # A run database is asked once for what is stored of the run
            of_run.storage = [
                frontend.of_run(run_id) if hasattr(frontend, "of_run") else frontend
                for frontend in snapshot.storage
            ]
        return of_run

    deregister_plugins_with_missing_dependencies = _serialised(
        "deregister_plugins_with_missing_dependencies"
    )
    purge_unused_configs = _serialised("purge_unused_configs")

    get_data_kinds = _on_snapshot("get_data_kinds")
    get_dependencies = _on_snapshot("get_dependencies", of_data_type=True)
    get_dependency_plugins = _on_snapshot("get_dependency_plugins", of_data_type=True)
    get_save_when = _on_snapshot("get_save_when", of_data_type=True)
    merge_per_chunk_storage = _on_snapshot("merge_per_chunk_storage")

    def get_array(self, run_id: Any, targets: Any, *args: Any, **kwargs: Any) -> np.ndarray:
        """Return data of one or more runs; parameters are as in strax.

        All runs share one snapshot, and one query for the options in their documents.
        """
        _check_run_ids(run_id)
        if others := {name: kwargs.pop(name) for name in kwargs.keys() - _OF_GET_ARRAY}:
            return self.new_context(**others).get_array(run_id, targets, *args, **kwargs)
        snapshot = self._snapshot()
        snapshot._fetch_options(strax.to_str_tuple(run_id))
        return super(Context, snapshot).get_array(run_id, targets, *args, **kwargs)

    def make(self, run_id: Any, *args: Any, **kwargs: Any) -> None:
        """Make and store data; parameters are as in strax."""
        _check_run_ids(run_id)
        super().make(run_id, *args, **kwargs)

    def is_stored(self, run_id: str, target: Any, *args: Any, **kwargs: Any) -> bool:
        """Return whether data is stored; parameters are as in strax."""
        _check_run_ids(run_id)
        snapshot = self._of_run(run_id) if isinstance(run_id, str) else self._snapshot()
        return super(Context, snapshot).is_stored(run_id, target, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        # Called only for what does not exist
        problem = f"a context has no attribute {name!r}"
        # strax looks for the settings of a context that it has not made yet
        if not name.startswith("_") and "context_config" in self.__dict__:
            problem += did_you_mean(name, [known for known in dir(self) if known[0] != "_"])
        raise UnknownMethod(problem)

    def set_config(self, config: Mapping[str, Any] | None = None, mode: str = "update") -> None:
        """Set options, as strax does; paths become strings, which strax can hash."""
        if config:
            config = {k: str(v) if isinstance(v, PurePath) else v for k, v in config.items()}
        self._set_config(config, mode)

    _set_config = _serialised("set_config")

    def set_context_config(
        self, context_config: Mapping[str, Any] | None = None, mode: str = "update"
    ) -> None:
        """Set options of the context, as strax does."""
        cls = type(self)
        if strax.Context.takes_config.keys() - cls.takes_config.keys():
            # straxen, if imported later, adds options only to the class of strax
            cls.takes_config = immutabledict({**strax.Context.takes_config, **cls.takes_config})
        self._check_arguments(context_config or ())
        self._set_context_config(context_config, mode)

    def _check_arguments(self, names: Iterable[str]) -> None:
        """Raise UnknownArgument for a name that is not an option of contexts."""
        if not (unknown := {*names} - {*self.takes_config}):
            return
        known = {*_OF_GET_ITER, *self.takes_config} - {"self", "kwargs", *unknown}
        checks.check_arguments(sorted(unknown), known, self._options_of_plugins())

    _set_context_config = _serialised("set_context_config")

    def _get_plugins(
        self, targets: Sequence[str], run_id: str, *args: Any, **kwargs: Any
    ) -> dict[str, strax.Plugin]:
        _check_run_ids((run_id,))
        snapshot = self._of_run(run_id)
        _check_data_types(tuple(targets), snapshot._plugin_class_registry)
        self._warn_of_unknown_options(snapshot)
        plugins = super(Context, snapshot)._get_plugins(targets, run_id, *args, **kwargs)
        todo = list(plugins.values())
        while todo:
            plugin = todo.pop()
            if vars(plugin).get("run_values") is not self.run_values:
                vars(plugin)["run_values"] = self.run_values
                todo += plugin.deps.values()
        return plugins

    def _options_of_plugins(self) -> dict[str, strax.Option]:
        plugins = getattr(self, "_plugin_class_registry", {}).values()
        return {n: option for plugin in plugins for n, option in plugin.takes_config.items()}

    def _warn_of_unknown_options(self, snapshot: "Context") -> None:
        """Warn once of each option that no plugin takes; strax would, many times a call."""
        free = tuple(snapshot.context_config["free_options"])
        known = snapshot._options_of_plugins()
        unknown = snapshot.config.keys() - known.keys() - set(free)
        for option in sorted(unknown - snapshot._unknown_options):
            self.log.warning(
                "no plugin of this context takes the option %r%s",
                option,
                did_you_mean(option, known),
            )
        if unknown:
            snapshot.context_config["free_options"] = (*free, *unknown)
            self._unknown_options = snapshot._unknown_options = self._unknown_options | unknown

    def get_components(
        self, run_id: str, targets: Any = (), *args: Any, **kwargs: Any
    ) -> strax.ProcessorComponents:
        """Return the components of a processor; parameters are as in strax.

        Metadata of new data lists missing live data, and parents from the other release.
        """
        snapshot = self._of_run(run_id)
        try:
            with self._corrections_named():
                make = super(Context, snapshot).get_components
                components = snapshot._loading(run_id, targets, *args, **kwargs)
                components = components or make(run_id, targets, *args, **kwargs)
        except strax.DataNotAvailable as error:
            names = snapshot._get_plugins(strax.to_str_tuple(targets), run_id)
            is_part = kwargs.get("time_range") is not None
            snapshot._explain(run_id, targets, error, names, is_part)
            raise
        used = (*components.plugins.values(), *components.loader_plugins.values())
        snapshot._warn_once(run_id, used)
        if components.savers:
            which = {key: kwargs[key] for key in ("chunk_number", "combining") if key in kwargs}
            snapshot._complete_metadata(run_id, components, **which)
        return components

    def _loading(
        self, run_id: str, targets: Any, save: Any = (), time_range: Any = None, **others: Any
    ) -> strax.ProcessorComponents | None:
        """Return the components for one stored data type, which needs no plugin but its own.

        None where it is not stored, and for all else; parameters are those of `get_components`.
        """
        targets = strax.to_str_tuple(targets)
        known = self._made.plugins.get(targets[0]) if len(targets) == 1 else None
        is_whole = others.get("chunk_number") is None and not others.get("combining")
        if known is None or not is_whole or run_id.startswith("_"):
            return None
        plugin = known.__copy__()
        plugin.run_id = run_id
        loader = self._get_partial_loader_for(
            self.key_for(run_id, targets[0]),
            time_range=time_range,
            rechunk=plugin.rechunk_on_load,
            source_size_mb=plugin.chunk_source_size_mb,
        )
        by_type = {targets[0]: loader}, {targets[0]: plugin}
        return strax.ProcessorComponents({}, *by_type, {}, targets) if loader else None

    def get_single_plugin(self, run_id: str, *args: Any, **kwargs: Any) -> strax.Plugin:
        """Return a plugin set up for a run; parameters are as in strax."""
        with self._corrections_named():
            return super(Context, self._of_run(run_id)).get_single_plugin(run_id, *args, **kwargs)

    @contextlib.contextmanager
    def _corrections_named(self) -> Iterator[None]:
        """Name the version of the corrections in errors for runs that it does not cover."""
        try:
            yield
        except RunNotCovered as error:
            option, version = error.option, self.corrections_version
            set_by_it = self.corrections.get(option)
            if set_by_it is None or self.config.get(option) != set_by_it:
                raise
            raise RunNotCovered(
                f"corrections_version={version!r}, {error}. Covered runs: amstrax corrections "
                f"coverage {version}"
            ) from None

    def _warn_once(self, run_id: str, plugins: Iterable[strax.Plugin]) -> None:
        """Log warnings of plugins and their dependencies about results, each once in a process."""
        for plugin in (*plugins, *dependencies(*plugins)):
            text = plugin.caution if isinstance(plugin, Plugin) else ""
            is_needed = text and plugin.config.get(plugin.gains_option) is None
            if is_needed and (text,) not in _reported:
                _reported.add((text,))
                log.warning("run %s: %s", run_id, text)

    def _complete_metadata(
        self, run_id: str, components: strax.ProcessorComponents, **which: Any
    ) -> None:
        """Add what is inherited from loaded data to the metadata of new data.

        `which` are arguments of `get_metadata`.
        """
        is_superrun = run_id.startswith("_")
        names = () if is_superrun else components.loaders
        loaded = {name: self.get_metadata(run_id, name, **which) for name in names}
        # The reader extends its list while it runs
        plugins = components.plugins.values()
        inherited = {
            field: [getattr(plugin, field, None) for plugin in plugins]
            + [metadata.get(field) for metadata in loaded.values()]
            for field in (MISSING_LIVE_DATA, DEAD_TIME)
        }
        used = [
            (name, key)
            for (run, name), key in self._equivalent_data.found.items()
            if name in components.loaders and (run == run_id or is_superrun)
        ]
        parents = parents_metadata(loaded, used)
        for saver in (saver for savers in components.savers.values() for saver in savers):
            for field, found in inherited.items():
                if (value := next((m for m in found if m is not None), None)) is not None:
                    saver.md[field] = value
            if parents:
                saver.md[EQUIVALENT_PARENTS] = parents

    def _explain(
        self,
        run_id: str,
        targets: Any,
        error: strax.DataNotAvailable,
        needed: Iterable[str] = (),
        is_part: bool = False,
    ) -> None:
        """Raise an error with the remedy, if there is one, for missing targets or `needed` data."""
        for data_type in dict.fromkeys([*strax.to_str_tuple(targets), *needed]):
            reason = self._equivalent_data.why_not(self.key_for(run_id, data_type))
            if reason:
                raise strax.DataNotAvailable(reason) from error
        if not run_id.startswith("_"):
            raise checks.missing_data(self, run_id, targets, is_part) from error

    @property
    def _equivalent_data(self) -> EquivalentData:
        found = self._equivalents or EquivalentData(
            self.storage,
            self._plugin_class_registry,
            self.config.get("channel_map"),
            self.run_values,
            self.run_documents,
            self._snapshot()._made.equal_keys,
        )
        if self._is_snapshot:
            # Records the data found during a call
            self._equivalents = found
        return found

    @property
    def _sorted_storage(self) -> Iterator[strax.StorageFrontend]:
        # Not in `storage`, which is sorted by type: a frontend there would be asked before a run
        # database. `storage` is also what users set, and what new data is written to
        yield from super()._sorted_storage
        yield self._equivalent_data

    def get_source_sf(
        self, run_id: str, target: Any, should_exist: bool = False, chunk_number: Any = None
    ) -> list[strax.StorageFrontend]:
        """Return storage that has data; parameters are as in strax.

        Data of the other release does not count, since copies of it keep its name.
        """
        snapshot = self._snapshot()
        found = super(Context, snapshot).get_source_sf(run_id, target, should_exist, chunk_number)
        own = [frontend for frontend in found if not isinstance(frontend, EquivalentData)]
        if should_exist and found and not own:
            key = snapshot.key_for(run_id, target)
            raise strax.DataNotAvailable(
                f"{target} of run {run_id} is stored by release {other_release(key.lineage)} only: "
                f"copy it with {snapshot._equivalent_data.other_context(key)}"
            )
        return own

    def get_metadata(self, run_id: str, target: str, *args: Any, **kwargs: Any) -> dict:
        """Return the metadata of data; parameters are as in strax."""
        snapshot = self._snapshot()
        try:
            return super(Context, snapshot).get_metadata(run_id, target, *args, **kwargs)
        except strax.DataNotAvailable as error:
            snapshot._explain(run_id, target, error)
            raise

    def register(self, plugin_class: Any) -> Any:
        """Register plugins; parameters are as in strax."""
        with _lock:
            if self._is_snapshot:
                # strax's get_iter registers a plugin that joins its targets
                name = getattr(plugin_class, "__name__", "")
                is_temporary = name.startswith(strax.context.TEMP_DATA_TYPE_PREFIX)
                self._made = self._made.without(name) if is_temporary else Made()
            return super().register(plugin_class)

    def get_iter(self, run_id: str, targets: Any, *args: Any, **kwargs: Any) -> Iterator:
        """Return an iterator over chunks of data; parameters are as in strax.

        Raises
        ------
        InvalidRunId
            (a ValueError) when `run_id` is not text.
        NoSuchDataType
            (a KeyError) for unknown targets.
        UnknownColumn
            (a KeyError and ValueError) for columns that are not in the data.
        InvalidSelection
            (a ValueError) when the selection is not an expression of columns.
        UnknownArgument
            (a TypeError) for an unknown argument.
        DataNotAvailable
            (strax's) without data, nor data to make it from.
        """
        _check_run_ids((run_id,))
        if others := {name: kwargs.pop(name) for name in kwargs.keys() - {*_OF_GET_ITER}}:
            return self.new_context(**others).get_iter(run_id, targets, *args, **kwargs)
        if isinstance(targets, list | tuple) and not targets:
            raise NoSuchDataType("no data type is given: name one, as 'event_info'")
        for name in ("time_range", "seconds_range"):
            if kwargs.get(name) is not None:
                checks.check_range(name, kwargs[name])
        snapshot = self._snapshot(new=True)
        # Such functions may add columns
        if not snapshot.context_config["apply_data_function"]:
            snapshot._check_columns(run_id, strax.to_str_tuple(targets), **kwargs)
        if kwargs.get("allow_multiple") and kwargs.get("processor") in (None, "default", Processor):
            # strax accepts targets of different kinds only for its own classes
            kwargs["processor"] = strax.SingleThreadProcessor
        return super(Context, snapshot).get_iter(run_id, targets, *args, **kwargs)

    def _check_columns(
        self,
        run_id: str,
        targets: tuple[str, ...],
        selection: Any = None,
        keep_columns: Any = None,
        drop_columns: Any = None,
        time_selection: str = "skip",
        **_others: Any,
    ) -> None:
        """Raise an error if the data has no such columns; parameters are as of ``get_iter``."""
        if time_selection not in _TIME_SELECTIONS:
            hint = did_you_mean(str(time_selection), _TIME_SELECTIONS)
            raise InvalidOption(f"time_selection {time_selection!r} is unknown{hint}")
        if not (selection or keep_columns or drop_columns):
            return
        plugins = self._get_plugins(targets, run_id)
        if len({plugins[target].data_kind_for(target) for target in targets}) > 1:
            return  # strax refuses these
        dtype = checks.joined_dtype(plugins, targets)
        checks.check_selection(selection, dtype)
        checks.check_columns("keep_columns", keep_columns, dtype)
        checks.check_columns("drop_columns", drop_columns, dtype, self.log)  # No error in strax

    # While a run database is unreachable, folders serve, also those without metadata of runs

    def _is_away(self) -> bool:
        return any(getattr(frontend, "is_away", False) for frontend in self.storage)

    def scan_runs(self, *args: Any, **kwargs: Any) -> pd.DataFrame:
        """Update and return the table of runs; parameters are as in strax."""
        snapshot = self._snapshot(new=True)
        scan = super(Context, snapshot).scan_runs
        with warnings.catch_warnings():
            # pandas warns about the table of a frontend without runs
            warnings.simplefilter("ignore", FutureWarning)
            runs = scan(*args, **kwargs)
            lacks_runs = self._is_away()
            if lacks_runs:
                for i, frontend in enumerate(snapshot.storage):
                    if not getattr(frontend, "deep_scan", True):
                        # The original is shared with other threads
                        snapshot.storage[i] = copy.copy(frontend)
                        snapshot.storage[i].deep_scan = True
                runs = scan(*args, **kwargs)
        # strax adds columns to the table in use, so it is replaced as a whole
        self.runs, self._lacks_runs = runs, lacks_runs
        return runs

    def select_runs(self, *args: Any, **kwargs: Any) -> pd.DataFrame:
        """Return a table of selected runs; parameters are as in strax."""
        arguments = inspect.signature(super().select_runs).bind_partial(*args, **kwargs).arguments
        if (run_id := arguments.get("run_id")) is not None:
            _check_run_ids(run_id)
        _check_data_types(arguments.get("available", ()), self._plugin_class_registry)
        self._complete_runs()
        return super().select_runs(*args, **kwargs)

    def list_available(self, target: str, runs: Any = None, **kwargs: Any) -> list[str]:
        """Return the runs with stored data; parameters are as in strax."""
        if kwargs:
            return self.new_context(**kwargs).list_available(target, runs)
        _check_data_types(target, self._plugin_class_registry)
        if runs is None:
            self._complete_runs()
        if self.runs is None:
            self.scan_runs()
        # One snapshot, which fetches the options of runs once
        snapshot = self._snapshot()
        found = super(Context, snapshot).list_available(target, runs)
        asked = snapshot.runs["name"].values if runs is None else strax.to_str_tuple(runs)
        keys = snapshot.keys_for_runs(target, sorted({*asked} - {*found}))
        places = self._equivalent_data.find_several(keys, **self._find_options)
        equal = [key.run_id for key, place in zip(keys, places, strict=True) if place]
        return sorted([*found, *equal])

    def _complete_runs(self) -> None:
        """Scan runs again if a run database was unreachable at the last scan."""
        # In a snapshot, a scan is in progress
        if self._lacks_runs and not self._is_snapshot:
            self.scan_runs(if_check_available="skip")

    def run_metadata(self, run_id: str, projection: Any = None) -> dict[str, Any]:
        """Return the document of a run; parameters are as in strax."""
        try:
            return super().run_metadata(run_id, projection)
        except strax.RunMetadataNotAvailable as error:
            if not self._is_away():
                raise
            raise strax.RunMetadataNotAvailable(
                f"run {run_id}: the run database cannot be reached, and no other storage has its "
                "metadata: see `amstrax rundb check`, or try again later"
            ) from error

    @property
    def tree_levels(self) -> dict:
        """Levels of the data types in the tree of dependencies, as in strax."""
        return super(Context, self._snapshot()).tree_levels

    def key_for(
        self, run_id: str, target: str, chunk_number: Any = None, combining: bool = False
    ) -> strax.DataKey:
        """Return the key of data; parameters are as in strax."""
        _check_run_ids((run_id,))
        snapshot = self._of_run(run_id)
        get_key = super(Context, snapshot).key_for
        keys = snapshot._made.keys
        may_differ = snapshot.context_config["use_per_run_defaults"] or run_id.startswith("_")
        if may_differ or chunk_number is not None or combining:
            return get_key(run_id, target, chunk_number, combining)
        if target not in keys:
            keys[target] = get_key(run_id, target)
        key = copy.copy(keys[target])
        key.run_id = run_id
        key._lineage = key._lineage.copy()
        return key

    def keys_for_runs(self, target: str, run_ids: Any) -> list[strax.DataKey]:
        """Return the keys of data of several runs; parameters are as in strax."""
        snapshot, runs = self._snapshot(), strax.to_str_tuple(run_ids)
        snapshot._fetch_options(runs)
        keys = []
        for run_id in runs:
            try:
                keys.append(snapshot.key_for(run_id, target))
            except InvalidRunDocument as error:
                # One run must not hide all others
                if (f"{error}",) not in _reported:
                    _reported.add((f"{error}",))
                    log.warning("%s (the run is listed as one without options)", error)
                snapshot._unknown_runs |= {run_id}
                keys.append(snapshot.key_for(run_id, target))
        return keys

    def _fetch_options(self, runs: Iterable[str]) -> None:
        """Fetch the options in the documents of several runs with one query."""
        left = {*runs} - self._unknown_runs
        self._unknown_runs |= self.run_values.fetch_options(left)

    def new_context(
        self,
        storage: Any = (),
        config: Mapping[str, Any] | None = None,
        register: Any = None,
        register_all: Any = None,
        processors: Any = None,
        replace: bool = False,
        **kwargs: Any,
    ) -> "Context":
        """Return a context of the same class with some settings changed.

        Attributes of a subclass are copied. Parameters are as in strax; processors are kept by
        default.
        """
        if processors is None:
            processors = self.processors
        self._check_arguments(kwargs)
        storage = list(storage) if isinstance(storage, list | tuple) else [storage]
        if not replace:
            storage = [*self.storage, *storage]
            config = strax.combine_configs(self.config, config, mode="update")
            kwargs = strax.combine_configs(self.context_config, kwargs, mode="update")
        new = self._copy()
        new.runs = None
        # The __init__ of a subclass may have other arguments
        Context.__init__(new, storage, config, processors=processors, **kwargs)
        if not replace:
            new._plugin_class_registry = self._plugin_class_registry.copy()
        if register_all is not None:
            new.register_all(register_all)
        if register is not None:
            new.register(register)
        return new

    def _add_saver(
        self,
        savers: dict,
        d_to_save: str,
        run_id: str,
        target_plugin: strax.Plugin,
        combining: bool = False,
    ) -> dict:
        if isinstance(target_plugin, Plugin) and not target_plugin.sets_chunk_size():
            # The instance belongs to one call
            target_plugin.chunk_target_size_mb = self.context_config["stored_chunk_size_mb"]
        return super()._add_saver(savers, d_to_save, run_id, target_plugin, combining)

    def _make_progress_bar(self, run_id: str, targets: Any, progress_bar: bool = True) -> tuple:
        if progress_bar:
            return super()._make_progress_bar(run_id, targets, progress_bar)
        # Only a visible bar needs the end of the data, which strax looks up
        return strax.utils.tqdm(total=1, disable=True), 0, float("inf")

    def _copy(self) -> "Context":
        new = object.__new__(type(self))
        new.__dict__.update(Context.__getstate__(self))
        return new

    def _snapshot(self, new: bool = False) -> "Context":
        """Return a copy for one call, which later changes of this context do not affect."""
        if self._is_snapshot and not new:
            return self
        with _lock:
            snapshot = self._copy()
            snapshot.storage = list(self.storage)
            snapshot.config = dict(self.config)
            snapshot.context_config = dict(self.context_config)
            # straxen, if imported later, adds options to the class of strax
            for name in strax.Context.takes_config.keys() - snapshot.context_config.keys():
                strax.Context.takes_config[name].validate(snapshot.context_config)
            snapshot._plugin_class_registry = dict(self._plugin_class_registry)
            # Shared with the context, which keeps them for later calls
            snapshot._run_values = self.run_values
            snapshot._unknown_runs = set(self._unknown_runs)
        snapshot._made = self._made
        if not self._is_snapshot:
            state = State.of(snapshot)
            if state is None or state != snapshot._made.state:
                snapshot._made = Made(state)
                if state is not None:
                    self._made = snapshot._made
        snapshot._is_snapshot = True
        return snapshot

    # strax's cache of plugins: only snapshots use it, for their own options

    def _context_hash(self) -> str:
        return "" if self._is_snapshot else super()._context_hash()

    def _plugins_are_cached(self, targets: tuple[str, ...] | list[str]) -> bool:
        if not self._is_snapshot or self.context_config["use_per_run_defaults"]:
            return False
        plugins = self._made.plugins
        if not all(target in plugins for target in targets):
            return False
        # strax copies all plugins of its cache to return one
        table = {target: plugins[target] for target in targets}
        self._fixed_plugin_cache = {self._context_hash(): table}
        return True

    def _plugins_to_cache(self, plugins: dict[str, strax.Plugin]) -> None:
        if self._is_snapshot and not self.context_config["use_per_run_defaults"]:
            # Plugins of the cache are only copied, never used to compute
            copies = {id(plugin): plugin.__copy__() for plugin in plugins.values()}
            self._made.plugins.update({d: copies[id(plugin)] for d, plugin in plugins.items()})

    def __getstate__(self) -> dict[str, Any]:
        left_out = {"_is_snapshot", "_made", "_run_values", "_equivalents"}
        left_out |= {"_of_any_run", "_run_id", "_run_options", "_unknown_runs"}
        left_out |= {"_fixed_plugin_cache", "_fixed_level_cache"}
        return {key: value for key, value in self.__dict__.items() if key not in left_out}


for _module, _names in ANALYSES.items():
    for _name in _names:
        setattr(Context, _name, _Analysis(_name, f"amstrax.analyses.{_module}"))
# Methods of amstrax 2, which would otherwise be those of straxen with the same names
for _name in ("energy_spectrum", "hit_pattern", "peak_classification", "waveform"):
    setattr(Context, f"plot_{_name}", _Analysis(f"plot_{_name}", "amstrax._legacy"))

"""Contexts: plugins, options and folders of the detectors.

- `xams`: XAMS
- `xams_led`: LED calibration runs of XAMS
- `xams_little`: XAMSL

Live data is processed only in a context that `context_for_daq_reader` has set up for one run.
"""

import contextlib
import inspect
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import strax
from immutabledict import immutabledict

from amstrax import rundoc, settings
from amstrax.corrections import config as corrections
from amstrax.exceptions import (
    CorrectionsUnreachable,
    DataExists,
    InvalidOption,
    LiveDataNotFound,
    RunNotFound,
    UsageError,
    did_you_mean,
)
from amstrax.plugins import cuts, event_processing, peak_processing, pulse_processing
from amstrax.plugins.daqreader import DAQReader, LiveDataReader
from amstrax.run_values import DefaultChannelMap
from amstrax.strax_ext.checks import check_arguments
from amstrax.strax_ext.context import Context
from amstrax.strax_ext.storage import DataDirectory

__all__ = [
    "apply_global_correction_version",
    "context_for_daq_reader",
    "xams",
    "xams_led",
    "xams_little",
]

XAMS_CONFIG = immutabledict(n_tpc_pmts=5, channel_map=DefaultChannelMap(rundoc.XAMS_CHANNEL_MAP))
XAMSL_CONFIG = immutabledict(
    n_tpc_pmts=4,
    channel_map=immutabledict(v1730=(0, 1), v1724=(2, 3), aqmon=(40, 40)),
    # As long as peak_gap_threshold, and three times the extensions of peaks
    safe_break_in_pulses=3000,
)

#: Options that are set for a detector, whether a plugin takes them or not
_DETECTOR_OPTIONS = ("live_data_dir", "n_tpc_pmts")

_STORE_RUN_FIELDS = ("name", "number", "start", "end", "livetime", "processing_status", "tags")

_XAMS_PLUGINS: tuple[type[strax.Plugin], ...] = (
    DAQReader,
    pulse_processing.PulseProcessing,
    peak_processing.Peaks,
    peak_processing.PeakBasics,
    peak_processing.PeakPositions,
    event_processing.Events,
    event_processing.EventBasics,
    event_processing.EventPositions,
    event_processing.EventCoincidences,
    event_processing.CorrectedAreas,
    event_processing.EventInfo,
    event_processing.EventKr83m,
    event_processing.EventWaveform,
    event_processing.EventAreaPerChannel,
    *cuts.EventCuts.cuts,
    cuts.EventCuts,
    event_processing.EventEnergy,
    peak_processing.SingleElectrons,
    pulse_processing.PulseProcessingEXT,
    peak_processing.PeaksEXT,
    peak_processing.PeakBasicsEXT,
    pulse_processing.PulseProcessingSiPM,
    peak_processing.PeaksSiPM,
    peak_processing.PeakBasicsSiPM,
    peak_processing.PeakCoincidences,
    peak_processing.Hits,
    peak_processing.LoneHits,
)


def _plugins_of(
    name: str, release: str | None = None, reconstruction: str | Sequence[str] | None = None
) -> tuple[type[strax.Plugin], ...]:
    """Return the plugins of a context, for XAMS those of a release of the lab's package.

    Those of other contexts are not imported. `release` and `reconstruction` are as in `xams`; parts
    that have no plugin of the context raise InvalidOption, unless some have and all are wanted.
    """
    if reconstruction not in (None, "lab", ()):
        from amstrax.plugins.reconstruction import IMPROVED, added_by, parts_of, with_parts

        plugins, parts = _plugins_of(name, release), parts_of(reconstruction)
        other = [part for part in parts if with_parts(plugins, (part,)) == plugins]
        if other and (other == list(parts) or IMPROVED not in np.atleast_1d(reconstruction)):
            raise InvalidOption(
                f"reconstruction={reconstruction!r}: {name} has no such parts: leave out "
                f"{', '.join(other)}"
            )
        parts = tuple(part for part in parts if part not in other)
        return with_parts(plugins, parts) + added_by(parts)
    if name == "xams_little":
        from amstrax.plugins import radon

        peaks = radon.RadonPeaks, radon.RadonPeakBasics
        return radon.RadonPulseProcessing, radon.RadonHits, *peaks, radon.DAQReader
    plugins = _XAMS_PLUGINS
    if name == "xams_led":
        from amstrax.plugins.led_calibration import LEDCalibration, RecordsLED

        plugins = (DAQReader, RecordsLED, LEDCalibration)
    if settings.release(release) == "2.1":
        return plugins
    from amstrax.plugins import release_2_2

    return tuple(getattr(release_2_2, plugin.__name__, plugin) for plugin in plugins)


def _all_plugins() -> dict[str, tuple[type[strax.Plugin], ...]]:
    """Return the plugins of all contexts, by the Python code for a context."""
    of_xams = {
        f'{name}(release="{release}")': _plugins_of(name, release)
        for release in settings.RELEASES
        for name in ("xams", "xams_led")
    }
    return of_xams | {"xams_little()": _plugins_of("xams_little")}


#: Arguments of `amstrax.rundb.RunDB` for each detector
_XAMS_MONGO = immutabledict(mongo_collname="runs_gas", mongo_dbname="run", runid_field="number")
_XAMSL_MONGO = immutabledict(mongo_collname="runs_new", mongo_dbname="run", runid_field="number")


def xams(
    output_folder: str | Path = "./strax_data",
    init_rundb: bool = True,
    mongo_kwargs: Mapping[str, Any] = _XAMS_MONGO,
    corrections_version: str | None = None,
    *args: Any,
    release: str | None = None,
    reconstruction: str | Sequence[str] = "lab",
    simulation_truth: str | Path | None = None,
    **kwargs: Any,
) -> strax.Context:
    """Return the context of XAMS.

    Parameters
    ----------
    output_folder
        Folder for new data, which is also searched for old data.
    init_rundb
        Also find runs and data with the run database (`amstrax.rundb.RunDB`), which is connected
        when it is first needed; without settings for one it is the embedded store. While it cannot
        be reached, runs and data are found in folders only, with one warning. Unusable settings
        and a refused log-in are errors.
    mongo_kwargs
        Arguments of `amstrax.rundb.RunDB`.
    corrections_version
        Version of the corrections, as ``'v1'``, ``'ONLINE'`` or ``'v1@branch'``; None for the
        plugins' defaults. See `apply_global_correction_version`, whose errors are raised; options
        in ``config`` take precedence.
    release
        Release of the lab's package that determines data types, numbers and lineage: ``'2.1'`` or
        ``'2.2'``, see :doc:`/releases`; None for that of the setting AMSTRAX_RELEASE. Others raise
        InvalidOption (a ValueError).
    reconstruction
        ``'lab'`` for the numbers of the lab's package, ``'improved'`` for all better variants, or
        one or several of these parts: see `amstrax.plugins.reconstruction`. Data types have the
        same names, and another lineage. Others raise InvalidOption (a ValueError).
    simulation_truth
        Folder of the live data of a simulated run, such as ``simulated/100001``: adds the data
        types ``truth_events``, ``truth_deposits``, ``truth_light`` and ``peak_truth`` of that run,
        whose lineage holds the settings of the simulation. Raises LiveDataNotFound (a
        FileNotFoundError) without a simulated run there.
    args, kwargs
        Passed to `strax.Context`: more plugins, and options of the context. ``config`` adds to the
        options of the detector, and ``storage`` replaces all folders and the run database.
        Unknown names raise UnknownArgument (a TypeError).
    """
    return _context(
        "xams",
        _plugins_of("xams", release, reconstruction),
        XAMS_CONFIG,
        output_folder,
        init_rundb,
        mongo_kwargs,
        corrections_version,
        *args,
        **_with_truth("xams", simulation_truth, kwargs),
    )


def xams_little(
    output_folder: str | Path = "./amstrax_data",
    init_rundb: bool = True,
    mongo_kwargs: Mapping[str, Any] = _XAMSL_MONGO,
    corrections_version: str | None = None,
    *args: Any,
    reconstruction: str | Sequence[str] = "lab",
    simulation_truth: str | Path | None = None,
    **kwargs: Any,
) -> strax.Context:
    """Return the context of XAMSL; parameters are as in `xams`.

    The only part of the reconstruction is ``classification``, which ``'improved'`` has.
    """
    kwargs = _with_truth("xams_little", simulation_truth, kwargs)
    return _context(
        "xamsl",
        _plugins_of("xams_little", reconstruction=reconstruction),
        XAMSL_CONFIG,
        output_folder,
        init_rundb,
        mongo_kwargs,
        corrections_version,
        *args,
        **{"check_available": ("raw_records_v1730", "raw_records_v1724"), **kwargs},
    )


def xams_led(
    *,
    release: str | None = None,
    simulation_truth: str | Path | None = None,
    **kwargs: Any,
) -> strax.Context:
    """Return the context for LED calibration runs of XAMS; parameters are as in `xams`."""
    kwargs = _with_truth("xams_led", simulation_truth, kwargs)
    plugins = _plugins_of("xams_led", release)
    # strax makes a tuple of `provides` when it registers a plugin
    records = next(p for p in plugins if "records_led" in strax.to_str_tuple(p.provides)).depends_on
    led_options = {
        "check_available": (*records, "records_led", "led_calibration"),
        # No plugin of this context takes n_tpc_pmts
        "free_options": _DETECTOR_OPTIONS,
    }
    return _context("xams", plugins, XAMS_CONFIG, **led_options | kwargs)


def _with_truth(name: str, run_dir: str | Path | None, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return arguments of `_context` with plugins for the truth of a simulated run; None: none."""
    if run_dir is None:
        return kwargs
    config = {**(kwargs.get("config") or {}), **_truth_options(Path(run_dir))}
    return kwargs | {"truth": _truth_plugins(name), "config": config}


def _truth_options(run_dir: Path) -> dict[str, Any]:
    """Return the options of plugins for the truth of a simulated run with live data in a folder."""
    from amstrax.simulation.run import SimulatedRun

    run = SimulatedRun.at(run_dir)
    return {"simulation": run.simulation(), "simulated_run": str(run.run_dir)}


def _truth_plugins(name: str) -> tuple[type[strax.Plugin], ...]:
    """Return the plugins for the truth of simulated runs that a context can have."""
    from amstrax.plugins import simulation_truth as truth

    if name == "xams_little":
        return truth.RadonSimulationTruth, truth.RadonPeakTruth
    if name == "xams_led":
        return (truth.SimulationTruth,)
    return truth.SimulationTruth, truth.PeakTruth, truth.PeakTruthEXT, truth.PeakTruthSiPM


def add_truth(
    st: strax.Context,
    name: str,
    run_id: str,
    detector: str = "xams",
    run_doc: Mapping[str, Any] | None = None,
) -> None:
    """Give a context, by its name, the truth of a simulated run, from files beside its live data.

    Live data is found as by `context_for_daq_reader`, whose parameters these are and whose errors
    are raised.
    """
    if run_doc is None and not st.config.get("live_data_dir"):
        run_doc = _find_document(run_id, detector)
    st.set_config(_truth_options(_find_live_data(st, run_id, run_doc or {})))
    st.register(_truth_plugins(name))


def _context(
    detector: str,
    plugins: tuple[type[strax.Plugin], ...],
    detector_config: Mapping[str, Any],
    output_folder: str | Path = "./strax_data",
    init_rundb: bool = True,
    mongo_kwargs: Mapping[str, Any] = _XAMS_MONGO,
    corrections_version: str | None = None,
    *args: Any,
    truth: tuple[type[strax.Plugin], ...] = (),
    **kwargs: Any,
) -> strax.Context:
    """Return a context of a detector, with plugins for the `truth`; others are as in `xams`."""
    config = dict(detector_config)
    live_data = settings.live_data(detector)
    if live_data is not None:
        config["live_data_dir"] = str(live_data)
    users_config = kwargs.pop("config", None) or {}
    config.update(users_config)
    reader = next(p for p in plugins if issubclass(p, LiveDataReader))
    storage = kwargs.pop("storage", None)
    if storage is None:
        storage = _storage(detector, reader.provides, output_folder)
        if init_rundb:
            from amstrax.rundb import RunDB

            storage.insert(0, RunDB(**mongo_kwargs))
    # Plugins of the user are registered last, since they may replace those of amstrax
    kwargs.update(zip(("register", "register_all", "processors"), args, strict=False))
    more, more_modules = kwargs.pop("register", None), kwargs.pop("register_all", None)
    options = {
        "store_run_fields": _STORE_RUN_FIELDS,
        "forbid_creation_of": reader.provides,
        "free_options": ("live_data_dir",),
    }
    known = {*Context.takes_config, "storage", "config", "register", "register_all", "processors"}
    known |= {*inspect.signature(xams if detector == "xams" else xams_little).parameters}
    registered = [*plugins, *truth]
    taken = {option for plugin in registered for option in plugin.takes_config}
    if unknown := kwargs.keys() - {"processors", *Context.takes_config}:
        check_arguments(unknown, known, taken)
    st = Context(storage, config, register=registered, **options | kwargs)
    if more_modules is not None:
        st.register_all(more_modules)
    if more is not None:
        st.register(more)
    if corrections_version is not None:
        apply_global_correction_version(st, corrections_version)
        st.set_config(users_config)
    return st


def apply_global_correction_version(context: strax.Context, version: str) -> strax.Context:
    """Set the options of a context that a version of the corrections has, and return the context.

    An option gets a plain value, or a string that names the file in which its value is looked up
    for each run (see `amstrax.XAMSConfig`). Options of the version set before are reset to their
    defaults. Options of plugins for data types of other contexts are dropped with one warning. New
    entries in the run database name the version.

    `version` is as ``'v1'``, ``'ONLINE'``, or with a branch ``'v1@branch'``.

    Raises
    ------
    InvalidOption
        (a ValueError) when `version` is not a valid name, or has an option that is unknown, that
        the plugin for a data type of the context takes in another release only, that is not in the
        lineage, or that has a file but cannot differ between runs.
    CorrectionError
        When the file of the version cannot be read or is invalid. Files of the options are read
        when a run is processed.
    """
    plugins = context._plugin_class_registry.values()
    options = corrections.options_for(plugins, version, _all_plugins())
    before = getattr(context, "corrections", {})
    kept = {
        name: value
        for name, value in context.config.items()
        if name not in before or before[name] != value
    }
    context.set_config(kept | options, mode="replace")
    context.corrections, context.corrections_version = options, version
    for frontend in context.storage:
        if hasattr(frontend, "corrections_version"):
            frontend.corrections_version = version
    return context


def _storage(
    detector: str, raw_types: tuple[str, ...], output_folder: str | Path
) -> list[strax.StorageFrontend]:
    """Return the lab's folders on this machine, read-only, and the output folder."""
    storage = []
    raw, processed = settings.raw_data(detector), settings.processed_data(detector)
    if raw is not None:
        storage.append(DataDirectory(str(raw), readonly=True, take_only=raw_types))
    if processed is not None:
        storage.append(DataDirectory(str(processed), readonly=True))
    storage.append(DataDirectory(str(output_folder)))
    return storage


def context_for_daq_reader(
    st: strax.Context,
    run_id: str,
    detector: str = "xams",
    runs_col_kwargs: Mapping[str, Any] | None = None,
    run_doc: Mapping[str, Any] | None = None,
    check_exists: bool = True,
) -> strax.Context:
    """Set up a context to process one run from its live data, and return it.

    The context is changed; make a new one for another run. Live data is searched for in the folder
    ``live_data_dir`` of the context's config, or else in those of the run document.

    Parameters
    ----------
    st
        Context to change.
    run_id
        Run to process, which is the name of its folder.
    detector
        Detector whose run database has the run document.
    runs_col_kwargs
        Arguments of `amstrax.rundb.get_mongo_collection`.
    run_doc
        Run document; None to query the run database.
    check_exists
        Refuse to process a run with stored raw data. Without this check, stored raw data is loaded,
        and missing raw data is made from live data.

    Raises
    ------
    RunNotFound
        When the run is not in the run database.
    RunDatabaseError
        When the run database cannot be queried.
    InvalidRunDocument
        (a ValueError) when the document lacks a field that the reader needs.
    DataExists
        (a ValueError) see `check_exists`.
    LiveDataNotFound
        (a FileNotFoundError) when the run has no live data.
    InvalidOption
        (a ValueError) when the context has been set up for another run.
    """
    before = st.config.get("daq_input_dir")
    if before is not None and Path(before).name != run_id:
        raise InvalidOption(
            f"this context was set up for the live data of run {Path(before).name}: make a new "
            f"context for run {run_id}"
        )
    if run_doc is None:
        run_doc = _find_document(run_id, detector, runs_col_kwargs)
    config = rundoc.reader_config(run_doc)
    end = rundoc.end_time(run_doc)
    config["run_end_time"] = None if end is None else end.timestamp()
    if not any("channels_polarity" in p.takes_config for p in st._plugin_class_registry.values()):
        del config["channels_polarity"]
    raw_types = raw_data_types(st)
    if isinstance(st, Context):
        st.set_run_document(run_id, run_doc)
    if check_exists:
        stored = [d for d in raw_types if st.is_stored(run_id, d)]
        if stored:
            raise DataExists(
                f"{', '.join(stored)} of run {run_id} is stored already, and would be made again "
                "from live data: load it without context_for_daq_reader, or remove it first, or "
                "set check_exists=False to make only what is missing"
            )
    config["daq_input_dir"] = str(_find_live_data(st, run_id, run_doc))
    if isinstance(st, Context) and isinstance(st.config.get("channel_map"), DefaultChannelMap):
        default = DefaultChannelMap(rundoc.XAMS_CHANNEL_MAP)
        channel_map = st.run_values.channel_map(run_id, default)
        config["channel_map"] = DefaultChannelMap(channel_map)
    st.set_config(config)
    forbidden = strax.to_str_tuple(st.context_config["forbid_creation_of"])
    st.set_context_config({"forbid_creation_of": tuple(d for d in forbidden if d not in raw_types)})
    return st


def _find_document(
    run_id: str, detector: str, runs_col_kwargs: Mapping[str, Any] | None = None
) -> Mapping[str, Any]:
    from amstrax.rundb import documents, get_mongo_collection

    collection = get_mongo_collection(detector, **(runs_col_kwargs or {}))
    try:
        return documents.find_run(collection, run_id)
    except RunNotFound as error:
        raise RunNotFound(
            f"{error}; or give its document as run_doc, or --testing_rundoc"
        ) from None


def raw_data_types(st: strax.Context) -> tuple[str, ...]:
    """Return the data types that a context makes from live data."""
    return tuple(_data_types(_readers(st._plugin_class_registry.values())))


def _readers(plugins: Iterable[type[strax.Plugin]]) -> set[type[strax.Plugin]]:
    return {plugin for plugin in plugins if issubclass(plugin, LiveDataReader)}


def find_context(
    targets: Sequence[str],
    names: Sequence[str],
    options: Iterable[str] = (),
    release: str | None = None,
    corrections_version: str | None = None,
    reconstruction: str | Sequence[str] | None = None,
) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """Return the first context that makes all targets: its name, the targets, its raw data types.

    No context is made. Targets are data types, also those of the truth of simulated runs; none
    stands for all raw data. `names` are those of the contexts to choose from, `options` names of
    options to check; the version of the corrections is checked unless its file cannot be reached.
    Other parameters are as in `xams`.

    Raises
    ------
    UsageError
        When no context makes the targets, or none of its plugins takes an option.
    InvalidOption, CorrectionError
        As of `xams`.
    """
    lacking: list[list[str]] = []
    known: list[str] = []
    for name in names:
        # Parts of the reconstruction may add data types, to those of xams
        plugins = _plugins_of(name, release, reconstruction if name == "xams" else None)
        own = data_types = _data_types(plugins)
        if not set(targets) <= set(own):
            data_types = own + _data_types(_truth_plugins(name))
        missing = [target for target in targets if target not in data_types]
        if not missing:
            break
        lacking.append(missing)
        known += own
    else:
        wrong = min(lacking, key=len)[0]
        what = f"all of {', '.join(targets)}" if len(targets) > 1 else "it"
        problem = f"no context makes {what}"
        if len(names) == 1:
            problem = f"context {name} does not make it"
        if part := _part_with(wrong):
            raise UsageError(f"--target {wrong}: {problem}: add --reconstruction {part}")
        raise UsageError(f"--target {wrong}: {problem}{did_you_mean(wrong, known)}")
    plugins = _plugins_of(name, release, reconstruction)
    check_options(options, options_of(name, release, reconstruction))
    if corrections_version is not None:
        with contextlib.suppress(CorrectionsUnreachable):
            corrections.options_for(plugins, corrections_version, _all_plugins())
    raw_types = tuple(_data_types(_readers(plugins)))
    return name, tuple(targets) or raw_types, raw_types


def _data_types(plugins: Iterable[type[strax.Plugin]]) -> list[str]:
    return [d for plugin in plugins for d in strax.to_str_tuple(plugin.provides)]


def _part_with(data_type: str) -> str:
    """Return the part of the reconstruction that adds a data type; empty without one."""
    from amstrax.plugins.reconstruction import PARTS, added_by

    for part in PARTS:
        if any(data_type in strax.to_str_tuple(plugin.provides) for plugin in added_by([part])):
            return part
    return ""


def options_of(
    name: str, release: str | None = None, reconstruction: str | Sequence[str] | None = None
) -> set[str]:
    """Return the names of the options that a context, of these arguments, takes."""
    plugins = _plugins_of(name, release, reconstruction)
    return {*_DETECTOR_OPTIONS, *(option for plugin in plugins for option in plugin.takes_config)}


def check_options(options: Iterable[str], taken: Collection[str]) -> None:
    """Raise UsageError for an option that is not among those that are taken."""
    for option in options:
        if option not in taken:
            raise UsageError(
                f"--config_kwargs: no plugin takes the option {option!r}"
                f"{did_you_mean(option, taken)}"
            )


def _find_live_data(st: strax.Context, run_id: str, run_doc: Mapping[str, Any]) -> Path:
    configured = st.config.get("live_data_dir")
    folders = [configured] if configured else rundoc.live_folders(run_doc)
    if not folders:
        raise LiveDataNotFound(
            f"the folder of live data of run {run_id} is unknown: set XAMS_LIVE_DATA or "
            "XAMSL_LIVE_DATA, --live_data_dir, or live_data_dir in the context's config"
        )
    candidates = [settings.expanded(folder) / rundoc.check_run_name(run_id) for folder in folders]
    for candidate in candidates:
        if candidate.is_dir():
            return candidate.absolute()
    raise LiveDataNotFound(
        f"no live data of run {run_id} at {', '.join(map(str, candidates))}: check the number of "
        "the run, and the folder (--live_data_dir, or live_data_dir in the context's config)"
    )

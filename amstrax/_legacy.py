"""Names, arguments and options of amstrax 2: each works with a warning, or raises with a remedy.

docs/source/old_names.rst lists them. Tables map old names to new ones; a text with a blank is the
end of an error instead.
"""

import importlib
import sys
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib.machinery import ModuleSpec
from types import FrameType, ModuleType
from typing import Any, NoReturn

from amstrax.exceptions import NotAvailable

_TOP, _PLUGINS = "amstrax.", "amstrax.plugins."
_PEAKS, _EVENTS = f"{_PLUGINS}peak_processing", f"{_PLUGINS}event_processing"
_PULSES, _RADON = f"{_PLUGINS}pulse_processing", f"{_PLUGINS}radon"
_TOOLS = "amstrax.auto_processing."
_ON_CONTEXT = "amstrax.analyses.on_context"

#: Old module -> module with its contents, or remedy
MODULES: Mapping[str, str] = {
    **{
        f"{_PLUGINS}{package}.{name}": new
        for package, names, new in (
            ("raw_records", "daqreader", f"{_PLUGINS}daqreader"),
            ("records", "pulse_processing", _PULSES),
            ("records", "pulse_processing_alt_baseline", f"{_PULSES}_alt_baseline"),
            ("records_ext", "pulse_processing_ext pulse_processing_sipm", _PULSES),
            ("peaks", "peaks peak_basics peak_positions", _PEAKS),
            ("peaks", "peak_coincidences peak_processing", _PEAKS),
            ("peaks", "radon_peaks", _RADON),
            ("peaks_ext", "peaks_ext peaks_sipm peak_basics_ext peak_basics_sipm", _PEAKS),
            ("events", "events event_basics event_positions event_info event_waveform", _EVENTS),
            ("events", "corrected_areas event_area_per_channel event_coincidences", _EVENTS),
            ("led_cal", "led_calibration records_led", f"{_PLUGINS}led_calibration"),
            ("led_calibration", "led_calibration records_led", f"{_PLUGINS}led_calibration"),
        )
        for name in names.split()
    },
    f"{_PLUGINS}peak_basics": _PEAKS,
    f"{_PLUGINS}radon_peaks": _RADON,
    f"{_PLUGINS}radon_peak_basics": _RADON,
    f"{_PLUGINS}radon_pulse_processing": _RADON,
    f"{_PLUGINS}peaks.merged_peaks": "write a plugin that depends on peaks",
    f"{_PLUGINS}peaks.peak_classification": "peak_basics has the column type",
    f"{_PLUGINS}peaks.peak_proximity": "write a plugin that depends on peak_basics",
    f"{_PLUGINS}peaks.peak_waveforms": "peaks have the column data",
    f"{_PLUGINS}peaks.peaks_som": "peak_basics has the column type",
    f"{_PLUGINS}events.energy_estimates": "event_info has cs1 and cs2, and no energy",
    "amstrax.mini_analysis": "straxen.mini_analysis",
    "amstrax.xams_config": "amstrax.corrections.config",
    "amstrax.corrections_services": "amstrax.corrections",
    "amstrax.analyses.plotting": "write st.plot_records(run_id)",
    "amstrax.analyses.quick_checks": "write st.event_scatter(run_id)",
    "amstrax.analyses.records_matrix": "write st.records_matrix(run_id, ...)",
    "amstrax.analyses.waveform_plot": "write st.plot_peaks(run_id, ...)",
    "amstrax.logging_utils": "use logging.getLogger(name)",
    "amstrax.matplotlib_utils": "use matplotlib; st.plot_area_per_channel(run_id) draws channels",
    f"{_TOOLS}amstraxer_easy": f"{_TOOLS}amstraxer",
    f"{_TOOLS}make_raw_records": "use `amstrax process-run RUN_ID --target raw_records`",
    f"{_TOOLS}delete_live_stbc": "use `amstrax delete-live`",
    f"{_TOOLS}auto_processing_stoomboot": "use `amstrax auto --engine htcondor`",
    f"{_TOOLS}auto_processing_local": "use `amstrax auto --engine local`",
    f"{_TOOLS}batch_stbc": "use `amstrax submit`",
    "amstrax.autoprocessing": "amstrax.auto_processing",
    # Modules of amstrax 3 that became part of others
    **dict.fromkeys(
        (f"{_ON_CONTEXT}.{n}" for n in ("channels", "events", "led", "peaks", "runs", "waveforms")),
        _ON_CONTEXT,
    ),
    **{
        f"{_TOP}{old}": f"{_TOP}{new}"
        for old, new in (
            ("files", "strict_json"),
            ("sipm", "SiPMdata"),
            *((f"sipm.{name}", "SiPMdata") for name in ("display", "geometry", "positions")),
            ("analyses.events", "analyses.event_plots"),
            ("analyses.event_displays", "analyses.event_plots"),
            ("analyses.gain_plots", "analyses.led_plots"),
            ("analyses.geometry", "analyses.style"),
            ("analyses.links", "analyses.quantities"),
            ("analyses.peak_histograms", "analyses.peak_plots"),
            ("analyses.peaks", "analyses.waveform_plots"),
            ("analyses.interactive.points", "analyses.interactive.distributions"),
            ("analyses.interactive.sources", "analyses.interactive.distributions"),
            ("auto_processing.live_folder", "auto_processing.copying"),
            ("corrections.applied", "corrections.lookup"),
            ("corrections.edit", "corrections.lookup"),
            ("corrections.published", "corrections.store"),
            ("corrections.ranges", "corrections.lookup"),
            ("corrections.versions", "corrections.lookup"),
            ("plugins.dtypes", "plugins.event_processing"),
            ("processing.hits", "processing.peaks"),
            ("processing.position_map", "processing.events"),
            ("rundb.embedded_update", "rundb.embedded_query"),
            ("simulation.electrons", "simulation.light"),
            ("simulation.truth", "simulation.writer"),
            ("strax_ext.memory", "commands.base"),
            ("strax_ext.processor", "strax_ext.plugin"),
        )
    },
}

_PACKAGES = {
    name.rpartition(".")[0]
    for name in MODULES
    if name.startswith(_PLUGINS) and name.count(".") == _PLUGINS.count(".") + 1
} - {f"{_PLUGINS}led_calibration"}

#: Old attribute of the package -> its module, or remedy
NAMES: Mapping[str, str] = {
    **dict.fromkeys(
        ("xams", "xams_led", "xams_little", "context_for_daq_reader"), "amstrax.contexts"
    ),
    **dict.fromkeys(
        ("baseline_per_channel", "channel_split", "check_overlaps", "mask_and_not"), _PULSES
    ),
    "pulse_count_dtype": _PULSES,
    **dict.fromkeys(("ArtificialDeadtimeInserted", "split_channel_ranges"), f"{_PLUGINS}daqreader"),
    "InterpolatingMap": "amstrax.itp_map",
    "get_xams_config": "use amstrax.settings.get(name)",
    "get_daq_logger": "use logging.getLogger(name)",
    "open_test_data": "use tarfile.open(file).extractall(filter='data')",
    "get_resource": "use straxen.get_resource",
    "get_secret": "use amstrax.settings.get(name)",
    "plot_pmts": "use st.plot_area_per_channel(run_id)",
    "MergedPeaks": "write a plugin that depends on peaks",
    "PeakClassification": "peak_basics has the column type",
    "PeakProximity": "write a plugin that depends on peak_basics",
    "EnergyEstimates": "event_info has cs1 and cs2, and no energy",
}


def warn(text: str) -> None:
    """Warn about an old name at the line outside of amstrax that uses it."""
    frame = sys._getframe(1)
    while frame.f_back and _module_of(frame).partition(".")[0] in ("amstrax", "importlib"):
        frame = frame.f_back
    registry = frame.f_globals.setdefault("__warningregistry__", {})
    warnings.warn_explicit(
        text,
        DeprecationWarning,
        frame.f_code.co_filename,
        frame.f_lineno,
        _module_of(frame),
        registry,
    )


def _module_of(frame: FrameType) -> str:
    return frame.f_globals.get("__name__", "")


# Modules and attributes


def find_spec(name: str) -> ModuleSpec | None:
    """Return how to import an old module; None for other names."""
    if name in _PACKAGES or name in MODULES or " " in NAMES.get(name.removeprefix(_TOP), ""):
        return ModuleSpec(name, _Loader, is_package=name in _PACKAGES)  # type: ignore[arg-type]
    return None


class _Loader:
    """Loader of old modules and packages."""

    @staticmethod
    def create_module(spec: ModuleSpec) -> ModuleType | None:
        """Return a module of another class than usual, or None."""
        return _MiniAnalysis(spec.name) if spec.name == "amstrax.mini_analysis" else None

    @staticmethod
    def exec_module(module: ModuleType) -> None:
        name = module.__name__
        if isinstance(module, _MiniAnalysis):
            return
        if name in _PACKAGES:
            module.__getattr__ = _member_of(name)  # type: ignore[method-assign]
            return
        new = MODULES.get(name) or NAMES[name.removeprefix(_TOP)]
        if " " in new:
            # Without the argument `name`, which makes `from PACKAGE import NAME` drop the message
            raise ModuleNotFoundError(f"{name} is gone since amstrax 3: {new}")
        warn(f"{name} is now {new}")
        sys.modules[name] = importlib.import_module(new)


class _MiniAnalysis(ModuleType):
    """Module that can be called: `amstrax.mini_analysis` was a module and a function."""

    @staticmethod
    def mini_analysis(*args: Any, **kwargs: Any) -> Any:
        """Return straxen's decorator of this name."""
        import straxen

        warn("amstrax.mini_analysis is now straxen.mini_analysis")
        return straxen.mini_analysis(*args, **kwargs)

    __call__ = mini_analysis


def _member_of(package: str) -> Callable[[str], Any]:
    """Return a ``__getattr__`` for an old package with members of amstrax."""

    def getattr_(name: str) -> Any:
        import amstrax

        if name == "__all__":
            modules = {new for old, new in MODULES.items() if old.startswith(f"{package}.")}
            return [n for n, m in amstrax._MEMBERS.items() if _TOP + m.partition(":")[0] in modules]
        if name.startswith("_"):
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        if f"{package}.{name}" in MODULES:
            return importlib.import_module(f"{package}.{name}")
        value = getattr(amstrax, name)
        warn(f"{package}.{name} is now amstrax.{name}")
        return value

    return getattr_


def attribute(name: str) -> Any:
    """Return an attribute in `NAMES`, or raise AttributeError with a remedy."""
    new = NAMES[name]
    if " " in new:
        raise AttributeError(f"amstrax.{name} is gone since amstrax 3: {new}")
    warn(f"amstrax.{name} is now {new}.{name}")
    return getattr(importlib.import_module(new), name)


# Analyses of a context


def plot_waveform(
    context: Any, run_id: str, deep: bool | str = False, figsize: Any = None, **kwargs: Any
) -> Any:
    """Plot peaks, with `deep` above the matrix of records; ``deep="raw"``: of raw records."""
    from amstrax.analyses.style import new_figure

    warn("st.plot_waveform is now st.plot_peaks and st.plot_records_matrix")
    ours = {k: v for k, v in kwargs.items() if k not in ("cbar_loc", "lower_panel_height")}
    matrix = {k: ours.pop(k) for k in ("max_samples",) if k in ours}
    ours.pop("ignore_max_sample_warning", None)
    figure = new_figure(figsize or (10, 6 if deep else 4))
    if not deep:
        return context.plot_peaks(run_id, ax=figure.subplots(), **ours)
    above, below = figure.subplots(2, height_ratios=(1, kwargs.get("lower_panel_height", 2)))
    context.plot_peaks(run_id, ax=above, **ours)
    ours.pop("show_largest", None)
    context.plot_records_matrix(run_id, ax=below, raw=deep == "raw", **ours, **matrix)
    return figure


def _gone(name: str, instead: str) -> Callable[..., NoReturn]:
    def analysis(context: Any, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotAvailable(f"st.{name} is gone since amstrax 3: {instead}")

    return analysis


plot_hit_pattern = _gone(
    "plot_hit_pattern",
    "use st.plot_area_per_channel(run_id, time_within=peak), or st.event_display(run_id)",
)
plot_energy_spectrum = _gone(
    "plot_energy_spectrum",
    "event_info has cs1 and cs2, and no energy; st.event_scatter(run_id) draws them",
)
plot_peak_classification = _gone(
    "plot_peak_classification",
    "use st.plot_peaks_area_width_histogram(run_id), or draw area and rise_time of peak_basics",
)

#: Old argument of analyses -> its new name, or remedy
KEYWORDS: Mapping[str, str] = {
    "show_largest": "show_most",
    "n_records": "show_most",
    "color_dim": "color",
    "records_led": "records",
    "led_calibration": "pulses",
    "to_pe": "gains are an option, config={'gain_to_pe_array': [...]}",
    "pe_bins": "give the number of bins, n_bins",
    "rt_bins": "give the number of bins, n_bins",
    "logy": "set it on the figure that is returned, figure.axes[0].set_yscale('log')",
    "axes": "give ax",
    **dict.fromkeys(
        (
            *("xaxis", "cbar_loc", "group_by", "vmin", "vmax", "log_scale", "label", "xenon1t"),
            *("extra_labels", "rate_range", "aft_range", "show_single", "s", "color_range"),
            *("t_reference", "lower_panel_height"),
        ),
        "leave it out, and change the figure that is returned",
    ),
}


def keywords(analysis: str, given: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """Return the `given` arguments of an analysis with old ones replaced.

    `known` are its arguments. Old ones without a new one raise TypeError.
    """
    result = dict(given)
    for name in [name for name in given if name not in known]:
        value = result.pop(name)
        new = _figure_keyword(name, value, known)
        if (analysis, name) == ("plot_records", "raw"):
            new = {"data_type": "raw_records"} if value else {}
        elif new is None and KEYWORDS.get(name) in known:
            new = {KEYWORDS[name]: value}
        if new is not None:
            text = ", ".join(f"{key}=..." for key in new) or f"without {name}"
            warn(f"{analysis}({name}=...) is now {analysis}({text})")
            result.update(new)
        elif " " in KEYWORDS.get(name, ""):
            raise TypeError(f"{analysis} takes no {name} since amstrax 3: {KEYWORDS[name]}")
        else:
            result[name] = value
    return result


def _figure_keyword(name: str, value: Any, known: Collection[str]) -> dict[str, Any] | None:
    """Return the new argument for figsize, single_figure and ignore_max_sample_warning."""
    target = next((key for key in ("ax", "figure") if key in known), None)
    if name == "ignore_max_sample_warning":
        return {}
    if target is None or name not in ("figsize", "single_figure"):
        return None
    if name == "single_figure" and not value:
        import matplotlib.pyplot as plt

        return {target: plt.gca() if target == "ax" else plt.gcf()}
    if name == "figsize" and value is not None:
        from amstrax.analyses.style import new_axes, new_figure

        return {target: new_axes(value) if target == "ax" else new_figure(value)}
    return {}


# Simulation

#: Old number of a simulated detector -> its new name
DETECTOR_NUMBERS: Mapping[str, str] = {
    "photon_detection": "g1",
    "photoelectrons_per_electron": "se_gain",
    "double_photoelectron": "dpe_probability",
    "s2_share_top": "s2_area_fraction_top",
    "s1_share_top_gate": "s1_area_fraction_top_gate",
    "s1_share_top_cathode": "s1_area_fraction_top_cathode",
}


def detector_numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return numbers of a simulated detector with old names replaced."""
    for name in DETECTOR_NUMBERS.keys() & values.keys():
        warn(f"{name} of a simulated detector is now {DETECTOR_NUMBERS[name]}")
    return {DETECTOR_NUMBERS.get(name, name): value for name, value in values.items()}


# Tools

#: Old script of jobs -> new one
SCRIPTS = {"amstraxer_easy": "process_run", "make_raw_records": "process_run"}

_IGNORED = "ignored, leave it out"
#: Tool -> old option -> the new one, words that replace it, or remedy
OPTIONS: Mapping[str, Mapping[str, str | Sequence[str]]] = {
    "amstraxer": {
        "--raw_records_folder": "raw records are read from --output_folder, and from the folder of "
        "the setting XAMS_RAW_DATA",
    },
    "auto_processing": {
        "--timeout": "--pause",
        "--logs_path": "--log_folder",
        "--set_config_kwargs": "--config_kwargs",
        "--n_failures_max": "--max_failures",
        "--production": (),
        "--process_stomboot": "use --engine htcondor, or --engine local",
        "--set_context_kwargs": "use --output_folder, --config_kwargs and --corrections_version",
        "--amstrax_path": "jobs run the amstrax that submits them: start that one",
    },
    "copy_live": {
        "--sleep_time": "--pause",
        "--logs_path": "--log_folder",
        "--only_stoomboot": ("--to", "stbc"),
        "--ssh_host": "hosts are in the setting XAMS_COPY_TO, as stbc=USER@HOST:/FOLDER",
    },
    "delete_live": {
        "--days_old": "--min_age",
        "--older_than": "--min_age",
        "--sleep_time": "--pause",
        "--logs_path": "--log_folder",
        "--only_stoomboot": "which copies must be there is the setting XAMS_DELETE_AFTER_COPIES",
        "--ssh_host": "hosts are in the setting XAMS_COPY_TO, as stbc=USER@HOST:/FOLDER",
        "--min_free_diskspace": "runs are deleted by their age, --min_age",
    },
    "process_run": {
        "--run_id": "RUN_ID",
        "--targets": "--target",
        "--live_folder": "--live_data_dir",
        "--production": (),
        "--allow_raw_records": (),
        "--raw_records_folder": "raw records are in the folder of the setting XAMS_RAW_DATA",
        "--context_kwargs": "use --output_folder, --config_kwargs and --corrections_version",
        "--testing_rundoc": "`amstrax process` takes it; process_run reads the run database",
        "--from_scratch": "`amstrax process` takes it",
        "--build_lowlevel": "`amstrax process` takes it",
    },
    "submit_stbc": {
        "--targets": "--target",
        "--logs_path": "--log_folder",
        "--production": (),
    },
}


class OldOption(ValueError):
    """An old option without a new one."""


def options(tool: str, argv: Sequence[str]) -> list[str]:
    """Return the words of a command line with old options replaced.

    Each replacement is reported on stderr. Old options of `tool` in `OPTIONS` without a new one
    raise OldOption.
    """
    words = list(argv)
    table = OPTIONS[tool]
    result: list[str] = []
    positional: list[str] = []
    while words:
        option, equals, value = words.pop(0).partition("=")
        new = table.get(option)
        if new is None:
            result.append(option + equals + value)
            continue
        if isinstance(new, str) and " " in new:
            raise OldOption(f"{option} is gone since amstrax 3: {new}")
        text = new if isinstance(new, str) else " ".join(new)
        sys.stderr.write(f"{tool}: {option} is {'now ' + text if text else _IGNORED}\n")
        if new == "RUN_ID":
            # After an option that takes several words it would be one of them
            positional.append(value if equals or not words else words.pop(0))
        elif isinstance(new, str):
            result.append(new + equals + value)
        else:
            result += new
    return positional + result

"""Calls of notebooks and scripts for amstrax 2: each works, or says in one line what to write."""

import argparse
import importlib
import re
import subprocess
import sys
import warnings
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
import strax
from analysed_runs import analysed  # noqa: F401
from make_runs import RUN_ID, THREADS, pulses, rundoc, write_run

import amstrax
from amstrax import _legacy, contexts
from amstrax.auto_processing import (
    amstraxer,
    auto_processing,
    copy_live,
    delete_live,
    process_run,
    submit_stbc,
    submitting,
)
from amstrax.exceptions import AmstraxError, UsageError
from amstrax.plugins.pulse_processing import baseline_per_channel

PAGE = Path(__file__).resolve().parents[1] / "docs/source/old_names.rst"

matplotlib.use("agg")


def import_from(module: str, name: str):
    return getattr(importlib.import_module(module), name)


def user_analysis(st, run_id):
    @amstrax.mini_analysis(requires=("peaks",))
    def n_peaks_of_a_user(context, run_id, peaks, **kwargs):
        return len(peaks)

    try:
        return st.n_peaks_of_a_user(run_id)
    finally:
        del strax.Context.n_peaks_of_a_user


def quiet(st, run_id, data_type):
    return st.get_array(run_id, data_type, progress_bar=False)


def records():
    result = np.zeros(2, dtype=strax.record_dtype())
    result["length"], result["data"] = 110, 16_000
    return result


PART = {"seconds_range": (0, 1)}

#: Calls with a context and a run; what says that the call is old, where anything does: a pattern
#: in the one warning, or, behind "!", in the message of the error
CALLS = {
    # Contexts and data
    "contexts.xams": (lambda st, run: amstrax.contexts.xams(init_rundb=False, storage=[]), None),
    "contexts.xams_little": (lambda *_: contexts.xams_little(init_rundb=False, storage=[]), None),
    "contexts.xams_led": (lambda *_: contexts.xams_led(init_rundb=False, storage=[]), None),
    "amstrax.xams": (lambda *_: amstrax.xams(init_rundb=False, storage=[]), r"contexts\.xams"),
    "amstrax.context_for_daq_reader": (lambda *_: amstrax.context_for_daq_reader, r"contexts\."),
    "registry": (lambda st, run: list(st._plugin_class_registry.keys()), None),
    "data_info": (lambda st, run: st.data_info("peak_basics"), None),
    "get_array": (lambda st, run: quiet(st, run, "events"), None),
    "get_df": (lambda st, run: st.get_df(run, "event_info", progress_bar=False), None),
    "make": (lambda st, run: st.make(run, "peaks", progress_bar=False), None),
    "is_stored": (lambda st, run: st.is_stored(run, "records"), None),
    "get_single_plugin": (lambda st, run: st.get_single_plugin(run, "peaks").config, None),
    "storage": (lambda st, run: st.storage + [strax.DataDirectory("/x", readonly=True)], None),
    # Names of the package
    "select_channels": (lambda *_: amstrax.select_channels(records(), [0, 1]), None),
    "hit_min_amplitude": (lambda *_: amstrax.hit_min_amplitude("xams_thresholds"), None),
    "RunDB": (lambda *_: amstrax.RunDB(mongo_dbname="run", runid_field="number"), None),
    "print_versions": (lambda *_: amstrax.print_versions(include_git=False)["version"], None),
    "get_elife": (lambda st, run: amstrax.get_elife(run), r"642000.*corrected_areas"),
    "n_tpc_pmts": (lambda *_: range(amstrax.n_tpc_pmts), None),
    "to_pe": (lambda st, run: quiet(st, run, "peaks")["area"] * amstrax.to_pe, None),
    "get_config_defaults": (lambda st, run: amstrax.get_config_defaults(st)["default"], None),
    "get_config_defaults name": (
        lambda st, run: amstrax.get_config_defaults(st)["name"],
        r"!table\['option'\]",
    ),
    "get_config_defaults names": (
        lambda st, run: amstrax.get_config_defaults(st)[["name", "default"]],
        r"!table\['option'\]",
    ),
    "get_config_defaults.name": (
        lambda st, run: amstrax.get_config_defaults(st).name,
        r"!table\.option",
    ),
    "baseline_per_channel": (lambda *_: baseline_per_channel(records()), "copy"),
    "baseline_per_channel flip": (lambda *_: baseline_per_channel(records(), flip=True), None),
    "amstrax.baseline_per_channel": (
        lambda *_: amstrax.baseline_per_channel,
        "now amstrax.plugins.pulse_processing.baseline_per_channel",
    ),
    "get_daq_logger": (lambda *_: amstrax.get_daq_logger("x", "x"), "!logging.getLogger"),
    "get_xams_config": (lambda *_: amstrax.get_xams_config("x"), r"!settings\.get"),
    # Modules
    "plugins.peaks": (
        lambda *_: import_from("amstrax.plugins.peaks.peak_basics", "PeakBasics"),
        "now amstrax.plugins.peak_processing",
    ),
    "plugins.peaks class": (lambda *_: import_from("amstrax.plugins.peaks", "Peaks"), "amstrax.P"),
    "plugins.events": (
        lambda *_: import_from("amstrax.plugins.events.event_basics", "EventBasics"),
        "now amstrax.plugins.event_processing",
    ),
    "plugins.events attribute": (
        lambda *_: amstrax.plugins.events.corrected_areas.CorrectedAreas,
        "now amstrax.plugins.event_processing",
    ),
    "plugins.led_calibration": (
        lambda *_: import_from("amstrax.plugins.led_calibration.records_led", "RecordsLED"),
        "now amstrax.plugins.led_calibration",
    ),
    "plugins.energy_estimates": (
        lambda *_: import_from("amstrax.plugins.events.energy_estimates", "EnergyEstimates"),
        "!cs1 and cs2",
    ),
    "xams_config": (lambda *_: import_from("amstrax.xams_config", "XAMSConfig"), "corrections"),
    "mini_analysis module": (
        lambda *_: import_from("amstrax.mini_analysis", "mini_analysis")(requires=("peaks",)),
        "straxen.mini_analysis",
    ),
    "mini_analysis": (user_analysis, "straxen.mini_analysis"),
    # Plots
    "plot_waveform": (lambda st, run: st.plot_waveform(run, **PART), "st.plot_peaks"),
    "plot_waveform deep": (
        lambda st, run: st.plot_waveform(run, deep=True, max_samples=100, **PART),
        "st.plot_records_matrix",
    ),
    "plot_hit_pattern": (lambda st, run: st.plot_hit_pattern(run), "!plot_area_per_channel"),
    "plot_energy_spectrum": (lambda st, run: st.plot_energy_spectrum(run), "!event_scatter"),
    "plot_peak_classification": (
        lambda st, run: st.plot_peak_classification(run, s=2),
        "!plot_peaks_area_width_histogram",
    ),
    "show_largest": (lambda st, run: st.plot_peaks(run, show_largest=9, **PART), "show_most="),
    "figsize": (lambda st, run: st.plot_peaks(run, figsize=(3, 2), **PART), r"\(ax="),
    "figsize None": (lambda st, run: st.event_scatter(run, figsize=None), "without figsize"),
    "single_figure": (lambda st, run: st.plot_peaks(run, single_figure=False, **PART), "ax="),
    "pe_bins": (
        lambda st, run: st.plot_peaks_aft_histogram(run, pe_bins=np.logspace(0, 7, 9)),
        "!n_bins",
    ),
    "to_pe=": (
        lambda st, run: st.records_matrix(run, to_pe=np.ones(5), **PART),
        "!gain_to_pe_array",
    ),
    "ignore_max_sample_warning": (
        lambda st, run: st.records_matrix(run, ignore_max_sample_warning=True, **PART),
        "without ignore_max_sample_warning",
    ),
    "raw": (
        lambda st, run: st.plot_records(run, raw=True, seconds_range=(0, 0.1)),
        "data_type=",
    ),
    "logy": (
        lambda st, run: st.plot_records(run, logy=True, seconds_range=(0, 0.1)),
        "!set_yscale",
    ),
    "color_dim": (lambda st, run: st.event_scatter(run, color_dim="drift_time"), "color="),
    "color_range": (lambda st, run: st.event_scatter(run, color_range=(0, 1)), "!figure"),
    "cbar_loc": (lambda st, run: st.plot_records_matrix(run, cbar_loc=None, **PART), "!figure"),
}
LED_CALLS = {
    "n_records": (lambda st, run: st.plot_led_records(run, n_records=5), "show_most="),
    "records_led": (
        lambda st, run: st.plot_led_records(run, records_led=quiet(st, run, "records_led")),
        "records=",
    ),
    "led_calibration": (
        lambda st, run: st.plot_led_areas(run, led_calibration=quiet(st, run, "led_calibration")),
        "pulses=",
    ),
}


def check_call(call, context, run_id, says):
    """Check that the call works, or fails, with a line that helps where it is an old one."""
    for name in list(sys.modules):
        if name in _legacy.MODULES or name in _legacy._PACKAGES:
            del sys.modules[name]
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        if says and says[0] == "!":
            with pytest.raises(Exception) as error:  # noqa: B017  # of its usual kind
                call(context, run_id)
            text = str(error.value)
            assert re.search(says[1:], text)
            assert isinstance(error.value, (AmstraxError, LookupError, TypeError, ImportError)) or (
                type(error.value) is AttributeError
            )
        else:
            call(context, run_id)
            text = ""
    ours = [w for w in seen if w.category in (DeprecationWarning, FutureWarning)]
    ours = {str(w.message): w for w in ours if "amstrax" in str(w.message) or "is now" in str(w)}
    if says and says[0] != "!":
        assert any(re.search(says, message) for message in ours), ours
        # Shown where the old name is written
        assert {w.filename for w in ours.values()} <= {__file__, importlib.__file__}
    elif says is None:
        assert not ours
    for line in (text, *ours):
        assert "\n" not in line
        assert len(line) <= 200


@pytest.mark.parametrize("name", CALLS)
def test_call_of_an_old_notebook(analysed, name):  # noqa: F811
    call, says = CALLS[name]
    check_call(call, analysed["xams"], RUN_ID, says)


@pytest.mark.parametrize("name", LED_CALLS)
def test_call_for_an_led_run(analysed, name):  # noqa: F811
    call, says = LED_CALLS[name]
    check_call(call, analysed["xams_led"], RUN_ID, says)


def test_enough_calls():
    assert len(CALLS) + len(LED_CALLS) >= 41


def test_old_arguments_draw_the_same(analysed):  # noqa: F811
    st = analysed["xams"]
    with pytest.warns(DeprecationWarning):
        old = st.plot_peaks(RUN_ID, show_largest=3, figsize=(3, 2), **PART)
    new = st.plot_peaks(RUN_ID, show_most=3, **PART)
    assert old.get_size_inches().tolist() == [3, 2]
    for mine, other in zip(old.axes[0].lines, new.axes[0].lines, strict=True):
        assert np.array_equal(mine.get_xydata(), other.get_xydata())
    with pytest.warns(DeprecationWarning):
        raw = st.plot_records(RUN_ID, raw=True, seconds_range=(0, 0.1))
    assert raw.axes[0].get_ylabel() == "ADC counts"


@pytest.mark.parametrize("shape", [(7,), (1,), (0,), (3, 4), (4, 5), ()])
def test_products_with_to_pe(shape):
    area = np.arange(1.0, 1 + np.prod(shape, dtype=int)).reshape(shape)
    for product in (area * amstrax.to_pe, amstrax.to_pe * area, np.multiply(area, amstrax.to_pe)):
        assert type(product) is np.ndarray
        assert np.array_equal(product, area if shape else np.ones(5))
    if shape == (7,):
        assert (pd.Series(area) * amstrax.to_pe).tolist() == area.tolist()


def test_every_old_module_and_name():
    """In a process of its own, where nothing has been imported."""
    code = """
import importlib, warnings
warnings.simplefilter("ignore", DeprecationWarning)
from amstrax import _legacy
import amstrax
for name, new in _legacy.MODULES.items():
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        assert " " in new and new in str(error), name
        parent, _, child = name.rpartition(".")
        try:
            getattr(importlib.import_module(parent), child)
        except (AttributeError, ModuleNotFoundError) as error:
            assert new in str(error), name
    else:
        assert name == "amstrax.mini_analysis" or module is importlib.import_module(new), name
        value = amstrax
        for part in name.split(".")[1:]:
            value = getattr(value, part)
        assert value is module, name
for name, new in _legacy.NAMES.items():
    try:
        value = getattr(amstrax, name)
    except AttributeError as error:
        assert " " in new and new in str(error), name
    else:
        assert value is getattr(importlib.import_module(new), name)
assert hasattr(amstrax, "contexts") and not hasattr(amstrax, "no_such_name")
try:
    import amstrax.plugins.no_such_module
except ModuleNotFoundError as error:
    assert str(error) == "No module named 'amstrax.plugins.no_such_module'"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("statement", "text"),
    [
        ("from amstrax.plugins.peaks import *; PeakBasics, PeaksEXT", None),
        ("from amstrax.plugins.led_cal import *; LEDCalibration", None),
        ("from amstrax.plugins import *; Events, DAQReader", None),
        ("from amstrax.plugins import PeakBasics", None),
        ("from amstrax.auto_processing import make_raw_records", "process-run"),
        ("from amstrax.analyses import waveform_plot", "st.plot_peaks"),
        ("from amstrax import open_test_data", "tarfile"),
        ("from amstrax import matplotlib_utils", "use matplotlib"),
    ],
)
def test_names_imported_from_packages(statement, text):
    """The interpreter tells of ``from A import B`` what it knows, unless it is told what to say."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        if text is None:
            exec(statement, {})
        else:
            with pytest.raises(ImportError, match=f"gone since amstrax 3: .*{text}"):
                exec(statement, {})


def test_straxen_imported_after_a_context_was_made(tmp_path):
    """It adds options to contexts, which its own code then expects (amstrax.itp_map imports it)."""
    write_run(tmp_path, pulses([1_000_000], range(7)))
    code = """
import sys; sys.path.insert(0, sys.argv[1])
from make_runs import RUN_ID, Path, context
st = context(Path(sys.argv[2]))
import straxen
assert len(st.get_array(RUN_ID, "records", progress_bar=False))
import logging
lines = []
logging.getLogger("strax").addFilter(lambda record: lines.append(record.getMessage()))
st.set_context_config({"xedocs_version": "global_ONLINE"})
new = st.new_context(config={"elife": 1})
assert new.context_config["xedocs_version"] == "global_ONLINE"
assert lines == [], lines
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_our_analyses_come_before_those_of_straxen():
    code = """
import straxen, strax, amstrax
st = amstrax.contexts.xams(init_rundb=False, storage=[])
for name in ("plot_waveform", "plot_hit_pattern", "plot_energy_spectrum",
             "plot_peak_classification", "plot_peaks"):
    assert hasattr(strax.Context, name)
    assert getattr(st, name).__func__.__module__.startswith("amstrax."), name
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# Tools

TOOLS = {
    "amstraxer": (amstraxer, ["1"]),
    "auto_processing": (auto_processing, []),
    "copy_live": (copy_live, ["--production"]),
    "delete_live": (delete_live, []),
    "process_run": (process_run, ["1"]),
    "submit_stbc": (submit_stbc, ["1"]),
}


@pytest.mark.parametrize(
    ("tool", "old", "new"),
    [
        ("auto_processing", "--timeout 20 --production", "--pause 20"),
        (
            "auto_processing",
            "--logs_path=/a --n_failures_max 2",
            "--log_folder=/a --max_failures=2",
        ),
        ("auto_processing", '--set_config_kwargs={"elife":1}', '--config_kwargs={"elife":1}'),
        ("copy_live", "--sleep_time 5 --logs_path /a", "--pause 5 --log_folder /a"),
        ("copy_live", "--only_stoomboot --max_runs 2", "--to stbc --max_runs 2"),
        ("delete_live", "--days_old 3 --logs_path /a", "--min_age 3 --log_folder /a"),
        ("delete_live", "--older_than=3 --sleep_time=9", "--min_age=3 --pause=9"),
        ("submit_stbc", "--targets a b --production", "--target a b"),
    ],
)
def test_old_options(capsys, tool, old, new):
    module, more = TOOLS[tool]
    assert module.parse_args([*more, *old.split()]) == module.parse_args([*more, *new.split()])
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines] == [
        word.partition("=")[0]
        for word in old.split()
        if word.partition("=")[0] in all_options(tool)
    ]
    assert all("is now --" in line or "leave it out" in line for line in lines)


def all_options(tool):
    return _legacy.OPTIONS[tool]


def test_run_of_an_old_process_run():
    for old in ("--targets peaks events --run_id 6724", "--run_id=6724 --targets peaks events"):
        args = process_run.parse_args([*old.split(), "--production", "--live_folder=/live"])
        assert (args.run_id, args.target) == ("006724", ["peaks", "events"])
        assert args.live_data_dir == Path("/live")


@pytest.mark.parametrize(
    ("tool", "option"),
    [
        (tool, option)
        for tool, table in _legacy.OPTIONS.items()
        for option, new in table.items()
        if isinstance(new, str) and " " in new
    ],
)
def test_options_that_have_gone(capsys, tool, option):
    module, more = TOOLS[tool]
    with pytest.raises(SystemExit) as error:
        module.parse_args([*more, option, "1"])
    assert error.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"{option} is gone since amstrax 3: {_legacy.OPTIONS[tool][option]}" in line
    assert len(line) <= 200


@pytest.mark.parametrize("tool", TOOLS)
def test_old_options_are_not_those_of_today(tool):
    module, more = TOOLS[tool]
    for option in all_options(tool):
        with pytest.raises(SystemExit):
            parser_without_old(module, [*more, option, "1"])


def parser_without_old(module, words):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_legacy, "OPTIONS", dict.fromkeys(_legacy.OPTIONS, {}))
        module.parse_args(words)


@pytest.mark.parametrize("script", ["amstraxer_easy", "make_raw_records"])
def test_old_scripts_of_jobs(script):
    with pytest.warns(DeprecationWarning, match=f"script='{script}' is now script='process_run'"):
        command = submitting._program(script)
    assert command == submitting._program("process_run")


class DummyArguments:
    """As old tests gave to main: any attribute, None where it is not set."""

    def __init__(self, **values):
        self.values = values

    def __getattr__(self, name):
        return self.values.get(name)


@pytest.mark.parametrize("kind", [argparse.Namespace, DummyArguments])
def test_old_arguments_of_main(tmp_path, monkeypatch, kind):
    write_run(tmp_path, pulses([1_000_000], range(7)))
    monkeypatch.chdir(tmp_path)
    values = {
        "run_id": RUN_ID,
        "target": "raw_records",
        "context": "xams",
        "context_kwargs": {"init_rundb": False},
        "config_kwargs": {"live_data_dir": str(tmp_path)},
        "testing_rundoc": rundoc(THREADS),
        "workers": 1,
        "timeout": None,
        "debug": False,
        "build_lowlevel": False,
        "from_scratch": False,
    }
    assert amstraxer.main(kind(**values)) == 0
    assert len(list(tmp_path.glob("strax_data/*raw_records-*"))) == 1
    assert amstraxer.main(kind(**values | {"config_kwargs": None, "context_kwargs": None})) == 0


def test_unknown_arguments_of_main():
    with pytest.raises(UsageError, match="no option 'raw_records_folder'"):
        amstraxer.main(argparse.Namespace(run_id=RUN_ID, raw_records_folder="/raw"))


def test_detector_of_another_context(capsys):
    words = [RUN_ID, "--context", "xams_little", "--detector", "xams"]
    assert process_run.main(words) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "is of xamsl: leave --detector out" in line


def test_the_page_has_every_old_name():
    text = PAGE.read_text(encoding="utf-8")
    options = {option for table in _legacy.OPTIONS.values() for option in table}
    for name in (*_legacy.MODULES, *_legacy.NAMES, *_legacy.KEYWORDS, *_legacy.SCRIPTS, *options):
        short = name.removeprefix("amstrax.")
        assert re.search(rf"[`.\s]{re.escape(short)}\b", text), f"{PAGE.name} lacks {name}"

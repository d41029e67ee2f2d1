"""Analyses on the contexts: pictures, arguments, empty data, errors."""

import datetime
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import strax
from analysed_runs import N_EVENTS, analysed  # noqa: F401
from corrections_files import write_files
from make_runs import RUN_ID, START
from matplotlib.figure import Figure
from matplotlib.testing.compare import compare_images
from matplotlib.text import Text

from amstrax.analyses import loading
from amstrax.analyses._figure import NotebookFigure
from amstrax.dashboard import figures
from amstrax.exceptions import CorrectionNotFound, InvalidOption, NoSuchDataType
from amstrax.strax_ext import context as of_strax
from amstrax.strax_ext.storage import DataDirectory

BASELINES = Path(__file__).with_name("baseline_images")
#: Root mean square of differences of 8-bit colours. Text is left out, so that fonts do not matter.
TOLERANCE = 2.5

PART = {"seconds_range": (0.019, 0.3)}


def kr83m_delays():
    """Return events of Kr-83m with drawn delays."""
    events = np.zeros(
        500,
        dtype=[
            ("time", np.int64), ("endtime", np.int64), ("kr_quality", np.int8),
            ("s1_delay", np.float32),
        ],
    )  # fmt: skip
    events["time"] = np.arange(500) * 10_000
    events["endtime"] = events["time"] + 1_000
    events["kr_quality"] = 1 + (np.arange(500) > 20)
    events["s1_delay"] = np.random.default_rng(3).exponential(154.4 / np.log(2), 500)
    return events


#: Name of the picture -> context, analysis, arguments
PICTURES = {
    "records": ("xams", "plot_records", PART),
    "records_raw": ("xams", "plot_records", PART | {"data_type": "raw_records"}),
    "peaks": ("xams", "plot_peaks", {"seconds_range": (0.0199, 0.021)}),
    "peaks_sipm": ("xams", "plot_peaks", PART | {"data_type": "peaks_sipm"}),
    "peak_records": ("xams", "plot_peak_records", PART | {"selection": "type == 2"}),
    "area_per_channel": ("xams", "plot_area_per_channel", {}),
    "aft": ("xams", "plot_peaks_aft_histogram", {}),
    "area_aft": ("xams", "plot_peaks_area_aft_histogram", {"n_bins": 30}),
    "area_width": ("xams", "plot_peaks_area_width_histogram", {"n_bins": 30}),
    "scatter": ("xams", "event_scatter", {}),
    "bands": ("xams", "plot_bands", {"split": 30.0, "n_slices": 4}),
    "scatter_color": ("xams", "event_scatter", {"color": "drift_time"}),
    "drift_time": ("xams", "plot_drift_time", {"gate": 3_000, "cathode": 39_500, "n_bins": 20}),
    "kr83m_delays": ("xams", "plot_kr83m_delays", {"event_kr83m": kr83m_delays(), "n_bins": 30}),
    "energy": ("xams", "plot_energy", {"line": 60.0}),
    "light_map": ("xams", "plot_light_map", {}),
    "single_electrons": ("xams", "plot_single_electrons", {}),
    "positions": ("xams", "plot_positions", {"radius": 31, "depth": 50.5}),
    "event": ("xams", "event_display", {"event_number": 3}),
    "matrix": ("xams", "plot_records_matrix", {"seconds_range": (0.0199, 0.0202)}),
    "rates": ("xams", "plot_rates", {}),
    "compare": ("xams", "compare_runs", {"n_bins": 20}),
    "xamsl_records": ("xams_little", "plot_records", PART),
    "xamsl_peaks": ("xams_little", "plot_peaks", {"seconds_range": (0.0199, 0.021)}),
    "xamsl_peak_records": ("xams_little", "plot_peak_records", PART),
    "xamsl_area_per_channel": ("xams_little", "plot_area_per_channel", {}),
    "xamsl_area_aft": ("xams_little", "plot_peaks_area_aft_histogram", {"n_bins": 30}),
    "xamsl_matrix": ("xams_little", "plot_records_matrix", {"seconds_range": (0.0199, 0.0202)}),
    "xamsl_rates": ("xams_little", "plot_rates", {"bin_seconds": 1}),
    "led_records": ("xams_led", "plot_led_records", {}),
    "led_areas": ("xams_led", "plot_led_areas", {"n_bins": 50}),
    "led_rates": ("xams_led", "plot_rates", {}),
}


def draw(analysed, picture):  # noqa: F811
    name, analysis, arguments = PICTURES[picture]
    return getattr(analysed[name], analysis)(RUN_ID, **arguments)


def without_text(figure):
    """Take all text, and what its size moves, from a figure."""
    figure.set_layout_engine("none")
    for text in figure.texts:
        text.set_visible(False)
    for legend in figure.legends:
        legend.set_visible(False)
    if figure._suptitle is not None:
        figure._suptitle.set_visible(False)
    for axes in figure.axes:
        for where in ("left", "center", "right"):
            axes.set_title("", loc=where)
        axes.set(xlabel="", ylabel="")
        axes.tick_params(which="both", labelbottom=False, labelleft=False, labelright=False)
        if axes.get_legend() is not None:
            axes.get_legend().set_visible(False)
        for text in axes.texts:
            text.set_visible(False)
    figure.set_size_inches(4, 3)
    return figure


def save(figure, path):
    without_text(figure).savefig(path, dpi=50, metadata={"Software": None})


@pytest.mark.parametrize("picture", PICTURES)
def test_pictures(analysed, picture, tmp_path):  # noqa: F811
    """Compared with those in baseline_images; AMSTRAX_NEW_PICTURES=1 writes them anew."""
    figure = draw(analysed, picture)
    assert isinstance(figure, NotebookFigure)
    labels = [(a.get_xlabel(), a.get_ylabel()) for a in figure.axes]
    assert any(x and y for x, y in labels), "no axis has labels"
    path = tmp_path / f"{picture}.png"
    save(figure, path)
    baseline = BASELINES / path.name
    if os.environ.get("AMSTRAX_NEW_PICTURES"):
        BASELINES.mkdir(exist_ok=True)
        baseline.write_bytes(path.read_bytes())
    assert baseline.stat().st_size < 12_000
    # A picture of the difference would lie beside `path`
    assert compare_images(str(baseline), str(path), TOLERANCE) is None


@pytest.mark.parametrize("picture", ["records", "peaks", "aft", "rates", "scatter", "led_areas"])
def test_a_curve_that_is_missing_is_seen(analysed, picture, tmp_path):  # noqa: F811
    figure = draw(analysed, picture)
    for axes in figure.axes:
        drawn = [*axes.lines, *axes.patches, *axes.collections]
        if drawn:
            drawn[-1].remove()
            if picture == "rates":  # That was the band around the line
                axes.patches[-1].remove()
            break
    path = tmp_path / f"{picture}.png"
    save(figure, path)
    assert compare_images(str(BASELINES / path.name), str(path), TOLERANCE) is not None


# --- what every analysis does

_ARRAYS = ("records_matrix", "raw_records_matrix")
ANALYSES = (*of_strax.ANALYSES["on_context"], *of_strax.ANALYSES["calibrations"])
_BY_CONTEXT = {
    "xams": sorted(set(ANALYSES) - {"plot_alphas", "plot_led_areas", "plot_led_records"}),
    "xams_little": [
        "compare_runs", "plot_alphas", "plot_area_per_channel", "plot_peak_records", "plot_peaks",
        "plot_peaks_aft_histogram", "plot_peaks_area_aft_histogram",
        "plot_peaks_area_width_histogram", "plot_rates", "plot_records", "plot_records_matrix",
        "raw_records_matrix", "records_matrix", "waveform_display",
    ],
    "xams_led": [
        "compare_runs", "plot_led_areas", "plot_led_records", "plot_rates", "plot_records",
        "plot_records_matrix", "raw_records_matrix", "records_matrix", "waveform_display",
    ],
}  # fmt: skip
WORKING = [(name, analysis) for name, found in _BY_CONTEXT.items() for analysis in found]
MISSING = [
    (name, analysis)
    for name, found in _BY_CONTEXT.items()
    for analysis in ANALYSES
    if analysis not in found
]


@pytest.mark.parametrize(("name", "analysis"), WORKING)
def test_no_data(analysed, name, analysis):  # noqa: F811
    """After the last signals: an empty picture that says so."""
    result = getattr(analysed[name], analysis)(RUN_ID, seconds_range=(4.9, 4.95))
    if analysis in _ARRAYS:
        matrix, times, channels = result
        assert not matrix.any()
        assert matrix.shape == (len(times) - 1, len(channels))
    elif isinstance(result, Figure):
        result.draw_without_rendering()
        words = [t.get_text() for a in result.axes for t in a.texts]
        assert any(text.startswith("no") for text in words), words
    else:
        labels = [m.text for m in result.select({"type": _bokeh_label()})]
        assert "no records" in labels


def _bokeh_label():
    from bokeh.models import Label

    return Label


@pytest.mark.parametrize(("name", "analysis"), MISSING)
def test_data_that_the_context_does_not_have(analysed, name, analysis):  # noqa: F811
    with pytest.raises(NoSuchDataType, match="this context has no data type .*it has"):
        getattr(analysed[name], analysis)(RUN_ID)


@pytest.mark.parametrize(("name", "analysis"), [w for w in WORKING if "compare" not in w[1]])
def test_run_that_is_not_there(analysed, name, analysis):  # noqa: F811
    with pytest.raises(strax.DataNotAvailable, match="of run 000555.*output_folder"):
        getattr(analysed[name], analysis)("000555", seconds_range=(0, 0.1))


@pytest.mark.parametrize("analysis", sorted(ANALYSES))
def test_documentation(analysed, analysis):  # noqa: F811
    """Help shows every argument that it takes, and nothing is shown by pyplot."""
    method = getattr(analysed["xams"], analysis)
    names = list(inspect.signature(method).parameters)
    assert names[0] in ("run_id", "run_ids")
    assert {"time_range", "seconds_range", "time_within", "selection"} <= set(names)
    for name in names:
        assert name in method.__doc__, name
    with pytest.raises(TypeError, match="no argument 'secondsrange'; did you mean seconds_range"):
        method(RUN_ID, secondsrange=(0, 1))
    with pytest.raises(TypeError, match="by position"):
        method(RUN_ID, (0, 1))


def test_axes_that_are_given_are_drawn_into(analysed):  # noqa: F811
    for name, analysis in WORKING:
        method = getattr(analysed[name], analysis)
        parameters = inspect.signature(method).parameters
        arguments = {"seconds_range": (0.0199, 0.021)}
        figure = Figure(layout="constrained")
        if "ax" in parameters:
            axes = figure.subplots()
            assert method(RUN_ID, ax=axes, **arguments) is figure
            assert figure.axes[0] is axes
            assert axes.get_xlabel()
        elif "figure" in parameters:
            assert method(RUN_ID, figure=figure, **arguments) is figure
            assert figure.axes


# --- arguments


def test_ranges_agree(analysed):  # noqa: F811
    """One part of a run, said in three ways, and data that is handed over."""
    st = analysed["xams"]
    first, last = 10_000_000, 250_000_000
    t0 = START * 1_000_000_000
    peaks = st.get_array(RUN_ID, ("peaks", "peak_basics"), progress_bar=False)
    row = np.zeros(1, strax.time_fields)[0]
    row["time"], row["endtime"] = t0 + first, t0 + last
    expected = None
    for arguments in (
        {"seconds_range": (first / 1e9, last / 1e9)},
        {"time_range": (t0 + first, t0 + last)},
        {"time_within": row},
        {"time_within": row, "peaks": peaks},
    ):
        (axes,) = st.plot_peaks(RUN_ID, **arguments).axes
        found = [path.vertices.tolist() for c in axes.collections for path in c.get_paths()]
        expected = expected or found
        assert found == expected
        assert len(found) > 8
    with pytest.raises(InvalidOption, match="give one of them"):
        st.plot_peaks(RUN_ID, seconds_range=(0, 1), time_range=(t0, t0 + 1))
    with pytest.raises(InvalidOption, match="earlier time first"):
        st.plot_peaks(RUN_ID, seconds_range=(1, 0))


def test_selection(analysed):  # noqa: F811
    st = analysed["xams"]
    for argument in ("selection", "selection_str"):
        (axes,) = st.plot_peaks(RUN_ID, seconds_range=(0, 1), **{argument: "type == 2"}).axes
        assert [text.get_text() for text in axes.get_legend().get_texts()] == ["S2"]
    with pytest.raises(InvalidOption, match="'are > 2'.*no column.*did you mean area"):
        st.plot_peaks(RUN_ID, seconds_range=(0, 1), selection="are > 2")
    with pytest.raises(InvalidOption, match="selection 'area >'"):
        st.plot_peaks(RUN_ID, seconds_range=(0, 1), selection="area >")
    (axes,) = st.plot_peaks(RUN_ID, seconds_range=(0, 1), selection="area > 1e9").axes
    assert axes.texts[0].get_text() == "no peaks between 0 and 1 s\nwith area > 1e9"
    with pytest.raises(InvalidOption, match="did you mean cs1"):
        st.event_scatter(RUN_ID, s1="cs1_")


def test_too_long_a_part(analysed):  # noqa: F811
    st = analysed["xams"]
    with pytest.raises(InvalidOption, match="at most 1 s.*ignore_time_warning"):
        st.plot_records(RUN_ID, seconds_range=(0, 4))
    (axes,) = st.plot_records(RUN_ID, seconds_range=(0, 4), ignore_time_warning=True).axes
    assert "200 of" in axes.get_title(loc="right")


def test_events_by_number(analysed):  # noqa: F811
    st = analysed["xams"]
    figure = st.event_display(RUN_ID, event_number=5)
    assert figure.axes[0].get_title(loc="left") == "Event 5, whole"
    assert st.event_display(RUN_ID).axes[0].get_title(loc="left").startswith("Event ")
    with pytest.raises(InvalidOption, match=f"no event 1000 .*from 0 to {N_EVENTS - 1}"):
        st.event_display(RUN_ID, event_number=1_000)


def test_options_for_one_call(analysed):  # noqa: F811
    """Twice the gain, twice the light; the context stays as it is."""
    st = analysed["xams"]
    part = {"seconds_range": (0.0199, 0.021)}
    matrix, *_ = st.records_matrix(RUN_ID, **part)
    double, *_ = st.records_matrix(RUN_ID, config={"gain_to_pe_array": (0.0285714,) * 7}, **part)
    np.testing.assert_allclose(double, 2 * matrix)
    assert st.config["gain_to_pe_array"][0] == 0.0142857


# --- units of areas


def words_of(*results):
    """Return all text in a figure of matplotlib, or in layouts of Bokeh."""
    result = results[0]
    if not isinstance(result, Figure):
        from bokeh.document import Document

        document = Document()
        for root in results:
            document.add_root(root)
        return json.dumps(document.to_json(deferred=False))
    result.draw_without_rendering()
    return " ".join(text.get_text() for text in result.findobj(Text))


#: Analyses that show areas or light, with arguments that find some
AREAS = {
    "compare_runs": {},
    "event_display": {"event_number": 3},
    "event_scatter": {},
    "plot_area_per_channel": {},
    "plot_energy": {"line": 60.0},
    "plot_peak_records": PART,
    "plot_peaks": PART,
    "plot_peaks_area_aft_histogram": {},
    "plot_peaks_area_width_histogram": {},
    "plot_records_matrix": {"seconds_range": (0.0199, 0.0202)},
    "waveform_display": PART,
}


@pytest.fixture(scope="module")
def without_gains(analysed, tmp_path_factory):  # noqa: F811
    """Context of XAMS with gains of 1, in which the run is stored as well."""
    st = analysed["xams"].new_context(config={"gain_to_pe_array": None})
    st.storage = [
        *st.storage,
        DataDirectory(str(tmp_path_factory.mktemp("without_gains"))),
    ]
    st.storage[0].readonly = True
    for target in ("peaks", "event_info", "event_waveform", "event_area_per_channel"):
        st.make(RUN_ID, target, save=target, progress_bar=False)
    return st


@pytest.mark.parametrize(
    ("name", "analysis"), [case for case in WORKING if case[1] in AREAS and case[0] != "xams_led"]
)
def test_unit_of_areas_is_that_of_the_gains(analysed, without_gains, name, analysis):  # noqa: F811
    def shown(st):
        return words_of(getattr(st, analysis)(RUN_ID, **AREAS[analysis]))

    with_gains = shown(analysed[name])
    assert bool(re.search(r"\bPE\b", with_gains)) == (name == "xams")
    words = shown(without_gains) if name == "xams" else with_gains
    assert not re.search(r"\bPE\b", words)
    assert re.search(r"ADC (counts|x samples)", words)


@pytest.mark.parametrize(
    ("analysis", "selection"),
    [("plot_energy", "cs1 < 0"), ("plot_single_electrons", "area < 0")],
)
def test_notes_are_not_over_each_other(analysed, analysis, selection):  # noqa: F811
    figure = getattr(analysed["xams"], analysis)(RUN_ID, selection=selection)
    assert [len(axes.texts) for axes in figure.axes] == [1] * len(figure.axes)


def test_unit_of_areas_in_figures_of_sources(analysed):  # noqa: F811
    for name, unit in (("xams", "PE"), ("xams_little", "ADC counts x samples")):
        drawn = figures.of_run(analysed[name], RUN_ID, figures.Scales())
        words = words_of(*(figure for group in drawn.groups.values() for figure in group))
        assert bool(re.search(r"\bPE\b", words)) == (unit == "PE")
        area_width, _ = list(drawn.groups.values())[-1]
        assert area_width.xaxis.axis_label == f"Area [{unit}]"


def test_unit_of_areas_without_correction_files(analysed, tmp_path, monkeypatch):  # noqa: F811
    """Data that is stored can be shown where gains cannot be looked up."""
    url = "file://gain_to_pe_array?filename=gain_to_pe_array_v1.json&github_branch=master"
    st = analysed["xams"].new_context(config={"gain_to_pe_array": url})
    with pytest.raises(CorrectionNotFound):
        st.get_single_plugin(RUN_ID, "peaks")
    assert loading.area_unit(st, RUN_ID, "event_info") == "PE"
    write_files(tmp_path, gain_to_pe_array_v1={f"{int(RUN_ID):06d}": [1] * 7})
    monkeypatch.setenv("AMSTRAX_CORRECTIONS_FOLDER", str(tmp_path))
    assert loading.area_unit(st, RUN_ID, "event_info") == "ADC counts x samples"
    for gains in (None, (1, 1.0, 1, 1, 1), (1, 1, 1, 1, 2)):
        unit = loading.area_unit(
            st.new_context(config={"gain_to_pe_array": gains}), RUN_ID, "peaks"
        )
        assert (unit == "PE") == (gains is not None and 2 in gains)
    # Those of the detector that the data type is of
    assert loading.area_unit(analysed["xams"], RUN_ID, "peak_basics_sipm") == "PE"
    assert loading.area_unit(analysed["xams"], RUN_ID, "raw_records") == "ADC counts x samples"


# --- time of a run


def rates_in_legend(figure):
    """Return name -> rate [Hz]."""
    texts = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    return {t.split(": ")[0]: float(t.split(": ")[1].removesuffix(" Hz")) for t in texts}


@pytest.mark.parametrize("documented", [True, False])
def test_rates_are_over_the_time_of_the_run(analysed, tmp_path, documented):  # noqa: F811
    """Chunks are 5.5 s long, and the run 4.4 s: an event each 110 ms."""
    st = analysed["xams"].new_context()
    if documented:
        st.storage = [*st.storage, DataDirectory(str(tmp_path), provide_run_metadata=True)]
        begin = datetime.datetime(2024, 1, 2, 3, 4, 5, 800_000)
        assert int(begin.replace(tzinfo=datetime.UTC).timestamp()) == START
        end = begin + datetime.timedelta(seconds=4.4)
        st.storage[-1].write_run_metadata(RUN_ID, {"name": RUN_ID, "start": begin, "end": end})
    figure = st.plot_rates(RUN_ID)
    last_event = 0.02 + 0.11 * (N_EVENTS - 1)
    expected = 4.4 if documented else last_event
    assert figure.axes[0].get_xlim()[1] == pytest.approx(expected, abs=1e-3)
    assert rates_in_legend(figure)["events"] == pytest.approx(N_EVENTS / expected, rel=5e-3)
    # No fall at the end
    rate = next(p for p in figure.axes[0].patches if p.get_label().startswith("events"))
    values = rate.get_data().values
    assert values[-1] > 0.7 * values.mean()
    # A part of the run is as long as it is; behind its end is nothing
    part = st.plot_rates(RUN_ID, seconds_range=(1, 2), bin_seconds=0.3)
    assert part.axes[0].get_xlim() == (1, 2)
    assert st.plot_rates(RUN_ID, seconds_range=(1, 90)).axes[0].get_xlim()[1] < 4.5
    rate, number = (
        st.compare_runs(RUN_ID, fields=["z"], normalize=normalize).axes[0].patches[0].get_data()
        for normalize in ("rate", "counts")
    )
    assert number.values.sum() / rate.values.sum() == pytest.approx(expected, abs=1e-3)
    start, end = figures.span(st, RUN_ID, "peak_basics")
    assert (end - start) / 1e9 == pytest.approx(expected, abs=1e-3)


def test_a_run_document_that_ends_before_the_data(analysed, tmp_path):  # noqa: F811
    st = analysed["xams"].new_context()
    st.storage = [*st.storage, DataDirectory(str(tmp_path), provide_run_metadata=True)]
    begin = datetime.datetime(2024, 1, 2, 3, 4, 5)
    document = {"name": RUN_ID, "start": begin, "end": begin + datetime.timedelta(seconds=1)}
    st.storage[-1].write_run_metadata(RUN_ID, document)
    assert st.plot_rates(RUN_ID).axes[0].get_xlim()[1] > 4.3


# --- matrices


@pytest.mark.parametrize("name", _BY_CONTEXT)
@pytest.mark.parametrize("max_samples", [20_000, 50])
def test_area_of_a_matrix_is_that_of_the_records(analysed, name, max_samples):  # noqa: F811
    st = analysed[name]
    part = {"seconds_range": (0.0, 0.3)}
    data_type = {"xams": "records", "xams_little": "radon_records", "xams_led": "records_led"}[name]
    records = st.get_array(RUN_ID, data_type, progress_bar=False, **part)
    matrix, times, channels = st.records_matrix(RUN_ID, max_samples=max_samples, **part)
    assert len(matrix) <= max_samples
    assert channels.tolist() == list(range(4 if name == "xams_little" else 5))
    gain = 0.0142857 if name == "xams" else 1
    for column, channel in enumerate(channels):
        area = sum(
            float(r["data"][: r["length"]].sum(dtype=float))
            for r in records[records["channel"] == channel]
        )
        width = (times[1] - times[0]) * 1e9
        found = matrix[:, column].sum(dtype=float) * width
        assert found == pytest.approx(gain * area, rel=1e-3, abs=0.5)


def test_raw_records_are_baselined(analysed):  # noqa: F811
    st = analysed["xams"]
    part = {"seconds_range": (0.0199, 0.0203)}
    matrix, times, _ = st.records_matrix(RUN_ID, **part)
    raw, raw_times, _ = st.raw_records_matrix(RUN_ID, **part)
    np.testing.assert_array_equal(times, raw_times)
    np.testing.assert_array_equal(matrix, raw)
    assert matrix.max() > 0


# --- several runs, and where nothing of this may matter


def test_compare_runs(analysed):  # noqa: F811
    st = analysed["xams"]
    figure = st.compare_runs([RUN_ID], fields=["cs1", "area"], normalize="counts", n_bins=10)
    assert [a.get_xlabel() for a in figure.axes] == ["cS1 [PE]", "Area of peaks [PE]"]
    counts = figure.axes[0].patches[0].get_data().values
    assert counts.sum() >= N_EVENTS - 2
    figure = st.compare_runs(RUN_ID, fields="cs1", normalize="shape")
    assert figure.axes[0].patches[0].get_data().values.sum() == pytest.approx(1)
    with pytest.raises(InvalidOption, match="no column 'cs3'.*did you mean cs"):
        st.compare_runs(RUN_ID, fields=["cs3"])
    with pytest.raises(InvalidOption, match="did you mean rate"):
        st.compare_runs(RUN_ID, normalize="rates")
    with pytest.raises(InvalidOption, match="no runs"):
        st.compare_runs([])


def test_import_stays_light(tmp_path):
    program = (
        "import sys, amstrax; st = amstrax.contexts.xams(init_rundb=False); dir(st); "
        "print([m for m in ('matplotlib.figure', 'bokeh', 'straxen') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_pyplot_and_its_backend_are_left_alone(tmp_path, analysed):  # noqa: F811
    """No figure of it is open afterwards, and no backend is chosen."""
    import matplotlib

    def state():
        # Other tests in this process may have opened figures
        pyplot = sys.modules.get("matplotlib.pyplot")
        figures = pyplot.get_fignums() if pyplot else []
        return matplotlib.rcParams._get_backend_or_none(), figures

    before = state()
    analysed["xams"].plot_rates(RUN_ID)
    assert state() == before

"""Parts of the improved reconstruction: lineage, combination, and their gain on truth."""

import itertools
import json
import pickle

import numpy as np
import pytest
import strax
from make_runs import RUN_ID, context, load, pulses, rundoc, write_run

from amstrax import contexts, simulation
from amstrax.auto_processing import amstraxer, submitting
from amstrax.auto_processing.amstraxer import ProcessingOptions, to_dict_tuple
from amstrax.commands import validate
from amstrax.exceptions import InvalidOption, UsageError
from amstrax.plugins import improved_hits, reconstruction
from amstrax.plugins.peak_processing import Peaks
from amstrax.processing.compiled import sort_by_time
from amstrax.rundb.leases import Stop
from amstrax.simulation import SimulatedRun, matching, simulate
from amstrax.simulation.light import Origin

#: Data types of xams that no part changes
UNCHANGED = ("raw_records", "records", "pulse_counts", "peaks_ext", "peak_basics_sipm")


def xams(**kwargs):
    return contexts.xams(init_rundb=False, storage=[], **kwargs)


def hashes(**kwargs):
    return {name: found["hash"] for name, found in xams(**kwargs).provided_dtypes().items()}


@pytest.mark.parametrize("release", ["2.1", "2.2"])
def test_lineage(release):
    lab = hashes(release=release)
    for same in ("lab", ["lab"], None, ()):
        assert hashes(release=release, reconstruction=same) == lab
    improved = hashes(release=release, reconstruction="improved")
    added = {"event_scatters", "peak_shadow"}
    assert improved.keys() == lab.keys() | added
    assert not added & lab.keys()
    changed = {name for name in lab if lab[name] != improved[name]}
    assert not changed & set(UNCHANGED)
    assert changed >= {"hits", "lone_hits", "peaks", "peak_basics", "event_info"}
    assert hashes(release=release, reconstruction=("hits",)) == hashes(
        release=release, reconstruction="hits"
    )
    plugin = xams(release=release, reconstruction="hits")._plugin_class_registry["peaks"]
    assert plugin.__name__ == "Peaks" and plugin.__version__ == "0.1.50+hits1"
    assert issubclass(plugin, Peaks) and issubclass(plugin, improved_hits.ImprovedPeaks)


#: Part -> fields of peaks and events that it adds
FIELDS_OF_PARTS = {
    "hits": set(),
    "peaks": set(),
    "classification": {"is_double_s1", "is_single_electron"},
    "saturation": {"saturation_flag", "alt_s2_saturation_correction_error"},
    "positions": {"x_mle", "s2_x_mle_error", "r_error"},
    "pulse_shape": {"decay_time", "s1_prompt_fraction", "alt_s1_pulse_shape_flag"},
    "events": {"n_scatters", "alt_s2_z"},
}
COMBINATIONS = [
    *((part,) for part in FIELDS_OF_PARTS),
    *itertools.combinations(FIELDS_OF_PARTS, 2),
    tuple(FIELDS_OF_PARTS),
]


def test_combinations_of_parts():
    """Each part adds its fields, and its version, whatever others there are."""
    assert FIELDS_OF_PARTS.keys() == reconstruction.PARTS.keys()
    names = ("peaks", "peak_basics", "peak_positions", "event_basics", "event_positions")
    seen = set()
    for parts in COMBINATIONS:
        st = xams(reconstruction=parts)
        plugins = [st.get_single_plugin("0", name) for name in names]
        have = set().union(*(plugin.dtype.names for plugin in plugins))
        for part, own in FIELDS_OF_PARTS.items():
            assert own <= have if part in parts else not own & have
            version = f"+{part}{reconstruction.PARTS[part].version}"
            assert (part in parts) == any(version in p.__version__ for p in plugins)
        seen.add(st.key_for("0", "event_info").lineage_hash)
    assert len(seen) == len(COMBINATIONS)


def test_versions_are_in_the_lineage():
    """Data of an earlier version of a part is not loaded for that of a later one."""
    for name, part in reconstruction.PARTS.items():
        lineage = xams(reconstruction=name).key_for("0", "event_info").lineage
        changed = {
            plugin for plugin, version, _ in lineage.values() if f"+{name}{part.version}" in version
        }
        assert changed and changed <= part.variants.keys(), name


def test_options_are_in_the_lineage():
    st = xams(reconstruction="hits")
    before = st.key_for("0", "peaks").lineage_hash
    for name, value in (
        ("hit_threshold_adc", (5, 6, 7, 8, 9)),
        ("hit_threshold_sigma", 5),
        ("hit_left_margin", 20),
        ("hit_right_margin", 20),
    ):
        changed = xams(reconstruction="hits", config={name: value})
        assert changed.key_for("0", "peaks").lineage_hash != before
        assert changed.key_for("0", "hits").lineage_hash != st.key_for("0", "hits").lineage_hash


def test_contexts_can_be_pickled():
    st = xams(reconstruction="improved", release="2.2")
    copy = pickle.loads(pickle.dumps(st))
    assert copy._plugin_class_registry["peaks"] is st._plugin_class_registry["peaks"]
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = reconstruction.nothing


@pytest.mark.parametrize(
    "wrong, text",
    [
        ("imprved", "no part 'imprved'; did you mean improved?"),
        (["hits", "hit"], "no part 'hit'; did you mean hits?"),
        (["lab", "hits"], "lab goes with no part"),
        ("", "no part ''"),
        (3, "no part 3"),
    ],
)
def test_unknown_parts(wrong, text):
    with pytest.raises(InvalidOption, match=text):
        xams(reconstruction=wrong)


def test_parts_combine(monkeypatch):
    """A second part of the same plugin: both are in its version, in the order of the table."""

    class OtherPeaks:
        """Other peaks."""

        def find_hits(self, records, links):
            return super().find_hits(records, links)[:0]

    hits = reconstruction.PARTS["hits"]
    parts = {"hits": hits, "other": reconstruction.Part(3, {"Peaks": OtherPeaks})}
    monkeypatch.setattr(reconstruction, "PARTS", parts)
    for names in (("hits", "other"), ("other", "hits"), ("improved",)):
        (plugin,) = reconstruction.with_parts([Peaks], reconstruction.parts_of(names))
        assert plugin.__version__ == "0.1.50+hits1+other3"
        assert plugin.__mro__[1:3] == (OtherPeaks, improved_hits.ImprovedPeaks)
        assert {"hit_left_margin", "peak_min_pmts"} <= plugin.takes_config.keys()
    assert reconstruction.with_parts([Peaks], ()) == (Peaks,)


def test_bases_that_are_registered_do_not_rename_variants(monkeypatch):
    """`register_all` registers all classes of a module, also those that provide nothing."""

    class Base(strax.Plugin):  # not amstrax's, which other tests register
        """Base of a part."""

    class OtherHits(Base):
        """Other hits."""

    part = reconstruction.Part(1, {"Hits": OtherHits})
    monkeypatch.setattr(reconstruction, "PARTS", {"of_this_test": part})
    xams().register(Base)
    assert Base.provides == ("base",)
    assert "hits" in xams(reconstruction="of_this_test")._plugin_class_registry


def fields_of_events(names):
    """Return the columns of event_info."""
    st = xams(release="2.2", reconstruction=names)
    return set(st.get_single_plugin("0", "event_info").dtype.names)


def test_parts_keep_each_others_columns():
    lab = fields_of_events("lab")
    own = {part: fields_of_events(part) - lab for part in reconstruction.PARTS}
    assert own["positions"] and own["events"] and not own["hits"]
    for names in [*itertools.combinations(own, 2), tuple(own)]:
        assert fields_of_events(names) == lab.union(*(own[name] for name in names)), names


def test_tools():
    options = ProcessingOptions(
        targets=("peaks",),
        context_kwargs={"init_rundb": False, "storage": []},
        config_kwargs={"hit_left_margin": 20},
    )
    with pytest.raises(UsageError, match="no plugin takes the option 'hit_left_margin'"):
        amstraxer.make_context(options, RUN_ID)
    words = ["1", "--target", "peaks", "--reconstruction", "hits", "--config_kwargs"]
    words += ['{"hit_left_margin": 20}', "--context_kwargs", '{"init_rundb": false}']
    options = ProcessingOptions.of(amstraxer.parse_args(words))
    st, _ = amstraxer.make_context(options, RUN_ID)
    expected = xams(reconstruction="hits", config={"hit_left_margin": 20})
    assert st.key_for("0", "peaks").lineage == expected.key_for("0", "peaks").lineage
    with pytest.raises(UsageError, match="event_scatters: context xams .*--reconstruction events"):
        amstraxer.make_context(
            ProcessingOptions(("event_scatters",), context="xams", reconstruction=("hits",)), RUN_ID
        )
    template = submitting.make_job_template(options, "jobs", "logs")
    assert "--reconstruction=hits" in template.options_for(template.plan)[0]
    by_keyword = ProcessingOptions(
        ("peaks",), context_kwargs={"init_rundb": False, "reconstruction": ["hits"]}
    )
    assert amstraxer.make_context(by_keyword, RUN_ID)[0].key_for("0", "peaks").lineage["peaks"][
        1
    ] == ("0.1.50+hits1")
    with pytest.raises(InvalidOption, match="xams_led has no such parts"):
        amstraxer.make_context(
            ProcessingOptions(("records_led",), reconstruction=("hits",)), RUN_ID
        )


# ---- Part: hits ----


@pytest.mark.parametrize(
    "config, text",
    [
        ({"hit_threshold_adc": -1}, "hit_threshold_adc=-1: give a number of 0 or more"),
        ({"hit_threshold_adc": ((1, 2), (3,))}, "hit_threshold_adc=.*one a channel"),
        ({"hit_threshold_sigma": (5, float("nan"))}, "hit_threshold_sigma=.*: give a number"),
        ({"hit_right_margin": 400}, "hit_right_margin=400 ns of peaks is too long for chunks"),
        ({"hit_left_margin": -10}, "hit_left_margin=-10: give a time between 0 and"),
        ({"hit_threshold_adc": (8, 8)}, "channel 2, but thresholds for 2 channels"),
    ],
)
def test_invalid_options_of_hits(tmp_path, config, text):
    write_run(tmp_path, pulses([1_000_000], channels=range(5)))
    st = context(tmp_path, reconstruction="hits", **config)
    with pytest.raises(ValueError, match=text):
        load(st, "peaks")


def test_thresholds_and_margins(tmp_path):
    """Pulses of 20, 5 and 30 ADC counts, a triangle of 20 samples."""
    parts = [pulses(1_000_000, channel, height=h) for channel, h in enumerate((20, 5, 30))]
    write_run(tmp_path, np.concatenate(parts))
    first = {"hit_threshold_adc": (15, 15, 25, 0, 0), "hit_left_margin": 0, "hit_right_margin": 0}
    st = context(tmp_path, reconstruction="hits", peak_min_area=0, **first)
    hits = load(st, "hits")
    assert hits["channel"].tolist() == [0, 2]
    assert hits["threshold"].tolist() == [15, 25]
    narrow = load(st, "peaks")
    st.set_config({"hit_left_margin": 100, "hit_right_margin": 100})
    peaks = load(st, "peaks")
    whole = load(st, "records")["area"]
    np.testing.assert_array_equal(peaks["area_per_channel"][0], [whole[0], 0, whole[2], 0, 0])
    assert (narrow["area_per_channel"][0][[0, 2]] < 0.8 * whole[[0, 2]]).all()
    assert load(st, "hits")["area"].tolist() == whole[[0, 2]].tolist()
    # Each hit is in a peak
    assert not len(load(st, "lone_hits"))


@pytest.fixture(scope="module")
def small_signals(tmp_path_factory):
    """Folder of a simulated run of 1 to 40 photoelectrons of S1 light, and its truth."""
    folder = tmp_path_factory.mktemp("simulated")
    kwargs = dict(energy_range=(0.3, 4), yields="simple", rate=150, duration=5)
    # Tracing of photons takes longer, and changes only where they are seen
    simulate(RUN_ID, folder, source="flat", optics="inverse_of_reconstruction", **kwargs)
    return folder, np.load(folder / f"truth_{RUN_ID}.npy")


def of_simulation(folder, reconstruction, **config):
    """Return a context for a simulated run, with its options and truth."""
    options = json.loads((folder / f"config_{RUN_ID}.json").read_text())
    document = json.loads((folder / f"rundoc_{RUN_ID}.json").read_text())
    config = to_dict_tuple(options) | {"live_data_dir": str(folder)} | config
    st = contexts.xams(
        output_folder=folder / "out",
        init_rundb=False,
        config=config,
        reconstruction=reconstruction,
        simulation_truth=folder / RUN_ID,
    )
    return contexts.context_for_daq_reader(st, RUN_ID, run_doc=document, check_exists=False)


def areas_of_s1s(small_signals, name):
    """Return true and reconstructed areas of S1s [PE]; 0 where no peak is."""
    folder, truth = small_signals
    st = of_simulation(folder, name, peak_min_area=0.3)
    peaks = load(st, ("peaks", "peak_basics"))
    first, beyond = (x[:, 0] for x in matching._peak_ranges(truth, peaks))
    total = np.concatenate([[0], np.cumsum(peaks["area"], dtype=float)])
    return truth["s1_pe"], total[beyond] - total[first]


def test_small_signals_keep_their_area(small_signals):
    found = {name: areas_of_s1s(small_signals, name) for name in ("lab", "hits")}
    pe = found["lab"][0]
    some, few = (pe >= 5) & (pe <= 16), (pe >= 1) & (pe <= 3)
    ratio = {name: area[some].sum() / pe[some].sum() for name, (_, area) in found.items()}
    # Counts of photoelectrons vary by 0.35 of their charge, so the mean of 400 S1s by 0.6 %
    assert ratio["lab"] < 0.985
    assert ratio["hits"] == pytest.approx(1, abs=0.015)
    efficiency = {name: (area[few] > 0).mean() for name, (_, area) in found.items()}
    assert efficiency["hits"] >= efficiency["lab"] > 0.9


# ---- Part: positions ----

#: Heights of pulses [ADC counts] by channel: more light at x > 0
HEIGHTS = (600, 900, 900, 300, 300)


def positions(folder, heights=HEIGHTS, reconstruction="positions", **config):
    """Return peak_positions and peaks of a run of one peak."""
    write_run(
        folder, np.concatenate([pulses(1_000_000, i, height=h) for i, h in enumerate(heights)])
    )
    st = context(folder, reconstruction=reconstruction, peak_min_area=0, **config)
    (position,), (peak,) = load(st, "peak_positions"), load(st, "peaks")
    return position, peak


def test_positions_of_peaks(tmp_path):
    lab, _ = positions(tmp_path / "lab", reconstruction="lab")
    found, _ = positions(tmp_path / "mle")
    for name in ("x_cgr", "y_corr", "r_corr", "time", "endtime"):
        assert found[name] == lab[name]
    assert found["x"] == found["x_mle"] and 5 < found["x"] < 25
    assert found["y"] == pytest.approx(0, abs=0.05)
    assert found["r"] == pytest.approx(np.hypot(found["x"], found["y"]), rel=1e-6)
    assert 0 < found["x_mle_error"] < 5 and found["mle_deviance"] >= 0
    by_lab, _ = positions(tmp_path / "corr", default_reconstruction_algorithm="corr")
    assert by_lab["x"] == lab["x"] and by_lab["x_mle"] == found["x"]
    none, _ = positions(tmp_path / "none", position_min_area=1e9)
    assert np.isnan([none[name] for name in ("x", "y", "r", "x_mle_error", "mle_deviance")]).all()


def test_saturated_and_dead_channels_do_not_count(tmp_path):
    found, peak = positions(tmp_path / "dead", gain_to_pe_array=(1, 1, 1, 1, 0))
    assert not peak["saturated_channel"].any()
    saturated, peak = positions(tmp_path / "saturated", heights=(*HEIGHTS[:4], 20_000))
    assert peak["saturated_channel"].tolist() == [0, 0, 0, 0, 1]
    for name in ("x", "y", "x_mle_error", "mle_deviance"):
        assert saturated[name] == pytest.approx(found[name], rel=1e-4)


@pytest.mark.parametrize(
    "config, text",
    [
        ({"position_light_map": "xam"}, "position_light_map='xam': .* did you mean xams"),
        ({"position_light_map": "xamsl"}, "has 2 PMTs, the channel map 5"),
        ({"position_light_map": {"radius": 3}}, "position_light_map.*no light map"),
        ({"position_min_area": -1}, "position_min_area=-1: give an area of 0 or more"),
        ({"position_area_fano": 0}, "areas 0: give a number above 0"),
        ({"default_reconstruction_algorithm": "lpf"}, "'lpf': give mle, corr or cgr"),
    ],
)
def test_invalid_options_of_positions(tmp_path, config, text):
    with pytest.raises(ValueError, match=text):
        positions(tmp_path, **config)


@pytest.fixture(scope="module")
def electrons(tmp_path_factory):
    """Folder of a simulated run of electrons of 5 to 40 keV, and its truth."""
    folder = tmp_path_factory.mktemp("electrons")
    kwargs = dict(energy_range=(5, 40), yields="simple", rate=80, duration=5)
    simulate(RUN_ID, folder, source="flat", **kwargs)
    return folder, np.load(folder / f"truth_{RUN_ID}.npy")


def test_positions_of_events_on_truth(electrons):
    """Light of the map: no bias at the wall, where the lab's positions are 6 mm off."""
    folder, truth = electrons
    for name, bias in (("lab", (-7, -4)), ("positions", (-0.5, 0.5))):
        events = load(of_simulation(folder, name), "event_info")
        row = np.searchsorted(truth["s2_center_time"], events["s2_center_time"] - 500)
        row = np.minimum(row, len(truth) - 1)
        of = truth[row]
        same = np.abs(events["s2_area"] / of["s2_pe"] - 1) < 0.2
        r = np.hypot(of["x"], of["y"])
        outer = same & (r > 26) & np.isfinite(events["r"])
        assert outer.sum() > 20
        assert bias[0] < np.median(events["r"][outer] - r[outer]) < bias[1]
        if name == "positions":
            pull = ((events["x"] - of["x"]) / events["x_error"])[same]
            assert 0.4 < np.nanmedian(np.abs(pull)) < 1.1
            np.testing.assert_array_equal(events["x_error"], events["s2_x_mle_error"])
            for prefix in ("", "alt_s2_"):
                has = np.isfinite(events[f"{prefix}x"])
                assert (np.isfinite(events[f"{prefix}r_error"]) == has).all()


def test_light_map_is_in_the_lineage():
    keys = {
        xams(reconstruction="positions", config=config).key_for("0", "peak_positions").lineage_hash
        for config in (
            {},
            {"position_light_map": {"radius": 31, "step": 1, "light": [[[1.0]]]}},
            {"position_light_map": {"radius": 31, "step": 1, "light": [[[2.0]]]}},
            {"position_uses_bottom": False},
        )
    }
    assert len(keys) == 4


# ---- Part: saturation ----


def saturated_peak(folder, heights, targets, reconstruction="lab", **config):
    """Return the row of a run of one peak, of pulses of `heights` that end with the ADC."""
    records = np.concatenate([pulses(1_000_000, i, height=h) for i, h in enumerate(heights)])
    np.maximum(records["data"], 0, out=records["data"])
    write_run(folder, records)
    (row,) = load(context(folder, reconstruction=reconstruction, **config), targets)
    return row


@pytest.mark.parametrize("names", [["saturation"], ["hits", "saturation", "positions"]])
def test_saturated_peaks(tmp_path, names):
    """The bottom PMT has lost a fifth; templates are the others, each of a tenth of the light."""
    heights, targets = (30_000, *[3_000] * 4), ("peaks", "peak_basics", "peak_positions")
    lab = saturated_peak(tmp_path / "lab", heights, targets)
    peak = saturated_peak(tmp_path / "corrected", heights, targets, names)
    bottom, top = peak["area_per_channel"][:2]
    assert bottom == pytest.approx(10 * top, rel=0.01)
    assert lab["area_per_channel"][0] < 0.8 * bottom
    assert peak["saturation_flag"] == 1
    assert peak["saturated_samples"].tolist() == [peak["n_saturated_samples"], 0, 0, 0, 0]
    assert peak["n_saturated_samples"] > 3
    assert peak["area"] - peak["saturation_correction"] == pytest.approx(lab["area"], rel=0.03)
    assert peak["area_fraction_top"] < lab["area_fraction_top"]
    assert peak["range_50p_area"] < lab["range_50p_area"]
    if "positions" in names:
        assert np.isfinite(peak["x_mle"])


def test_peaks_of_saturated_channels_only_stay_the_labs(tmp_path):
    heights = (30_000, 20_000, 20_000, 20_000, 20_000)
    lab = saturated_peak(tmp_path / "lab", heights, "peaks")
    peak = saturated_peak(tmp_path / "part", heights, "peaks", "saturation")
    assert peak["saturation_flag"] == 2 and (peak["saturated_samples"] > 0).all()
    for name in lab.dtype.names:
        np.testing.assert_array_equal(peak[name], lab[name])


def test_saturation_on_truth(tmp_path):
    """Cs-137: S1s and S2s get the light back that the ADC has cut off."""
    simulate(RUN_ID, tmp_path, source="cs137", yields="simple", rate=40, duration=2)
    truth = np.load(tmp_path / f"truth_{RUN_ID}.npy")
    bias = {}
    for name in ("lab", "saturation"):
        st = of_simulation(tmp_path, name)
        peaks, events = load(st, ("peaks", "peak_basics")), load(st, "event_info")
        matched = simulation.match_peaks(truth, peaks)
        for kind in ("s1", "s2"):
            peak = peaks[matched[f"{kind}_peak"]]
            good = matched[f"{kind}_outcome"] == matching.Outcome.FOUND
            good &= peak["n_saturated_channels"] > 0
            if name != "lab":
                good &= peak["saturation_flag"] == 1
            ratio = peak["area"] / truth[f"{kind}_pe"]
            assert good.sum() > 15
            bias[name, kind] = np.median(ratio[good]) - 1
    assert bias["lab", "s1"] < -0.1 and abs(bias["saturation", "s1"]) < 0.04
    # Gain that the bases have lost, which is not corrected by default, is in the bias
    assert bias["lab", "s2"] < -0.15 and -0.1 < bias["saturation", "s2"] < 0.02
    corrected = events["s2_saturation_flag"] == 1
    # Slightly negative by chance, where one sample is barely saturated
    correction = events["s2_saturation_correction"][corrected]
    assert (correction > -0.02 * events["s2_area"][corrected]).all()
    assert (
        np.median(correction) > 0
        and (events["s2_saturation_correction_error"][corrected] > 0).all()
    )
    assert (events["s2_n_saturated_samples"] > 0)[corrected].all()


@pytest.mark.parametrize(
    "config, text",
    [
        ({"saturation_max_error": 0}, "saturation_max_error=0: give a number above 0"),
        ({"area_fano": "1"}, "area_fano='1': give a number above 0"),
        ({"pmt_saturation_charge": -1}, "pmt_saturation_charge=-1: give a number above 0"),
        ({"pulse_shape_min_area": 0}, "pulse_shape_min_area=0: give a number above 0"),
        ({"decay_fit_length": None}, "decay_fit_length=None: give a number above 0"),
        ({"decay_fit_start": float("nan")}, "decay_fit_start=nan: give a time"),
    ],
)
def test_invalid_options_of_saturation_and_pulse_shape(tmp_path, config, text):
    write_run(tmp_path, pulses([1_000_000], channels=range(5)))
    st = context(tmp_path, reconstruction=("saturation", "pulse_shape"), **config)
    with pytest.raises(ValueError, match=text):
        load(st, "peak_basics")


# ---- Part: pulse_shape ----


def test_pulse_shapes_of_events_on_truth(electrons):
    """Decay times are those of triplets, 27 ns, within their errors."""
    folder, _ = electrons
    events = load(of_simulation(folder, ("hits", "pulse_shape")), "event_info")
    known = events["s1_pulse_shape_flag"] == 0
    assert known.sum() > 150
    pull = ((events["s1_decay_time"] - 27) / events["s1_decay_time_error"])[known]
    assert abs(pull.mean()) < 0.3 and 0.75 < pull.std() < 1.15
    assert events["s1_prompt_fraction"][known].mean() == pytest.approx(0.304, abs=0.01)
    faint = events["s1_pulse_shape_flag"] == 2
    assert (events["s1_area"][faint] < 50).all() and (events["s1_area"][known] >= 50).all()
    none = ~known & (events["s1_pulse_shape_flag"] != 5)
    assert np.isnan(events["s1_prompt_fraction"][none]).all()
    assert np.isnan(events["s1_decay_time"][~known]).all()
    absent = events["alt_s1_index"] < 0
    assert (events["alt_s1_pulse_shape_flag"][absent] == 1).all()


@pytest.mark.parametrize(
    ("parts", "flag"), [(["pulse_shape"], 3), (["saturation", "pulse_shape"], 0)]
)
def test_saturated_s1s_have_a_pulse_shape_if_corrected(tmp_path, parts, flag):
    config = {"s1_max_area_fraction_top": 1, "s1_max_width": 500, "decay_fit_start": 60}
    peak = saturated_peak(tmp_path, (20_000, *[3_000] * 4), "peak_basics", parts, **config)
    assert peak["type"] == 1 and peak["pulse_shape_flag"] == flag
    assert np.isnan([peak["decay_time"], peak["prompt_fraction"]]).all() == (flag == 3)


# ---- All parts ----


@pytest.mark.parametrize("release", ["2.1", "2.2"])
@pytest.mark.parametrize("height", [0, 900])
def test_improved_data_types_of_both_releases(tmp_path, release, height):
    """Also without peaks."""
    write_run(tmp_path, pulses([1_000_000], channels=range(5), height=height))
    st = context(tmp_path, release=release, reconstruction="improved", peak_min_area=0)
    peaks, events = load(st, "peak_positions"), load(st, "event_info")
    assert len(peaks) == (height > 0)
    assert np.isfinite(peaks["x_mle"]).all()
    names = ("x_error", "alt_s2_r_error", "s2_x_mle", "alt_s2_mle_deviance")
    names += ("alt_s2_z", "cs1_error", "alt_cs2_statistical_error")
    assert set(names) <= set(events.dtype.names)
    assert np.isnan([events[name] for name in names]).all()
    assert not len(load(st, "event_scatters"))
    shadows = load(st, "peak_shadow")
    assert shadows["shadow_delay"].tolist() == [-1] * len(peaks)
    assert not shadows["shadow"].any() and np.isnan(shadows["shadow_distance"]).all()


# ---- Part: events ----

#: S1, two S2s of the same event, and an S2 too late for it [ns after the S1]
TIMES = (0, 10_000, 25_000, 48_000)
EVENTS = {"elife": 100_000, "scatter_drift_time_margin": 0, "elife_relative_error": 0.1}


@pytest.fixture(scope="module")
def few_scatters(tmp_path_factory):
    """Folder of a run of two events of four peaks, the second S2 the largest."""
    folder = tmp_path_factory.mktemp("scatters")
    parts = []
    for start in (1_000_000, 3_000_000_000):
        for delay, height, width in zip(
            TIMES, (300, 800, 1500, 700), (20, 380, 380, 380), strict=True
        ):
            n = 1 if width < 70 else 4
            parts.append(pulses(start + delay, range(5), n, height=height, width=width))
    write_run(folder, np.concatenate(parts))
    return folder


def events_of(folder, online_config, *names, reconstruction="events", **config):
    """Return data types of the run of `few_scatters`."""
    st = contexts.xams(
        output_folder=folder / "out",
        init_rundb=False,
        config={"live_data_dir": str(folder), **online_config, **config},
        reconstruction=reconstruction,
    )
    st = contexts.context_for_daq_reader(st, RUN_ID, run_doc=rundoc(), check_exists=False)
    return [load(st, name) for name in names]


def test_scatters_of_events(few_scatters, online_config):
    events, scatters, peaks = events_of(
        few_scatters, online_config, "event_info", "event_scatters", "peak_positions", **EVENTS
    )
    assert events["n_scatters"].tolist() == [2, 2]
    assert events["pile_up"].tolist() == [2 | 4, 2 | 4]
    assert scatters["event_number"].tolist() == [0, 0, 1, 1]
    assert scatters["scatter"].tolist() == [0, 1, 0, 1]
    assert scatters["is_main"].tolist() == [False, True] * 2
    np.testing.assert_array_equal(scatters["time"], peaks["time"][[1, 2, 5, 6]])
    np.testing.assert_array_equal(scatters["x"], peaks["x"][[1, 2, 5, 6]])
    main, alt = scatters[1::2], scatters[::2]
    for name in ("drift_time", "z", "cs2", "cs2_error", "cs2_statistical_error"):
        np.testing.assert_allclose(main[name], events[name], rtol=1e-6)
    for name in ("z", "x", "r"):
        np.testing.assert_array_equal(alt[name], events[f"alt_s2_{name}"])
    np.testing.assert_allclose(alt["cs2"], events["alt_cs2"], rtol=1e-6)
    np.testing.assert_array_equal(alt["drift_time"], events["alt_s2_interaction_drift_time"])
    np.testing.assert_allclose(
        alt["cs2"], alt["area"] * np.exp(alt["drift_time"] / EVENTS["elife"]), rtol=1e-6
    )
    assert (np.diff(scatters["z"]) < 0)[[0, 2]].all()


def test_lab_corrects_alternative_s2s_with_the_main_one(few_scatters, online_config):
    """All other numbers are the lab's."""
    (lab,), (own,) = (
        events_of(few_scatters, online_config, "event_info", reconstruction=name, elife=100_000)
        for name in ("lab", "events")
    )
    differing = [name for name in lab.dtype.names if not (lab[name] == own[name]).all()]
    differing = [name for name in differing if not np.isnan(lab[name]).all()]
    assert differing == ["alt_cs2"]
    np.testing.assert_allclose(
        own["alt_cs2"] / lab["alt_cs2"],
        np.exp((own["alt_s2_interaction_drift_time"] - own["drift_time"]) / 100_000),
        rtol=1e-6,
    )


def test_errors_of_corrected_areas(few_scatters, online_config):
    none = dict(elife_relative_error=0, drift_time_error=0, s1_map_error=0, s2_map_error=0)
    (event, _) = events_of(few_scatters, online_config, "event_info", elife=1e9, **none)[0]
    for sx, fano in (("s1", 1.5), ("s2", 2.25)):
        expected = event[f"c{sx}"] * np.sqrt(fano / event[f"{sx}_area"])
        assert event[f"c{sx}_statistical_error"] == pytest.approx(expected, rel=1e-3)
        assert event[f"c{sx}_error"] == event[f"c{sx}_statistical_error"]
    for name, area, value, expected in (
        ("s1_map_error", "cs1", 10.0, 10.0),
        ("s2_map_error", "cs2", 10.0, 10.0),
        ("drift_time_error", "cs2", 1e10, 10.0),
        ("elife_relative_error", "alt_cs2", 1e6, None),
    ):
        (one, _) = events_of(
            few_scatters, online_config, "event_info", elife=1e9, **none | {name: value}
        )[0]
        if expected is None:
            expected = value * one["alt_s2_interaction_drift_time"] / 1e9
        assert one[f"{area}_error"] / one[area] == pytest.approx(expected, rel=0.01)
    # Slope of the correction by depth: 7.69 / 700 per mm near the gate, 1.38 mm/us
    (one, _) = events_of(few_scatters, online_config, "event_info", **none | EVENTS_Z)[0]
    error = np.sqrt(one["cs1_error"] ** 2 - one["cs1_statistical_error"] ** 2) / one["cs1"]
    slope = 7.69 / (700 - 7.69 * one["z"]) * 50.5 / 36.5
    assert error == pytest.approx(slope, rel=0.01)


def test_errors_contain_that_of_saturation(tmp_path, online_config):
    parts = []
    for delay, n, width in ((0, 1, 20), (10_000, 4, 380)):
        for channel, height in enumerate((30_000, *[3_000] * 4)):
            parts.append(pulses(1_000_000 + delay, channel, n, height=height, width=width))
    records = sort_by_time(np.concatenate(parts))
    np.maximum(records["data"], 0, out=records["data"])
    write_run(tmp_path, records)
    (event,), (scatter,) = events_of(
        tmp_path,
        online_config,
        *("event_info", "event_scatters"),
        reconstruction=("saturation", "events"),
        **dict(elife=1e9, elife_relative_error=0, drift_time_error=0),
        **dict(s1_map_error=0, s2_map_error=0),
    )
    for sx in ("s1", "s2"):
        assert event[f"{sx}_saturation_flag"] == 1
        by_saturation = event[f"{sx}_saturation_correction_error"] / event[f"{sx}_area"]
        expected = np.hypot(event[f"c{sx}_statistical_error"], by_saturation * event[f"c{sx}"])
        assert event[f"c{sx}_error"] == pytest.approx(expected, rel=1e-3)
        assert event[f"c{sx}_error"] > 1.05 * event[f"c{sx}_statistical_error"]
    assert scatter["cs2_error"] == pytest.approx(event["cs2_error"], rel=1e-5)


EVENTS_Z = {"drift_time_error": 1000.0, "elife_relative_error": 0.0}


def test_shadow_of_peaks(few_scatters, online_config):
    peaks, basics, shadows = events_of(
        few_scatters, online_config, "peak_positions", "peak_basics", "peak_shadow"
    )
    delay = np.diff(basics["center_time"])
    area = basics["area"]
    assert (area[[1, 2, 3]] > 1000).all()
    # The second event is 3 s later, beyond the window
    assert shadows["shadow_area"].tolist() == [0, 0, area[1], area[2], 0, 0, area[5], area[6]]
    np.testing.assert_array_equal(shadows["shadow_delay"][[2, 3]], delay[[1, 2]])
    np.testing.assert_allclose(shadows["shadow"][2], area[1] / delay[1], rtol=1e-6)
    distance = np.hypot(peaks["x"][3] - peaks["x"][2], peaks["y"][3] - peaks["y"][2])
    assert shadows["shadow_distance"][3] == pytest.approx(distance)
    (wide,) = events_of(few_scatters, online_config, "peak_shadow", shadow_window=4_000_000_000)
    assert (wide["shadow_area"][4:] > 0).all() and wide["shadow_delay"][4] > 2_900_000_000


@pytest.mark.parametrize("workers", [1, 2])
def test_shadow_over_the_border_of_chunks(tmp_path, online_config, workers):
    starts = [4_900_000_000, 5_700_000_000, 6_900_000_000]
    write_run(tmp_path, pulses(starts, range(5), 4, height=1500, width=380), n_chunks=2)
    st = context(tmp_path, reconstruction="events", **online_config)
    st.make(RUN_ID, "peak_shadow", max_workers=workers, progress_bar=False)
    shadows = st.get_array(RUN_ID, "peak_shadow", progress_bar=False)
    assert shadows["shadow_delay"].tolist() == [-1, 800_000_000, -1]


@pytest.mark.parametrize(
    "config",
    [
        {"scatter_min_fraction": -0.1},
        {"s2_area_fano": "1"},
        {"shadow_window": float("nan")},
        {"pile_up_s1_min_area": None},
    ],
)
def test_invalid_options_of_events(few_scatters, online_config, config):
    (name,) = config
    with pytest.raises(ValueError, match=f"{name}=.*give 0 or more"):
        events_of(few_scatters, online_config, "event_scatters", "peak_shadow", **config)


def test_scatters_on_truth(tmp_path):
    """Photons of Cs-137 scatter several times: the lab's alternative S2 is often none of these."""
    simulate(RUN_ID, tmp_path, source="cs137", rate=60, duration=1.5)
    run = SimulatedRun.at(tmp_path / RUN_ID)
    numbers = {}
    for name in ((), ("events",)):
        options = validate.ValidationOptions(tmp_path, reconstruction=name)
        report, _ = validate.assess(run, tmp_path / "out", {}, options, Stop())
        numbers[name] = {key: entry["value"] for key, entry in report["numbers"].items()}
    lab, own = numbers.values()
    assert own["scatters_efficiency"] > 0.95 and own["scatters_complete"] > 0.9
    assert own["scatters_purity"] > 0.9
    assert own["scatters_single_kept"] > 0.9 > lab["scatters_single_kept"]
    assert own["scatters_multiple_kept"] < 0.05
    # Electrons that come late after S2s are in deep shadow
    st = of_simulation(tmp_path, "events", peak_min_area=2)
    shadow, origin = load(st, "peak_shadow")["shadow"], load(st, "peak_truth")["origin"]
    late, s1s = (shadow[origin == each] for each in (Origin.DELAYED_ELECTRON, Origin.S1))
    assert len(late) > 200 and np.median(late) > 5 * np.median(s1s)


def test_errors_on_truth(tmp_path):
    """In light that the corrections describe, errors of corrected areas are statistical."""
    kwargs = dict(optics="inverse_of_reconstruction", energy_range=(10, 60), yields="simple")
    simulate(RUN_ID, tmp_path, source="flat", rate=80, duration=3, **kwargs)
    run = SimulatedRun.at(tmp_path / RUN_ID)
    options = validate.ValidationOptions(tmp_path, reconstruction=("events",))
    report, _ = validate.assess(run, tmp_path / "out", {}, options, Stop())
    for name in ("cs1_statistical_pull", "cs2_statistical_pull"):
        assert 0.8 < report["numbers"][name]["value"] < 1.2, name


# ---- Parts: peaks and classification ----

#: Type of the light of each origin: S1, S2 and electrons; after-pulses and dark counts have none
TRUE_TYPES = {
    Origin.S1: 1,
    Origin.S2: 2,
    Origin.PHOTOIONISATION: 2,
    Origin.DELAYED_ELECTRON: 2,
}


def true_types(truth):
    """Return the types that peaks should have, of peak_truth."""
    return np.array([TRUE_TYPES.get(origin, 0) for origin in truth["origin"]])


def test_misclassification_from_3_pe_on(small_signals):
    folder, _ = small_signals
    wrong, found = {}, {}
    for name in ("lab", "classification", "improved"):
        st = of_simulation(folder, name, peak_min_area=2)
        peaks, truth = load(st, "peak_basics"), load(st, "peak_truth")
        expected, large = true_types(truth), truth["n_pe"] >= 3
        wrong[name] = (peaks["type"] != expected)[large].mean()
        found[name] = peaks
        assert (expected[large] == 1).sum() > 300
    # S1s of 3 to 40 PE are the hardest; of larger ones none is wrong
    assert wrong["classification"] < wrong["lab"] / 2
    assert wrong["improved"] < wrong["lab"] / 2
    assert wrong["lab"] > 0.08
    improved = found["improved"]
    single = improved["is_single_electron"]
    assert single.any() and (improved["type"][single] == 2).all()
    assert improved["area"][single].max() <= 15
    is_s1 = improved["type"] == 1
    coincidence = improved["tight_coincidence"][is_s1]
    assert coincidence.max() == 5 and (coincidence <= improved["n_hits"][is_s1]).all()
    assert not found["lab"]["tight_coincidence"].any()


def test_single_electrons_are_whole(small_signals):
    """10 PE, of which the lab's peaks have pieces."""
    folder, _ = small_signals
    median = {}
    for name in ("hits", ["hits", "peaks"]):
        st = of_simulation(folder, name, peak_min_area=2)
        peaks, truth = load(st, "peak_basics"), load(st, "peak_truth")
        electron = np.isin(truth["origin"], (Origin.PHOTOIONISATION, Origin.DELAYED_ELECTRON))
        assert electron.sum() > 20
        median[str(name)] = np.median(peaks["area"][electron])
    before, after = median.values()
    assert before < 6.5 < 7.5 < after < 12


@pytest.fixture(scope="module")
def krypton(tmp_path_factory):
    """Folder of a simulated run of Kr-83m."""
    folder = tmp_path_factory.mktemp("krypton")
    kwargs = dict(yields="simple", rate=100, duration=3, optics="inverse_of_reconstruction")
    simulate(RUN_ID, folder, source="kr83m", **kwargs)
    return folder


def pairs_of_s1s(folder, name):
    """Return delays, and types of the peaks of both S1s; -1 where both are one peak."""
    st = of_simulation(folder, name)
    peaks, deposits = load(st, "peak_basics"), load(st, "truth_deposits")
    deposits = np.sort(deposits, order="deposit").reshape(-1, 2)
    # Light of an S1 is seen within 20 ns
    peak = np.searchsorted(peaks["time"], deposits["time"] + 20, side="right") - 1
    assert (deposits["time"] + 20 < peaks["endtime"][peak]).all()
    types = peaks["type"][peak].astype(int)
    types[peak[:, 0] == peak[:, 1], 1] = -1
    return deposits["time"][:, 1] - deposits["time"][:, 0], types


def test_pairs_of_krypton(krypton):
    delay, types = pairs_of_s1s(krypton, "lab")
    assert 0.25 < (types == 0).any(axis=1).mean() < 0.4
    far, near = delay > 150, delay < 70
    assert (types[far] == 1).all(axis=1).mean() < 0.4
    for name in (["peaks", "classification"], "improved"):
        _, types = pairs_of_s1s(krypton, name)
        assert (types[:, 0] == 1).all()
        assert (types[far] == 1).all(axis=1).mean() > 0.9
        assert (types[near, 1] == -1).all()
    # Where they stay one peak, it is an S1, and marked
    _, types = pairs_of_s1s(krypton, "classification")
    assert (types[:, 0] == 1).all()


def test_pairs_of_parts_on_a_run(few_scatters, online_config):
    for parts in [*itertools.combinations(FIELDS_OF_PARTS, 2), tuple(FIELDS_OF_PARTS)]:
        (events,) = events_of(few_scatters, online_config, "event_info", reconstruction=parts)
        assert len(events) == 2 and (events["s2_area"] > 0).all(), parts


@pytest.mark.parametrize(
    "part, config, text",
    [
        ("peaks", {"s2_merge_gap": 2000}, "s2_merge_gap=2000 ns of peaks is too long for chunks"),
        ("peaks", {"s2_merge_gap": 0}, "s2_merge_gap=0: give a number above 0"),
        ("peaks", {"s1_split_significance": 0}, "s1_split_significance=0: give a number above 0"),
        ("classification", {"s1_window": 0}, "s1_window=0: give a time above 0"),
        ("classification", {"s1_prompt_fraction": 2}, "s1_prompt_fraction=2: give a fraction"),
    ],
)
def test_invalid_options_of_peaks(tmp_path, part, config, text):
    write_run(tmp_path, pulses([1_000_000], channels=range(5)))
    with pytest.raises(ValueError, match=text):
        load(context(tmp_path, reconstruction=part, **config), "peak_basics")


def test_every_combination_of_parts():
    names = [*reconstruction.PARTS]
    plugins = {p.__name__: p for p in contexts._plugins_of("xams")}
    for parts in ((a, b) for a in names for b in names if a != b):
        st = xams(reconstruction=parts)
        for name, plugin in st._plugin_class_registry.items():
            own = [p for p in names if p in parts and plugin.__name__ in reconstruction.PARTS[p][1]]
            assert plugin.__version__.count("+") == len(own), name
            assert issubclass(plugin, plugins.get(plugin.__name__, plugin))


def test_trigger_of_events():
    """Single electrons, which now are S2s, make no events."""
    for name, expected in (("lab", 10), ("classification", 25)):
        plugin = xams(reconstruction=name)._plugin_class_registry["events"]
        assert plugin.takes_config["trigger_min_area"].default == expected


def test_coincidence_needs_no_option(tmp_path):
    write_run(tmp_path, pulses([1_000_000], channels=range(5)))
    config = dict(reconstruction="classification", peak_min_area=0, event_s1_min_coincidence=2)
    st = context(tmp_path, **config)
    assert not len(load(st, "event_basics"))
    (peak,) = load(st, "peak_basics")
    assert peak["tight_coincidence"] == 5


def test_types_of_xamsl(tmp_path):
    """A short and a long pulse; the lab's have no types."""
    short = pulses([1_000_000], range(2), dt=2, width=40)
    long = pulses([1_100_000], range(2), 12, dt=2, width=1000)
    for name, types in (("lab", [0, 0]), ("classification", [1, 2]), ("improved", [1, 2])):
        write_run(tmp_path / name, sort_by_time(np.concatenate([short, long])))
        st = context(tmp_path / name, "xams_little", reconstruction=name)
        assert load(st, "radon_peak_basics")["type"].tolist() == types
    for wrong in ("hits", ["hits", "classification"]):
        with pytest.raises(InvalidOption, match="xams_little has no such parts: leave out hits"):
            contexts.xams_little(init_rundb=False, storage=[], reconstruction=wrong)

"""Corrections in contexts: each run has its own value, with threads and processes; the lineage."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import strax
from corrections_files import write_files
from immutabledict import immutabledict
from make_runs import RUN_ID, pulses, rundoc, write_run

import amstrax
from amstrax import contexts
from amstrax.corrections.config import CorrectedPlugin
from amstrax.exceptions import CorrectionError, InvalidCorrection, InvalidOption, RunNotCovered
from amstrax.processing.compiled import sort_by_time

RUNS = ("000101", "000102", "000203")
#: Of those runs: the second has the range of the first, the third its own
GAINS = (1.0, 1.0, 2.0)
ELIVES = (50_000.0, 50_000.0, 25_000.0)
MAP = {
    "r_edges": [0, 10, 100],
    "z_edges": [-60, -30, 0],
    "hist_ratio": [[0.2, 0.1], [0.1, 0.05]],
}
GLOBAL = {
    "elife": "elife_v1.json",
    "gain_to_pe_array": "gain_to_pe_array_v1.json",
    "s1_min_area": 1,
    "s1_max_area_fraction_top": 1,
    "s1_min_channels": 1,
    "s2_min_channels": 1,
    "s2_min_area": 100,
    "electron_drift_velocity": "electron_drift_velocity_v1.json",
    "max_drift_length": 52,
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder of correction files, in which the runs are in two ranges."""
    ranges = "000100-000199", "000200-000299"

    def by_range(first, second):
        return dict(zip(ranges, (first, second), strict=True))

    return write_files(
        tmp_path_factory.mktemp("corrections"),
        _global_v1=GLOBAL,
        _global_map={**GLOBAL, "s1_map": "s1_map_v1.json"},
        elife_v1=by_range(ELIVES[0], ELIVES[2]),
        lifetime_v1=by_range(ELIVES[0], ELIVES[2]),
        gain_to_pe_array_v1=by_range([GAINS[0]] * 7, [GAINS[2]] * 7),
        electron_drift_velocity_v1=by_range(0.001, 0.002),
        s1_map_v1=by_range(MAP, MAP | {"hist_ratio": [[0.2, 0.1], [0.2, 0.1]]}),
    )


@pytest.fixture(scope="module")
def raw_data(tmp_path_factory):
    """Raw data of three runs, all alike: ten times an S1 with an S2 20 us later."""
    folder = tmp_path_factory.mktemp("raw")
    starts = np.arange(1, 11) * 20_000_000
    records = sort_by_time(
        np.concatenate(
            [
                pulses(starts, range(7), height=300),
                pulses(starts + 20_000, range(7), n_fragments=4, width=380),
            ]
        )
    )
    live = write_run(folder / "live", records).parent
    for run_id in RUNS:
        (live / run_id).symlink_to(live / RUN_ID)
        st = contexts.xams(
            output_folder=folder / "raw", init_rundb=False, config={"live_data_dir": str(live)}
        )
        contexts.context_for_daq_reader(st, run_id, run_doc=rundoc() | {"number": int(run_id)})
        st.make(run_id, "raw_records", progress_bar=False)
    return folder / "raw"


@pytest.fixture
def context(files, raw_data, tmp_path, monkeypatch):
    """Function that makes a context over these runs."""
    monkeypatch.setenv("AMSTRAX_CORRECTIONS_FOLDER", str(files))

    def make(version="v1", **kwargs):
        storage = [
            strax.DataDirectory(str(raw_data), readonly=True),
            strax.DataDirectory(str(tmp_path / "out")),
        ]
        return contexts.xams(storage=storage, corrections_version=version, **kwargs)

    return make


class WhoLooked(CorrectedPlugin):
    """Values of options, and the process that has worked with them."""

    elife = amstrax.XAMSConfig(default=30000, help="Electron lifetime [ns]")
    electron_drift_velocity = amstrax.XAMSConfig(default=1.6e-6, help="Drift velocity [mm/ns]")

    provides = "who_looked"
    depends_on = ("records",)
    parallel = "process"
    save_when = strax.SaveWhen.NEVER
    dtype = [
        (("Electron lifetime [ns]", "elife"), np.float64),
        (("Drift velocity [mm/ns]", "velocity"), np.float64),
        (("Process", "process"), np.int64),
        *strax.time_fields,
    ]

    def compute(self, records):
        result = np.zeros(len(records), dtype=self.dtype)
        result["time"], result["endtime"] = records["time"], strax.endtime(records)
        result["elife"] = self.elife
        result["velocity"] = self.electron_drift_velocity
        result["process"] = os.getpid()
        return result


class OthersPlugin(strax.Plugin):
    """A user's plugin, with such an option but without that base."""

    elife = amstrax.XAMSConfig(default=30000, help="Electron lifetime [ns]")

    provides = "of_others"
    depends_on = ("records",)
    dtype = WhoLooked.dtype
    parallel = "process"
    save_when = strax.SaveWhen.NEVER
    compute = WhoLooked.compute
    electron_drift_velocity = 0


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"elife": True}, "True for the option elife is a truth value, and must be a number"),
        ({"elife": None}, "option elife is a nothing"),
        ({"elife": "30000"}, "option elife is a text"),
        ({"s1_naive_z_correction": [True] * 4}, "a list .a truth value.*must be a list .a number"),
        ({"electron_drift_time_gate": [1]}, "option drift_time_gate is a list"),
        (
            {"elife": float("nan")},
            "_global_v1.json, line 1, column 11: NaN is no finite number",
        ),
        ({"s1_map": {"r_edges": [[float("inf")]]}}, "column 26: Infinity is no finite number"),
    ],
)
def test_values_of_a_version_that_an_option_cannot_have(tmp_path, monkeypatch, value, words):
    write_files(tmp_path, _global_v1=json.dumps(value))
    monkeypatch.setenv("AMSTRAX_CORRECTIONS_FOLDER", str(tmp_path))
    with pytest.raises(InvalidCorrection, match=words):
        contexts.xams(storage=[], init_rundb=False, corrections_version="v1")


@pytest.mark.parametrize(
    ("option", "text", "words"),
    [
        ("elife", '{"000101": NaN}', "elife_v1.json, line 1, column 12: NaN is no finite"),
        ("elife", '{"000101": 1, "000200": [1e999]}', "column 26: 1e999 is no finite"),
        ("elife", '{"000101": 1, "000101": 2}', "column 2: '000101' occurs twice"),
        ("elife", '{"000101": true}', "truth value, and must be a number"),
        ("s1_naive_z_correction", '{"000101": ["1", "2", "3", "4"]}', "must be a list .a number."),
        ("s1_naive_z_correction", '{"000101": []}', "is an empty list, and must be"),
    ],
)
def test_values_in_files_that_an_option_cannot_have(tmp_path, monkeypatch, option, text, words):
    write_files(tmp_path, **{"_global_v1": {option: f"{option}_v1.json"}, f"{option}_v1": text})
    monkeypatch.setenv("AMSTRAX_CORRECTIONS_FOLDER", str(tmp_path))
    st = contexts.xams(storage=[], init_rundb=False, corrections_version="v1")
    with pytest.raises(InvalidCorrection, match=words):
        st.get_single_plugin("000101", "corrected_areas")


def by_run(array):
    return {run_id: array[array["run_id"] == run_id] for run_id in RUNS}


@pytest.mark.parametrize("processes", [False, True])
def test_each_run_has_its_own_value_through_the_chain(context, processes):
    """One context over runs of different ranges: several at once, or each in several processes."""
    st = context(allow_multiprocess=processes)
    if processes:
        options = dict(max_workers=2, processor="threaded_mailbox", progress_bar=False)
        events = {run_id: st.get_array(run_id, "event_info", **options) for run_id in RUNS}
    else:
        events = by_run(st.get_array(list(RUNS), "event_info", max_workers=2, progress_bar=False))
    first = events[RUNS[0]]
    assert len(first) == 10 and (first["s1_area"] > 100).all()
    for run_id, gain, elife in zip(RUNS, GAINS, ELIVES, strict=True):
        found = events[run_id]
        np.testing.assert_allclose(found["s2_area"], gain * first["s2_area"], rtol=1e-5)
        expected = found["s2_area"] * np.exp(found["drift_time"] / elife)
        np.testing.assert_allclose(found["cs2"], expected, rtol=1e-5)
    # Peaks of the external detector and the SiPM have these gains, too
    for data_type in ("peaks_ext", "peaks_sipm"):
        areas = [
            st.get_array(run_id, data_type, progress_bar=False)["area"].sum() for run_id in RUNS
        ]
        np.testing.assert_allclose(np.array(areas) / areas[0], GAINS, rtol=1e-5)


@pytest.mark.parametrize("plugin", [WhoLooked, OthersPlugin])
def test_each_run_has_its_own_value_in_worker_processes(context, plugin):
    """The work is seen to be done elsewhere, in one context for all runs."""
    st = context(register=[plugin], allow_multiprocess=True)
    for run_id, elife in zip(RUNS, ELIVES, strict=True):
        found = st.get_array(
            run_id,
            plugin.provides,
            max_workers=2,
            processor="threaded_mailbox",
            progress_bar=False,
        )
        assert set(found["elife"]) == {elife}
        assert os.getpid() not in set(found["process"])


def test_each_run_has_its_own_value_in_threads(context):
    st = context(register=[WhoLooked])
    for _ in range(5):
        found = by_run(st.get_array(list(RUNS), "who_looked", max_workers=3, progress_bar=False))
        for run_id, elife in zip(RUNS, ELIVES, strict=True):
            assert set(found[run_id]["elife"]) == {elife}
        assert set(found[RUNS[2]]["velocity"]) == {0.002}


def test_workers_are_given_values_and_need_no_files(context, files, tmp_path, monkeypatch):
    """What changes while a run is processed changes nothing in it."""
    import pickle

    st = context(register=[WhoLooked])
    plugin = st.get_single_plugin(RUNS[2], "who_looked")
    text = pickle.dumps(plugin)
    monkeypatch.setenv("AMSTRAX_CORRECTIONS_FOLDER", str(tmp_path))
    assert pickle.loads(text).elife == ELIVES[2]
    # The string in the config is what the lineage has
    assert plugin.config["elife"] == "file://elife?filename=elife_v1.json&github_branch=master"


def test_lookup_of_drift_velocity(context):
    st = context()
    times = [st.get_single_plugin(run, "event_basics").max_drift_time for run in RUNS]
    assert times == [52_000, 52_000, 26_000]


def test_s1_map(context):
    """The light of the place by which S1s are scaled differs from run to run as well."""
    st, plain = context("map"), context("v1")
    for run_id in (RUNS[0], RUNS[2]):
        found = st.get_array(run_id, "event_info", progress_bar=False)
        without = plain.get_array(run_id, "event_info", progress_bar=False)
        assert not np.isnan(found["cs1"]).any()
        light = np.array(MAP["hist_ratio"]) if run_id == RUNS[0] else np.array([[0.2, 0.1]] * 2)
        volume = np.outer([100, 9900], [30, 30])
        mean = (light * volume).sum() / volume.sum()
        row, column = (found["r"] >= 10).astype(int), (found["z"] >= -30).astype(int)
        expected = found["s1_area"] * mean / light[row, column]
        np.testing.assert_allclose(found["cs1"], expected, rtol=1e-6)
        np.testing.assert_array_equal(found["s1_area"], without["s1_area"])
        assert (found["cs1"] != without["cs1"]).all()
        np.testing.assert_array_equal(found["cs2"], without["cs2"])


def test_run_that_is_not_covered_fails_before_any_work(context, raw_data):
    st = context(config={"elife": "file://elife?filename=elife_v1.json&github_branch=master"})
    with pytest.raises(RunNotCovered, match="option .* for run 000001.*covers"):
        st.get_single_plugin("000001", "corrected_areas")
    st.set_config({"elife": 1e4})
    assert st.get_single_plugin("000001", "corrected_areas").elife == 1e4


def test_value_of_another_kind(context, files):
    write_files(files, bad_v1={"000100-000300": "long"}, nothing_v1={"000100-000300": None})
    for name, kind in (("bad", "text"), ("nothing", "nothing")):
        st = context(config={"elife": f"file://elife?filename={name}_v1.json"})
        with pytest.raises(InvalidCorrection, match=f"{name}_v1.*elife is a {kind}.*number"):
            st.get_single_plugin(RUNS[0], "corrected_areas")


# --- forms of an option in a plugin of the user's

#: In the file of elife: run 000101 in the first range, 000203 in the second
FILE = "filename=elife_v1.json"
#: Form of the value -> what it is for run 000101
FORMS = {
    "plain": (12_345.0, 12_345.0),
    "file": (f"file://elife?{FILE}", ELIVES[0]),
    "file and branch": (f"file://elife?{FILE}&github_branch=master", ELIVES[0]),
    "file without option": (f"file://?{FILE}&run_id=plugin.run_id", ELIVES[0]),
    "file for another run": (f"file://elife?run_id=203&{FILE}", ELIVES[2]),
    "version": ("cmt://elife?version=v1", ELIVES[0]),
    "version and run": ("cmt://elife?version=v1&run_id=plugin.run_id", ELIVES[0]),
    "version of a branch": ("cmt://elife?version=v1@master&run_id=000203", ELIVES[2]),
    "version without option": ("cmt://?version=v1", ELIVES[0]),
    "plain value of a version": ("cmt://s2_min_area?version=v1", 100),
    "attribute": ("file://?filename=plugin.file_name", ELIVES[0]),
    "option": ("cmt://elife?version=plugin.which", ELIVES[0]),
    "item of a list": ("file://?filename=gain_to_pe_array_v1.json&take=6", GAINS[0]),
    "item of a table": ("file://?filename=s1_map_v1.json&take=r_edges", (0, 10, 100)),
}


def users_plugin(option, base=strax.Plugin):
    """Return a plugin with an option lifetime, as a user writes it."""

    class TestPlugin(base):
        lifetime = option
        which = amstrax.XAMSConfig(default="v1", help="Version")
        secret = amstrax.XAMSConfig(default="v1", track=False, help="Version")
        file_name = "elife_v1.json"

        __version__ = "93.0.1"
        provides = "test"
        depends_on = ("corrected_areas",)
        dtype = strax.time_fields

        def compute(self, events):
            return events[["time", "endtime"]]

    return TestPlugin


@pytest.mark.parametrize("base", [strax.Plugin, CorrectedPlugin])
@pytest.mark.parametrize("form", FORMS)
def test_forms_as_default_and_as_value(context, form, base):
    text, value = FORMS[form]
    for default, config in ((text, {}), (None, {"lifetime": text})):
        st = context(version=None, config=config)
        st.register(users_plugin(amstrax.XAMSConfig(default=default, infer_type=True), base))
        plugin = st.get_single_plugin(RUNS[0], "test")
        assert plugin.lifetime == value
        # The lineage has what is written, whatever the run
        assert plugin.lineage["test"][2]["lifetime"] == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file://?filename=plugin.nothing", "lifetime refers to plugin.nothing, which is no attr"),
        ("file://?filename=plugin.lifetime", "refers to plugin.lifetime, which is looked up"),
        ("cmt://elife?version=plugin.secret", "refers to plugin.secret, which is not in the line"),
        ("file://?filename=gain_to_pe_array_v1.json&take=7", "gain_to_pe_array_v1.*item '7'"),
        ("file://?filename=s1_map_v1.json&take=edges", "s1_map_v1.json.*item 'edges'"),
        ("file://?filename=elife_v1.json&take=0", "elife_v1.json: number without an item '0'"),
        ("file://?filename=elife_v1.json&run_id=000001", "run 000001.*covers"),
    ],
)
def test_forms_that_lead_nowhere(context, text, message):
    st = context(version=None)
    st.register(users_plugin(amstrax.XAMSConfig(default=text), CorrectedPlugin))
    with pytest.raises((CorrectionError, InvalidOption), match=message):
        st.get_single_plugin(RUNS[0], "test")


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        (dict(type=float), "number"),
        (dict(type=(int, float)), "number"),
        (dict(type=str), None),
        (dict(type=tuple), None),
        (dict(type=dict), None),
        (dict(infer_type=True), "number"),
    ],
)
def test_type_is_that_of_the_value(context, options, kind):
    """Not that of the string; int and float are one kind."""
    st = context(version=None)
    st.register(users_plugin(amstrax.XAMSConfig(default=FORMS["file"][0], **options)))
    plugin = st.get_single_plugin(RUNS[0], "test")
    if kind == "number":
        assert plugin.lifetime == ELIVES[0]
    else:
        with pytest.raises(InvalidCorrection, match=r"elife_v1.json.*lifetime is a number, and mu"):
            _ = plugin.lifetime


def test_table_in_the_place_of_an_immutable_one(context):
    option = amstrax.XAMSConfig(type=immutabledict, default=immutabledict(r_edges=()))
    st = context(version=None, config={"lifetime": "file://?filename=s1_map_v1.json"})
    st.register(users_plugin(option))
    assert st.get_single_plugin(RUNS[0], "test").lifetime["r_edges"] == (0, 10, 100)


def test_options_of_the_decorator(context):
    base = users_plugin(amstrax.XAMSConfig(default=1.0))
    option = amstrax.XAMSConfig(name="another", default=FORMS["file without option"][0])
    st = context(version=None)
    st.register(strax.takes_config(option)(base))
    assert st.get_single_plugin(RUNS[2], "test").another == ELIVES[2]


def test_published_test_of_the_lab(shared, monkeypatch, tmp_path):
    """The default of the option is a string of that form, in a plugin of strax's own class."""
    monkeypatch.setenv("AMSTRAX_CORRECTIONS_FOLDER", str(shared / "data/corrections"))
    st = contexts.xams(output_folder=tmp_path, corrections_version="ONLINE", init_rundb=False)
    text = "file://?filename=test_dev.json&run_id=plugin.run_id"
    st.register(users_plugin(amstrax.XAMSConfig(default=text)))
    values = [st.get_single_plugin(run, "test").lifetime for run in ("000900", "002230", "004050")]
    assert values == [1320, 5600, 1300]


# --- lineage


def lineage_hash(st, data_type="event_info", run_id=RUNS[0]):
    return st.key_for(run_id, data_type).lineage_hash


def test_lineage_has_the_strings_to_the_letter(context):
    lineage = context("map").lineage(RUNS[0], "event_info")
    assert lineage["peaks"][2]["gain_to_pe_array"] == (
        "file://gain_to_pe_array?filename=gain_to_pe_array_v1.json&github_branch=master"
    )
    options = lineage["corrected_areas"][2]
    assert options["elife"] == "file://elife?filename=elife_v1.json&github_branch=master"
    assert options["s1_map"] == "file://s1_map?filename=s1_map_v1.json&github_branch=master"
    assert lineage["peak_basics"][2]["s1_min_area"] == 1


def test_lineage_is_the_same_for_all_runs_and_equal_values(context):
    st = context()
    hashes = {lineage_hash(st, run_id=run_id) for run_id in RUNS}
    st.get_array(RUNS[2], "event_info", progress_bar=False)
    hashes |= {lineage_hash(st, run_id=run_id) for run_id in RUNS}
    by_hand = contexts.xams(storage=[], config=amstrax.corrections.lookup.options("v1"))
    hashes.add(lineage_hash(by_hand))
    assert len(hashes) == 1
    assert lineage_hash(context("v1@other")) not in hashes
    assert lineage_hash(contexts.xams(storage=[])) not in hashes


def test_option_that_is_not_set_is_not_in_the_lineage(context):
    plain = contexts.xams(storage=[])
    as_default = contexts.xams(storage=[], config={"s1_map": None})
    assert lineage_hash(plain) == lineage_hash(as_default)
    assert "s1_map" not in plain.lineage(RUNS[0], "event_info")["corrected_areas"][2]
    assert lineage_hash(contexts.xams(storage=[], config={"s1_map": MAP})) != lineage_hash(plain)


#: Hashes of event_info with the published corrections: they must never change, on any machine
PUBLISHED = {
    "ONLINE": "z4b67sxgfn",
    "v0": "kylnvrxswp",
    "v1": "vifoko55gd",
    "v2": "2tfwee3473",
    "v0@other": "uycemvgnw3",
}


def test_lineage_with_published_versions_is_as_it_was(shared, monkeypatch):
    monkeypatch.setenv("AMSTRAX_CORRECTIONS_FOLDER", str(shared / "data/corrections"))
    found = {
        version: lineage_hash(contexts.xams(storage=[], corrections_version=version))
        for version in PUBLISHED
    }
    assert found == PUBLISHED
    # The file of dev has what that of v0 has
    dev = contexts.xams(storage=[], corrections_version="dev")
    assert lineage_hash(dev) == found["v0"]


def test_lineage_is_the_same_in_other_processes_and_from_other_places(shared, tmp_path):
    code = (
        "from amstrax import contexts; st = contexts.xams(storage=[], corrections_version='ONLINE')"
        "; print([st.key_for(r, 'event_info').lineage_hash for r in ('006724', '100001')])"
    )
    source = shared / "data/corrections"
    # Another order of the names in the file
    other = tmp_path / "other"
    content = json.loads((source / "_global/_global_ONLINE.json").read_text())
    write_files(other, _global_ONLINE=dict(reversed(content.items())))
    outputs = set()
    for seed, folder in enumerate((source, other)):
        environment = {"PYTHONHASHSEED": str(seed), "AMSTRAX_CORRECTIONS_FOLDER": str(folder)}
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
        )
        outputs.add(done.stdout)
    (text,) = outputs
    assert PUBLISHED["ONLINE"] in text


# --- contexts


def test_the_options_of_the_user_go_before_those_of_the_version(context):
    st = context(config={"elife": 7.0, "s1_min_area": 3})
    assert st.config["elife"] == 7.0 and st.config["s1_min_area"] == 3
    assert st.config["s2_min_area"] == 100
    # Not so when a version is set later
    assert contexts.apply_global_correction_version(st, "v1") is st
    assert st.config["s1_min_area"] == 1 and "elife_v1" in st.config["elife"]


@pytest.mark.parametrize("name", ["xams_led", "xams_little"])
def test_options_that_no_plugin_takes_are_one_warning(files, name, caplog, monkeypatch):
    monkeypatch.setenv("AMSTRAX_CORRECTIONS_FOLDER", str(files))
    st = getattr(contexts, name)(storage=[], corrections_version="v1")
    lineage_hash(st, st.context_config["check_available"][0])
    (record,) = [r for r in caplog.records if r.levelname == "WARNING"]
    assert "'v1'" in record.getMessage()
    assert all(option in record.getMessage() for option in GLOBAL)
    assert "elife" not in st.config


def test_nothing_published_is_left_out_of_xams(shared, monkeypatch, caplog):
    monkeypatch.setenv("AMSTRAX_CORRECTIONS_FOLDER", str(shared / "data/corrections"))
    for version in ("ONLINE", "dev", "v0", "v1", "v2"):
        st = contexts.xams(storage=[], corrections_version=version)
        assert st.config["drift_time_gate"] == 5000
        assert st.get_single_plugin("006800", "event_positions").drift_time_gate == 5000
    assert not [r for r in caplog.records if r.levelname == "WARNING"]


def test_unknown_options_of_a_version_are_refused(files, monkeypatch):
    monkeypatch.setenv("AMSTRAX_CORRECTIONS_FOLDER", str(files))
    write_files(files, _global_typo={"elif": 1, "elife": 2})
    for name in ("xams", "xams_led", "xams_little"):
        with pytest.raises(InvalidOption, match="'typo' sets elif, which no plugin .*check the"):
            getattr(contexts, name)(storage=[], corrections_version="typo")


def test_file_for_an_option_that_cannot_differ(files, monkeypatch):
    monkeypatch.setenv("AMSTRAX_CORRECTIONS_FOLDER", str(files))
    write_files(files, _global_wrong={"n_ext_pmts": "n_ext_pmts_v1.json"})
    with pytest.raises(InvalidOption, match="n_ext_pmts.*cannot differ"):
        contexts.xams(storage=[], corrections_version="wrong")


def test_gains_of_too_few_channels_are_traced_to_their_file(files, context):
    """As the published ones are, which lack the SiPM."""
    path = files / "gain_to_pe_array/gain_to_pe_array_short.json"
    path.write_text(json.dumps({"000100-000199": [1.0] * 6}))
    st = context(
        config={
            "gain_to_pe_array": "file://gain_to_pe_array?filename=gain_to_pe_array_short.json&github_branch=master"
        }
    )
    place = f"{path}, the value of '000100-000199' for run {RUNS[0]}"
    with pytest.raises(InvalidOption, match=rf"of shape \(6,\), .*at least 7 .*{place}"):
        st.make(RUNS[0], "peaks_sipm", progress_bar=False)


def test_malformed_published_file_stops_what_needs_it_and_nothing_else(shared, monkeypatch):
    monkeypatch.setenv("AMSTRAX_CORRECTIONS_FOLDER", str(shared / "data/corrections"))
    st = contexts.xams(storage=[], corrections_version="v1")
    place = "006724.*gain_to_pe_array_v1.json, line 18, column 21"
    for data_type in ("peaks", "peaks_ext", "peaks_sipm"):
        with pytest.raises(CorrectionError, match=place):
            st.get_single_plugin("006724", data_type)
    areas = st.get_single_plugin("006724", "corrected_areas")
    assert areas.elife == 220_000 and len(areas.s1_map["hist_ratio"]) == 10
    assert len(st.get_single_plugin("006724", "peak_positions").pos_rec_params[0]) == 4


def test_entries_in_the_run_database_name_the_version(files, tmp_path, raw_data, monkeypatch):
    monkeypatch.setenv("AMSTRAX_CORRECTIONS_FOLDER", str(files))
    monkeypatch.setenv("AMSTRAX_RUNDB_PATH", str(tmp_path / "runs.sqlite"))
    collection = amstrax.get_mongo_collection("xams")
    collection.insert_one({"number": int(RUNS[0]), "name": RUNS[0], "data": []})
    rundb = amstrax.RunDB(
        "run", "runs_gas", "number", new_data_path=tmp_path / "new", readonly=False
    )
    storage = [strax.DataDirectory(str(raw_data), readonly=True), rundb]
    st = contexts.xams(storage=storage, corrections_version="v1")
    st.make(RUNS[0], "peaks", progress_bar=False)
    contexts.apply_global_correction_version(st, "v1@other")
    st.make(RUNS[0], "peak_basics", progress_bar=False)
    entries = collection.find_one({"number": int(RUNS[0])})["data"]
    found = {(entry["type"], entry["corrections_version"]) for entry in entries}
    assert {("peaks", "v1"), ("peak_basics", "v1@other")} <= found


def test_map_that_is_none_fails_before_any_work():
    st = contexts.xams(storage=[], config={"s1_map": MAP | {"hist_ratio": [[1]]}})
    with pytest.raises(InvalidOption, match="hist_ratio of s1_map"):
        st.get_single_plugin(RUNS[0], "corrected_areas")

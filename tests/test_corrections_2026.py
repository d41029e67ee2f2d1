"""Versions v3 and v4 of the corrections: hashes, coverage, the map of positions, wrong use."""

import json
import shutil
import sys

import numpy as np
import pytest
import strax
from corrections_files import write_files

import amstrax
from amstrax import cli, contexts
from amstrax.corrections import check, store
from amstrax.corrections.config import CorrectedPlugin, options_for
from amstrax.exceptions import InvalidCorrection, InvalidOption, RunNotCovered
from amstrax.plugins.event_processing import EventPositions
from amstrax.processing import peaks as kernels
from amstrax.processing.events import position_map

RUN = "007700"
MAP_RUNS = "007601-007723"
#: Hashes of the lab's package, for that run, by release and version
HASHES = {
    ("2.1", "v3"): {
        "peaks": "lnqoxk57rl",
        "peak_basics": "jmhkluekpv",
        "event_basics": "qsy34kd5tk",
        "event_info": "7ogqwnqwse",
    },
    ("2.2", "v3"): {
        "peaks": "6jit2lkjvn",
        "peak_basics": "wnjihyvkdg",
        "peak_positions": "obw36ahyr3",
        "events": "u22i2gpfvd",
        "event_basics": "w6zggp7q6e",
        "event_positions": "qinruifyoo",
        "corrected_areas": "iyoiqlrop7",
        "event_info": "lbe5qmphgp",
        "peak_basics_ext": "tehqeif3yp",
    },
}
HASHES["2.2", "v4"] = HASHES["2.2", "v3"] | {
    "event_positions": "mlp7dnawn5",
    "corrected_areas": "2o35k5doap",
    "event_info": "jsz5vadsa5",
}


@pytest.fixture(scope="module")
def small_map(shared):
    """A map of 41 x 41 points."""
    return json.loads((shared / "parity/pos_rec_map_synthetic.json").read_text())


@pytest.fixture(scope="module")
def published(shared, small_map, tmp_path_factory):
    """The files of 2026, with a map in the place of the lab's."""
    folder = tmp_path_factory.mktemp("corrections_2026")
    for path in (shared / "data/corrections_2026").glob("*/*.json"):
        (folder / path.parent.name).mkdir(exist_ok=True)
        shutil.copyfile(path, folder / path.parent.name / path.name)
    return write_files(folder, pos_rec_map_v0={MAP_RUNS: small_map}, _global_typo={"elif": 1})


@pytest.fixture(autouse=True)
def setting(published, monkeypatch):
    monkeypatch.setenv("AMSTRAX_CORRECTIONS_FOLDER", str(published))


class Mapped(CorrectedPlugin):
    """A plugin with a map."""

    pos_rec_map = amstrax.XAMSConfig(default=None, help="Map of positions")

    provides = "mapped"
    depends_on = ("raw_records",)
    dtype = strax.time_fields

    def compute(self, raw_records):
        return np.zeros(0, self.dtype)


def context(release, version, name="xams", **kwargs):
    if name != "xams_little":
        kwargs["release"] = release
    return getattr(contexts, name)(storage=[], corrections_version=version, **kwargs)


def run_command(capsys, *arguments):
    status = cli.main(["corrections", *map(str, arguments)])
    return status, *capsys.readouterr()


# --- lineage


@pytest.mark.parametrize(("release", "version"), HASHES)
def test_hashes_are_those_of_the_lab(release, version):
    st = context(release, version)
    expected = HASHES[release, version]
    assert {d: st.key_for(RUN, d).lineage_hash for d in expected} == expected


def test_the_string_of_the_map_is_in_the_lineage_and_its_numbers_are_not(small_map):
    st = context("2.2", "v4")
    key = st.key_for(RUN, "event_positions")
    url = "file://pos_rec_map?filename=pos_rec_map_v0.json&github_branch=master"
    assert key.lineage["event_positions"][2]["pos_rec_map"] == url
    plugin = st.get_single_plugin(RUN, "event_positions")
    np.testing.assert_array_equal(plugin.pos_rec_map["x"], small_map["x"])
    assert plugin.config["pos_rec_map"] == url
    # Set as a table, the numbers are
    own = context("2.2", "v3", config={"pos_rec_map": small_map})
    assert own.key_for(RUN, "event_positions").lineage_hash not in (
        key.lineage_hash,
        HASHES["2.2", "v3"]["event_positions"],
    )


@pytest.mark.parametrize("plugins", [[], "Mapped"], ids=["amstrax", "with a user's"])
def test_v4_needs_the_release_that_takes_its_map(plugins):
    """A plugin of a user that takes the map does not mend event_positions."""
    with pytest.raises(InvalidOption, match="'v4' sets pos_rec_map, which .* take") as info:
        context("2.1", "v4", register=[Mapped] if plugins else [])
    assert "event_positions of this context" in str(info.value)
    assert 'use xams(release="2.2")' in str(info.value)


class OtherPositions(EventPositions):
    """Another release of a data type, with another option."""

    pos_rec_map = amstrax.XAMSConfig(default=None, help="Map of positions")


def test_options_that_another_release_of_a_data_type_takes():
    """Whatever the releases of amstrax are."""
    others = {name: known for name, known in contexts._all_plugins().items() if "2.2" not in name}
    others["there"] = [OtherPositions]
    with pytest.raises(InvalidOption, match="which event_positions of this.*use there"):
        options_for([EventPositions], "v4", others)
    with pytest.raises(InvalidOption, match="which event_positions of this.*use there"):
        options_for([EventPositions, Mapped], "v4", others)
    found = options_for([OtherPositions], "v4", others)
    assert found["pos_rec_map"].startswith("file://") and found["gate_cathode_distance"] == 51.8
    with pytest.raises(InvalidOption, match="elif"):
        options_for([OtherPositions], "typo", others)


# --- options that no plugin takes


@pytest.mark.parametrize("name", ["xams_led", "xams_little"])
def test_options_of_other_data_types_do_not_matter(name, published, caplog):
    st = context("2.1", "v4", name)
    plain = getattr(contexts, name)(storage=[])
    assert st.config == plain.config
    (record,) = caplog.records
    assert "'v4'" in record.getMessage() and "gate_cathode_distance" in record.getMessage()
    data_type = {"xams_led": "led_calibration", "xams_little": "radon_peaks"}[name]
    assert st.key_for(RUN, data_type).lineage == plain.key_for(RUN, data_type).lineage


def test_options_of_led_runs_do_not_matter_to_xams(published, caplog):
    write_files(published, _global_led={"led_window": [80, 110], "elife": 7})
    st = context("2.1", "led")
    assert st.config["elife"] == 7 and "led_window" not in st.config
    assert "led_window" in caplog.text


def test_options_that_are_not_in_the_lineage_are_refused(published):
    write_files(published, _global_untracked={"n_tpc_pmts": 6})
    with pytest.raises(InvalidOption, match="'untracked' sets n_tpc_pmts, which is not in the lin"):
        context("2.1", "untracked")


def test_nothing_of_an_earlier_version_stays(published):
    write_files(published, _global_early={"elife": 7, "max_delay": 3, "s1_min_area": 1})
    st = context("2.1", "early", config={"s1_min_area": 5})
    contexts.apply_global_correction_version(st, "v3")
    assert "max_delay" not in st.config and st.config["s1_min_area"] == 10
    expected = HASHES["2.1", "v3"]
    assert {d: st.key_for(RUN, d).lineage_hash for d in expected} == expected


# --- coverage


def test_run_that_is_not_covered_names_version_option_run_and_covered_runs(published):
    st = context("2.1", "v3")
    words = (
        "corrections_version='v3', option drift_time_(gate|cathode) for run 007630: "
        f"{published}.*covers 007619-007623, 007639-007675, 007681-007723.*"
        "amstrax corrections coverage v3"
    )
    with pytest.raises(RunNotCovered, match=words) as info:
        st.get_single_plugin("007630", "event_positions")
    assert len(str(info.value).replace(str(published), "")) < 400
    with pytest.raises(RunNotCovered, match="'v3', option gain_to_pe_array for run 007263"):
        st.get_single_plugin("007263", "peaks")


def test_version_is_not_blamed_for_what_the_user_sets():
    own = "file://drift_time_gate?filename=drift_time_gate_v0.json"
    st = context("2.1", "v3", config={"drift_time_gate": own, "drift_time_cathode": 40_000})
    with pytest.raises(RunNotCovered, match="^option drift_time_gate for run 007630"):
        st.get_single_plugin("007630", "event_positions")


def test_coverage_of_versions(capsys):
    runs = "007619-007623, 007639-007675, 007681-007723"
    gaps = "007624-007638, 007676-007680"
    status, out, _ = run_command(capsys, "coverage", "v4")
    assert status == 0
    lines = [line.split(maxsplit=2) for line in out.splitlines()]
    assert ["pos_rec_map", "pos_rec_map_v0.json", MAP_RUNS] in lines
    assert out.splitlines()[-2].split(maxsplit=3) == ["all", "of", "these", runs]
    assert out.splitlines()[-1].split(maxsplit=1) == ["gaps", gaps]
    status, out, _ = run_command(capsys, "coverage")
    found = {line.split()[0]: line.split(maxsplit=1)[1] for line in out.splitlines()}
    assert found["v3"].split("  ")[0] == found["v4"].split("  ")[0] == runs
    assert found["v4"].endswith(gaps) and found["version"].split() == ["runs", "gaps"]


# --- values


@pytest.mark.parametrize(("run_id", "n_gains"), [("006724", 6), ("007111", 7), ("007424", 8)])
def test_gains_of_runs_with_more_and_fewer_channels(run_id, n_gains, published):
    st = context("2.1", "v3")
    for data_type, n_channels in (("peaks", 5), ("peaks_ext", 6), ("peaks_sipm", 7)):
        plugin = st.get_single_plugin(run_id, data_type)
        assert len(plugin.gain_to_pe_array) == n_gains and plugin.n_channels == n_channels
        given = plugin.gain_to_pe_array, n_channels, plugin.origin("gain_to_pe_array")
        if n_gains < n_channels:
            place = f"{published}.*gain_to_pe_array_v2.json, the value of .* for run {run_id}"
            with pytest.raises(InvalidOption, match=f"at least {n_channels} finite.*{place}"):
                kernels.gains(*given)
        else:
            assert len(kernels.gains(*given)) >= n_channels


def test_drift_times_of_each_run():
    st = context("2.1", "v3")
    for run_id, gate, cathode in (("007619", 1148, 41372), ("007645", 1166, 38173)):
        plugin = st.get_single_plugin(run_id, "event_positions")
        assert (plugin.drift_time_gate, plugin.drift_time_cathode) == (gate, cathode)
        assert plugin.gate_cathode_distance == 51.8


def test_files_are_parsed_once_and_given_away_as_copies(published, monkeypatch):
    one, other = (store.find("pos_rec_map_v0.json") for _ in range(2))
    assert one.text is not other.text and one.content() is other.content()
    amstrax.get_correction("pos_rec_map_v0.json")[MAP_RUNS]["n"] = 0
    assert one.content()[MAP_RUNS]["n"] == 41


# --- maps


def changed(small_map, key, value):
    """Return the map with another value of `key`, or without it."""
    rest = {k: v for k, v in small_map.items() if k != key}
    return rest if value is None else rest | {key: value(small_map)}


MALFORMED = {
    "missing": ("n", None, "has no n: add it"),
    "not square": ("x", lambda m: m["x"][:-1], "x of pos_rec_map is not square"),
    "ragged": ("y", lambda m: [[1.0], *m["y"][1:]], "y of pos_rec_map is not square"),
    "differ": ("y", lambda m: [[0, 0], [0, 0]], r"x of pos_rec_map has the shape \(41, 41\), y"),
    "wrong n": ("n", lambda m: 40, "n of pos_rec_map is 40, and x has 41 rows: correct n"),
    "text": ("n", lambda m: "41", "n of pos_rec_map is '41': give a finite number"),
    "uv_min": ("uv_min", lambda m: 0.0, "uv_min of pos_rec_map is 0: give the lowest u, below 0"),
    "step": ("step", lambda m: 0.06, "step of pos_rec_map is 0.06: .* 0.05 apart, correct step"),
    "no numbers": ("x", lambda m: [["a"] * 41] * 41, "x of pos_rec_map has other values than"),
    "truth": ("x", lambda m: [[True] * 41] * 41, "x of pos_rec_map has other values than"),
}


@pytest.mark.parametrize("fault", MALFORMED)
def test_malformed_maps_are_named_by_the_check_and_when_used(fault, small_map, tmp_path):
    key, value, words = MALFORMED[fault]
    bad = changed(small_map, key, value)
    folder = write_files(tmp_path, pos_rec_map_v7={"000001-000009": bad})
    (problem,) = check.check_folder(folder).problems
    assert problem.startswith(f"{folder}/pos_rec_map/pos_rec_map_v7.json, line 2, column 5: ")
    with pytest.raises(InvalidOption, match=words) as info:
        position_map(bad)
    assert str(info.value) in problem
    write_files(folder, _global_v7={"pos_rec_map": bad})
    assert str(info.value) in "".join(check.check_folder(folder).problems)


def test_malformed_map_in_use_is_traced_to_its_file(small_map, tmp_path, monkeypatch):
    folder = write_files(tmp_path, pos_rec_map_v7={"000001-000009": small_map | {"n": 40}})
    monkeypatch.setenv("AMSTRAX_CORRECTIONS_FOLDER", str(folder))
    url = "file://pos_rec_map?filename=pos_rec_map_v7.json"
    st = contexts.xams(storage=[], register=[Mapped], config={"pos_rec_map": url})
    place = f"{folder}/pos_rec_map/pos_rec_map_v7.json, the value of '000001-000009' for run 000003"
    with pytest.raises(InvalidOption, match=f"^{place}: n of pos_rec_map is 40"):
        st.get_single_plugin("000003", "mapped")
    st.set_config({"pos_rec_map": small_map | {"uv_min": 1}})
    with pytest.raises(InvalidOption, match="^the option pos_rec_map: uv_min of pos_rec_map is 1"):
        st.get_single_plugin("000003", "mapped")
    st.set_config({"pos_rec_map": small_map})
    assert st.get_single_plugin("000003", "mapped").pos_rec_map is not None


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
def test_maps_have_finite_numbers(number, small_map, tmp_path):
    text = json.dumps({"000001": small_map}).replace(str(small_map["x"][3][4]), number, 1)
    (problem,) = check.check_folder(write_files(tmp_path, pos_rec_map_v7=text)).problems
    assert f"line 1, column {text.index(number) + 1}: {number} is no finite number" in problem
    with pytest.raises(InvalidOption, match="x of pos_rec_map has other values than finite"):
        position_map(small_map | {"x": np.full((41, 41), float(number))})


def test_map_in_use_and_the_published_files_are_right(published, small_map):
    report = check.check_folder(published)
    others = ("_led", "_untracked", "_early", "_typo")
    assert [p for p in report.problems if not any(name in p for name in others)] == []
    found = position_map(small_map)
    assert (found.uv_min, found.step, found.x.shape) == (-1.0, 0.05, (41, 41))
    np.testing.assert_array_equal(found.y, small_map["y"])


def test_a_map_as_large_as_the_labs_is_read_in_little_work(tmp_path, monkeypatch):
    """Counted, not timed: numbers of a list are looked at together, not one by one."""
    n = 401
    grid = np.round(np.linspace(-30, 30, n)[:, None] + np.zeros(n), 1).tolist()
    big = {"uv_min": -1.0, "step": 0.005, "n": n, "x": grid, "y": grid}
    write_files(tmp_path, pos_rec_map_v7={"000001-000009": big})
    monkeypatch.setenv("AMSTRAX_CORRECTIONS_FOLDER", str(tmp_path))
    url = "file://pos_rec_map?filename=pos_rec_map_v7.json"
    calls = []
    st = contexts.xams(storage=[], register=[Mapped], config={"pos_rec_map": url})
    st.get_single_plugin("000001", "mapped")  # parsed here
    sys.setprofile(lambda _, event, __: calls.append(event) if event == "call" else None)
    try:
        st.get_single_plugin("000002", "mapped")
    finally:
        sys.setprofile(None)
    assert len(calls) < 20_000


def test_a_number_in_place_of_a_map(tmp_path):
    (problem,) = check.check_folder(write_files(tmp_path, pos_rec_map_v7={"000001": 7})).problems
    assert "pos_rec_map is 7: give a table with uv_min, step, n, x, y" in problem


def test_mixed_lists_in_versions_are_refused(published):
    write_files(published, _global_mixed={"s1_naive_z_correction": [1, "2", 3, 4]})
    with pytest.raises(InvalidCorrection, match="has a list with numbers and other values"):
        context("2.1", "mixed")
    (published / "_global/_global_mixed.json").unlink()

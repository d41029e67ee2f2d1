"""Data of the lab's other release is loaded where it is equal, and only there."""

import json
import logging

import numpy as np
import pytest
import strax
from make_runs import RUN_ID, context, load, pulses, rundoc, write_run

from amstrax import contexts
from amstrax.rundb.diagnose import described_releases
from amstrax.strax_ext import equivalents
from amstrax.strax_ext.equivalents import EQUAL, EQUIVALENT_PARENTS, equivalent, release_of

#: Versions of ours that the lab does not have
RAISED = {"peak_coincidences", "event_coincidences"}
PAIRS = [
    *[("xams.json", "xams_2026.json", "run_100001_xams.npz", "run_100001_xams_2026.npz")],
    (
        "xams_led.json",
        "xams_led_2026.json",
        "run_100007_xams_led.npz",
        "run_100007_xams_led_2026.npz",
    ),
]


def specification(shared, name):
    return json.loads((shared / "spec" / name).read_text())["data_types"]


def arrays(shared, name):
    with np.load(shared / "parity" / name) as stored:
        return dict(stored)


def is_equal_array(a, b):
    return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


def computed_table(shared):
    """Return the table that follows from the specifications and reference arrays."""
    table, parents, equal = {}, {}, {}
    for spec_old, spec_new, arrays_old, arrays_new in PAIRS:
        old, new = (specification(shared, name) for name in (spec_old, spec_new))
        a, b = (arrays(shared, name) for name in (arrays_old, arrays_new))
        for name, its in old.items():
            other = new[name]
            keys = {k for k in a if k.split("/")[0] == name}
            # Raw data of the LED run has no reference: that of the other run decides
            assert keys or name in table
            same = ("plugin", "provides", "depends_on", "data_kind", "fields")
            equal[name] = (
                equal.get(name, True)
                and all(its[key] == other[key] for key in same)
                and tracked(its) == tracked(other)
                and all(k in b and is_equal_array(a[k], b[k]) for k in keys)
            )
            parents[name] = its["depends_on"]
            table[name] = equivalents.Equal(its["plugin"], (its["version"], other["version"]))

    def is_equal(name):
        return equal[name] and all(map(is_equal, parents[name]))

    return {name: entry for name, entry in table.items() if is_equal(name)}


def tracked(spec):
    return {name: o["default"] for name, o in spec["options"].items() if o["track"]}


def test_table_follows_from_the_specifications(shared):
    assert computed_table(shared) == EQUAL


def test_hashes_are_those_of_both_specifications(shared, tmp_path):
    st = contexts.xams(output_folder=tmp_path, init_rundb=False)
    new = specification(shared, "xams_2026.json")
    old = specification(shared, "xams.json")
    for name in st._plugin_class_registry:
        lineage = st.key_for("0", name).lineage
        other = equivalent(name, lineage)
        if name not in EQUAL or name in RAISED:
            assert other is None, name
            continue
        assert strax.deterministic_hash(lineage) == old[name]["lineage_hash"]
        assert strax.deterministic_hash(other) == new[name]["lineage_hash"]
        assert (release_of(lineage), release_of(other)) == ("2.1", "2.2")
        # And back
        assert equivalent(name, other) == lineage


def test_no_type_is_equal_that_the_specifications_have_different(shared):
    new = specification(shared, "xams_2026.json") | specification(shared, "xams_led_2026.json")
    differing = {
        *("raw_records_sipm", "records_sipm", "peaks_sipm", "peak_basics_sipm", "event_positions"),
        *("corrected_areas", "event_info", "records_led", "led_calibration"),
    }
    assert set(new) - set(EQUAL) == differing


def test_unknown_versions_and_plugins_match_nothing(tmp_path):
    lineage = contexts.xams(output_folder=tmp_path, init_rundb=False).key_for("0", "peaks").lineage
    assert equivalent("peaks", lineage) is not None
    plugin, version, options = lineage["peaks"]
    for changed in (("MyPeaks", version, options), (plugin, "0.1.51", options)):
        assert equivalent("peaks", {**lineage, "peaks": changed}) is None
    assert equivalent("peaks", {**lineage, "raw_records": ("DAQReader", "0.2.0", {})}) is None
    assert equivalent("peaks", {k: v for k, v in lineage.items() if k != "raw_records"}) is None


@pytest.fixture
def as_other(tmp_path):
    """Folder with data of a small run under the names and lineages of release 2.2."""
    write_run(tmp_path, pulses([1_000_000, 2_000_000], range(5)))
    st = context(tmp_path)
    st.make(RUN_ID, "raw_records", progress_bar=False)
    st.make(RUN_ID, "peaks", save="peaks", progress_bar=False)
    for name in ("raw_records", "raw_records_sipm", "peaks"):
        key = st.key_for(RUN_ID, name)
        lineage = equivalent(name, key.lineage)
        if lineage is None:
            lineage = {"raw_records": ("DAQReader", "0.1.0", {})}
        other = strax.DataKey(RUN_ID, name, lineage)
        old, new = (tmp_path / "out" / str(k) for k in (key, other))
        if not old.is_dir():
            continue
        old.rename(new)
        # Chunks keep their names, which metadata lists
        (path,) = new.glob("*metadata.json")
        metadata = json.loads(path.read_text()) | {
            "lineage": lineage,
            "lineage_hash": other.lineage_hash,
        }
        path.unlink()
        (new / f"{name}-{other.lineage_hash}-metadata.json").write_text(json.dumps(metadata))
    return tmp_path


def plain(folder, **kwargs):
    return contexts.xams(output_folder=folder / "out", init_rundb=False, **kwargs)


def test_equal_data_is_loaded_and_named_in_the_metadata(as_other, caplog, monkeypatch):
    monkeypatch.setattr(equivalents, "_reported", set())
    st = plain(as_other)
    assert st.is_stored(RUN_ID, "raw_records") and st.is_stored(RUN_ID, "peaks")
    assert st.list_available("peaks", RUN_ID) == [RUN_ID]
    assert not st.get_source_sf(RUN_ID, "peaks")
    with caplog.at_level(logging.WARNING):
        assert len(load(st, "peaks")) == len(load(st, "peaks")) > 0
    assert sum("release 2.2" in record.getMessage() for record in caplog.records) == 1
    st.make(RUN_ID, "peak_basics", save="peak_basics", progress_bar=False)
    metadata = st.get_metadata(RUN_ID, "peak_basics")
    assert metadata["lineage_hash"] == st.key_for(RUN_ID, "peak_basics").lineage_hash
    parents = metadata[EQUIVALENT_PARENTS]
    loaded = st.get_metadata(RUN_ID, "peaks")
    assert parents["peaks"]["lineage_hash"] == loaded["lineage_hash"]
    assert release_of(parents["peaks"]["lineage"]) == "2.2"
    # What is made of that names it as well
    st.make(RUN_ID, "peak_positions", save="peak_positions", progress_bar=False)
    assert st.get_metadata(RUN_ID, "peak_positions")[EQUIVALENT_PARENTS].keys() == {"peaks"}


def test_other_options_and_plugins_of_users_load_nothing(as_other):
    class Peaks(contexts.peak_processing.Peaks):
        pass

    assert not plain(as_other, config={"peak_min_pmts": 2}).is_stored(RUN_ID, "peaks")
    assert not plain(as_other, register=[Peaks]).is_stored(RUN_ID, "peaks")
    assert plain(as_other, register=[Peaks]).is_stored(RUN_ID, "raw_records")


def test_a_miss_says_what_to_ask_for(as_other):
    st = plain(as_other)
    with pytest.raises(strax.DataNotAvailable, match=r'raw_records_sipm.*xams\(release="2.2"\)'):
        st.get_array(RUN_ID, "raw_records_sipm", progress_bar=False)
    with pytest.raises(strax.DataNotAvailable, match=r'2.1 inverts.*xams\(release="2.2"\)'):
        st.get_metadata(RUN_ID, "raw_records_sipm")


@pytest.mark.parametrize(
    "change",
    [
        {"registers": [{"reg": "1280", "val": "100000"}]},
        {"channel_map": {"bottom": [0, 0], "top": [1, 3]}},
    ],
)
def test_runs_that_the_readers_take_differently_are_refused(as_other, change):
    st = plain(as_other)
    frontend = strax.DataDirectory(str(as_other / "out"), provide_run_metadata=True)
    st.storage = [frontend]
    frontend.write_run_metadata(RUN_ID, rundoc())
    assert st.is_stored(RUN_ID, "peaks")
    document = rundoc()
    document["daq_config"] |= change
    frontend.write_run_metadata(RUN_ID, document)
    assert not st.is_stored(RUN_ID, "peaks")


def test_check_tells_releases_by_hash(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "no raw data" in described_releases()
    for name in ("000001-raw_records-c7zrd7k56r", "000002-raw_records-y5oixg6qla", "x-peaks-1"):
        (tmp_path / "strax_data" / name).mkdir(parents=True)
    text = described_releases()
    assert "1 of release 2.1, newest run 000001" in text
    assert "the newest is of release 2.2" in text

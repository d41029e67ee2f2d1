"""Data of the lab's other release is loaded where it is equal, and only there."""

import json
import logging
import re
import socket
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import strax
from conftest import SHARED
from make_jobs import made_once
from make_runs import RUN_ID, context, load, pulses, rundoc, write_run

from amstrax import contexts
from amstrax.auto_processing.amstraxer import to_dict_tuple
from amstrax.plugins import peak_processing
from amstrax.rundb import RunDB
from amstrax.rundb.diagnose import described_releases
from amstrax.rundb.embedded import LocalClient
from amstrax.settings import RELEASES
from amstrax.strax_ext import equivalents
from amstrax.strax_ext.equivalents import (
    EQUAL,
    EQUIVALENT_PARENTS,
    equivalent,
    release_of,
    stored_releases,
)

#: Versions of ours that the lab does not have, and data types of ours
RAISED = {"peak_coincidences", "event_coincidences"}
OWN = {"hits", "lone_hits"}
#: Data types of amstrax 3 alone, which each release makes for itself
NEW = {
    *("event_energy", "event_kr83m", "single_electrons", "event_cuts", "cut_fiducial_volume"),
    *("cut_single_scatter", "cut_s1_area", "cut_s2_area", "cut_s2_width", "cut_saturation"),
}
RUN = "100001"
CONTEXTS = ("xams", "xams_led")
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
    """Return the table that follows from the specifications, reference arrays and plugins."""
    plugins = [in_release(RELEASES[i])._plugin_class_registry for i in (0, 1)]
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
            versions = its["version"], other["version"]
            if name in RAISED:
                versions = tuple(p[name].__version__ for p in plugins)
                assert not {*versions} & {its["version"], other["version"]}
            table[name] = equivalents.Equal(its["plugin"], versions)
    for name in OWN:
        ours, same = (p[name] for p in plugins)
        equal[name] = ours is same
        parents[name] = ours.depends_on
        table[name] = equivalents.Equal(ours.__name__, (ours.__version__, same.__version__))

    def is_equal(name):
        return equal[name] and all(map(is_equal, parents[name]))

    return {name: entry for name, entry in table.items() if is_equal(name)}


def in_release(release, name="xams", storage=(), **kwargs):
    """Return a context of a release, by default without storage."""
    return getattr(contexts, name)(release=release, storage=list(storage), **kwargs)


def tracked(spec):
    return {name: o["default"] for name, o in spec["options"].items() if o["track"]}


def test_table_follows_from_the_specifications(shared):
    assert computed_table(shared) == EQUAL


@pytest.mark.parametrize("version", [None, "v3"])
@pytest.mark.parametrize("name", CONTEXTS)
def test_lineages_are_those_of_the_plugins(shared, monkeypatch, name, version):
    monkeypatch.setenv("AMSTRAX_CORRECTIONS_FOLDER", str(shared / "data/corrections_2026"))
    old, new = (in_release(r, name, corrections_version=version) for r in RELEASES)
    for data_type in old._plugin_class_registry:
        a, b = (st.key_for("007700", data_type).lineage for st in (old, new))
        assert (release_of(a), release_of(b)) == RELEASES
        assert (equivalent(data_type, a), equivalent(data_type, b)) == (
            (b, a) if data_type in EQUAL else (None, None)
        )


def test_hashes_are_those_of_both_specifications(shared):
    for release, file in (("2.1", "xams.json"), ("2.2", "xams_2026.json")):
        st, spec = in_release(release), specification(shared, file)
        for name in EQUAL.keys() - RAISED - OWN:
            assert st.key_for("0", name).lineage_hash == spec[name]["lineage_hash"]


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


@pytest.fixture(scope="module")
def both(shared, tmp_path_factory):
    """Folder per release with run 100001, all data types of both contexts."""
    text = (shared / "parity/run_100001_config.json").read_text()
    document = json.loads((shared / "data/rundoc_100001.json").read_text())
    live = {"live_data_dir": str(shared / "data/live_data")}

    def make(folder):
        for release in RELEASES:
            for name in CONTEXTS:
                of_xams = {**to_dict_tuple(json.loads(text)), "g1": 0.1, "g2": 10.0}
                config = live | (of_xams if name == "xams" else {})
                frontend = strax.DataDirectory(str(folder / release))
                st = in_release(release, name, [frontend], config=config)
                contexts.context_for_daq_reader(st, RUN, run_doc=document, check_exists=False)
                for data_type in reversed(st._plugin_class_registry):
                    st.make(RUN, data_type, save=data_type, progress_bar=False)

    return made_once(tmp_path_factory, "both_releases", make)


def reader_of(both, release, name="xams", folder=None):
    """Return a context that reads one folder, by default that of its release."""
    config = {}
    if name == "xams":
        text = (SHARED / "parity/run_100001_config.json").read_text()
        config = to_dict_tuple(json.loads(text))
    folder = folder or both / release
    return in_release(
        release, name, [strax.DataDirectory(str(folder), readonly=True)], config=config
    )


def folder_with(both, release, key, tmp_path):
    """Return a folder that has only one data type of a release."""
    folder = tmp_path / release / key.data_type
    folder.mkdir(parents=True)
    (folder / str(key)).symlink_to(both / release / str(key))
    return folder


@pytest.mark.parametrize("name", CONTEXTS)
@pytest.mark.parametrize("release", RELEASES)
def test_each_type_of_the_other_release_is_equal_or_refused(both, tmp_path, name, release):
    (other,) = {*RELEASES} - {release}
    own, source = reader_of(both, release, name), reader_of(both, other, name)
    n_rows = 0
    for data_type in own._plugin_class_registry.keys() - NEW:
        key = source.key_for(RUN, data_type)
        st = reader_of(both, release, name, folder_with(both, other, key, tmp_path))
        assert not st.get_source_sf(RUN, data_type)
        assert st.is_stored(RUN, data_type) == (data_type in EQUAL)
        if data_type not in EQUAL:
            asked = rf'{name}\(release="{other}"\)'
            with pytest.raises(strax.DataNotAvailable, match=rf"{data_type} of run.*: .*{asked}"):
                st.get_array(RUN, data_type, progress_bar=False)
            continue
        with pytest.raises(strax.DataNotAvailable, match=rf'by release {other}.*="{other}"\)'):
            st.get_source_sf(RUN, data_type, should_exist=True)
        found = st.get_array(RUN, data_type, progress_bar=False)
        expected = own.get_array(RUN, data_type, progress_bar=False)
        assert found.dtype == expected.dtype and found.tobytes() == expected.tobytes()
        assert st.get_metadata(RUN, data_type)["lineage_hash"] == key.lineage_hash
        n_rows += len(found)
    assert n_rows > 10_000


def test_unequal_types_differ(both):
    """No type is refused that could be loaded: rows or fields differ, or those of a parent."""
    for name in CONTEXTS:
        a, b = (reader_of(both, r, name) for r in RELEASES)
        for data_type in a._plugin_class_registry.keys() - EQUAL.keys() - NEW:
            x, y = (st.get_array(RUN, data_type, progress_bar=False) for st in (a, b))
            assert x.dtype != y.dtype or x.tobytes() != y.tobytes(), data_type


def test_documentation_has_the_table():
    page = Path(__file__).parents[2] / "docs/source/run_database_use.rst"
    section = page.read_text().partition("other release\n---")[2].partition("\nData that is not")[0]
    equal, unequal = section.partition("- Data types")[2].split("- equal: loaded")
    assert set(re.findall(r"``(\w+)``", equal)) == EQUAL.keys()
    makes = {d for n in CONTEXTS for d in in_release("2.2", n)._plugin_class_registry}
    assert set(re.findall(r"``(\w+)``", unequal)) == makes - EQUAL.keys()


def test_missing_data_is_no_data_of_the_other_release(tmp_path):
    st = in_release("2.2", storage=[strax.DataDirectory(str(tmp_path))])
    with pytest.raises(ValueError, match="should be stored") as error:
        st.get_source_sf(RUN, "peaks", should_exist=True)
    assert "release" not in str(error.value)


@pytest.mark.parametrize("release", RELEASES)
def test_data_registered_in_the_run_database_is_found(both, tmp_path, release):
    (other,) = {*RELEASES} - {release}
    source = reader_of(both, other)
    types = ("raw_records", "peaks", "event_info", "records_sipm")
    entries = []
    for data_type in types:
        lineage_hash = source.key_for(RUN, data_type).lineage_hash
        place = {"host": socket.gethostname(), "location": str(both / other)}
        entries.append({"type": data_type, "lineage_hash": lineage_hash, **place})
    with LocalClient(tmp_path / "rundb.sqlite") as client:
        collection = client["run"]["runs_gas"]
        start = datetime(2024, 1, 2)
        document = {"number": int(RUN), "name": RUN, "start": start, "end": start, "mode": "test"}
        collection.insert_one(document | {"data": entries})
        frontend = RunDB(collection=collection, runid_field="number")
        st = in_release(release, storage=[frontend], config=reader_of(both, release).config)
        own = reader_of(both, release)
        for data_type in ("raw_records", "peaks"):
            assert st.is_stored(RUN, data_type)
            found, expected = (c.get_array(RUN, data_type, progress_bar=False) for c in (st, own))
            assert found.tobytes() == expected.tobytes()
            assert st.list_available(data_type) == [RUN]
            assert list(st.select_runs(available=data_type)["name"]) == [RUN]
        led = in_release(release, "xams_led", [frontend])
        found, expected = (c.get_array(RUN, "raw_records", progress_bar=False) for c in (led, own))
        assert found.tobytes() == expected.tobytes()
        assert st.list_available("event_info") == []
        assert len(st.select_runs(available="event_info")) == 0
        with pytest.raises(strax.DataNotAvailable, match=rf'records_sipm.*release="{other}"'):
            st.get_array(RUN, "records_sipm", progress_bar=False)
        # Made from equal data, where it can be
        found, expected = (c.get_array(RUN, "event_info", progress_bar=False) for c in (st, own))
        assert found.tobytes() == expected.tobytes()
        # What is asked for fuzzily is of the own reader and other options
        options = {"s1_min_area": 7, "peak_min_pmts": 3}
        changed = in_release(release, storage=[frontend], config={**st.config, **options})
        assert not changed.is_stored(RUN, "peaks")
        assert changed.new_context(fuzzy_for=("peaks",)).is_stored(RUN, "peaks")
        # A document whose channels the readers take differently
        maps = {"bottom": [0, 0], "top": [1, 3], "external": [5, 5], "sipm": [6, 7]}
        collection.update_one({}, {"$set": {"xams_bookkeeping": {"channel_map": maps}}})
        refused = in_release(release, storage=[frontend], config=st.config)
        assert not refused.is_stored(RUN, "peaks")
        with pytest.raises(strax.DataNotAvailable, match=r"top \[1, 3\], 2.1 has \[1, 4\]"):
            refused.get_array(RUN, "raw_records", progress_bar=False)
        maps["top"] = [1, 4]
        collection.update_one({}, {"$set": {"xams_bookkeeping.channel_map": maps}})
        assert in_release(release, storage=[frontend], config=st.config).is_stored(RUN, "peaks")


@pytest.mark.parametrize("release", RELEASES)
def test_contexts_for_live_data_ask_the_given_document(both, shared, release):
    document = json.loads((shared / "data/rundoc_100001.json").read_text())
    (other,) = {*RELEASES} - {release}
    live = str(shared / "data/live_data")
    changes = [
        ({}, True),
        ({"registers": [{"reg": "1280", "val": "100000"}]}, False),
        ({"channel_map": {"bottom": [0, 0], "top": [1, 3], "external": [4, 5]}}, False),
        ({"channel_map": {"bottom": [0, 0], "top": [1, 4], "sipm": [6, 7]}}, True),
    ]
    for change, is_equal in changes:
        st = reader_of(both, release, folder=both / other)
        st.set_config({"live_data_dir": live})
        changed = document | {"daq_config": document["daq_config"] | change}
        contexts.context_for_daq_reader(st, RUN, run_doc=changed, check_exists=False)
        assert st.is_stored(RUN, "peaks") == is_equal, change


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
    class Peaks(peak_processing.Peaks):
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
        {"registers": '[{"reg": "1280", "val": "100000"}]'},
        {"registers": "not JSON"},
        {"registers": 5},
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


def test_a_channel_map_that_is_looked_up_is_compared(as_other):
    channel_map = "rundoc://?path=daq_config.mine&fallback=xams_default"
    st = plain(as_other, config={"channel_map": channel_map})
    st.set_run_document(RUN_ID, rundoc())
    assert st.is_stored(RUN_ID, "peaks")
    st.set_run_document(RUN_ID, rundoc(mine={"bottom": [0, 0], "top": [1, 3]}))
    assert not st.is_stored(RUN_ID, "peaks")


def test_check_tells_releases_by_hash(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "no raw data" in described_releases()
    for name in ("000001-raw_records-c7zrd7k56r", "000002-raw_records-y5oixg6qla", "x-peaks-1"):
        (tmp_path / "strax_data" / name).mkdir(parents=True)
    text = described_releases()
    assert "1 of release 2.1, newest run 000001" in text
    assert "000002, is of release 2.2, and AMSTRAX_RELEASE is 2.1: set AMSTRAX_RELEASE=2.2" in text
    monkeypatch.setenv("AMSTRAX_RELEASE", "2.2")
    assert text.replace(
        "and AMSTRAX_RELEASE is 2.1: set AMSTRAX_RELEASE=2.2", "as in AMSTRAX_RELEASE=2.2"
    ) == (described_releases())
    assert "entries" not in text
    assert stored_releases(tmp_path / "strax_data", most=3).is_all
    monkeypatch.setattr(equivalents, "MOST_ENTRIES", 2)
    assert "among 2 entries" in described_releases()

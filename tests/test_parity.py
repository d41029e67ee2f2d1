"""The numbers are those of the reference, bit for bit, but for what HISTORY.md lists."""

import importlib.util
import json
from pathlib import Path

import lz4.frame
import numpy as np
import pytest

from amstrax import contexts
from amstrax.commands.base import CONTEXTS

#: Data types, and fields of them, that HISTORY.md lists under "Differences"
CORRECTED = {"peak_coincidences/is_coinc", "event_coincidences/is_coinc"}
RAISED_VERSIONS = {"peak_coincidences", "event_coincidences"}
OWN_DATA_KIND = {"radon_hits"}
#: Further options of data types: untracked, or in the lineage only where they are set
_POLARITY, _WINDOW = "correct_positive_polarity", "tight_coincidence_window"
_RAW_RECORDS = ("", "_ext", "_sipm", "_v1724", "_v1730", "_aqmon")
ADDED_OPTIONS = {
    **dict.fromkeys(
        (f"raw_records{s}" for s in _RAW_RECORDS), {"allow_incomplete", "run_end_time"}
    ),
    **dict.fromkeys(("records", "pulse_counts", "records_ext", "records_sipm"), {_POLARITY}),
    **dict.fromkeys(("peaks", "peaks_ext", "peaks_sipm"), {_POLARITY, _WINDOW}),
    **dict.fromkeys(("radon_peaks", "radon_lone_hits"), {_WINDOW, "xamsl_gain_to_pe_array"}),
    "corrected_areas": {"s2_map"},
}
#: The same of release 2.1 alone
ADDED_OPTIONS_21 = {
    "corrected_areas": {"s1_map"},
    "records_led": {"allow_incomplete_pulses"},
}
#: Context, release, specification
SPECIFICATIONS = [
    ("xams", "2.1", "xams"),
    ("xams_led", "2.1", "xams_led"),
    ("xams_little", None, "xams_little"),
    ("xams", "2.2", "xams_2026"),
    ("xams_led", "2.2", "xams_led_2026"),
]

ROWS_OF_REAL_RUN = {"raw_records_v1730": 68_340, "radon_hits": 71_747, "radon_peaks": 8_906}

REFERENCES = [
    ("999999", "xams_little", None, "run_999999_xams_little.npz"),
    ("999999", "xams", "2.1", "run_999999_xams.npz"),
    ("100001", "xams", "2.1", "run_100001_xams.npz"),
    ("100007", "xams_led", "2.1", "run_100007_xams_led.npz"),
    ("100001", "xams", "2.2", "run_100001_xams_2026.npz"),
    ("100001", "xams", "2.2", "run_100001_xams_posmap_2026.npz"),
    ("100001", "xams_led", "2.2", "run_100001_xams_led_2026.npz"),
    ("100007", "xams_led", "2.2", "run_100007_xams_led_2026.npz"),
]

#: Two of the four chunks of run 100001, a simulated run, and its reference values; see `until`.
#: Live data is compressed again, more tightly.
DATA = Path(__file__).parent / "data"
#: Rows that end by then do not depend on the chunks that were left out, which begin at 11 s [ns]
CUT = 1_704_164_645_000_000_000 + 10_900_000_000


def in_release(context, release, **kwargs):
    """Return a context of a release; None where there are none."""
    return getattr(contexts, context)(**kwargs, **({"release": release} if release else {}))


@pytest.fixture(scope="module")
def compare(shared):
    spec = importlib.util.spec_from_file_location("compare", shared / "parity/compare.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(("run_id", "context", "release", "reference"), REFERENCES)
def test_numbers_equal_reference(
    shared, compare, online_config, tmp_path, run_id, context, release, reference, workers
):
    config = {"live_data_dir": str(shared / "data/live_data")}
    if run_id == "100001" and context == "xams":
        config |= online_config
    if "posmap" in reference:
        config["pos_rec_map"] = json.loads(
            (shared / "parity/pos_rec_map_synthetic.json").read_text()
        )
    st = in_release(context, release, output_folder=tmp_path, init_rundb=False, config=config)
    document = json.loads((shared / f"data/rundoc_{run_id}.json").read_text())
    contexts.context_for_daq_reader(st, run_id, run_doc=document)
    with np.load(shared / "parity" / reference) as stored:
        expected = dict(stored)
    arrays = {}
    for data_type in dict.fromkeys(key.split("/")[0] for key in expected):
        st.make(run_id, data_type, save=data_type, max_workers=workers, progress_bar=False)
        arrays[data_type] = st.get_array(run_id, data_type, progress_bar=False)
    if context == "xams_little":
        assert {d: len(arrays[d]) for d in ROWS_OF_REAL_RUN} == ROWS_OF_REAL_RUN
    made = compare.flatten(arrays)
    differing = {
        key
        for key, values in expected.items()
        if key not in made
        or not np.array_equal(values, made[key], equal_nan=values.dtype.kind == "f")
    }
    assert differing <= CORRECTED
    # What is corrected only adds coincidences: those with the last external peaks of a chunk
    for key in differing:
        assert (made[key] >= expected[key]).all()
    _, short = compare.compare(expected, made)
    assert short == len({key.split("/")[0] for key in differing})


def until(arrays, end):
    """Return those rows of arrays, by "data_type/field", that end at or before a time [ns].

    So the files in `DATA` were made from ``../shared/parity``, whose values are those of amstrax 2.
    """
    result = {}
    for key, values in arrays.items():
        data_type = key.split("/")[0]
        if f"{data_type}/endtime" in arrays:
            endtime = arrays[f"{data_type}/endtime"]
        else:
            length = arrays[f"{data_type}/length"].astype(np.int64) * arrays[f"{data_type}/dt"]
            endtime = arrays[f"{data_type}/time"] + length
        result[key] = values[endtime <= end]
    return result


def cut_reference(release):
    """Return the reference values in `DATA`; the file of 2.2 has those that differ from 2.1."""
    files = ["run_100001_xams.npz"] + ["run_100001_xams_2026.npz"] * (release == "2.2")
    expected = {}
    for file in files:
        with np.load(DATA / file) as stored:
            expected |= dict(stored)
    return expected


def flatten(arrays):
    """Return {"data_type/field": values} of arrays; rows of more than 50 columns are summed."""
    return {
        f"{data_type}/{field}#rowsum" if is_wide else f"{data_type}/{field}": (
            array[field].sum(axis=1, dtype=np.float64) if is_wide else array[field]
        )
        for data_type, array in arrays.items()
        for field in array.dtype.names
        for is_wide in [array[field].ndim > 1 and array[field].shape[1] > 50]
    }


def differing_keys(expected, made):
    """Return the keys whose values are missing or not the same, bit for bit."""
    return {
        key
        for key, values in expected.items()
        if key not in made
        or values.dtype != made[key].dtype
        or not np.array_equal(values, made[key], equal_nan=values.dtype.kind == "f")
    }


@pytest.mark.parametrize("release", ["2.1", "2.2"])
def test_numbers_equal_reference_in_a_clone(tmp_path, release):
    """As `test_numbers_equal_reference`, of half a run, with what is in this repository alone."""
    config = json.loads((DATA / "run_100001_config.json").read_text()) | {
        "live_data_dir": str(DATA / "live_data")
    }
    config["gain_to_pe_array"] = tuple(config["gain_to_pe_array"])
    st = in_release("xams", release, output_folder=tmp_path, init_rundb=False, config=config)
    document = json.loads((DATA / "rundoc_100001.json").read_text())
    contexts.context_for_daq_reader(st, "100001", run_doc=document)
    expected = cut_reference(release)
    arrays = {}
    for data_type in dict.fromkeys(key.split("/")[0] for key in expected):
        st.make("100001", data_type, save=data_type, progress_bar=False)
        arrays[data_type] = st.get_array("100001", data_type, progress_bar=False)
    made = until(flatten(arrays), CUT)
    assert len(expected["event_info/time"]) > 400 and len(expected["records/time"]) > 20_000
    differing = differing_keys(expected, made)
    assert differing <= CORRECTED
    for key in differing:
        assert (made[key] >= expected[key]).all()
    # Another lifetime shows, and in nothing but what it corrects
    other = st.new_context(config={"elife": 29_000})
    for data_type in ("corrected_areas", "events"):
        arrays[data_type] = other.get_array("100001", data_type, progress_bar=False)
    found = differing_keys(expected, until(flatten(arrays), CUT)) - differing
    assert {key.split("/")[0] for key in found} == {"corrected_areas"}
    assert "corrected_areas/cs2" in found
    # So does a missing row, and one that differs in its last bit
    damaged = made | {"events/time": made["events/time"][:-1]}
    damaged["peaks/area"] = np.nextafter(made["peaks/area"], np.float32(0))
    assert differing_keys(expected, damaged) - differing == {"events/time", "peaks/area"}


def test_data_of_the_clone_is_that_of_the_reference(shared):
    for path in (path for path in (DATA / "live_data").rglob("*") if path.is_file()):
        original = shared / "data" / path.relative_to(DATA)
        if path.parent.name == "THE_END":
            assert path.read_bytes() == original.read_bytes()
        else:
            mine, its = (lz4.frame.decompress(p.read_bytes()) for p in (path, original))
            assert mine == its, path
    for name in ("data/rundoc_100001.json", "parity/run_100001_config.json"):
        assert (DATA / Path(name).name).read_bytes() == (shared / name).read_bytes()
    for release, file in (("2.1", "run_100001_xams.npz"), ("2.2", "run_100001_xams_2026.npz")):
        with np.load(shared / "parity" / file) as stored:
            expected = until(dict(stored), CUT)
        mine = cut_reference(release)
        assert mine.keys() == expected.keys()
        assert differing_keys(expected, mine) == set()
    size = sum(path.stat().st_size for path in DATA.rglob("*") if path.is_file())
    assert size < 5_000_000


#: Data types of amstrax 3, which the lab's package does not have
NEW_DATA_TYPES = (
    *("hits", "lone_hits", "event_energy", "single_electrons", "event_kr83m", "event_cuts"),
    *("cut_fiducial_volume", "cut_single_scatter", "cut_s1_area", "cut_s2_area", "cut_s2_width"),
    "cut_saturation",
)


@pytest.mark.parametrize(("context", "release", "file"), SPECIFICATIONS)
def test_plugins_are_those_of_the_specification(shared, tmp_path, context, release, file):
    spec = json.loads((shared / f"spec/{file}.json").read_text())
    st = in_release(context, release, output_folder=tmp_path, init_rundb=False)
    registered = list(st._plugin_class_registry)
    assert [d for d in registered if d not in NEW_DATA_TYPES] == list(spec["data_types"])
    for data_type, expected in spec["data_types"].items():
        found = describe(st, data_type)
        raised = data_type in RAISED_VERSIONS
        for key, value in expected.items():
            if raised and key in ("version", "lineage_hash"):
                # No version that the lab may come to use
                assert found[key] != value and found["version"].endswith("-amstrax3"), data_type
                continue
            if key == "sure":
                continue
            if key == "data_kind" and data_type in OWN_DATA_KIND:
                assert found[key] == data_type
                continue
            if key == "options":
                added = ADDED_OPTIONS.get(data_type, set())
                if release == "2.1":
                    added = added | ADDED_OPTIONS_21.get(data_type, set())
                assert added <= set(found[key])
                found[key] = {o: v for o, v in found[key].items() if o not in added}
            if key == "fields" and ("peaks" in data_type or "hits" in data_type):
                # These also have the fields of the strax that is installed, in its order
                assert all(field in found[key] for field in value), data_type
                continue
            assert found[key] == value, (data_type, key)
    options = spec["context_options"]
    assert set(options["free_options"]) <= set(st.context_config["free_options"])
    for key in ("store_run_fields", "check_available", "forbid_creation_of"):
        assert list(st.context_config[key]) == options[key]
    for key in ("n_tpc_pmts", "channel_map"):
        assert json.loads(json.dumps(dict(st.config)[key], default=dict)) == spec["config"][key]


def describe(st, data_type):
    """Return what a specification file says of a data type."""
    import strax

    plugin = st._get_plugins((data_type,), "0")[data_type]
    options = {}
    for option in plugin.takes_config.values():
        try:
            default = option.get_default("0")
        except strax.InvalidConfiguration:
            default = "<no default>"
        options[option.name] = {"default": json.loads(json.dumps(default)), "track": option.track}
    dtype = plugin.dtype_for(data_type)
    return {
        "plugin": type(plugin).__name__,
        "version": plugin.version(),
        "provides": list(plugin.provides),
        "depends_on": list(plugin.depends_on),
        "data_kind": plugin.data_kind_for(data_type),
        "save_when": strax.SaveWhen(plugin.save_when[data_type]).name,
        "rechunk_on_save": plugin.can_rechunk(data_type),
        "compressor": plugin.compressor,
        "chunk_target_size_mb": plugin.chunk_target_size_mb,
        "options": options,
        "lineage_hash": st.key_for("0", data_type).lineage_hash,
        "fields": [
            [
                name,
                f"{dtype[name].base}" + (f"[{dtype[name].shape[0]}]" if dtype[name].shape else ""),
            ]
            for name in dtype.names
        ],
    }


@pytest.mark.parametrize("context", CONTEXTS)
def test_titles_and_help_name_units(tmp_path, context):
    """Every field has a title, with a unit if it needs one, and every option a help text."""
    st = getattr(contexts, context)(output_folder=tmp_path, init_rundb=False)
    for data_type in st._plugin_class_registry:
        plugin = st._get_plugins((data_type,), "0")[data_type]
        for name, (_, _, *title) in plugin.dtype_for(data_type).fields.items():
            if title and title[0] == name:
                continue
            assert title and title[0], (data_type, name)
            # Records, hits and peaks have strax's own titles
            is_ours = data_type.startswith(("peak_", "event", "corrected", "radon_peak_"))
            is_ours = is_ours and data_type != "event_cuts"  # of yes or no
            if is_ours and name.endswith(("time", "area", "delay", "dt", "_x", "_y", "z")):
                assert "[" in title[0], (data_type, name, title)
        for option in plugin.takes_config.values():
            assert option.help, (data_type, option.name)

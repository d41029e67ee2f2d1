"""`amstrax export`: each format, read by the package that users use, equals the data of strax."""

import json
import re
import subprocess
import sys

import h5py
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import strax
import uproot
from make_runs import RUN_ID

from amstrax import contexts
from amstrax.commands import export
from amstrax.corrections.config import CorrectedPlugin, XAMSConfig
from amstrax.strax_ext.plugin import Plugin

DTYPE = [
    *strax.time_fields,
    (("Area [PE]", "area"), np.float32),
    (("Share of each PMT [1]", "share"), np.float32, (2, 3)),
    (("Decay time [ns]", "decay"), np.float64),
    (("Samples [ADC counts]", "samples"), np.int16, (4,)),
    (("Whether it is", "is_it"), np.bool_),
    (("Small number", "small"), np.int8),
    (("Channel", "channel"), np.uint16),
]
OTHER_RUN = "000124"


class Things(CorrectedPlugin):
    """Three chunks, the second empty, with numbers that are hard to write; no rows in some runs."""

    gain_to_pe_array = XAMSConfig(default=None)
    depends_on = ()
    provides = "things"
    dtype = DTYPE
    n_rows = (50, 0, 30)

    def source_finished(self):
        return True

    def is_ready(self, chunk_i):
        return chunk_i < len(self.n_rows)

    def compute(self, chunk_i):
        rng = np.random.default_rng(chunk_i)
        n = 0 if self.run_id == "000999" else self.n_rows[chunk_i]
        start = (1_704_164_645 + 10 * chunk_i) * 1_000_000_000
        result = np.zeros(n, self.dtype)
        result["time"] = start + np.sort(rng.integers(0, 9_000_000_000, n))
        result["endtime"] = result["time"] + 1 + int(self.run_id)
        result["area"] = rng.lognormal(0, 30, n)
        result["area"][:3] = np.array([np.nan, np.inf, -0.0])[:n]
        result["decay"] = rng.random(n) / 3
        result["share"] = rng.random((n, 2, 3))
        result["samples"] = rng.integers(-(2**15), 2**15, (n, 4))
        result["is_it"] = rng.random(n) < 0.5
        result["small"] = rng.integers(-128, 128, n)
        result["channel"] = rng.integers(0, 2**16, n)
        return self.chunk(start=start, end=start + 10_000_000_000, data=result)


class MoreThings(Plugin):
    """A column of the same kind as things."""

    depends_on = ("things",)
    provides = "more_things"
    dtype = [*strax.time_fields, (("Twice the area [PE]", "twice"), np.float32)]

    def compute(self, things):
        result = np.zeros(len(things), self.dtype)
        result["time"], result["endtime"] = things["time"], things["endtime"]
        result["twice"] = 2 * things["area"]
        return result


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Current folder; contexts of commands know the plugins above."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(contexts, "_XAMS_PLUGINS", (*contexts._XAMS_PLUGINS, Things, MoreThings))
    return tmp_path


CONFIG = {"gain_to_pe_array": (0.01,) * 7}
CONTEXT = ["--context_kwargs", '{"init_rundb": false}', "--config_kwargs", json.dumps(CONFIG)]


def context():
    return contexts.xams(init_rundb=False, config=CONFIG)


def run(*words, status=0):
    assert export.main([*words, *CONTEXT]) == status


def expected(run_ids=RUN_ID, targets="things", **kwargs):
    return context().get_array(run_ids, targets, progress_bar=False, **kwargs)


def check(columns, data):
    """Check columns, name -> values, against data of strax, bit for bit."""
    names = [name for name in data.dtype.names if name != "run_id"]
    found = [name for name in columns if name != "run_id"]
    # strax joins data types in another order than that of the targets
    assert found == names or ("twice" in names and sorted(found) == sorted(names))
    for name in names:
        values = np.asarray(columns[name])
        assert values.dtype == data[name].dtype, name
        assert values.tobytes() == np.ascontiguousarray(data[name]).tobytes(), name


def read_csv(path, dtype):
    table = pd.read_csv(path, dtype={"run_id": str}, float_precision="round_trip")
    columns = {}
    for name in dtype.names:
        base, shape = dtype[name].subdtype or (dtype[name], ())
        flat = [c for c in table if c == name or c.startswith(f"{name}_") and shape]
        assert len(flat) == np.prod(shape, dtype=int)
        columns[name] = table[flat].to_numpy(base).reshape(-1, *shape)
    return {"run_id": table["run_id"].tolist(), **columns}


def read_hdf5(path, dtype):
    with h5py.File(path) as file:
        (group,) = file.values()
        columns = {name: dataset[:] for name, dataset in group.items()}
    return columns | {"run_id": columns["run_id"].astype(str).tolist()}


def read_parquet(path, dtype):
    table = pd.read_parquet(path)
    columns = {}
    for name in dtype.names:
        base, shape = dtype[name].subdtype or (dtype[name], ())
        values = [np.vstack(x) if len(shape) == 2 else x for x in table[name]]
        columns[name] = np.array(values, base).reshape(-1, *shape)
        if not shape:
            assert table[name].dtype == base
    return {"run_id": table["run_id"].tolist(), **columns}


def read_root(path, dtype):
    with uproot.open(path) as file:
        (tree,) = (x for name, x in file.items(cycle=False) if name != "amstrax")
        columns = tree.arrays(library="np")
    return columns | {"run_id": [f"{run_id:06d}" for run_id in columns["run_id"]]}


READ = {"csv": read_csv, "hdf5": read_hdf5, "parquet": read_parquet, "root": read_root}


@pytest.mark.parametrize("form", READ)
def test_formats_are_exact(form, monkeypatch):
    monkeypatch.setattr(export, "BATCH_BYTES", 1)
    output = f"some/file{export.FORMATS[form].suffixes[-1]}"
    run(RUN_ID, OTHER_RUN, "--target", "things", "--output", output)
    data = expected((RUN_ID, OTHER_RUN))
    columns = READ[form](output, expected().dtype)
    assert columns["run_id"] == data["run_id"].tolist()
    check(columns, data)


@pytest.mark.parametrize("form", READ)
@pytest.mark.parametrize(
    "run_id, words, kwargs",
    [
        ("000999", (), {}),
        (RUN_ID, ("--selection", "small > 200"), {"selection": "small > 200"}),
        (
            RUN_ID,
            ("--selection", "small > 2", "is_it", "--columns", "time", "area", "share"),
            {"selection": ["small > 2", "is_it"], "keep_columns": ("time", "area", "share")},
        ),
        (RUN_ID, ("--target", "things", "more_things"), {"targets": ("things", "more_things")}),
    ],
    ids=["no_rows", "none_selected", "selection", "joined"],
)
def test_parts(form, run_id, words, kwargs):
    words = ("--target", "things", *words, "--format", form, "--output", "file", "--no-progress")
    run(run_id, *words)
    data = expected(run_id, **kwargs)
    check(READ[form]("file", data.dtype), data)
    if kwargs:
        assert data.dtype != expected(run_id).dtype or len(data) < 80


def test_time_range():
    context().make(RUN_ID, "things")
    run(RUN_ID, "--target", "things", "--seconds_range", "21", "26")
    data = expected(seconds_range=(21, 26))
    assert 0 < len(data) < 30
    check(read_csv("things_000123.csv", data.dtype), data)


def test_metadata():
    for form in READ:
        run(RUN_ID, "--target", "things", "--format", form, "--selection", "small > 2")
    units = {"run_id": "", "time": "ns", "area": "PE", "share": "1", "samples": "ADC counts"}
    with h5py.File("things_000123.h5") as file:
        found = {"hdf5": file["things"].attrs["amstrax"]}
        for name, unit in units.items():
            assert file["things"][name].attrs["unit"] == unit
        assert file["things"]["share"].attrs["description"] == "Share of each PMT [1]"
    schema = pq.read_schema("things_000123.parquet")
    found["parquet"] = schema.metadata[b"amstrax"]
    for name, unit in units.items():
        assert schema.field(name).metadata[b"unit"].decode() == unit
    with uproot.open("things_000123.root") as file:
        found["root"] = str(file["amstrax"])
        assert file["things"].title == "Runs 000123"
    with open("things_000123.csv.json", encoding="utf-8") as file:
        found["csv"] = file.read()
    first, *others = map(json.loads, found.values())
    assert all(other == first for other in others)
    key = context().key_for(RUN_ID, "things")
    assert first["runs"] == {RUN_ID: {"things": key.lineage_hash}}
    assert first["lineages"].keys() == {key.lineage_hash}
    assert first["selection"] == ["small > 2"]
    assert {name: first["columns"][name]["unit"] for name in units} == units
    assert first["columns"]["share"]["shape"] == [2, 3]


def test_areas_without_gains_are_in_adc_counts():
    assert export.main([RUN_ID, "--target", "things", *CONTEXT[:2]]) == 0
    with open("things_000123.csv.json", encoding="utf-8") as file:
        assert json.load(file)["columns"]["area"]["unit"] == "ADC counts x samples"


@pytest.mark.parametrize(
    "words, text",
    [
        (["--selection", "aera > 3"], "selection .* no column 'aera'; did you mean area"),
        (["--columns", "time", "aera"], "--columns: no column 'aera'; did you mean area"),
        (["--target", "thinks"], "--target thinks: no context makes it; did you mean things"),
        (["--target", "things", "events"], "only data of one kind is joined"),
        (["--config_kwargs", '{"elif": 3}'], "no plugin takes the option 'elif'; did you mean"),
        (["--context_kwargs", '{"relase": "2.2"}'], "did you mean release"),
        (["--seconds_range", "900", "901"], "--seconds_range 900 901: run 000123 has no data"),
        (["--output", "there.csv"], "there.csv exists: replace it with --force"),
        (["--output", "folder.csv", "--force"], "folder.csv is a folder or device"),
        (["--output", "beside.csv"], "beside.csv.json exists: replace it with --force"),
    ],
)
def test_wrong_use(words, text, folder, capsys):
    context().make(RUN_ID, "things")
    for name in ("there.csv", "beside.csv.json"):
        (folder / name).write_text("mine")
    (folder / "folder.csv").mkdir()
    before = sorted(folder.iterdir())
    assert export.main([RUN_ID, "--target", "things", *CONTEXT, *words]) == 2
    assert sorted(folder.iterdir()) == before
    (line,) = (x for x in capsys.readouterr().err.splitlines() if " ERROR " in x)
    assert re.search(text, line)
    assert (folder / "there.csv").read_text() == "mine"


@pytest.mark.parametrize(
    "words, text",
    [
        (["--format", "csw"], "invalid choice: 'csw'"),
        (["--output", "x.cvs"], "no format has the suffix '.cvs': end it in .csv, .h5, .hdf5"),
        ([OTHER_RUN], "--output is required for several runs"),
        (["run"], "'run' is no run id"),
        (["_superrun"], "'_superrun' is no run id"),
        (["--seconds_range", "5", "1"], "--seconds_range 5 1: give START and STOP"),
        (["--seconds_range", "nan", "1"], "--seconds_range nan 1: give START and STOP"),
        (["--seconds_range", "0", "inf"], "--seconds_range 0 inf: give START and STOP"),
    ],
)
def test_wrong_options(words, text, capsys):
    with pytest.raises(SystemExit) as stop:
        export.main([RUN_ID, *words, "--target", "things"])
    assert stop.value.code == 2
    assert text in capsys.readouterr().err


@pytest.mark.parametrize("form", READ)
def test_a_failure_leaves_the_file_as_it_was(form, folder, monkeypatch, capsys):
    """The second run fails after some rows of it."""
    compute = Things.compute

    def fail(self, chunk_i):
        if self.run_id == OTHER_RUN and chunk_i == 2:
            raise OSError(28, "No space left on device")
        return compute(self, chunk_i)

    monkeypatch.setattr(export, "BATCH_BYTES", 1)
    monkeypatch.setattr(Things, "compute", fail)
    (folder / "file").write_text("mine")
    words = (RUN_ID, OTHER_RUN, "--target", "things", "--format", form, "--output", "file")
    run(*words, "--force", status=1)
    assert "no space left" in capsys.readouterr().err
    assert (folder / "file").read_text() == "mine"
    assert [path.name for path in folder.iterdir() if path.name != "strax_data"] == ["file"]
    monkeypatch.undo()


def test_text(folder, capsys):
    """A plugin of a user may have it; only ROOT refuses."""
    text = 'z\xe4,"\n'

    class Named(Things):
        provides = "named"
        dtype = [*strax.time_fields, (("Name", "label"), "U5"), (("Time", "u"), np.uint64)]

        def compute(self, chunk_i):
            start = (1_704_164_645 + 10 * chunk_i) * 1_000_000_000
            rows = np.zeros(3, self.dtype)
            rows["time"], rows["endtime"] = start, start + 1
            rows["label"], rows["u"] = text, 2**64 - 1
            return self.chunk(start=start, end=start + 10_000_000_000, data=rows)

    contexts._XAMS_PLUGINS += (Named,)  # of this test, by the fixture
    for form in READ:
        words = ("--target", "named", "--format", form, "--output", form)
        run(RUN_ID, *words, status=2 if form == "root" else 0)
    assert "branches hold numbers, not label" in capsys.readouterr().err
    assert not (folder / "root").exists()
    with h5py.File("hdf5") as file:
        found = {"hdf5": [x.decode() for x in file["named"]["label"]]}
        assert (file["named"]["u"][:] == 2**64 - 1).all()
    found |= {"csv": pd.read_csv("csv")["label"].tolist()}
    found |= {"parquet": pd.read_parquet("parquet")["label"].tolist()}
    assert all(values == [text] * 9 for values in found.values())
    assert (pd.read_csv("csv")["u"] == 2**64 - 1).all()


def test_a_killed_export_leaves_no_file(folder):
    """Its temporary file is hidden, and named after the file."""
    code = (
        "import os, signal, numpy; from amstrax.commands import export\n"
        "dtype = numpy.dtype('f4'); column = export.Column('x', dtype, (), '', '')\n"
        "run = export.Column('run_id', numpy.dtype('U6'), (), '', '')\n"
        "content = export.Content('x', (), {}, {}, (), None, {}, [run, column])\n"
        "export._content = lambda *args: content\n"
        "def batches(*args):\n"
        "    yield numpy.zeros(9, [('x', 'f4')])\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "export._batches = batches\n"
        f"export.main({[RUN_ID, '--target', 'events', '--output', 'file', *CONTEXT]!r}"
        " + ['--format', 'parquet'])\n"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    (left,) = (path.name for path in folder.iterdir() if path.is_file())
    assert re.fullmatch(r"\.file\.[0-9a-f]{32}", left)


def test_force():
    for words in ((), ("--force", "--selection", "small > 2")):
        run(RUN_ID, "--target", "things", *words)
    assert len(pd.read_csv("things_000123.csv")) == len(expected(selection="small > 2"))


def test_a_part_of_data_that_is_not_stored(capsys):
    context().make(RUN_ID, "things")
    run(RUN_ID, "--target", "more_things", "--seconds_range", "0", "1", status=1)
    text = capsys.readouterr().err
    assert "a time range needs stored data, and more_things of run 000123 is not stored" in text


def test_run_without_data(capsys):
    run("000124", "--target", "event_info", status=1)
    text = capsys.readouterr().err
    assert "no data of run 000124 in the storage of this context" in text
    assert "amstraxer 000124 --target event_info" in text


@pytest.mark.parametrize("form, package", [("hdf5", "h5py"), ("root", "uproot")])
def test_missing_package(form, package, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, package, None)
    run(RUN_ID, "--target", "things", "--format", form, status=1)
    assert re.search(
        rf"needs the package {package}, .*'amstrax\[export\]'", capsys.readouterr().err
    )


def test_help_is_quick_and_names_formats():
    command = [sys.executable, "-m", "amstrax.commands.export", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert all(form in done.stdout for form in READ)

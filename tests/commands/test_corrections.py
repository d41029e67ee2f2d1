"""The command `amstrax corrections`, what it finds wrong, and amstraxer with a version."""

import json
import re
import shutil

import numpy as np
import pytest
from corrections_files import write_files

from amstrax import cli, contexts
from amstrax.auto_processing import amstraxer
from amstrax.corrections import check

GAINS = [0.1] * 6
MAP = {"r_edges": [0, 1], "z_edges": [-1, 0], "hist_ratio": [[1]]}


@pytest.fixture
def published(shared, monkeypatch):
    """The folder with the published files, which the settings name."""
    folder = shared / "data/corrections"
    monkeypatch.setenv("AMSTRAX_CORRECTIONS_FOLDER", str(folder))
    return folder


@pytest.fixture
def run(capsys):
    """Function that runs the command and returns exit status, output, and the log."""

    def run_(*arguments):
        try:
            status = cli.main(["corrections", *map(str, arguments)])
        except SystemExit as stop:
            status = stop.code
        return status, *capsys.readouterr()

    return run_


def problems(tmp_path, **files):
    """Return what is wrong with files, without the folder."""
    folder = write_files(tmp_path / "new", **files)
    report = check.check_folder(folder)
    assert report.files == len(files) and not report.notes
    return [problem.removeprefix(f"{folder}/") for problem in report.problems]


# --- show, coverage


def test_show(run, published):
    status, out, _ = run("show", 6724, "--version", "v0")
    assert status == 0
    lines = {line.split()[0]: line.split() for line in out.splitlines()}
    assert lines["elife"] == ["elife", "elife_v0.json", "002000-006875", "275000.0"]
    assert lines["s1_min_area"] == ["s1_min_area", "-", "all", "1"]
    assert lines["gain_to_pe_array"][1:3] == ["gain_to_pe_array_v0.json", "000000-999999"]
    assert lines["drift_time_gate"][-1] == "5000"
    assert len(lines) == 16
    status, full, _ = run("show", 6724, "--version", "v0", "--full")
    assert "0.007032348804500704, 0.0178]" in full
    assert str(published / "elife/elife_v0.json") in full
    # Without a version it is the newest
    assert "elife_dev.json" in run("show", 6724)[1]


def test_show_with_a_malformed_file_and_a_run_in_no_range(run, published):
    status, out, err = run("show", 6900, "--version", "v1")
    assert status == 1
    assert "gain_to_pe_array_v1.json, line 18, column 21" in err
    assert "elife_v1.json: run 006900 is in no range" in err and "006724-006877" in err
    lines = {line.split()[0]: line.split() for line in out.splitlines()}
    assert lines["elife"][1:] == ["elife_v1.json", "?", "none"]
    assert lines["pos_rec_params"][2] == "000000-999999"


@pytest.mark.parametrize(
    ("version", "status", "words"),
    [("v9", 1, "_global_v9.json"), ("v1@", 2, "v1@branch"), ("a b", 2, "ONLINE")],
)
def test_version_that_is_none(run, published, version, status, words):
    for command in (("show", 1, "--version"), ("coverage",)):
        found, out, err = run(*command, version)
        assert (found, out) == (status, "") and words in err


def test_coverage(run, published):
    status, out, _ = run("coverage", "v0")
    assert status == 0
    runs = "000000-001109, 002000-006875, 007000-009999"
    everywhere, gaps = out.splitlines()[-2:]
    assert everywhere.endswith(f" {runs}")
    assert gaps.split() == ["gaps", "001110-001999,", "006876-006999"]
    status, out, _ = run("coverage", "ONLINE")
    assert status == 0 and out.splitlines()[-2].endswith(" 000000-001109, 002000-999999")
    status, out, err = run("coverage", "v1")
    assert status == 1 and "line 18, column 21" in err
    assert [line.split()[-1] for line in out.splitlines()[-2:]] == ["?", "?"]
    assert "006724-006877" in out


# --- check


def test_check_of_the_published_files(run, published):
    status, out, err = run("check", published)
    assert status == 1
    malformed, overlap = out.splitlines()
    place = published / "gain_to_pe_array/gain_to_pe_array_v1.json"
    assert malformed.startswith(f"{place}, line 18, column 21: ")
    assert "test_dev.json, line 5, column 5: " in overlap and "'004100-*' overlap" in overlap
    assert "17 files checked, 2 problems" in err


def test_check_of_good_files(run, tmp_path):
    folder = write_files(
        tmp_path,
        _global_v1={"elife": "elife_v1.json", "s1_min_area": 1},
        _global_ONLINE={"elife": "elife_dev.json"},
        elife_v1={"000001-000010": 1, "000011": 2.5},
        elife_dev={"*-000010": 1, "000011-*": 2},
        gain_to_pe_array_v1={"000001": GAINS, "000002": GAINS},
        s1_map_v1={"000001-000002": MAP},
    )
    assert run("check", folder)[:2] == (0, "")
    assert run("check", folder, "--against", folder)[:2] == (0, "")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"elife_v1": '{"000001": 1,\n"000002" 2}'}, "elife_v1.json, line 2, column 10"),
        ({"elife_v1": {}}, "line 1, column 1: there is no range"),
        ({"elife_v1": {"000005": 1, "000003": 2}}, "line 3, column 5: .*'000003' belongs before"),
        ({"elife_v1": {"000001-000003": 1, "000003": 1}}, "line 3, column 5: .*overlap"),
        ({"elife_v1": {"000001-000009": 1, "000002": 1, "000010": 2}}, "line 3.*overlap"),
        ({"elife_v1": {"000001-*": 1}}, r"line 2, column 5: .*'000001-\*' has an open end"),
        ({"elife_v1": {"1 to 2": 1}}, "line 2, column 5: '1 to 2' is no range"),
        ({"elife_v1": {"000001": 1, "000002": "2"}}, "'000002' is a text, .* a number"),
        ({"elife_v1": {"000001": 1, "000002": True}}, "'000002' is a truth value"),
        ({"elife_v1": {"000001": [1], "000002": [[1]]}}, r"a list \(a list \(a number\)\)"),
        ({"elife_v1": {"000001": 1, "000002": None}}, "'000002' is a nothing"),
        ({"gain_to_pe_array_v1": {"000001": GAINS[:4]}}, "has 4 gains, .* 5 channels"),
        (
            {"gain_to_pe_array_v1": {"000001": GAINS, "000002": GAINS[:5]}},
            "5 gains, and not 6 or 7 or 8",
        ),
        ({"gain_to_pe_array_v1": {"000001": 1}}, "'000001' must be a list of numbers"),
        ({"gain_to_pe_array_v1": {"000001": [-1, *GAINS]}}, "not below 0"),
        ({"s1_map_v1": {"000001": MAP | {"z_edges": [0, -1]}}}, "z_edges of s1_map must"),
        ({"s1_map_v1": {"000001": {"a": 1}}}, "'000001': s1_map has no 'r_edges'"),
        ({"_global_v1": {"elife": "elife_v1.json"}}, "_global_v1.json, line 2, column 5: elife is"),
        ({"_global_v1": {"elife": "elife.json"}}, "no name of a correction file"),
        ({"elife_v1": '{"000001": 1,\n"000002": NaN}'}, "line 2, column 11: NaN is no finite"),
        ({"elife_v1": '{"000001": [1, [1e999]]}'}, "line 1, column 17: 1e999 is no finite"),
        ({"elife_v1": {"000001": "nan"}}, "'000001' has 'nan'"),
        ({"_global_v1": '{"s1_min_area": -Infinity}'}, "line 1, column 17: -Infinity is no finite"),
        ({"gain_to_pe_array_v1": {"000001": [True, *GAINS]}}, "numbers and other values"),
        ({"gain_to_pe_array_v1": {"000001": [True] * 6}}, "must be a list of numbers"),
        ({"s1_map_v1": {"000001": MAP | {"hist_ratio": [["1"]]}}}, "'1' is not one"),
        ({"s1_map_v1": {"000001": MAP | {"r_edges": [False, True]}}}, "numbers: "),
        (
            {"_global_v1": {"electron_drift_time_gate": 1, "drift_time_gate": 2}},
            "line 2, column 5: .* differ",
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_place(tmp_path, files, expected):
    (problem,) = problems(tmp_path, **files)
    assert re.search(expected, problem), problem
    assert problem.startswith(f"{check.store.folder_of(f'{next(iter(files))}.json')}/")


def test_gains_of_several_lengths_where_that_is_said(run, tmp_path):
    folder = write_files(tmp_path, gain_to_pe_array_v1={"000001": GAINS, "000002": GAINS[:5]})
    assert run("check", folder)[0] == run("check", folder, "--gain_lengths", 6)[0] == 1
    assert run("check", folder, "--gain_lengths", 5, 6)[0] == 0
    assert run("check", folder, "--gain_lengths", 5)[0] == 1


def test_file_in_the_folder_of_another(tmp_path):
    folder = write_files(tmp_path, elife_v1={"000001": 1})
    (folder / "elife").rename(folder / "other")
    (problem,) = check.check_folder(folder).problems
    assert "belongs in elife/" in problem


# --- check against an older copy


def test_a_truth_value_is_another_value_than_its_number(tmp_path):
    (problem,), _ = compare(tmp_path, {"a_v1": {"000001": 1}}, {"a_v1": {"000001": True}})
    assert "has changed" in problem


def compare(tmp_path, old, new):
    """Return problems and notes of files `new` against `old`."""
    folder = write_files(tmp_path / "new", **new)
    report = check.check_folder(folder, write_files(tmp_path / "old", **old))
    return [p.removeprefix(f"{folder}/") for p in report.problems], report.notes


OLD = {"000001-000010": 1.0, "000020-000030": 2}


@pytest.mark.parametrize(
    "new",
    [
        OLD,
        {"000001-000010": 1, "000011-000019": 5, "000020-000030": 2, "000031-000040": 7},
        {"000000-000010": 1, "000020-000030": 2},
        {"000001-000004": 1, "000005-000010": 1, "000020-000030": 2},
        {"000001-000010": 1, "000015-000030": 2},
    ],
)
def test_runs_may_be_added(tmp_path, new):
    assert compare(tmp_path, {"elife_v1": OLD}, {"elife_v1": new}) == ([], [])


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        ({"000001-000010": 3, "000020-000030": 2}, ["line 2.*000001-000010 has changed"]),
        (
            {"000001-000005": 1, "000006-000025": 9, "000026-000030": 2},
            ["runs 000006-000010 has changed", "runs 000020-000025 has changed"],
        ),
        ({"000001-000010": 1}, ["runs 000020-000030 had a value, and have none"]),
        ({"000002-000009": 1, "000020-000030": 2}, ["runs 000001, 000010 had a value"]),
    ],
)
def test_values_of_covered_runs_may_not_change(tmp_path, new, expected):
    found, notes = compare(tmp_path, {"elife_v1": OLD}, {"elife_v1": new})
    assert len(found) == len(expected) and not notes
    for problem, pattern in zip(found, expected, strict=True):
        assert re.search(pattern, problem) and problem.startswith("elife/elife_v1.json, line")


def test_what_open_ranges_cover_may_change(tmp_path):
    old = {"elife_dev": {"000001-000010": 1, "000011-*": 2}}
    new = {"elife_dev": {"000001-000010": 1, "000011-000020": 3, "000021-*": 4}}
    assert compare(tmp_path, old, new) == ([], [])
    new["elife_dev"]["000001-000010"] = 7
    (problem,) = compare(tmp_path, old, new)[0]
    assert "000001-000010 has changed" in problem


def test_files_and_versions_may_not_go(tmp_path):
    old = {"elife_v1": OLD, "_global_v1": {"elife": "elife_v1.json", "a": 1}, "_global_ONLINE": {}}
    new = {
        "elife_v2": OLD,
        "_global_v1": {"elife": "elife_v2.json", "b": 1},
        "_global_ONLINE": {"elife": "elife_v2.json"},
        "_global_v2": {"elife": "elife_v2.json"},
    }
    found, notes = compare(tmp_path, old, new)
    assert not notes
    for words in ("elife was 'elife_v1.json'", "a was 1, and is gone", "b is new", "file is gone"):
        assert sum(words in problem for problem in found) == 1
    assert len(found) == 4


def test_files_that_cannot_be_compared(tmp_path):
    good, bad = {"elife_v1": OLD}, {"elife_v1": "{"}
    assert "line 1" in compare(tmp_path, bad, good)[1][0]
    problems_, notes = compare(tmp_path, good, bad)
    assert len(problems_) == len(notes) == 1


def test_check_against_what_is_published(run, shared, tmp_path):
    old = shared / "data/corrections"
    shutil.copytree(old, tmp_path / "new", copy_function=shutil.copyfile)
    path = tmp_path / "new/elife/elife_v0.json"
    path.chmod(0o644)
    text = path.read_text()
    path.write_text(text.replace("300000.0", "300001.0"))
    status, out, err = run("check", tmp_path / "new", "--against", old)
    assert status == 1
    assert "elife_v0.json, line 4, column 5: the value of the runs 007000-009999 has changed" in out
    assert len(out.splitlines()) == 3 and "not compared" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["check", "/nowhere"], "/nowhere is no folder"),
        (["check", "."], "no correction file"),
        (["check", ".", "--against", "/nowhere"], "/nowhere is no folder"),
        (["check"], "FOLDER"),
        (["show"], "RUN"),
        (["show", "a-b"], "run id"),
        (["other"], "other"),
        ([], "COMMAND"),
    ],
)
def test_wrong_use(run, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    status, _, err = run(*arguments)
    assert status == 2 and words in err


# --- amstraxer


def test_a_run_from_live_data_to_events_with_a_version(shared, published, tmp_path, capsys):
    arguments = [
        "100001",
        "--target=event_info",
        f"--live_data_dir={shared / 'data/live_data'}",
        f"--testing_rundoc={shared / 'data/rundoc_100001.json'}",
        f"--output_folder={tmp_path}",
        "--corrections_version=ONLINE",
    ]
    assert amstraxer.main(arguments) == 0
    st = contexts.xams(tmp_path, init_rundb=False, corrections_version="ONLINE")
    events = st.get_array("100001", "event_info", progress_bar=False)
    assert len(events) > 50
    expected = events["s2_area"] * np.exp(events["drift_time"] / 100_000)
    np.testing.assert_allclose(events["cs2"], expected, rtol=1e-5)
    depth = -50.5 / (39_500 - 5000) * (events["drift_time"] - 5000)
    np.testing.assert_allclose(events["z"], depth, rtol=1e-4, atol=1e-4)
    gains = json.loads((published / "gain_to_pe_array/gain_to_pe_array_dev.json").read_text())
    peaks = st.get_array("100001", "peaks", progress_bar=False)
    ones = contexts.xams(tmp_path, init_rundb=False).get_array(
        "100001", "peaks", progress_bar=False
    )
    # In ADC counts x samples more peaks are large enough: compare those that both have
    _, one, other = np.intersect1d(peaks["time"], ones["time"], return_indices=True)
    same = peaks["length"][one] == ones["length"][other]
    assert same.sum() > 100
    np.testing.assert_allclose(
        peaks["area_per_channel"][one][same],
        ones["area_per_channel"][other][same] * gains["*-*"][:5],
        rtol=1e-4,
        atol=1e-4,
    )
    capsys.readouterr()


def test_amstraxer_with_a_run_that_is_not_covered(published, shared, tmp_path, capsys):
    arguments = [
        "100001",
        "--target=event_info",
        f"--live_data_dir={shared / 'data/live_data'}",
        f"--testing_rundoc={shared / 'data/rundoc_100001.json'}",
        f"--output_folder={tmp_path}",
        "--corrections_version=v0",
    ]
    assert amstraxer.main(arguments) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert "elife_v0.json: run 100001 is in no range" in line and "007000-009999" in line
    assert not list(tmp_path.glob("100001-*"))


def test_amstraxer_warns_for_its_context_alone(published, tmp_path, capsys):
    """Contexts that it only looks at for the target are none of the user's business."""
    arguments = ["000001", "--target=radon_peaks", f"--output_folder={tmp_path}"]
    assert amstraxer.main([*arguments, "--corrections_version=ONLINE"]) == 1
    err = capsys.readouterr().err
    assert err.count("that no plugin of this context takes") == 1

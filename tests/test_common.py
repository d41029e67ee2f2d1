"""Constants and helpers for notebooks."""

import inspect
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import strax
from hypothesis import given, settings
from hypothesis import strategies as st

import amstrax
from amstrax import analyses, common
from amstrax.analyses import interactive
from amstrax.simulation.detector import XAMS, XAMSL

PROPERTY = settings(max_examples=50, deadline=None, database=None)


def test_constants():
    assert common.tpc_r == 6
    assert common.tpc_z == 10
    assert common.n_tpc_pmts == 5
    assert common.n_xamsl_channel == 4
    assert common.to_pe.tolist() == [1, 1, 1, 1, 1]
    with pytest.raises(ValueError, match="read-only"):
        common.to_pe[0] = 2
    assert Path(common.amstrax_dir) == Path(amstrax.__file__).resolve().parent


@pytest.mark.parametrize(
    "name", ["tpc_r", "tpc_z", "n_tpc_pmts", "to_pe", "get_elife", "select_channels"]
)
def test_names_are_those_of_the_package(name):
    assert getattr(amstrax, name) is getattr(common, name)


def test_elife_is_that_of_a_context_without_corrections():
    with pytest.warns(FutureWarning, match="642000 ns.*corrected_areas"):
        elife = common.get_elife("000123")
    assert elife == amstrax.CorrectedAreas.takes_config["elife"].default
    assert elife > 0


CHANNELS = st.lists(st.integers(-1, 8), max_size=20)


@PROPERTY
@given(CHANNELS, CHANNELS)
def test_select_channels(channels, wanted):
    things = np.zeros(len(channels), dtype=[("channel", np.int16), ("number", np.int64)])
    things["channel"] = channels
    things["number"] = np.arange(len(channels))
    expected = [i for i, channel in enumerate(channels) if channel in wanted]
    for channel_list in (wanted, tuple(wanted), np.array(wanted, dtype=int)):
        selected = common.select_channels(things, channel_list)
        assert selected["number"].tolist() == expected
        assert selected.dtype == things.dtype


def test_select_one_channel():
    things = np.array([(0,), (3,), (0,)], dtype=[("channel", np.int16)])
    assert common.select_channels(things, 3)["channel"].tolist() == [3]
    assert common.select_channels(things, np.array([0]))["channel"].tolist() == [0, 0]
    assert len(common.select_channels(things, [])) == 0
    assert len(common.select_channels(things[:0], [0])) == 0
    assert common.select_channels(things, range(1, 4))["channel"].tolist() == [3]


def test_run_ids_from_file(tmp_path):
    path = tmp_path / "runs.txt"
    path.write_text(
        "123\n# all of it\n\n  004567  # good\n1234567\ntest_run\n#5\n", encoding="utf-8"
    )
    assert common.run_ids_from_file(path) == ["000123", "004567", "1234567", "test_run"]
    assert common.run_ids_from_file(str(path))[0] == "000123"
    path.write_text("", encoding="utf-8")
    assert common.run_ids_from_file(path) == []
    with pytest.raises(FileNotFoundError, match="none.txt"):
        common.run_ids_from_file(tmp_path / "none.txt")


@PROPERTY
@given(st.lists(st.integers(0, 999_999)))
def test_run_ids_have_six_digits(tmp_path_factory, numbers):
    path = tmp_path_factory.getbasetemp() / "numbers.txt"
    path.write_text("\n".join(map(str, numbers)), encoding="utf-8")
    run_ids = common.run_ids_from_file(path)
    assert [int(run_id) for run_id in run_ids] == numbers
    assert all(len(run_id) == 6 for run_id in run_ids)


@strax.takes_config(
    strax.Option("zeta", default=5, help="of the source"),
    strax.Option("shared", default="a", help="of both"),
)
class Source(strax.Plugin):
    provides = "source_things"
    depends_on = ()
    dtype = strax.time_fields


@strax.takes_config(
    strax.Option("alpha", help="without default"),
    strax.Option("shared", default="a", help="of both"),
)
class Derived(strax.Plugin):
    provides = "derived"
    depends_on = ("source_things",)
    dtype = strax.time_fields


@pytest.fixture
def context():
    return strax.Context(register=[Source, Derived], config={"zeta": 6})


def options(table):
    return dict(
        zip(table["option"], zip(table["default"], table["current"], strict=True), strict=True)
    )


def test_get_config_defaults(context):
    table = common.get_config_defaults(context)
    assert list(table["option"]) == ["alpha", "shared", "zeta"]
    assert list(table.index) == [0, 1, 2]
    assert options(table)["zeta"] == (5, 6)
    assert table["help"][0] == "without default"


def test_get_config_defaults_of_one_data_type(context):
    of_source = common.get_config_defaults(context, exclude=(), include=["things"])
    assert options(of_source) == {"shared": ("a", "<OMITTED>"), "zeta": (5, 6)}
    assert options(common.get_config_defaults(context, exclude=["deri"])) == options(of_source)


def test_get_config_defaults_of_nothing(context):
    for arguments in ({"exclude": ["source", "derived"]}, {"include": ["other"]}):
        nothing = common.get_config_defaults(context, **arguments)
        assert len(nothing) == 0
        assert list(nothing.columns) == ["option", "default", "current", "applies_to", "help"]


def test_print_versions(capsys):
    text = common.print_versions(return_string=True, include_git=False)
    assert capsys.readouterr().out == text + "\n"
    python, of_strax, of_amstrax = text.split("\n")
    assert python == f"python {sys.version.split()[0]} at {sys.executable}"
    assert of_strax == f"strax {strax.__version__} at {Path(strax.__file__).parent}"
    assert of_amstrax == f"amstrax {amstrax.__version__} at {common.amstrax_dir}"


def test_print_versions_of_a_module_in_c():
    text = common.print_versions("sys", include_python=False, return_string=True)
    assert text == "sys without version at ."


def test_print_versions_of_other_modules(capsys):
    text = common.print_versions(
        ("numpy", "no_such_module"), print_output=False, include_python=False, return_string=True
    )
    assert capsys.readouterr().out == ""
    first, second = text.split("\n")
    assert first.startswith(f"numpy {np.__version__} at ")
    assert second == "no_such_module is not installed"
    table = common.print_versions("numpy", include_git=False)
    assert f"numpy {np.__version__} at" in capsys.readouterr().out
    assert list(table.columns) == ["module", "version", "path", "git"]
    assert table["module"].tolist() == ["python", "numpy"]
    assert table["version"][1] == np.__version__
    assert table["git"].tolist() == [None, None]


def test_versions_name_the_commit_of_a_checkout(tmp_path, monkeypatch):
    package = tmp_path / "checked_out_module"
    package.mkdir()
    (package / "__init__.py").write_text("__version__ = '4.5'\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    arguments = ["checked_out_module", False, False, True]
    without = f"checked_out_module 4.5 at {package}"
    assert common.print_versions(*arguments) == without

    def git(*command):
        name = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
        return subprocess.run(
            ["git", "-C", str(tmp_path), *name, *command],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()

    git("init", "--initial-branch", "some_branch")
    git("add", ".")
    git("commit", "--message", "first")
    commit = git("rev-parse", "--short", "HEAD")
    assert common.print_versions(*arguments) == f"{without} (git branch some_branch, {commit})"
    assert common.print_versions(*arguments, include_git=False) == without


@pytest.mark.parametrize("channels", [{0, 3}, {0: "a", 3: "b"}.keys(), (c for c in (0, 3))])
def test_select_channels_of_any_iterable(channels):
    """numpy.ravel makes one object of a set, so nothing is selected, without a word."""
    things = np.array([(0,), (1,), (3,)], dtype=[("channel", np.int16)])
    assert common.select_channels(things, channels)["channel"].tolist() == [0, 3]


def test_get_config_defaults_excludes():
    """Context.show_config shows the plugins before a data type too, so exclude does nothing."""

    @strax.takes_config(strax.Option("of_source", default=5))
    class Source(strax.Plugin):
        provides = "source_things"
        depends_on = ()
        dtype = strax.time_fields

    @strax.takes_config(strax.Option("of_derived", default=5))
    class Derived(strax.Plugin):
        provides = "derived"
        depends_on = "source_things"
        dtype = strax.time_fields

    context = strax.Context(register=[Source, Derived])
    for arguments in ({"exclude": ["source"]}, {"include": ["derived"]}):
        table = common.get_config_defaults(context, **arguments)
        assert list(table["option"]) == ["of_derived"]


def test_drift_volume_is_the_same_everywhere():
    volume = common.XAMS_VOLUME
    options = amstrax.EventPositions.takes_config
    names = ("gate_cathode_distance", "drift_time_gate", "drift_time_cathode")
    assert [options[name].default for name in names] == list(volume[1:])
    # The simulation has the gate of the published corrections, the plugins an older one
    simulated = volume._replace(drift_time_gate=5_000)
    for detector, expected in ((XAMS, simulated), (XAMSL, common.XAMSL_VOLUME)):
        sizes = (detector.radius, *(getattr(detector, name) for name in names))
        assert sizes == tuple(expected)
        assert detector.drift_velocity == expected.drift_velocity
    for display in (analyses.event_display, interactive.event):
        assert inspect.signature(display).parameters["radius"].default == volume.radius
    # As the lineage has them
    assert [type(options[name].default) for name in names] == [float, int, int]

"""strax stays what it is in a process that uses amstrax, and amstrax notices another strax."""

import inspect
import shutil
import subprocess
import sys
import warnings
from operator import attrgetter
from pathlib import Path

import pytest
import strax
from make_runs import RUN_ID, context, pulses, write_run

import amstrax
from amstrax import strax_ext
from amstrax.exceptions import UnsupportedStrax

_SCRIPT = Path(__file__).with_name("plain_strax.py")


@pytest.mark.parametrize("what", ["objects", "files"])
def test_strax_is_the_same_before_and_after(tmp_path, what):
    """In a process of its own: tests replace parts of strax, straxen adds methods to contexts."""
    done = subprocess.run(
        [sys.executable, _SCRIPT, what, tmp_path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture
def run(tmp_path):
    write_run(tmp_path, pulses(range(1_000_000, 4_900_000_000, 2_000_000), range(5)))
    return tmp_path


def test_our_plugins_in_a_plain_context_store_what_they_do_in_ours(run):
    ours = context(run)
    ours.set_context_config({"stored_chunk_size_mb": 200})
    classes = list(dict.fromkeys(ours._plugin_class_registry.values()))
    folder = strax.DataDirectory(str(run / "plain"))
    plain = strax.Context(storage=folder, config=ours.config, register=classes)
    for st in (ours, plain):
        st.make(RUN_ID, "peak_basics")
    sizes = {"raw_records": 50, "pulse_counts": 200, "peaks": 200, "peak_basics": 200}
    for data_type, size in sizes.items():
        found, expected = (st.get_metadata(RUN_ID, data_type) for st in (ours, plain))
        assert found["chunk_target_size_mb"] == expected["chunk_target_size_mb"] == size
        for name in ("n", "start", "end", "nbytes", "first_time", "last_endtime"):
            assert [c[name] for c in found["chunks"]] == [c[name] for c in expected["chunks"]]


def test_a_user_sets_the_size_of_stored_chunks(run):
    class Peaks(amstrax.Peaks):
        chunk_target_size_mb = 0.05

    class Default(amstrax.Peaks):
        """As in strax, where the context stores smaller ones."""

        chunk_target_size_mb = 200

    st = context(run)
    st.set_context_config({"stored_chunk_size_mb": 0.1})
    for plugin, size in ((amstrax.Peaks, 0.1), (Peaks, 0.05), (Default, 200)):
        new = st.new_context(register=plugin)
        new.make(RUN_ID, "peaks")
        metadata = new.get_metadata(RUN_ID, "peaks")
        assert metadata["chunk_target_size_mb"] == size
        stored = [chunk["nbytes"] / 1e6 for chunk in metadata["chunks"]]
        assert max(stored) < 1.5 * size
        assert (len(stored) > 1) == (size < 1)
        if plugin is amstrax.Peaks:
            shutil.rmtree(run / "out")
            assert amstrax.Peaks.chunk_target_size_mb == 200
    assert amstrax.contexts.xams(storage=[]).context_config["stored_chunk_size_mb"] == 50


# Another strax


def test_hooks_of_strax_are_as_expected():
    """Fails on a strax that renames a hook, or changes its parameters: see `HOOKS`."""
    for name, parameters in strax_ext.storage.HOOKS.items():
        hook = attrgetter(name)(strax)
        if parameters is not None:
            assert ", ".join(inspect.signature(hook).parameters) == parameters, name
    st = strax.Context(storage=[])
    assert st._plugin_class_registry == {}
    key = strax.DataKey("0", "things", {})
    assert key._lineage == {}
    plugin = strax.MergeOnlyPlugin.__new__(strax.MergeOnlyPlugin)
    plugin.run_id = "_superrun"
    assert plugin._run_id == "_superrun"
    assert strax.context.TEMP_DATA_TYPE_PREFIX == "_temp_"
    assert isinstance(strax.PROCESSORS, dict)


def test_the_list_of_hooks_is_complete():
    """Private names of strax that the code of `strax_ext` uses are in the list."""
    private = {
        name
        for cls in (
            *(strax.Context, strax.Plugin, strax.OverlapWindowPlugin, strax.Chunk),
            *(strax.FileSaver, strax.FileSytemBackend, strax.Rechunker),
            *(strax.processors.single_thread.SaverSpy, strax.SingleThreadProcessor),
        )
        for name in vars(cls)
        if name.startswith("_") and not name.startswith("__")
    }
    listed = {name.rpartition(".")[2] for name in strax_ext.storage.HOOKS}
    for name in ("context", "plugin", "storage"):
        module = getattr(strax_ext, name)
        for cls in vars(module).values():
            if inspect.isclass(cls) and cls.__module__ == module.__name__:
                assert private & set(vars(cls)) <= listed, cls


def test_the_installed_strax_is_tested():
    assert strax.__version__ in strax_ext.storage.TESTED
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        strax_ext.storage.check_strax()


def test_another_version_of_strax_is_warned_of(monkeypatch):
    monkeypatch.setattr(strax, "__version__", "2.2.4")
    with pytest.warns(UserWarning, match=r"strax 2\.2\.4 .*pip install strax==2\.2\.3"):
        strax_ext.storage.check_strax()


@pytest.mark.parametrize("version", ["2.2.3", "2.2.4"])
def test_a_strax_without_a_hook_is_an_error(monkeypatch, version):
    monkeypatch.setattr(strax, "__version__", version)
    monkeypatch.delattr(strax.Context, "_plugins_to_cache")
    with pytest.raises(UnsupportedStrax, match=r"no Context\._plugins_to_cache: install"):
        strax_ext.storage.check_strax()


def test_a_hook_with_other_parameters_is_an_error(monkeypatch):
    monkeypatch.setattr(strax, "__version__", "2.3.0")
    monkeypatch.setattr(strax.Plugin, "_fetch_chunk", lambda self, d, sources: None)
    with pytest.raises(ImportError, match="_fetch_chunk takes self, d, sources, not") as error:
        strax_ext.storage.check_strax()
    assert len(str(error.value)) <= 200

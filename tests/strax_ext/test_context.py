"""Contexts: keys and results follow options and plugin classes; several threads may use one."""

import ast
import copy
import datetime
import pickle
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import strax
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from make_runs import context, pulses, write_run

from amstrax import contexts
from amstrax.strax_ext import storage
from amstrax.strax_ext.context import Context
from amstrax.strax_ext.plugin import Plugin, State

DTYPE = [*strax.time_fields, (("Checksum of what it was made with", "value"), np.int64)]


class Source(strax.Plugin):
    """Two chunks of two rows, with the run in their times."""

    depends_on = ()
    provides = "source"
    dtype = DTYPE
    save_when = strax.SaveWhen.NEVER

    def source_finished(self):
        return True

    def is_ready(self, chunk_i):
        return chunk_i < 2

    def compute(self, chunk_i):
        start = int(self.run_id) * 1000 + chunk_i * 10
        data = np.zeros(2, self.dtype)
        data["time"] = start + np.arange(2)
        data["endtime"] = data["time"] + 1
        return self.chunk(start=start, end=start + 10, data=data)


def plugin_class(provides, depends_on, code=0, version="0", default=1, more=(), kind="source"):
    """Return a class; those of one data type have the same name."""

    def compute(self, **kwargs):
        (rows,) = kwargs.values()
        result = np.zeros(len(rows), self.dtype)
        result["time"], result["endtime"] = rows["time"], rows["endtime"]
        used = [code, sorted((name, repr(as_list(v))) for name, v in self.config.items())]
        result["value"] = rows["value"] if "value" in rows.dtype.names else 0
        result["value"] += zlib.crc32(repr(used).encode())
        return result

    name = f"value_{provides}"
    body = {
        "provides": provides,
        "depends_on": depends_on,
        "data_kind": kind,
        "__version__": version,
        "dtype": [*strax.time_fields, (("Checksum", name), np.int64)],
        "save_when": strax.SaveWhen.ALWAYS if provides == "first" else strax.SaveWhen.EXPLICIT,
        "allow_superrun": provides != "first",
    }
    body["dtype"] = [*strax.time_fields, (("Checksum", "value"), np.int64)]
    if provides != "first":
        body["dtype"] += [((f"Only in {provides}", name), np.int8)]
    # strax gives compute its inputs by name
    namespace = {"made": compute}
    exec(f"def compute(self, {kind}):\n    return made(self, {kind}={kind})", namespace)
    body["compute"] = namespace["compute"]
    options = [strax.Option(f"of_{provides}", default=default)]
    options += [strax.Option(name, default=2) for name in more]
    return strax.takes_config(*options)(type(provides.capitalize(), (strax.Plugin,), body))


def as_list(value):
    return list(value) if hasattr(value, "__iter__") and not isinstance(value, str) else value


TYPES = {"first": "source", "second": "first", "third": "first"}


def registered():
    return [Source, *(plugin_class(d, depends_on) for d, depends_on in TYPES.items())]


def fresh(used, cls=strax.Context):
    """Return a new context with the options and plugins of another."""
    classes = list(dict.fromkeys(used._plugin_class_registry.values()))
    config = {name: copy.deepcopy(value) for name, value in used.config.items()}
    return cls(storage=[], config=config, register=classes)


def outcome(st_, function, *args, **kwargs):
    """Return what a method returns, or the type of the error that it raises."""
    try:
        return getattr(st_, function)(*args, **kwargs)
    except Exception as error:
        # Ours names the data type, and others that are near
        return KeyError if isinstance(error, KeyError) else type(error)


def check_as_fresh(used):
    """Check keys and results of all data types against new contexts, of strax and ours."""
    for other in (fresh(used), fresh(used, Context)):
        for data_type in TYPES:
            ours, theirs = (outcome(c, "key_for", "1", data_type) for c in (used, other))
            assert str(ours) == str(theirs)
            if isinstance(ours, strax.DataKey):
                assert strax.deterministic_hash(ours.lineage) == theirs.lineage_hash
        for targets in ("third", ("second", "third")):
            ours, theirs = (
                outcome(c, "get_array", "1", targets, progress_bar=False) for c in (used, other)
            )
            if isinstance(theirs, type):
                assert ours is theirs
            else:
                np.testing.assert_array_equal(ours, theirs)


class Unpicklable:
    """A value that strax can hash, and pickle cannot save."""

    def __init__(self):
        self.values = [np.int64(1)]

    def __iter__(self):
        return iter(self.values)

    def __deepcopy__(self, memo):
        new = Unpicklable()
        new.values = list(self.values)
        return new

    def __reduce__(self):
        raise TypeError("cannot be pickled")

    def append(self, value):
        self.values.append(np.int64(value))


CONSTANTS = [1, 1.0, True, "1", None, 0, -0.0, 0.0, np.float64(1), (1, 2)]
MUTABLE = [list, dict, Unpicklable, lambda: [1, [2]], lambda: {"a": [1]}, lambda: np.arange(3)]
VALUES = st.sampled_from(CONSTANTS) | st.sampled_from(MUTABLE).map(lambda make: make())
OPTIONS = st.sampled_from(["of_first", "of_second", "of_third", "of_more"])
VARIANTS = st.fixed_dictionaries(
    {
        "code": st.integers(0, 1),
        "version": st.sampled_from(["0", "1"]),
        "default": st.sampled_from([1, 1.0, True]),
        "more": st.sampled_from([(), ("of_more",)]),
    }
)
STEPS = st.one_of(
    st.tuples(st.just("register"), st.sampled_from(list(TYPES)), VARIANTS),
    st.tuples(st.just("edit"), st.sampled_from(list(TYPES)), st.sampled_from(["2", "3"])),
    st.tuples(st.just("default"), st.sampled_from(list(TYPES)), VALUES),
    st.tuples(st.sampled_from(["set_config", "assign", "new_context"]), OPTIONS, VALUES),
    st.tuples(st.just("change"), OPTIONS, st.integers(0, 3)),
    st.tuples(st.just("deregister"), st.sampled_from(list(TYPES)), st.none()),
    st.tuples(st.just("use_per_run_defaults"), st.booleans(), st.none()),
)


def step(used, what, name, value):
    """Change a context as users do, and return it, or a new one."""
    registry = used._plugin_class_registry
    if what == "register":
        outcome(used, "register", plugin_class(name, TYPES[name], **value))
    elif what == "edit" and name in registry:
        registry[name].__version__ = value
    elif what == "default" and name in registry and not isinstance(value, np.ndarray):
        # strax cannot compare arrays that are defaults
        registry[name].takes_config[f"of_{name}"].default = value
    elif what == "set_config":
        used.set_config({name: value})
    elif what == "assign":
        used.config[name] = value
    elif what == "new_context":
        return used.new_context(config={name: value})
    elif what == "change":
        mutable = used.config.get(name)
        if isinstance(mutable, np.ndarray):
            mutable[0] = value
        elif isinstance(mutable, dict):
            mutable["b"] = value
        elif hasattr(mutable, "append"):
            mutable.append(value)
    elif what == "deregister" and name in registry:
        del registry[name]
        used.deregister_plugins_with_missing_dependencies()
    elif what == "use_per_run_defaults":
        used.set_context_config({what: name})
    return used


@settings(max_examples=30, deadline=None, database=None, phases=[Phase.generate])
@given(st.lists(STEPS, min_size=1, max_size=6))
def test_a_used_context_gives_what_a_fresh_one_gives(steps):
    used = Context(storage=[], register=registered())
    check_as_fresh(used)
    for what, name, value in steps:
        used = step(used, what, name, value)
        check_as_fresh(used)


def test_an_edited_plugin_of_the_same_version_runs():
    used = Context(storage=[], register=registered())
    before = used.get_array("1", "second", progress_bar=False)["value"]
    used.register(plugin_class("second", "first", code=1))
    after = used.get_array("1", "second", progress_bar=False)["value"]
    assert (before != after).all()
    key = used.key_for("1", "second").lineage_hash
    used.register(plugin_class("second", "first", code=1, more=("of_more",)))
    assert used.key_for("1", "second").lineage_hash != key
    check_as_fresh(used)


def test_a_plugin_edited_in_place_runs():
    used = Context(storage=[], register=registered())
    cls = used._plugin_class_registry["second"]
    used.get_array("1", "second", progress_bar=False)
    cls.dtype = [*cls.dtype, (("Added", "added"), np.int8)]
    assert "added" in used.get_array("1", "second", progress_bar=False).dtype.names
    cls.dtype.append((("Added in place", "more"), np.int8))
    assert "more" in used.get_array("1", "second", progress_bar=False).dtype.names
    cls.depends_on = "source"
    assert "first" not in used.lineage("1", "second")
    assert used.tree_levels[False]["second"]["level"] == 1


def test_plugins_are_made_once_while_nothing_changes(tmp_path, monkeypatch):
    write_run(tmp_path, pulses([1_000_000], range(5)))
    st_ = context(tmp_path)
    st_.make("000123", "event_info")
    made = st_._made
    assert made.state is not None
    assert {"event_info", "raw_records"} <= set(made.plugins)
    st_.get_array("000123", ("event_info", "event_basics"), progress_bar=False)
    st_.key_for("000123", "peaks")
    assert st_._made is made
    assert not any(data_type.startswith("_temp") for data_type in made.plugins)


def test_stored_data_is_loaded_without_the_plugins_below_it(tmp_path):
    write_run(tmp_path, pulses([1_000_000], range(5)))
    st_ = context(tmp_path)
    st_.make("000123", "event_info")
    st_.get_array("000123", "event_info", progress_bar=False)
    found = st_.get_components("000123", "event_info")
    assert (found.plugins, found.savers, list(found.loaders)) == ({}, {}, ["event_info"])
    assert found.loader_plugins["event_info"].run_id == "000123"
    assert "peaks" in st_.get_components("000124", "event_info").plugins


def test_runs_of_one_call_share_the_state_of_the_context(tmp_path, monkeypatch):
    used = Context(storage=strax.DataDirectory(str(tmp_path)), register=registered())
    kwargs = {"progress_bar": False, "multi_run_progress_bar": False}
    states, of = [], State.of
    monkeypatch.setattr(State, "of", lambda st_: states.append(st_) or of(st_))
    for more in ({}, {"config": {"of_first": 2}}):
        states.clear()
        found = used.get_array(RUNS, "third", **more, **kwargs)
        assert len(states) == 1
        expected = fresh(used).get_array(RUNS, "third", **more, **kwargs)
        np.testing.assert_array_equal(found, expected)


def test_copies_of_a_plugin_share_nothing_that_changes():
    class Counting(Plugin):
        provides, depends_on, dtype, data_kind = "counts", (), DTYPE, "counts"

        def __init__(self):
            super().__init__()
            self.seen = []

        def compute(self, chunk_i):
            self.seen.append(chunk_i)

    plugin = Counting()
    plugin.config, plugin.lineage, plugin.deps = {"a": 1}, {}, {}
    plugin.compute(0)
    one, other = plugin.__copy__(), plugin.__copy__().__copy__()
    one.compute(1)
    one.config["a"] = 2
    one.input_buffer["x"] = None
    assert (plugin.seen, one.seen, other.seen) == ([0], [1], [])
    assert (plugin.config, other.config, other.input_buffer) == ({"a": 1}, {"a": 1}, {})
    assert one.compute_takes_chunk_i and one.provides == ("counts",)


def test_keys_follow_the_options(tmp_path):
    """Of 1 and 1.0 strax makes two hashes, though they are equal; what is kept knows that."""
    st_ = contexts.xams(output_folder=tmp_path, init_rundb=False)
    hashes = []
    for value in (30000, 30000.0, 20000, 30000):
        st_.set_config({"elife": value})
        new = contexts.xams(output_folder=tmp_path, init_rundb=False, config={"elife": value})
        key = st_.key_for("0", "event_info")
        assert str(key) == str(new.key_for("0", "event_info"))
        assert key.lineage == new.lineage("0", "event_info")
        hashes.append(key.lineage_hash)
    assert hashes[0] == hashes[3]
    assert len(set(hashes)) == 3
    key.lineage.clear()
    assert st_.key_for("1", "event_info").lineage_hash == hashes[0]
    st_.config["elife"] = 1  # in place, too
    assert st_.key_for("1", "event_info").lineage_hash not in hashes
    for again in (copy.deepcopy, lambda st: pickle.loads(pickle.dumps(st))):
        st_.set_config({"elife": 30000})
        assert again(st_).key_for("0", "event_info").lineage_hash == hashes[0]


def test_what_cannot_be_compared_is_not_kept():
    used = Context(storage=[], config={"of_first": threading.Lock()}, register=registered())
    assert State.of(used._snapshot()) is None
    assert outcome(used, "key_for", "1", "first") is outcome(fresh_lock(), "key_for", "1", "first")


def fresh_lock():
    config = {"of_first": threading.Lock()}
    return strax.Context(storage=[], config=config, register=registered())


def test_a_plugin_with_several_outputs_is_one(tmp_path):
    write_run(tmp_path, pulses([1_000_000], range(5)))
    st_ = context(tmp_path)
    for _ in range(2):
        plugins = st_._get_plugins(("pulse_counts", "records"), "000123")
        assert plugins["records"] is plugins["pulse_counts"]
        assert plugins["records"].run_id == "000123"


# New contexts


class Mine(Context):
    """A user's class, with an argument of its own."""

    def __init__(self, label, **kwargs):
        self.label = label
        super().__init__(**kwargs)


def test_a_subclass_stays_what_it_is():
    used = Mine("a", storage=[], register=registered(), config={"of_first": 3})
    used.runs = "a table"
    used.key_for("1", "third")
    new = used.new_context(config={"of_second": 4})
    assert (type(new), new.label, new.runs) == (Mine, "a", None)
    assert new.config == {"of_first": 3, "of_second": 4}
    assert new.processors is used.processors
    new.register(plugin_class("second", "first", code=1))
    new.config["of_first"] = 5
    assert used.config == {"of_first": 3}
    check_as_fresh(used)
    check_as_fresh(new)
    empty = new.new_context(replace=True)
    assert (empty.storage, empty.config, empty._plugin_class_registry) == ([], {}, {})
    assert type(used._snapshot()) is Mine
    # strax makes a new context for options of a call
    kwargs = {"config": {"of_first": 9}, "progress_bar": False}
    ours = used.get_array("1", "third", **kwargs)
    np.testing.assert_array_equal(ours, fresh(used).get_array("1", "third", **kwargs))


def test_processors_of_a_user_stay():
    processors = {"mine": strax.SingleThreadProcessor}
    used = Context(storage=[], register=registered(), processors=processors)
    assert used.new_context().processors == processors
    assert used.new_context(processors="threaded_mailbox").processors.keys() == {"threaded_mailbox"}
    assert len(used.get_array("1", "third", progress_bar=False)) == 4


# Several threads

RUNS = [str(i) for i in range(1, 9)]


def in_threads(*functions, times=4):
    """Call functions in threads of their own, several times each, and raise what they raise."""
    with ThreadPoolExecutor(len(functions)) as pool:
        for future in [pool.submit(function) for _ in range(times) for function in functions]:
            future.result()


def test_several_runs_and_targets_in_several_threads(tmp_path):
    for _ in range(5):
        used = Context(storage=storage.DataDirectory(str(tmp_path)), register=registered())
        reference = fresh(used)
        for targets in (("second", "third"), ("third", "first", "second"), "third"):
            kwargs = {"progress_bar": False, "multi_run_progress_bar": False}
            found = used.get_array(RUNS, targets, max_workers=8, **kwargs)
            expected = reference.get_array(RUNS, targets, **kwargs)
            np.testing.assert_array_equal(found, expected)
        assert set(used._plugin_class_registry) == {"source", *TYPES}


def test_one_thread_at_a_time_parses_a_dtype(tmp_path, monkeypatch):
    """Python before 3.11.8 has one count of the depth of a syntax tree, for all threads."""
    used = Context(storage=storage.DataDirectory(str(tmp_path)), register=registered())
    kwargs = {"progress_bar": False, "multi_run_progress_bar": False}
    expected = used.get_array(RUNS, "third", **kwargs)
    parse, lock, at_work = ast.parse, threading.Lock(), []

    def parse_slowly(*args, **kwargs):
        assert lock.acquire(blocking=False), "another thread parses"
        at_work.append(1)
        time.sleep(0.05)
        lock.release()
        return parse(*args, **kwargs)

    storage._parsed.cache_clear()
    monkeypatch.setattr(ast, "parse", parse_slowly)
    found = used.get_array(RUNS, "third", max_workers=4, **kwargs)
    np.testing.assert_array_equal(found, expected)
    assert at_work


def test_methods_of_one_context_in_several_threads(tmp_path):
    used = Context(storage=storage.DataDirectory(str(tmp_path)), register=registered())
    used.make("1", "first")  # two threads cannot store the same data at once
    both = ("second", "third")
    kwargs = {"progress_bar": False}
    array = fresh(used).get_array("1", both, **kwargs)

    def get_array():
        np.testing.assert_array_equal(used.get_array("1", both, **kwargs), array)

    def get_df():
        assert (used.get_df("1", both, **kwargs)["value"] == array["value"]).all()

    def accumulate():
        assert used.accumulate("1", both, **kwargs)["value"] == array["value"].sum()

    def get_components():
        assert used.get_components("1", both).plugins.keys() >= {"second", "third"}

    def select_runs():
        assert len(used.select_runs(force_reload=True)) == 0

    def different_kinds():
        with pytest.raises(RuntimeError, match="Cannot automerge"):
            used.get_array("1", ("second", "other"), **kwargs)

    used.register(plugin_class("other", "first", kind="other_kind"))
    used._plugin_class_registry["other"].compute = lambda self, source: source
    in_threads(get_array, get_df, accumulate, get_components, select_runs, different_kinds)
    used.make(RUNS, both, save=both, max_workers=8, multi_run_progress_bar=False)
    assert all(used.is_stored(run_id, "second") for run_id in RUNS)


def test_superruns_in_several_threads(tmp_path):
    frontend = strax.DataDirectory(str(tmp_path), provide_run_metadata=True)
    start = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    for run_id in RUNS:
        begin = start + datetime.timedelta(microseconds=int(run_id))
        frontend.write_run_metadata(run_id, {"name": run_id, "start": begin, "end": begin})
    used = Context(storage=frontend, register=registered())
    used.define_run("_some", RUNS)
    used.make(RUNS, "first", max_workers=4, multi_run_progress_bar=False)
    reference = strax.Context(storage=frontend, register=registered())
    kwargs = {"progress_bar": False}
    both = ("second", "third")
    expected = {run_id: reference.get_array(run_id, both, **kwargs) for run_id in ("_some", "1")}
    assert len(expected["_some"]) == 4 * len(RUNS)

    def get(run_id):
        return used.get_array(run_id, both, **kwargs)

    with ThreadPoolExecutor(8) as pool:
        runs = ["1", "_some"] * 12
        for run_id, found in zip(runs, pool.map(get, runs), strict=True):
            np.testing.assert_array_equal(found, expected[run_id])


def test_options_that_change_meanwhile_do_not_mix():
    """Each call sees the options of one moment, in all of its plugins."""
    used = Context(storage=[], register=registered())
    kwargs = {"progress_bar": False}
    expected = set()
    for value in (1, 2):
        for code in (0, 1):
            other = Context(storage=[], register=registered())
            other.set_config({"of_first": value, "of_third": value})
            other.register(plugin_class("second", "first", code=code))
            expected.add(other.get_array("1", ("second", "third"), **kwargs).tobytes())
    stop = threading.Event()

    def change():
        n = 0
        while not stop.is_set():
            n += 1
            value = n % 2 + 1
            used.set_config({"of_first": value, "of_third": value})
            used.register(plugin_class("second", "first", code=n // 2 % 2))

    used.set_config({"of_first": 1, "of_third": 1})
    changing = threading.Thread(target=change)
    changing.start()
    try:
        found = {used.get_array("1", ("second", "third"), **kwargs).tobytes() for _ in range(30)}
    finally:
        stop.set()
        changing.join()
    assert found <= expected

"""Compare strax before and after amstrax is used in the same process: its objects, or its files."""

import hashlib
import importlib
import json
import pkgutil
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import strax
import strax.scripts.rechunker

CONTEXTS = ("xams", "xams_led", "xams_little")


def objects():
    """Return the objects of strax, of its classes and of its tables, by name."""
    found, todo = {}, [("strax", strax)]
    for module in pkgutil.walk_packages(strax.__path__, "strax."):
        if module.name != "strax.testutils":  # needs a package that is not installed
            todo.append((module.name, importlib.import_module(module.name)))
    expanded = set()
    for name, value in todo:  # grows
        found[name] = value
        if id(value) in expanded:
            continue
        expanded.add(id(value))
        of_strax = getattr(value, "__module__", getattr(value, "__name__", "")) or ""
        if isinstance(value, dict):
            inside = value
        elif isinstance(value, type | types.ModuleType) and of_strax.startswith("strax"):
            inside = vars(value)
        else:
            continue
        todo += [(f"{name}.{key}", inner) for key, inner in inside.items() if isinstance(key, str)]
    return {name: value for name, value in found.items() if ".LOGGERS." not in name}


def compare_objects(folder):
    """Check that all objects are the same after contexts are made and runs are processed."""
    before = objects()
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from make_runs import RUN_ID, context, options, pulses, write_run

    from amstrax import contexts
    from amstrax.auto_processing import amstraxer

    for name in CONTEXTS:
        getattr(contexts, name)(init_rundb=False, storage=[])
    write_run(folder, pulses([1_000_000], range(5)))
    context(folder).make(RUN_ID, "event_info", max_workers=2)
    scratch = ("--from_scratch", "--build_lowlevel", "--workers=2", "--no-progress")
    assert amstraxer.main(options(folder, "--target=peaks", *scratch)) == 0
    after = objects()
    expected = ("io.COMPRESSORS.lz4.compress", "Chunk.concatenate", "Plugin.iter")
    assert {f"strax.{name}" for name in expected} <= before.keys()
    assert [name for name in before if after.get(name) is not before[name]] == []
    # Python notes it in classes whose objects are copied
    assert [n for n in after.keys() - before.keys() if not n.endswith("__slotnames__")] == []


class Zeros(strax.Plugin):
    """Four chunks of 20 MB."""

    depends_on = ()
    provides = "zeros"
    data_kind = "zeros"
    dtype = [*strax.time_fields, (("Data", "data"), np.int8, (984,))]  # noqa: RUF012
    compressor = "lz4"

    def source_finished(self):
        return True

    def is_ready(self, chunk_i):
        return chunk_i < 4

    def compute(self, chunk_i):
        data = np.zeros(20_000, self.dtype)
        data["time"] = (chunk_i * 20_000 + np.arange(20_000)) * 5_000
        data["endtime"] = data["time"] + 1
        data["data"][:, :8] = np.arange(160_000).reshape(-1, 8)
        start = chunk_i * 100_000_000
        return self.chunk(start=start, end=start + 100_000_000, data=data)


class Copy(strax.Plugin):
    """The same, joined to one chunk."""

    depends_on = "zeros"
    provides = "copy"
    dtype = Zeros.dtype

    def compute(self, zeros):
        return zeros


def plain_context(folder, cls=strax.Context):
    return cls(storage=strax.DataDirectory(str(folder)), register=[Zeros, Copy])


def stored(st, folder):
    """Make data in a folder, and return hashes of its files, and metadata."""
    shutil.rmtree(folder, ignore_errors=True)
    st.make("0", "copy")
    found = {}
    for path in folder.glob("*/*"):
        if path.suffix == ".json":
            found[path.name] = json.loads(path.read_text())
            del found[path.name]["writing_started"], found[path.name]["writing_ended"]
        else:
            found[path.name] = hashlib.sha1(path.read_bytes()).hexdigest()
    assert len(found) == 4
    return found


def rows(metadata):
    return [chunk["n"] for chunk in metadata["chunks"]]


def compare_files(folder):
    """Check that plain contexts store the same before, beside and after those of amstrax."""
    path = folder / "plain"
    plain = plain_context(path)
    before = stored(plain, path)
    later = plain_context(path)

    from amstrax import contexts
    from amstrax.strax_ext.context import Context

    for name in CONTEXTS:
        st = getattr(contexts, name)(output_folder=folder / "ours", init_rundb=False)
    st.register([Zeros, Copy])
    st.make("0", "copy", max_workers=2)
    # strax's folder in a context of amstrax is strax's, too
    for context in (plain, later, plain_context(path), plain_context(path, Context)):
        assert stored(context, path) == before
    ours, theirs = (c.get_metadata("0", "copy") for c in (st, plain))
    assert rows(ours) == rows(theirs) == [80_000]
    assert ours["chunk_target_size_mb"] == theirs["chunk_target_size_mb"] == 200

    # Who asks for a size gets it
    for size, expected in ((30, [30_000, 30_000, 20_000]), (200, [80_000])):
        st.storage = [*st.storage[:1], strax.DataDirectory(str(folder / f"copy_{size}"))]
        st.copy_to_frontend("0", "copy", 1, rechunk=True, rechunk_to_mb=size)
        metadata = st.storage[1].get_metadata(st.key_for("0", "copy"))
        assert rows(metadata) == expected
        assert metadata["chunk_target_size_mb"] == size
    (small,) = (folder / "copy_30").glob("0-copy-*")
    strax.rechunker(str(small), str(folder / "again"), target_size_mb=200)
    (file,) = (folder / "again").rglob("*-000000")
    (expected,) = [value for name, value in before.items() if name == file.name]
    assert hashlib.sha1(file.read_bytes()).hexdigest() == expected


if __name__ == "__main__":
    {"objects": compare_objects, "files": compare_files}[sys.argv[1]](Path(sys.argv[2]))

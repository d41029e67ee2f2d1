"""Splitting of chunks gives what strax's own does, and keeps data types apart."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest
import strax
from hypothesis import given, settings
from hypothesis import strategies as st

from amstrax import _chunks

#: strax's own, whatever takes its place in `strax.chunk`
_STRAX = strax.split_array


def intervals(rows):
    data = np.zeros(len(rows), dtype=strax.time_fields)
    data["time"], data["endtime"] = np.array(rows, dtype=int).reshape(-1, 2).T
    data["endtime"] += data["time"]
    return strax.sort_by_time(data)


def result_of(function, *arguments):
    try:
        left, right, t = function(*arguments)
    except strax.CannotSplit:
        return None
    return left.tolist(), right.tolist(), t


@settings(deadline=None, max_examples=300, database=None)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(1, 8)), max_size=12),
    st.integers(-2, 45),
    st.booleans(),
)
@pytest.mark.parametrize("compiled", [True, False])
def test_as_strax_does(compiled, rows, t, allow_early_split):
    function = _chunks.split_array
    data = intervals(rows)
    with pytest.MonkeyPatch.context() as patch:
        if not compiled:
            patch.setattr(_chunks, "_split_point", _chunks._split_point.py_func)
        found = result_of(function, data, t, allow_early_split)
    assert found == result_of(_STRAX.py_func, data, t, allow_early_split)


def test_data_types_stay_apart(tmp_path):
    """Each compiled in a process of its own, and then loaded in one."""
    program = textwrap.dedent(
        """
        import sys
        import numpy as np
        import strax
        from amstrax import contexts
        contexts.xams(init_rundb=False)
        dtypes = {"raw": strax.raw_record_dtype(), "records": strax.record_dtype()}
        for name in sys.argv[1:]:
            data = np.zeros(3, dtypes[name])
            data["time"], data["length"], data["dt"] = [0, 10, 20], 1, 1
            chunk = strax.Chunk(
                start=0, end=30, data=data, dtype=data.dtype, data_kind="x", data_type="x",
                run_id="0",
            )
            parts = chunk.split(15)
            assert [len(part) for part in parts] == [2, 1]
            assert all(part.data.dtype == data.dtype for part in parts), name
        """
    )
    for names in (["raw"], ["records"], ["records", "raw"]):
        done = subprocess.run(
            [sys.executable, "-c", program, *names], cwd=tmp_path, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

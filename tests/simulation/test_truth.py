"""The file of truth: written bit by bit, read back, and files that are none."""

import io

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amstrax.exceptions import InvalidOption
from amstrax.simulation.writer import TRUTH_DTYPE, TruthFile, load_truth

# the same folder for all examples of a test is well: each overwrites its file
PROPERTY = settings(
    max_examples=30,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def make_truth(n, seed=1):
    truth = np.zeros(n, dtype=TRUTH_DTYPE)
    rng = np.random.default_rng(seed)
    for field in TRUTH_DTYPE.names:
        truth[field] = rng.integers(-(2**14), 2**14, n)
    truth["time"] = 1_700_000_000_000_000_000 + 1_000_000_001 * np.arange(n)
    truth["drift_time"][::3] = np.nan
    return truth


@pytest.fixture
def path(tmp_path):
    return tmp_path / "truth_100001.npy"


@PROPERTY
@given(sizes=st.lists(st.integers(0, 2_000), max_size=6))
def test_bits_are_put_together(sizes, path):
    truth = make_truth(sum(sizes))
    file = TruthFile(path)
    for part in np.split(truth, np.cumsum(sizes)):
        file.append(part)
    file.close()
    assert file.n == len(truth)
    found = load_truth(path)
    assert found.dtype == TRUTH_DTYPE
    assert found.tobytes() == truth.tobytes()  # NaN are not equal to each other


def test_it_is_what_numpy_writes(path):
    truth = make_truth(12_345)
    file = TruthFile(path)
    file.append(truth[::2])  # not in a row in memory
    file.append(truth[1::2])
    file.close()
    expected = io.BytesIO()
    np.lib.format.write_array(expected, np.concatenate([truth[::2], truth[1::2]]), (2, 0))
    assert path.read_bytes() == expected.getvalue()
    np.testing.assert_array_equal(np.load(path, mmap_mode="r")["time"][:3], truth["time"][:6:2])


def test_closed_twice(path):
    file = TruthFile(path)
    file.append(make_truth(2))
    file.close()
    file.close()
    assert len(load_truth(path)) == 2


def test_no_events(path):
    TruthFile(path).close()
    assert load_truth(path).shape == (0,)
    assert load_truth(str(path)).dtype == TRUTH_DTYPE


def save(array):
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"nothing of that kind",
        save(make_truth(3))[:-1],  # cut off
        save(make_truth(3))[:40],
        save(np.array([{"energy": 5}], dtype=object)),
        b"PK\x03\x04 no zip",
    ],
    ids=["missing", "empty", "text", "cut", "cut header", "objects", "zip"],
)
def test_what_cannot_be_read(content, path):
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidOption, match="truth cannot be read from") as error:
        load_truth(path)
    assert str(path) in str(error.value)
    assert "amstrax simulate" in str(error.value)


def test_a_folder(tmp_path):
    with pytest.raises(InvalidOption, match="truth cannot be read from"):
        load_truth(tmp_path)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(5.0),
        np.zeros(3, dtype=[("time", np.int64)]),
        make_truth(3)[["time", "energy"]],
        make_truth(2).astype([(name, np.float64) for name in TRUTH_DTYPE.names]),
    ],
)
def test_something_else(array, path):
    path.write_bytes(save(array))
    with pytest.raises(InvalidOption, match="simulate the run again") as error:
        load_truth(path)
    assert str(error.value).startswith(str(path))


def test_an_archive_of_arrays(tmp_path):
    np.savez(tmp_path / "truth.npz", truth=make_truth(2))
    with pytest.raises(InvalidOption, match="does not hold the truth"):
        load_truth(tmp_path / "truth.npz")


def test_every_field_names_its_unit_or_counts():
    units = {
        "time": "[ns]",
        "endtime": "[ns]",
        "energy": "[keV]",
        "x": "[mm]",
        "y": "[mm]",
        "z": "[mm]",
        "s1_pe": "[PE]",
        "s2_pe": "[PE]",
        "s1_center_time": "[ns]",
        "s2_center_time": "[ns]",
        "drift_time": "[ns]",
        "external_energy": "[keV]",
    }
    for name, (_, _, title) in TRUTH_DTYPE.fields.items():
        if name in TRUTH_DTYPE.names:
            assert title.endswith(units.get(name, ("produced", "run", "deposits")))

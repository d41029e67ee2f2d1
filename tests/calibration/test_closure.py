"""The short form of `make closure`: a run with its truth, and the table of made-up results."""

import sys
from pathlib import Path

import numpy as np
import pytest

from amstrax.calibration.result import Result

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
import closure  # noqa: E402


def is_near(estimate):
    """Within four errors and what is systematic."""
    result, true, tolerance, is_relative = estimate
    systematic = tolerance * (true if is_relative else 1)
    return abs(result.value - true) < 4 * result.error + systematic


def run(monkeypatch, name, duration):
    """What the methods of a set find in a short run: all something, near what is true."""
    short = closure.SETS[name]._replace(duration=duration)
    monkeypatch.setattr(closure, "SETS", {name: short})
    found = closure.run(name, 1)
    assert not [x for x in found if isinstance(x, str)]
    for estimate in found:
        assert is_near(estimate), estimate
        assert not is_near(estimate._replace(true=2 * estimate.true)), estimate
    return found


def test_a_run(monkeypatch):
    assert len(run(monkeypatch, "drift", 5.0)) == 9


def test_alphas(monkeypatch):
    """Lines, scale, half-life and photoelectrons of XAMSL."""
    assert len(run(monkeypatch, "alphas", 8.0)) == 7


def estimates(bias, n=400):
    rng = np.random.default_rng(0)
    for error in rng.uniform(1.0, 3.0, n):
        value = 100.0 + bias + rng.normal(0, error)
        yield closure.Estimate(
            Result("x", value, value - error, value + error, "ns", "m"), 100.0, 0.01
        )


def test_table():
    (row,) = closure.summarise(estimates(0.0))
    assert row.n_runs == 400 and row.passes
    assert abs(row.bias) < 4 * row.bias_error < 0.01
    assert row.pull_width == pytest.approx(1.0, abs=0.15)
    (row,) = closure.summarise(estimates(2.0))
    assert row.bias == pytest.approx(0.02, abs=0.004) and not row.passes
    assert closure.table([row]).splitlines()[1].endswith("no")
    assert closure.rst([row]).splitlines()[-1] == "     - no"


def test_verdict():
    """A method that fails, or finds nothing, makes the command fail."""
    (good,), (bad,) = closure.summarise(estimates(0.0)), closure.summarise(estimates(2.0))
    assert closure.passes([good], 5, 50)
    assert not closure.passes([good, bad], 0, 50)
    assert not closure.passes([good], 6, 50)
    assert not closure.passes([], 0, 50)

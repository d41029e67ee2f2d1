"""The short form of `make closure`: a run with its truth, and the table of made-up results."""

import sys
from pathlib import Path

import numpy as np
import pytest

from amstrax.calibration.result import Result

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
import closure  # noqa: E402


def test_a_run(monkeypatch):
    """All methods find what they look for, within four errors and what is systematic."""
    short = closure.SETS["drift"]._replace(duration=5.0)
    monkeypatch.setattr(closure, "SETS", {"drift": short})
    found = closure.run("drift", 1)
    assert not [x for x in found if isinstance(x, str)] and len(found) == 9
    for result, true, tolerance, is_relative in found:
        if "bootstrap" not in result.method:
            systematic = tolerance * (true if is_relative else 1)
            assert abs(result.value - true) < 4 * result.error + systematic, result


def test_alphas(monkeypatch):
    """Lines, scale, half-life and photoelectrons of XAMSL, likewise."""
    short = closure.SETS["alphas"]._replace(duration=8.0)
    monkeypatch.setattr(closure, "SETS", {"alphas": short})
    found = closure.run("alphas", 1)
    assert not [x for x in found if isinstance(x, str)] and len(found) == 7
    for result, true, tolerance, _ in found:
        assert abs(result.value - true) < 4 * result.error + tolerance * true, result


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

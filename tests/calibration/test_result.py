"""Results and statistics of calibrations."""

import numpy as np
import pytest

from amstrax.calibration.result import Result, bootstrap, interval
from amstrax.exceptions import NoResult


def test_error_is_half_the_interval():
    assert Result("elife", 5.0, 4.0, 8.0, "ns", "by eye").error == 2.0


def test_interval_of_a_normal_distribution():
    low, high = interval(np.random.default_rng(1).normal(3.0, 2.0, 200_000))
    assert low == pytest.approx(1.0, abs=0.03) and high == pytest.approx(5.0, abs=0.03)


def test_bootstrap_of_a_mean():
    values = np.random.default_rng(2).normal(0.0, 1.0, 400)
    found = bootstrap(lambda rows: np.array([values[rows].mean(), 7.0]), 400, 300)
    assert found.shape == (300, 2) and (found[:, 1] == 7).all()
    assert found[:, 0].std() == pytest.approx(0.05, rel=0.15)
    assert found[:, 0].mean() == pytest.approx(values.mean(), abs=0.01)


def test_bootstrap_without_results():
    """Some samples may lack a result, not most of them."""

    def sometimes(share):
        rng = np.random.default_rng(3)

        def estimate(rows):
            if rng.random() < share:
                raise NoResult("it is too dark")
            return rows.mean()

        return estimate

    assert 50 < len(bootstrap(sometimes(0.3), 10, 100)) < 90
    with pytest.raises(NoResult, match="of 100 samples have no result, one since it is too dark"):
        bootstrap(sometimes(0.9), 10, 100)

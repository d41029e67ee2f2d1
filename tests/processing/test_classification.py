"""Types of peaks from shape, pattern and size."""

import numpy as np
import pytest
import strax
from hypothesis import given, settings
from hypothesis import strategies as st

from amstrax.exceptions import InvalidOption
from amstrax.processing import classification
from amstrax.processing.classification import Limits, Shape

PROPERTY = settings(max_examples=50, deadline=None, database=None)
LIMITS = Limits(150, 0.7, 2000, min_area=2, fano=1.5, s1_min_score=2.6)


def make_peaks(waveforms, dt=10):
    peaks = np.zeros(len(waveforms), dtype=strax.peak_dtype(n_channels=2))
    peaks["dt"] = dt
    for peak, waveform in zip(peaks, waveforms, strict=True):
        peak["length"] = len(waveform)
        peak["data"][: len(waveform)] = waveform
        peak["area"] = np.sum(waveform)
    return peaks


def largest_sums(waveform, w):
    """Return the largest sum of w samples, and of two such ranges, by trying all."""
    sums = [sum(waveform[i : i + w]) for i in range(max(len(waveform) - w + 1, 1))]
    pairs = [a + b for i, a in enumerate(sums) for b in [*sums[i + w :], 0]]
    return max(sums), max(*pairs, max(sums))


@PROPERTY
@given(st.lists(st.integers(0, 9), max_size=40), st.integers(1, 5))
def test_fractions_within_windows(waveform, w):
    shape = classification.shapes(make_peaks([waveform]), 10 * w)
    total = sum(waveform)
    if not total or 4 * w * max(waveform) < total:
        assert shape.one == shape.two == 0
        if total:
            assert largest_sums(waveform, w)[1] < 0.5 * total
        return
    one, two = largest_sums(waveform, w)
    assert shape.one == pytest.approx(one / total)
    # A second window may stick out of the waveform
    assert shape.two >= two / total - 1e-9
    assert shape.two <= min(1, 2 * one / total) + 1e-9


def test_long_samples_hold_part_of_a_window():
    shape = classification.shapes(make_peaks([[0, 4, 0]], dt=300), 150)
    assert shape.one == pytest.approx(0.5)


def test_no_peaks():
    shape = classification.shapes(make_peaks([]), 150)
    kind, _ = classification.types(*[np.zeros(0)] * 3, shape, LIMITS)
    assert not len(shape.one) and not len(kind)


@pytest.mark.parametrize(
    "area, top, width, one, two, expected",
    [
        (100, 0.2, 35, 0.99, 1.0, (1, False)),
        (100, 0.6, 35, 0.99, 1.0, (1, False)),  # saturated below: its pattern does not count
        (100, 0.2, 35, 0.6, 0.9, (1, True)),  # Kr-83m
        (100, 0.2, 200, 0.6, 0.8, (0, False)),  # neither short enough nor wide enough
        (5, 0.0, 30, 1.0, 1.0, (1, False)),
        (6, 1.0, 30, 1.0, 1.0, (1, False)),
        (3, 0.0, 30, 1.0, 1.0, (1, False)),
        (3, 1.0, 30, 1.0, 1.0, (2, False)),  # as of an electron
        (3, 1.0, 300, 0.4, 0.7, (2, False)),
        (1.9, 0.0, 30, 1.0, 1.0, (0, False)),  # too small
        (10, 0.7, 900, 0.3, 0.5, (2, False)),
        (5000, 0.7, 1000, 0.1, 0.2, (2, False)),
        (130_000, 0.5, 970, 0.1, 0.2, (2, False)),  # saturated
        (5000, 0.7, 500, 0.1, 0.2, (0, False)),  # after-pulses of a large S1
        (100, np.nan, 35, 0.99, 1.0, (1, False)),
        (-3, np.nan, 0, 0.0, 0.0, (0, False)),
    ],
)
def test_types(area, top, width, one, two, expected):
    values = (np.array([float(x)]) for x in (area, top, width))
    kind, is_double = classification.types(*values, Shape(np.array([one]), np.array([two])), LIMITS)
    assert (kind[0], is_double[0]) == expected


def test_types_without_gains():
    shape = Shape(np.array([0.9, 0.5, 0.2, 0.2]), np.array([1.0, 0.9, 0.3, 0.3]))
    width = np.array([30.0, 60.0, 1000.0, 300.0])
    kind, is_double = classification.types(
        np.ones(4), np.full(4, 0.5), width, shape, Limits(150, 0.7, 2000)
    )
    assert kind.tolist() == [1, 1, 2, 0] and is_double.tolist() == [False, True, False, False]


def test_score_is_a_likelihood_ratio():
    """Chance of the other photoelectrons in the window, and of n_top of n in the top array."""
    score = classification.s1_score(np.array([4.5]), np.array([2 / 3]), LIMITS)
    time = (150 / 2000) ** 2
    pattern = (0.22**2 * 0.78) / (0.71**2 * 0.29)
    assert score[0] == pytest.approx(np.log(pattern / time))


@pytest.mark.parametrize(
    "change, text",
    [
        ({"window": 0}, "s1_window=0: give a time"),
        ({"gas_transit_time": -1}, "gas_transit_time=-1"),
        ({"fano": 0}, "area_fano=0"),
        ({"prompt_fraction": 0.5}, "s1_prompt_fraction=0.5"),
        ({"area_fractions_top": (0.2, 1)}, "s2_area_fraction_top=1"),
        ({"area_fractions_top": (0, 0.7)}, "s1_area_fraction_top=0"),
    ],
)
def test_invalid_limits(change, text):
    with pytest.raises(InvalidOption, match=text):
        LIMITS._replace(**change).check()


def test_compiled_and_plain_python_agree():
    peaks = make_peaks(np.random.default_rng(1).exponential(1, (20, 60)) ** 3)
    found = classification.shapes(peaks, 150)
    one, two = np.zeros(20), np.zeros(20)
    classification._shapes.py_func(peaks["data"], peaks["length"], peaks["dt"], 150.0, one, two)
    np.testing.assert_allclose(found.one, one, rtol=1e-6)
    np.testing.assert_allclose(found.two, two, rtol=1e-6)

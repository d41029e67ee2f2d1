"""Thresholds of the hit finder."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import amstrax
from amstrax.hitfinder_thresholds import hit_min_amplitude


def test_models():
    for model, arguments, expected in (
        ("xamsl_thresholds", (), [15] * 4),
        ("xamsl_thresholds", (7,), [15] * 4),
        ("xams_thresholds", (), [15] * 16),
        ("xams_thresholds", (5,), [15] * 5),
    ):
        thresholds = hit_min_amplitude(model, *arguments)
        assert thresholds.dtype == np.int16
        assert thresholds.tolist() == expected
    assert amstrax.hit_min_amplitude is hit_min_amplitude


@settings(max_examples=50, deadline=None, database=None)
@given(st.integers(0, 2**14), st.integers(0, 300))
def test_a_number_holds_for_all_channels(number, n_channels):
    thresholds = hit_min_amplitude(number, n_channels)
    assert thresholds.dtype == np.int16
    assert thresholds.tolist() == [number] * n_channels


def test_a_fraction():
    assert hit_min_amplitude(2.5, 3).tolist() == [2.5, 2.5, 2.5]
    assert len(hit_min_amplitude(20)) == 16


@pytest.mark.parametrize("model", [(1, 2, 3), np.array([4, 5]), (), np.zeros(0)])
def test_thresholds_are_taken_as_they_are(model):
    assert hit_min_amplitude(model) is model


@pytest.mark.parametrize("model", ["xenon_thresholds", "", "15", None, True, [15, 15], {1: 15}])
def test_unknown_model_is_named(model):
    with pytest.raises(ValueError, match="no model") as error:
        hit_min_amplitude(model)
    assert repr(model) in str(error.value)


def test_numpy_integer_is_a_number():
    """numpy.float64 is taken (it is a float), numpy.int64 is not."""
    assert hit_min_amplitude(np.int64(15), 2).tolist() == [15, 15]

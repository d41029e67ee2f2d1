"""Correction of saturated peaks: hand-made waveforms, a plain twin, and pulls of its errors."""

import numpy as np
import pytest
import strax

from amstrax.processing import saturation, waveforms
from amstrax.processing.compiled import sort_by_time
from amstrax.processing.peaks import set_center_times
from amstrax.processing.saturation import (
    ALL_SATURATED,
    CORRECTED,
    TOO_LITTLE_LIGHT,
    UNSATURATED,
    correct_saturation,
)

DT, BASELINE, SAMPLES = 10, 15_000, 20
TO_PE = np.array([0.01, 0.02, 0.01])
#: Light of each channel of a pulse [PE/sample]
SHAPE = np.array([0, 10, 20, 80, 200, 300, 200, 120, 60, 30, 20, 10, 4, 0, 0, 0, 0, 0, 0, 0.0])
SHARES = np.array([1.0, 0.3, 0.2])
DTYPE = np.dtype(strax.peak_dtype(n_channels=3) + saturation.fields(3))


def run(light, start=1000, factor=1, adc_max=BASELINE):
    """Return peaks and records of waveforms, shape (peaks, channels, samples).

    Waveforms end at `adc_max` counts. Peaks sum all samples. Records have SAMPLES samples.
    """
    counts = np.minimum(np.round(light / TO_PE[:, np.newaxis]), adc_max)
    n_peaks, n_channels, n = counts.shape
    times = start + np.arange(n_peaks) * (n + 50) * DT
    fragments = n // SAMPLES
    records = np.zeros((n_peaks, n_channels, fragments), dtype=strax.record_dtype(SAMPLES))
    records["time"] = times[:, np.newaxis, np.newaxis] + np.arange(fragments) * SAMPLES * DT
    records["channel"] = np.arange(n_channels)[:, np.newaxis]
    records["record_i"] = np.arange(fragments)
    records["length"], records["dt"], records["baseline"] = SAMPLES, DT, BASELINE
    records["data"] = counts.reshape(n_peaks, n_channels, fragments, SAMPLES)
    in_pe = counts * TO_PE[:, np.newaxis]
    peaks = np.zeros(n_peaks, dtype=DTYPE)
    peaks["time"], peaks["dt"], peaks["length"] = times, DT * factor, n // factor
    summed = in_pe.sum(axis=1).reshape(n_peaks, n // factor, factor).sum(axis=2)
    peaks["data"][:, : n // factor] = summed
    peaks["area_per_channel"] = in_pe.sum(axis=2)
    peaks["area"] = in_pe.sum(axis=(1, 2))
    peaks["saturated_channel"] = (counts >= BASELINE).any(axis=2)
    peaks["n_saturated_channels"] = peaks["saturated_channel"].sum(axis=1)
    return peaks, sort_by_time(records.ravel())


def correct(peaks, records, fano=1.5, max_error=0.3, **kwargs):
    result = peaks.copy()
    correct_saturation(result, records, TO_PE, fano, max_error, **kwargs)
    return result


def plain(wave, clipped, fano):
    """Return light of the channels of one peak, and the error of what is not measured."""
    is_other = ~clipped.any(axis=1)
    others = wave[is_other].sum(axis=0)
    own_variance = common = 0.0
    light = wave.copy()
    for c in np.flatnonzero(~is_other):
        inside = np.zeros(len(others), dtype=bool)
        first, *_, last = np.flatnonzero(clipped[c])[[0, -1]]
        inside[first : last + 1] = True
        k = wave[c, ~inside].sum() / others[~inside].sum()
        light[c, inside] = k * others[inside]
        model = light[c, inside].sum()
        sides = [(wave[c, s].sum(), others[s].sum()) for s in (slice(first), slice(last + 1, None))]
        shape = 0.0
        if np.min(sides) > 0:
            by_chance = sum((a / b) ** 2 * fano * (1 / a + 1 / b) for a, b in sides)
            difference = sides[0][0] / sides[0][1] - sides[1][0] / sides[1][1]
            shape = max(0, (difference**2 - by_chance) / 4) / k**2
        own_variance += fano * model + model**2 * (fano / wave[c, ~inside].sum() + shape)
        common += model * np.sqrt(fano / others[~inside].sum() + fano / others[inside].sum())
    return light, np.sqrt(own_variance + common**2)


@pytest.mark.parametrize("factor", [1, 2])
def test_a_clipped_channel_gets_its_light_back(factor):
    """Channel 0 is cut at 150 PE/sample, in three samples; also where samples are joined."""
    light = SHARES[:, np.newaxis] * SHAPE
    whole, _ = run(light[np.newaxis], adc_max=30_000, factor=factor)
    waveforms.set_widths(whole)
    set_center_times(whole)
    peaks, records = run(light[np.newaxis], factor=factor)
    found = correct(peaks, records)
    assert found["saturated_samples"].tolist() == [[3, 0, 0]]
    assert (found["n_saturated_samples"], found["saturation_flag"]) == (3, CORRECTED)
    for name in ("area", "area_per_channel", "data", "width", "median_time", "center_time"):
        np.testing.assert_allclose(found[name], whole[name], rtol=1e-5)
    lost = (whole["area"] - peaks["area"])[0]
    assert lost == pytest.approx(250)
    assert found["saturation_correction"] == pytest.approx(lost, rel=1e-5)
    assert found["base_correction"] == pytest.approx(0, abs=1e-3)


def test_against_a_plain_twin():
    rng = np.random.default_rng(1)
    size = rng.uniform(0.2, 3, (40, 1, 1))
    share = np.array([1, 0.6, 0.2])[:, np.newaxis]
    light = rng.poisson(np.tile(SHAPE, 2) * size * share).astype(float)
    peaks, records = run(light)
    found = correct(peaks, records, max_error=10)
    wave = np.minimum(np.round(light / TO_PE[:, np.newaxis]), BASELINE) * TO_PE[:, np.newaxis]
    clipped = np.round(light / TO_PE[:, np.newaxis]) >= BASELINE
    np.testing.assert_array_equal(found["saturated_samples"], clipped.sum(axis=2))
    counts = np.bincount(peaks["n_saturated_channels"], minlength=3)
    assert (counts[:3] > 2).all()
    for i in range(len(peaks)):
        if not clipped[i].any() or clipped[i].any(axis=1).all():
            assert found["area"][i] == peaks["area"][i]
            continue
        expected, error = plain(wave[i], clipped[i], 1.5)
        np.testing.assert_allclose(found["area_per_channel"][i], expected.sum(axis=1), rtol=1e-4)
        np.testing.assert_allclose(found["data"][i, :40], expected.sum(axis=0), rtol=1e-4, atol=0.1)
        assert found["saturation_correction_error"][i] == pytest.approx(error, rel=1e-4)


@pytest.mark.parametrize(
    ("shares", "kwargs", "flag"),
    [
        ((1, 1, 1.6), {}, ALL_SATURATED),
        ((1, 0.3, 0.2), {"max_error": 0.01}, TOO_LITTLE_LIGHT),
        ((1, 0, 0), {}, TOO_LITTLE_LIGHT),
        ((0.4, 0.3, 0.2), {}, UNSATURATED),
    ],
)
def test_uncorrected_peaks_stay_as_they_are(shares, kwargs, flag):
    peaks, records = run((np.array(shares)[:, np.newaxis] * SHAPE * 1.2)[np.newaxis])
    found = correct(peaks, records, **kwargs)
    assert found["saturation_flag"].tolist() == [flag]
    assert (found["n_saturated_samples"] > 0) == (flag != UNSATURATED)
    for (_, name), *_ in strax.peak_dtype(n_channels=3):
        np.testing.assert_array_equal(found[name], peaks[name])
    assert found["saturation_correction"] == found["saturation_correction_error"] == 0


def test_dead_channels_are_left_out():
    """A dead channel is no template, and nothing is added to it."""
    light = SHARES[:, np.newaxis] * SHAPE
    peaks, records = run(light[np.newaxis])
    dead = np.array([TO_PE[0], 0, 0])
    correct_saturation(peaks, records, dead, 1.5, 0.3)
    assert peaks["saturation_flag"].tolist() == [ALL_SATURATED]


@pytest.mark.parametrize("size", [0.4, 1])
def test_lost_gain_of_the_base(size):
    """Gain falls with the charge since the start of the peak; in clipped channels too."""
    base_charge = 5_000.0
    light = size * SHARES[:, np.newaxis] * SHAPE
    measured = np.zeros_like(light)
    for c, wave in enumerate(light):
        for i, x in enumerate(wave):
            measured[c, i] = x / (1 + measured[c, :i].sum() / base_charge)
    peaks, records = run(measured[np.newaxis])
    (found,) = correct(peaks, records, base_charge=base_charge)
    assert found["saturation_flag"] == (CORRECTED if size == 1 else UNSATURATED)
    np.testing.assert_allclose(found["area_per_channel"], light.sum(axis=1), rtol=2e-3)
    lost = (light - measured).sum()
    assert found["base_correction"] == pytest.approx(lost, rel=0.02)
    total = found["saturation_correction"] + found["base_correction"]
    assert found["area"] - peaks["area"][0] == pytest.approx(total, rel=1e-4)
    (without,) = correct(peaks, records)
    assert without["base_correction"] == pytest.approx(0, abs=1e-3)


def test_errors_on_truth():
    """Poisson light, fano 1: no bias, and deviations are as large as their errors."""
    rng = np.random.default_rng(2)
    shape = np.interp(np.arange(0, 20, 0.5), np.arange(20), SHAPE)
    light = rng.poisson(SHARES[:, np.newaxis] * shape * 1.3, (400, 3, 40)).astype(float)
    peaks, records = run(light)
    found = correct(peaks, records, fano=1)
    assert (found["saturation_flag"] == CORRECTED).all()
    deviation = found["area"] - light.sum(axis=(1, 2))
    pull = deviation / found["saturation_correction_error"]
    assert abs(pull.mean()) < 0.25
    assert 0.8 < pull.std() < 1.2


def test_bad_and_empty_input():
    peaks, records = run((SHARES[:, np.newaxis] * SHAPE)[np.newaxis])
    assert len(correct(peaks[:0], records)) == 0
    assert correct(peaks, records[:0])["saturation_flag"].tolist() == [UNSATURATED]
    # Records of other channels, and samples beyond a record
    expected = correct(peaks, records)
    strange = np.concatenate([records, records[:2]])
    strange["channel"][-2:] = -1, 3
    strange["length"] = SAMPLES + 1
    assert correct(peaks, strange) == expected

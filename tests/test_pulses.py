"""Properties of pulses in raw records, and numbers and spectra of several runs."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import strax

from amstrax.analyses import pulses
from amstrax.exceptions import InvalidOption

DOCS = Path(__file__).resolve().parents[1] / "docs/source"


def fragments(time, channel, samples):
    """Return the fragments of a pulse, 10 samples each."""
    n = -(-len(samples) // 10)
    rows = np.zeros(n, dtype=strax.raw_record_dtype(10))
    for i, row in enumerate(rows):
        own = samples[10 * i : 10 * (i + 1)]
        row["time"], row["dt"], row["channel"] = time + 20 * i, 2, channel
        row["record_i"], row["length"], row["pulse_length"] = i, len(own), len(samples)
        row["data"][: len(own)] = own
    return rows


def hand_made():
    quiet = [100, 102] * 2
    long = fragments(1000, 1, [*quiet, 91, 81, 71, 61, 101, 101, 51, 101, 100])
    short = fragments(1050, 0, [*quiet, 101, 95])
    late = fragments(5000, 1, [*quiet, 101, 101, 103])
    return np.concatenate([long[1:], late, short, long[:1]])


def test_pulses_of_hand_made_records():
    found = pulses.pulses_of(hand_made(), n_baseline=4)
    assert found.channel.tolist() == [0, 1, 1]
    assert found.time.tolist() == [1050, 1000, 5000]
    assert found.length.tolist() == [12, 26, 14]
    assert found.baseline.tolist() == [101, 101, 101]
    assert found.noise.tolist() == [1, 1, 1]
    assert found.height.tolist() == [6, 50, 1]
    # samples after the end of a pulse are 0, and not part of it
    assert found.area.tolist() == [6, 10 + 20 + 30 + 40 + 50 + 1, -2]
    assert pulses.share_coincident(found, 0) == 1
    assert pulses.share_coincident(found, 1) == 0.5
    assert np.isnan(pulses.share_coincident(found, 2))


def test_part_of_a_pulse_is_refused():
    with pytest.raises(InvalidOption, match="pulse at 1020 ns in channel 1 lacks its beginning"):
        pulses.pulses_of(fragments(1000, 1, [100] * 25)[1:])
    assert len(pulses.pulses_of(hand_made()[:0]).time) == 0


def test_numbers_and_spectra_of_runs():
    found = pulses.pulses_of(hand_made(), n_baseline=4)
    none = pulses.pulses_of(hand_made()[:0])
    runs = {"real": (found, 2.0), "none": (none, 1.0)}
    numbers = {
        (number.channel, number.text): number.values
        for number in pulses.pulse_numbers(runs, least_height=40.0)
    }
    assert len(numbers) == 2 * 9
    assert numbers[0, "rate of pulses [Hz]"] == (0.5, 0)
    assert numbers[1, "rate of pulses of 40 ADC counts and more [Hz]"] == (0.5, 0)
    assert numbers[1, "median area of 40 ADC counts and more [ADC counts x samples]"][0] == 151
    assert np.isnan(numbers[1, "median baseline [ADC counts]"][1])
    figure = pulses.plot_pulses(runs)
    labels = [axes.get_xlabel() for axes in figure.axes]
    assert "channel 1: area [ADC counts x samples]" in labels
    (rates,) = (axes for axes in figure.axes if axes.get_xlabel() == "channel 1: length [ns]")
    heights = [patch.get_data().values.sum() for patch in rates.patches]
    assert heights == [1.0, 0.0]


@pytest.fixture
def page(monkeypatch):
    """The module that makes the page."""
    monkeypatch.syspath_prepend(DOCS)
    name = "make_simulation_comparison"
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    page = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, page)
    spec.loader.exec_module(page)
    return page


def test_real_run_beside_a_simulated_one(page, shared, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "DURATION", 0.5)
    monkeypatch.setattr(page, "REAL", tmp_path / "nothing")
    assert "Run 999999 is not there" in page.run_part(tmp_path)
    monkeypatch.setattr(page, "REAL", shared / "data")
    text = page.run_part(tmp_path)
    for what in ("rate of pulses [Hz]", "median noise", "median baseline", "median length"):
        assert text.count(what) == 2  # channels
    assert "Differences, and what they come from" in text
    assert (tmp_path / page.PICTURE).stat().st_size > 10_000
    rates = text.split("rate of pulses [Hz]")[1].split("\n     - ")[1:3]
    assert float(rates[0]) == pytest.approx(7230 / 16.5, rel=0.01)
    assert 0.5 < float(rates[1]) / float(rates[0]) < 0.87
    assert "longest pulse takes 1.5 us" in text and "40% in the run" in text


def test_table_of_yields(page, monkeypatch):
    monkeypatch.setitem(sys.modules, "nestpy", None)
    assert page.yields_part().startswith("nestpy is not installed")
    monkeypatch.delitem(sys.modules, "nestpy")
    pytest.importorskip("nestpy", reason="needs nestpy, of the extra `simulation`")
    monkeypatch.setattr(page, "N_EVENTS", 20)
    table = page.yields_part()
    rows = [row.split("\n     - ") for row in table.split("\n   * - ")[2:]]
    assert {row[0].strip("`") for row in rows} == set(page.sources.SOURCES) - {"gas", "led"}
    for name, photons, of_nest, electrons, of_nest_too, _ in rows:
        assert float(photons) == pytest.approx(float(of_nest), rel=0.05), name
        assert float(electrons) == pytest.approx(float(of_nest_too), rel=0.1, abs=0.2), name

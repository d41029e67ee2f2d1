"""Yields: numbers of photons and electrons of energy deposits."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amstrax.exceptions import InvalidOption, NotAvailable
from amstrax.simulation import yields
from amstrax.simulation.sources import ALPHA, GAMMA, KR83M_SECOND, Deposits

PROPERTY = settings(max_examples=50, deadline=None, database=None)
DENSITY, FIELD = 2.86, 500.0


def make_deposits(energy, n=2000, kind=GAMMA, delay=0.0):
    zero = np.zeros(n)
    return Deposits(
        np.arange(n),
        zero,
        np.full(n, energy),
        np.full(n, kind, dtype=np.int8),
        np.full(n, delay),
        zero,
        zero,
        zero,
    )


def quanta(name, deposits, seed=1, field=FIELD):
    return yields.model(name, DENSITY, field).quanta(np.random.default_rng(seed), deposits)


@pytest.mark.parametrize(
    # photons and electrons per keV that NEST gives at a field [V/cm]
    ("energy", "kind", "field", "light", "charge"),
    [
        (59.54, GAMMA, 500, 46.5, 27.3),
        (59.54, GAMMA, 50, 61.0, 12.8),  # with less field more recombine
        (661.66, GAMMA, 500, 28.3, 45.4),
        (122.06, GAMMA, 500, 40.7, 33.1),
        (32.1, GAMMA, 500, 48.3, 25.5),
        (5489.5, ALPHA, 500, 65.8, 1.5),
        (9.4, KR83M_SECOND, 500, 61.7, 12.1),
    ],
)
def test_nest(energy, kind, field, light, charge):
    deposits = make_deposits(energy, kind=kind, delay=2500.0)
    photons, electrons = quanta("nest", deposits, field=field)
    assert photons.dtype == electrons.dtype == np.int64
    assert photons.mean() / energy == pytest.approx(light, abs=0.6)
    assert electrons.mean() / energy == pytest.approx(charge, abs=0.6)
    # an electron that recombines gives a photon: their sum fluctuates less
    assert np.corrcoef(photons, electrons)[0, 1] < -0.6
    assert (photons + electrons).std() < 0.8 * photons.std()


def test_nest_knows_how_long_ago_the_first_step_of_kr83m_was():
    light = [
        quanta("nest", make_deposits(9.4, 500, KR83M_SECOND, delay))[0].mean()
        for delay in (154.0, 250.0, 1000.0)
    ]
    # the closer they are, the more recombine
    assert light[0] > 1.05 * light[1] > 1.1 * light[2]


def test_number_of_quanta_in_nest():
    # 13.5 eV a quantum; heavy ions lose some to heat
    for energy, kind, per_kev in ((59.54, GAMMA, 73.8), (661.66, GAMMA, 73.8), (6e3, ALPHA, 67.3)):
        photons, electrons = quanta("nest", make_deposits(energy, kind=kind))
        assert (photons + electrons).mean() / energy == pytest.approx(per_kev, rel=0.005)


@pytest.mark.parametrize(
    ("energy", "kind", "light", "charge"),
    [(59.54, GAMMA, 0.6, 0.4), (661.66, GAMMA, 0.6, 0.4), (5489.5, ALPHA, 0.9016, 0.0184)],
)
def test_simple(energy, kind, light, charge):
    n = 5000
    photons, electrons = quanta("simple", make_deposits(energy, n, kind))
    full = energy / 13.7e-3
    assert photons.mean() == pytest.approx(light * full, rel=0.005)
    assert electrons.mean() == pytest.approx(charge * full, rel=0.005)
    total = photons + electrons
    mean = full if kind == GAMMA else 0.92 * full
    # rounding to whole quanta adds 1/12
    assert total.var() == pytest.approx(0.03 * mean + 1 / 12, rel=5 * np.sqrt(2 / n))
    share = light * full / mean
    spread = 0.03 if kind == GAMMA else 0.0
    expected = (spread * mean) ** 2 + mean * share * (1 - share) + 0.03 * mean * share**2
    assert photons.var() == pytest.approx(expected, rel=5 * np.sqrt(2 / n))


@PROPERTY
@given(
    st.sampled_from(yields.MODELS),
    st.lists(
        st.tuples(st.floats(0.1, 8000), st.sampled_from([GAMMA, ALPHA]), st.floats(0, 2000)),
        max_size=8,
    ),
    st.integers(0, 2**32),
)
def test_same_seed_same_quanta(name, rows, seed):
    deposits = make_deposits(1.0, len(rows))
    for i, (energy, kind, delay) in enumerate(rows):
        deposits.energy[i], deposits.kind[i], deposits.delay[i] = energy, kind, delay
    photons, electrons = quanta(name, deposits, seed)
    assert photons.shape == electrons.shape == (len(rows),)
    assert (photons >= 0).all()
    assert (electrons >= 0).all()
    # 20 % and 30 quanta is far over any fluctuation
    assert (photons + electrons <= 1.2 * deposits.energy / 13.4e-3 + 30).all()
    again = quanta(name, deposits, seed)
    assert photons.tolist() == again[0].tolist()
    assert electrons.tolist() == again[1].tolist()


@pytest.mark.parametrize("name", yields.MODELS)
def test_other_seed_other_quanta(name):
    deposits = make_deposits(59.54, 20)
    assert quanta(name, deposits, 1)[0].tolist() != quanta(name, deposits, 2)[0].tolist()
    # and one call after the other gives others as well
    model, rng = yields.model(name, DENSITY, FIELD), np.random.default_rng(1)
    first, second = model.quanta(rng, deposits), model.quanta(rng, deposits)
    assert first[0].tolist() != second[0].tolist()


def test_unknown_model():
    with pytest.raises(InvalidOption, match="cannot come from 'Nest': take one of nest, simple"):
        yields.model("Nest", DENSITY, FIELD)


def test_without_nestpy(monkeypatch):
    monkeypatch.setitem(sys.modules, "nestpy", None)
    with pytest.raises(NotAvailable, match="pip install amstrax") as error:
        yields.model("nest", DENSITY, FIELD)
    assert "--yields simple" in str(error.value)
    photons, electrons = quanta("simple", make_deposits(10.0, 3))
    assert (photons + electrons > 600).all()

"""Energy deposits of sources in the xenon, and in the NaI detector next to it.

Energies are in keV, times in ns since the start of the run, lengths in mm.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from amstrax.exceptions import InvalidOption, did_you_mean
from amstrax.simulation.detector import Detector

#: Kinds of deposits, of which the yields differ
GAMMA, ALPHA, KR83M_SECOND = 0, 1, 2

ELECTRON_MASS = 510.99895  # [keV]
KR83M_ENERGIES = 32.1, 9.4  # of the two steps, ENSDF
KR83M_HALF_LIFE = 154.4  # of the state between them [ns], ENSDF

#: Share of photons that are absorbed, against energy [keV]; the others are scattered once. Rounded
#: from NIST's XCOM for xenon, without coherent scattering.
_PHOTOELECTRIC = (
    (30.0, 60.0, 100.0, 150.0, 300.0, 500.0, 700.0, 1300.0),
    (1.0, 0.95, 0.87, 0.72, 0.37, 0.19, 0.11, 0.04),
)

FLAT_RANGE = 1.0, 100.0  # where no other is asked for [keV]


class Deposits(NamedTuple):
    """Energy deposits, arrays of shape (n,); those of one event follow each other."""

    event: np.ndarray  # which of the events of this stretch of time
    time: np.ndarray
    energy: np.ndarray
    kind: np.ndarray
    delay: np.ndarray  # after the event's first deposit [ns]
    x: np.ndarray
    y: np.ndarray
    z: np.ndarray


class External(NamedTuple):
    """Deposits in the NaI detector, arrays of shape (m,)."""

    event: np.ndarray  # which event they belong to; -1: none
    time: np.ndarray
    energy: np.ndarray

    @classmethod
    def none(cls) -> "External":
        """Return no deposits."""
        return cls(np.zeros(0, dtype=np.int64), np.zeros(0), np.zeros(0))


def event_times(rng: np.random.Generator, rate: float, start: float, end: float) -> np.ndarray:
    """Return sorted times of a Poisson process of `rate` Hz from `start` to `end` ns."""
    end = max(start, end)
    n = rng.poisson(rate * (end - start) / 1e9)
    return np.sort(rng.uniform(start, end, n))


def positions(rng: np.random.Generator, n: int, detector: Detector) -> tuple[np.ndarray, ...]:
    """Return x, y, z of `n` points, uniform in the cylinder between gate (z = 0) and cathode."""
    r = detector.radius * np.sqrt(rng.random(n))
    phi = rng.uniform(0, 2 * np.pi, n)
    return r * np.cos(phi), r * np.sin(phi), rng.uniform(-detector.gate_cathode_distance, 0, n)


def compton_energies(rng: np.random.Generator, energy: np.ndarray) -> np.ndarray:
    """Return energies that photons of `energy` leave in one Compton scattering.

    The formula of Klein and Nishina (Z. Phys. 52 (1929) 853) is sampled by rejection.
    """
    result = np.zeros(len(energy))
    left = np.arange(len(energy))
    while len(left):
        cosine = rng.uniform(-1, 1, len(left))
        ratio = 1 / (1 + energy[left] / ELECTRON_MASS * (1 - cosine))
        density = ratio**2 * (ratio + 1 / ratio - 1 + cosine**2) / 2  # at most 1
        taken = rng.random(len(left)) < density
        result[left[taken]] = (energy[left] * (1 - ratio))[taken]
        left = left[~taken]
    return result


def photon_energies(rng: np.random.Generator, energy: np.ndarray) -> np.ndarray:
    """Return energies that photons of `energy` leave in the xenon, absorbed or scattered once."""
    result = energy.copy()
    scattered = rng.random(len(energy)) > np.interp(energy, *_PHOTOELECTRIC)
    result[scattered] = compton_energies(rng, energy[scattered])
    return result


class Photons(NamedTuple):
    """A source of photons: energies and their intensities."""

    energies: tuple[float, ...]
    intensities: tuple[float, ...]

    def lines(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """Return energies of `n` photons."""
        weights = np.array(self.intensities)
        return rng.choice(np.array(self.energies), size=n, p=weights / weights.sum())

    def energies_left(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """Return energies of `n` deposits."""
        return photon_energies(rng, self.lines(rng, n))


class Alphas(NamedTuple):
    """A source of alphas, which all stay in the xenon."""

    energies: tuple[float, ...]

    def energies_left(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """Return energies of `n` deposits."""
        return rng.choice(np.array(self.energies), size=n)


class Flat(NamedTuple):
    """All energies in a range, equally often, with the yields of photons."""

    lowest: float
    highest: float

    def energies_left(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """Return energies of `n` deposits."""
        return rng.uniform(self.lowest, self.highest, n)


class Kr83m(NamedTuple):
    """Two deposits at one place, 32.1 keV and then 9.4 keV."""

    half_life: float  # of the state between them [ns]


class Pairs(NamedTuple):
    """Positron annihilation: one photon in the xenon, the other perhaps in the NaI detector."""

    energy: float
    photon: Photons  # all photons of the source


class Source(NamedTuple):
    """A source: its description and its model; None for LED runs."""

    summary: str
    model: Photons | Alphas | Flat | Kr83m | Pairs | None


# Energies and intensities per decay: ENSDF
SOURCES: Mapping[str, Source] = MappingProxyType(
    {
        "flat": Source("1 to 100 keV, or the range of --energy, uniform", Flat(*FLAT_RANGE)),
        "kr83m": Source("32.1 keV and 9.4 keV, 154 ns half-life apart", Kr83m(KR83M_HALF_LIFE)),
        "am241": Source("photons of 59.5 keV", Photons((59.54,), (1.0,))),
        "co57": Source("photons of 122 and 136 keV", Photons((122.06, 136.47), (85.6, 10.7))),
        "cs137": Source("photons of 662 keV", Photons((661.66,), (1.0,))),
        "na22": Source(
            "511-keV pairs, some seen by the NaI detector, and 1275 keV",
            Pairs(ELECTRON_MASS, Photons((ELECTRON_MASS, 1274.5), (1.80, 1.0))),
        ),
        "rn222": Source(
            "alphas of radon-222 and its daughters: 5.49, 6.00, 7.69 MeV",
            Alphas((5489.5, 6002.4, 7686.8)),
        ),
        "led": Source("no xenon: LED calibration with an external trigger", None),
    }
)


def source(name: str, energy_range: tuple[float, float] | None = None) -> Source:
    """Return the source called `name`; `energy_range` [keV] is only for ``flat``.

    Raises InvalidOption for another name, or an impossible range.
    """
    if name not in SOURCES:
        raise InvalidOption(f"no source {name!r}{did_you_mean(name, SOURCES)}")
    found = SOURCES[name]
    if energy_range is None:
        return found
    if not isinstance(found.model, Flat):
        raise InvalidOption(f"source {name} has fixed energies: leave the range of energies out")
    lowest, highest = energy_range
    if not 0 < lowest <= highest <= 10_000:
        raise InvalidOption(
            f"energies cannot range from {lowest} to {highest} keV: take 0 < lowest <= highest <= "
            "10000"
        )
    return found._replace(model=Flat(lowest, highest))


def deposits(
    rng: np.random.Generator, source_: Source, times: np.ndarray, detector: Detector
) -> tuple[Deposits, External]:
    """Return the deposits of events at `times`, and those that go with them in the NaI detector."""
    model = source_.model
    n = len(times)
    events = np.arange(n)
    xyz = positions(rng, n, detector)
    external = External.none()
    kind = np.full(n, ALPHA if isinstance(model, Alphas) else GAMMA, dtype=np.int8)
    if isinstance(model, Kr83m):
        return _kr83m(rng, model, times, xyz), external
    if isinstance(model, Pairs):
        energy, external = _pairs(rng, model, times, detector)
    else:
        assert model is not None, "LED runs have no deposits"
        energy = model.energies_left(rng, n)
    return Deposits(events, times, energy, kind, np.zeros(n), *xyz), external


def _kr83m(
    rng: np.random.Generator, model: Kr83m, times: np.ndarray, xyz: tuple[np.ndarray, ...]
) -> Deposits:
    n = len(times)
    delay = np.zeros((n, 2))
    delay[:, 1] = rng.exponential(model.half_life / np.log(2), n)
    return Deposits(
        event=np.repeat(np.arange(n), 2),
        time=(times[:, np.newaxis] + delay).ravel(),
        energy=np.tile(KR83M_ENERGIES, n),
        kind=np.tile(np.array([GAMMA, KR83M_SECOND], dtype=np.int8), n),
        delay=delay.ravel(),
        x=np.repeat(xyz[0], 2),
        y=np.repeat(xyz[1], 2),
        z=np.repeat(xyz[2], 2),
    )


def _pairs(
    rng: np.random.Generator, model: Pairs, times: np.ndarray, detector: Detector
) -> tuple[np.ndarray, External]:
    """Return energies in the xenon, and deposits of the partners in the NaI detector."""
    line = model.photon.lines(rng, len(times))
    energy = photon_energies(rng, line)
    if detector.external_channel is None:
        return energy, External.none()
    seen = np.flatnonzero(
        (line == model.energy) & (rng.random(len(line)) < detector.external_acceptance)
    )
    partner = np.full(len(seen), model.energy)
    scattered = rng.random(len(seen)) > detector.external_photopeak
    partner[scattered] = compton_energies(rng, partner[scattered])
    return energy, External(seen, times[seen], partner)


def external_background(
    rng: np.random.Generator, detector: Detector, start: float, end: float
) -> External:
    """Return background deposits in the NaI detector, flat in energy."""
    times = event_times(rng, detector.external_rate, start, end)
    lowest = min(30.0, detector.external_max_energy)
    energy = rng.uniform(lowest, detector.external_max_energy, len(times))
    return External(np.full(len(times), -1), times, energy)

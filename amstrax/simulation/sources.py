"""Energy deposits of sources in the xenon, and in the NaI detector next to it.

Energies are in keV, times in ns since the start of the run, lengths in mm.
"""

from collections.abc import Callable, Mapping
from enum import IntEnum
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from amstrax.exceptions import InvalidOption, did_you_mean
from amstrax.simulation import photons
from amstrax.simulation.detector import Detector, Rng
from amstrax.simulation.photons import ELECTRON_MASS, compton_energies


class Interaction(IntEnum):
    """Kind of a deposit, on which yields and pulse shape depend."""

    PHOTOABSORPTION = 0  #: of a photon, with all that follows in its atom
    ALPHA = 1  #: alpha particle
    KR83M_SECOND = 2  #: 9.4-keV step of Kr-83m
    BETA = 3  #: electron of a beta decay
    COMPTON = 4  #: electron of a Compton scattering
    NUCLEAR_RECOIL = 5  #: recoil of a xenon nucleus
    KR83M_FIRST = 6  #: 32.1-keV step of Kr-83m
    GAS = 7  #: electron in the gas above the liquid


KR83M_ENERGIES = 32.1, 9.4  # of the two steps, ENSDF
KR83M_HALF_LIFE = 154.4  # of the state between them [ns], ENSDF
PO214_HALF_LIFE = 164_300.0  # [ns], NDS 99 (2003) 649

FLAT_RANGE = 1.0, 100.0  # where no other is asked for [keV]


class Deposits(NamedTuple):
    """Energy deposits, arrays of shape (n,).

    Events are sorted by time; the deposits of one follow each other, the first one first.
    """

    event: np.ndarray  # which of the events of this stretch of time
    time: np.ndarray
    energy: np.ndarray
    kind: np.ndarray  # an `Interaction`
    delay: np.ndarray  # after the event's first deposit [ns]
    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    charge: np.ndarray  # share of its electrons that drift upwards


class External(NamedTuple):
    """Deposits in the NaI detector, arrays of shape (m,)."""

    event: np.ndarray  # which event they belong to; -1: none
    time: np.ndarray
    energy: np.ndarray

    @classmethod
    def none(cls) -> "External":
        return cls(np.zeros(0, dtype=np.int64), np.zeros(0), np.zeros(0))


def event_times(rng: Rng, rate: float, start: float, end: float) -> np.ndarray:
    """Return sorted times of a Poisson process of `rate` Hz from `start` to `end` ns."""
    end = max(start, end)
    n = rng.poisson(rate * (end - start) / 1e9)
    return np.sort(rng.uniform(start, end, n))


# --- where: x, y, z and the share of electrons that drift, each of shape (n,)


def positions(rng: Rng, n: int, detector: Detector) -> tuple[np.ndarray, ...]:
    """Return x, y, z of `n` points, uniform in the cylinder between gate (z = 0) and cathode."""
    r = detector.radius * np.sqrt(rng.random(n))
    phi = rng.uniform(0, 2 * np.pi, n)
    return r * np.cos(phi), r * np.sin(phi), rng.uniform(-detector.gate_cathode_distance, 0, n)


def in_liquid(rng: Rng, n: int, detector: Detector) -> tuple[np.ndarray, ...]:
    """Return places in the drift volume, from which all electrons drift."""
    return *positions(rng, n, detector), np.ones(n)


def at_wall(rng: Rng, n: int, detector: Detector) -> tuple[np.ndarray, ...]:
    """Return places at the wall, which keeps all but `Detector.wall_charge_share` of electrons."""
    phi = rng.uniform(0, 2 * np.pi, n)
    r = detector.radius * (1 - 1e-9)
    z = rng.uniform(-detector.gate_cathode_distance, 0, n)
    return r * np.cos(phi), r * np.sin(phi), z, np.full(n, detector.wall_charge_share)


def at_cathode(rng: Rng, n: int, detector: Detector) -> tuple[np.ndarray, ...]:
    """Return places at the cathode, where `Detector.cathode_charge_share` of electrons drift."""
    x, y, _ = positions(rng, n, detector)
    z = np.full(n, -detector.gate_cathode_distance)
    return x, y, z, np.full(n, detector.cathode_charge_share)


def below_cathode(rng: Rng, n: int, detector: Detector) -> tuple[np.ndarray, ...]:
    """Return places below the cathode, from which no electron drifts: S1s without S2."""
    x, y, _ = positions(rng, n, detector)
    z = -detector.gate_cathode_distance - detector.below_cathode * rng.random(n)
    return x, y, z, np.zeros(n)


def in_gas(rng: Rng, n: int, detector: Detector) -> tuple[np.ndarray, ...]:
    """Return places at the surface of the liquid: the S2's light starts at once, with the S1."""
    x, y, _ = positions(rng, n, detector)
    return x, y, np.full(n, detector.surface), np.ones(n)


Place = Callable[[Rng, int, Detector], tuple[np.ndarray, ...]]

# --- how much: spectra


class Lines(NamedTuple):
    """Lines, of equal intensity where none is given."""

    energies: tuple[float, ...]
    intensities: tuple[float, ...] | None = None

    def draw(self, rng: Rng, n: int) -> np.ndarray:
        weights = np.array(self.intensities or (1.0,) * len(self.energies))
        return rng.choice(np.array(self.energies), size=n, p=weights / weights.sum())


class Flat(NamedTuple):
    """All energies in a range, equally often."""

    lowest: float
    highest: float

    def draw(self, rng: Rng, n: int) -> np.ndarray:
        return rng.uniform(self.lowest, self.highest, n)


class Betas(NamedTuple):
    """Beta decays to one or more levels, all with the spectrum of allowed ones.

    The photons that follow a decay are left out.
    """

    endpoints: tuple[float, ...]
    daughter: int  # atomic number
    intensities: tuple[float, ...] = (1.0,)

    def draw(self, rng: Rng, n: int) -> np.ndarray:
        branch = Lines(self.endpoints, self.intensities).draw(rng, n)
        result = np.empty(n)
        for endpoint in self.endpoints:
            own = np.flatnonzero(branch == endpoint)
            energy, cumulative = _beta_spectrum(endpoint, self.daughter)
            result[own] = np.interp(rng.random(len(own)), cumulative, energy)
        return result


@lru_cache(maxsize=32)
def _beta_spectrum(endpoint: float, daughter: int) -> tuple[np.ndarray, np.ndarray]:
    energy = np.linspace(0, endpoint, 2001)
    middle = (energy[1:] + energy[:-1]) / 2
    cumulative = np.cumsum(beta_density(middle, endpoint, daughter))
    return energy, np.append(0, cumulative / cumulative[-1])


def beta_density(energy: np.ndarray, endpoint: float, daughter: int) -> np.ndarray:
    """Return the spectrum of an allowed beta decay, not normalised: F p E (Q - T)^2.

    F is the Fermi function of a point nucleus without relativity, 2 pi eta / (1 - exp(-2 pi eta)).
    """
    total = energy + ELECTRON_MASS
    momentum = np.sqrt(total**2 - ELECTRON_MASS**2)
    eta = 2 * np.pi * daughter / 137.036 * total / momentum
    return eta / -np.expm1(-eta) * momentum * total * np.clip(endpoint - energy, 0, None) ** 2


Spectrum = Lines | Flat | Betas

# --- models: deposits of events at given times


#: Deposits in the xenon and in the NaI detector. Models return those of events at some `times`,
#: before `end`; spectra draw `n` energies
Found = tuple[Deposits, External]


def _single(
    times: np.ndarray, energy: np.ndarray, kind: Interaction, places: tuple[np.ndarray, ...]
) -> Deposits:
    """Return deposits that are events of their own."""
    n = len(times)
    kinds = np.full(n, kind, dtype=np.int8)
    return Deposits(np.arange(n), times, energy, kinds, np.zeros(n), *places)


class Decays(NamedTuple):
    """Events of one deposit."""

    spectrum: Spectrum
    kind: Interaction
    place: Place = in_liquid

    def deposits(self, rng: Rng, times: np.ndarray, detector: Detector, end: float) -> Found:
        energy = self.spectrum.draw(rng, len(times))
        places = self.place(rng, len(times), detector)
        return _single(times, energy, self.kind, places), External.none()


class Kr83m(NamedTuple):
    """Two deposits at one place, 32.1 keV and then 9.4 keV."""

    half_life: float  # of the state between them [ns]

    def deposits(self, rng: Rng, times: np.ndarray, detector: Detector, end: float) -> Found:
        n = len(times)
        places = in_liquid(rng, n, detector)
        delay = np.zeros((n, 2))
        delay[:, 1] = rng.exponential(self.half_life / np.log(2), n)
        kinds = np.array([Interaction.KR83M_FIRST, Interaction.KR83M_SECOND], dtype=np.int8)
        found = Deposits(
            np.repeat(np.arange(n), 2),
            (times[:, np.newaxis] + delay).ravel(),
            np.tile(KR83M_ENERGIES, n),
            np.tile(kinds, n),
            delay.ravel(),
            *(np.repeat(column, 2) for column in places),
        )
        return found, External.none()


class Photons(NamedTuple):
    """A source of photons, with those events that deposit energy."""

    lines: Lines
    #: [mm], or `photons.OUTSIDE`: from everywhere outside of the drift volume, or `photons.INSIDE`
    position: tuple[float, float, float] | str = photons.OUTSIDE

    def deposits(self, rng: Rng, times: np.ndarray, detector: Detector, end: float) -> Found:
        return self.tracks(rng, times, detector)[0], External.none()

    def tracks(
        self, rng: Rng, times: np.ndarray, detector: Detector
    ) -> tuple[Deposits, np.ndarray]:
        """Return the deposits of photons that come at `times`, and the energies of the photons."""
        n = len(times)
        line = np.zeros(n)
        parts = []
        left = np.arange(n)
        while len(left):
            tried = self.lines.draw(rng, len(left))
            start, direction = photons.enter(rng, len(left), detector, self.position)
            tracks = photons.track(rng, tried, start, direction, detector)
            parts.append(tracks._replace(photon=left[tracks.photon]))
            line[left] = tried
            # Photons that pass without a deposit are no events
            left = np.setdiff1d(left, parts[-1].photon)
        if not parts:
            return _single(times, line, Interaction.COMPTON, (line,) * 4), line
        photon, energy, is_compton, x, y, z = (np.concatenate(c) for c in zip(*parts, strict=True))
        order = np.argsort(photon, kind="stable")
        kind = np.where(is_compton, Interaction.COMPTON, Interaction.PHOTOABSORPTION)
        one = np.ones(len(photon))
        found = Deposits(photon, times[photon], energy, kind.astype(np.int8), 0 * one, x, y, z, one)
        return Deposits(*(column[order] for column in found)), line


class Pairs(NamedTuple):
    """Positron annihilation: one photon in the xenon, the other perhaps in the NaI detector."""

    energy: float
    photons: Photons  # all photons of the source

    def deposits(self, rng: Rng, times: np.ndarray, detector: Detector, end: float) -> Found:
        found, line = self.photons.tracks(rng, times, detector)
        if detector.external_channel is None:
            return found, External.none()
        seen = np.flatnonzero(
            (line == self.energy) & (rng.random(len(line)) < detector.external_acceptance)
        )
        partner = np.full(len(seen), self.energy)
        scattered = rng.random(len(seen)) > detector.external_photopeak
        partner[scattered] = compton_energies(rng, partner[scattered])
        return found, External(seen, times[seen], partner)


class BetaAlpha(NamedTuple):
    """A beta decay and the alpha decay of its daughter at the same place: two events."""

    betas: Betas
    alpha: float
    half_life: float  # of the daughter [ns]

    def deposits(self, rng: Rng, times: np.ndarray, detector: Detector, end: float) -> Found:
        """Return the deposits of beta decays at `times`, and of the alphas that follow."""
        n = len(times)
        places = in_liquid(rng, n, detector)
        delay = rng.exponential(self.half_life / np.log(2), n)
        # Alphas after the end would be among the events of what comes next: such pairs come
        # earlier, but not before all others, which may be before the start of the run
        first = np.clip(end - delay, times.min(initial=end), times)
        delay = np.minimum(delay, end - first)
        beta = _single(first, self.betas.draw(rng, n), Interaction.BETA, places)
        alpha = _single(first + delay, np.full(n, self.alpha), Interaction.ALPHA, places)
        return merge((beta, External.none()), (alpha, External.none()))


class Chain(NamedTuple):
    """Decays of a chain in equilibrium: each of its steps as often as the others."""

    steps: tuple["Model", ...]

    def deposits(self, rng: Rng, times: np.ndarray, detector: Detector, end: float) -> Found:
        which = rng.integers(len(self.steps), size=len(times))
        return merge(
            *(
                step.deposits(rng, times[which == i], detector, end)
                for i, step in enumerate(self.steps)
            )
        )


Model = Decays | Kr83m | Photons | Pairs | BetaAlpha | Chain


def merge(*parts: Found) -> Found:
    """Join the events of several sources, sorted by time."""
    firsts, found, others = [], [], []
    n = 0
    for part, external in parts:
        is_first = np.diff(part.event, prepend=-1) > 0
        firsts.append(part.time[is_first])
        found.append(part._replace(event=part.event + n))
        others.append(external._replace(event=np.where(external.event < 0, -1, external.event + n)))
        n += int(is_first.sum())
    joined = Deposits(*map(np.concatenate, zip(*found, strict=True)))
    external = External(*map(np.concatenate, zip(*others, strict=True)))
    rank = np.empty(n + 1, dtype=np.int64)
    rank[np.argsort(np.concatenate(firsts), kind="stable")] = np.arange(n)
    rank[-1] = -1  # of no event
    joined = joined._replace(event=rank[joined.event])
    order = np.argsort(joined.event, kind="stable")
    external = external._replace(event=rank[external.event])
    return Deposits(*(column[order] for column in joined)), external


class Source(NamedTuple):
    """A source: its description and its model; None for LED runs."""

    summary: str
    model: Model | None


_PO218, _PO214, _RN222, _PO210 = 6002.4, 7686.8, 5489.5, 5304.3  # alphas, ENSDF
# Endpoints and intensities [%] of the branches above 1 % (Pb-214) and 2.8 % (Bi-214)
_PB214 = Betas((672.0, 729.0, 1024.0, 185.0, 490.0), 83, (48.2, 41.6, 6.2, 2.7, 1.2))  # NDS 76, 127
_BI214 = Betas(  # NDS 99 (2003) 649
    (3272.0, 1542.0, 1508.0, 1425.0, 1894.0, 1068.0, 1153.0, 1729.0, 824.0),
    84,
    (18.3, 17.9, 17.1, 8.2, 7.4, 5.7, 4.3, 3.0, 2.8),
)
_BIPO = BetaAlpha(_BI214, _PO214, PO214_HALF_LIFE)
_ALPHA, _BETA = Interaction.ALPHA, Interaction.BETA

# Energies and intensities per decay, where nothing else is said: ENSDF
SOURCES: Mapping[str, Source] = MappingProxyType(
    {
        "flat": Source(
            "electrons of 1 to 100 keV, or the range of --energy, uniform",
            Decays(Flat(*FLAT_RANGE), _BETA),
        ),
        "nr": Source(
            "nuclear recoils of 1 to 100 keV, or the range of --energy, uniform",
            Decays(Flat(*FLAT_RANGE), Interaction.NUCLEAR_RECOIL),
        ),
        "tritium": Source(
            "beta decays of tritium, up to 18.6 keV", Decays(Betas((18.59,), 2), _BETA)
        ),
        "kr83m": Source("32.1 keV and 9.4 keV, 154 ns half-life apart", Kr83m(KR83M_HALF_LIFE)),
        "am241": Source(
            "photons of 59.5 keV that start in the liquid, uniformly: they go 0.5 mm",
            Photons(Lines((59.54,)), photons.INSIDE),
        ),
        "co57": Source(
            "photons of 122 and 136 keV", Photons(Lines((122.06, 136.47), (85.6, 10.7)))
        ),
        "cs137": Source("photons of 662 keV", Photons(Lines((661.66,)))),
        "na22": Source(
            "511-keV pairs, some seen by the NaI detector, and 1275 keV",
            Pairs(ELECTRON_MASS, Photons(Lines((ELECTRON_MASS, 1274.5), (1.80, 1.0)))),
        ),
        "rn222": Source(
            "alphas of radon-222 and its daughters: 5.49, 6.00, 7.69 MeV",
            Decays(Lines((_RN222, _PO218, _PO214)), _ALPHA),
        ),
        "rn_chain": Source(
            "radon-222 to lead-210: Rn-222, Po-218, Pb-214, and Bi-214 with Po-214, equally often",
            Chain(
                (
                    Decays(Lines((_RN222,)), _ALPHA),
                    Decays(Lines((_PO218,)), _ALPHA),
                    Decays(_PB214, _BETA),
                    _BIPO,
                )
            ),
        ),
        "bipo": Source("betas of Bi-214, and the alpha of Po-214, 164 us half-life later", _BIPO),
        "wall": Source(
            "alphas of Po-210 (5.30 MeV) on the wall, which keeps most electrons",
            Decays(Lines((_PO210,)), _ALPHA, at_wall),
        ),
        "cathode": Source(
            "alphas of Po-218 and Po-214 on the cathode, half of the electrons lost",
            Decays(Lines((_PO218, _PO214)), _ALPHA, at_cathode),
        ),
        "below_cathode": Source(
            "electrons of 1 to 1000 keV below the cathode: S1 without S2",
            Decays(Flat(1.0, 1000.0), _BETA, below_cathode),
        ),
        "gas": Source(
            "electrons of 1 to 100 keV in the gas: S2 at once, with the S1",
            Decays(Flat(*FLAT_RANGE), Interaction.GAS, in_gas),
        ),
        "led": Source("no xenon: LED calibration with an external trigger", None),
    }
)


def source(
    name: str,
    energy_range: tuple[float, float] | None = None,
    position: tuple[float, float, float] | None = None,
) -> Source:
    """Return the source called `name`.

    Raises InvalidOption for another name, an impossible range, or where it does not apply.
    Parameters are those of `amstrax.simulation.blocks.Settings`.
    """
    if name not in SOURCES:
        raise InvalidOption(f"no source {name!r}{did_you_mean(name, SOURCES)}")
    found = SOURCES[name]
    if energy_range is not None:
        found = found._replace(model=_with_range(name, found.model, energy_range))
    if position is not None:
        found = found._replace(model=_at_position(name, found.model, position))
    return found


def _with_range(name: str, model: Model | None, energy_range: tuple[float, float]) -> Model:
    if not (isinstance(model, Decays) and isinstance(model.spectrum, Flat)):
        raise InvalidOption(f"source {name} has fixed energies: leave the range of energies out")
    lowest, highest = energy_range
    # NEST has no data for recoils of more energy
    most = 300 if model.kind == Interaction.NUCLEAR_RECOIL else 10_000
    if not 0 < lowest <= highest <= most:
        raise InvalidOption(
            f"energies cannot range from {lowest} to {highest} keV: take 0 < lowest <= highest <= "
            f"{most}"
        )
    return model._replace(spectrum=Flat(lowest, highest))


def _at_position(name: str, model: Model | None, position: tuple[float, float, float]) -> Model:
    if not np.shape(position) == (3,) or not np.all(np.abs(position) <= 10_000):
        raise InvalidOption(
            f"a source cannot be at {position}: give x, y, z in mm, each at most 10000 in size"
        )
    if isinstance(model, Pairs):
        return model._replace(photons=model.photons._replace(position=position))
    if not isinstance(model, Photons):
        raise InvalidOption(f"source {name} is not outside of the xenon: leave its position out")
    return model._replace(position=position)


def deposits(
    rng: Rng, source_: Source, times: np.ndarray, detector: Detector, end: float = np.inf
) -> Found:
    """Return the deposits of events at `times`, and those that go with them in the NaI detector.

    ``bipo`` has two events for each time, both before `end` [ns].
    """
    assert source_.model is not None, "LED runs have no deposits"
    return source_.model.deposits(rng, times, detector, end)


def external_background(rng: Rng, detector: Detector, start: float, end: float) -> External:
    """Return background deposits in the NaI detector, flat in energy."""
    times = event_times(rng, detector.external_rate, start, end)
    lowest = min(30.0, detector.external_max_energy)
    energy = rng.uniform(lowest, detector.external_max_energy, len(times))
    return External(np.full(len(times), -1), times, energy)

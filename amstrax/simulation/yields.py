"""Photons and electrons of energy deposits: from nestpy, or from a simple model."""

from functools import lru_cache

import numpy as np

from amstrax.exceptions import InvalidOption, NotAvailable
from amstrax.simulation.sources import ALPHA, KR83M_SECOND, Deposits

MODELS = ("nest", "simple")

#: Mean energy for an excited or ionised atom [keV]; C. Dahl, thesis, Princeton 2009
WORK_FUNCTION = 13.7e-3


class NestYields:
    """Yields and their fluctuations from NEST, the Noble Element Simulation Technique."""

    def __init__(self, density: float, drift_field: float):
        try:
            import nestpy
        except ImportError as error:
            raise NotAvailable(
                f"photon and electron yields come from nestpy, which cannot be imported ({error}): "
                "pip install 'amstrax[simulation]', or take the simpler model: --yields simple "
                "(in Python yields='simple')"
            ) from None
        self._nest = nestpy
        self._calculator = nestpy.NESTcalc(nestpy.detectors.VDetector())
        self._density, self._field = density, drift_field
        self._mean = lru_cache(maxsize=64)(self._mean_yields)

    def _mean_yields(self, kind: int, energy: float):
        if kind == ALPHA:
            helium = (4.0, 2.0)  # mass and atomic number
            return self._calculator.GetYields(
                self._nest.ion, energy, self._density, self._field, *helium
            )
        return self._calculator.GetYields(self._nest.gammaRay, energy, self._density, self._field)

    def quanta(self, rng: np.random.Generator, deposits: Deposits) -> tuple[np.ndarray, np.ndarray]:
        """Return numbers of photons and of electrons of deposits, both of shape (n,).

        NEST's random numbers are seeded from `rng`.
        """
        self._nest.RandomGen.rndm().set_seed(int(rng.integers(2**31)))
        photons = np.zeros(len(deposits.energy), dtype=np.int64)
        electrons = np.zeros_like(photons)
        columns = (deposits.kind, deposits.energy, deposits.delay)
        for i, (kind, energy, delay) in enumerate(
            zip(*(column.tolist() for column in columns), strict=True)
        ):
            if kind == KR83M_SECOND:
                # Yields of the 9.4 keV depend on the delay after the 32.1 keV, within 1 ns
                delays = delay + 1.0, max(delay - 1.0, 0.0)
                mean = self._calculator.GetYieldKr83m(energy, self._density, self._field, *delays)
            else:
                mean = self._mean(kind, energy)
            quanta = self._calculator.GetQuanta(mean, self._density)
            photons[i], electrons[i] = quanta.photons, quanta.electrons
        return np.maximum(photons, 0), np.maximum(electrons, 0)


class SimpleYields:
    """Yields without nestpy: a fixed share of photons among a fixed number of quanta per keV.

    The shares of photons, 0.6 for gammas and 0.98 for alphas, are about those of NEST for 60 keV
    and for alphas at 500 V/cm; NEST's share falls to 0.4 at 662 keV. The number of quanta
    fluctuates with a Fano factor of 0.03, the share by 0.03.
    """

    _FANO = 0.03
    _SHARE_GAMMAS, _SHARE_ALPHAS = 0.6, 0.98
    _SHARE_SPREAD = 0.03
    _ALPHA_QUENCHING = 0.92  # share of an alpha's energy that gives quanta, as of NEST

    def quanta(self, rng: np.random.Generator, deposits: Deposits) -> tuple[np.ndarray, np.ndarray]:
        """Return numbers of photons and of electrons of deposits, both of shape (n,)."""
        alpha = deposits.kind == ALPHA
        mean = deposits.energy / WORK_FUNCTION * np.where(alpha, self._ALPHA_QUENCHING, 1.0)
        total = np.rint(rng.normal(mean, np.sqrt(self._FANO * mean)))
        total = np.maximum(total, 0).astype(np.int64)
        share = rng.normal(
            np.where(alpha, self._SHARE_ALPHAS, self._SHARE_GAMMAS),
            np.where(alpha, 0.0, self._SHARE_SPREAD),
        )
        photons = rng.binomial(total, np.clip(share, 0, 1))
        return photons, total - photons


Yields = NestYields | SimpleYields


def model(name: str, density: float, drift_field: float) -> Yields:
    """Return a model of `MODELS` for a density [g/cm^3] and an electric field [V/cm].

    Raises InvalidOption for another name, and NotAvailable for ``nest`` without nestpy.
    """
    if name == "nest":
        return NestYields(density, drift_field)
    if name == "simple":
        return SimpleYields()
    raise InvalidOption(f"yields cannot come from {name!r}: take one of {', '.join(MODELS)}")

"""Photons and electrons of energy deposits: from nestpy, or from a simple model."""

import threading

import numpy as np

from amstrax.exceptions import InvalidOption, NotAvailable
from amstrax.simulation.detector import Rng
from amstrax.simulation.sources import Deposits, Interaction

MODELS = ("nest", "simple")

#: Mean energy for an excited or ionised atom [keV]; 13.7 +- 0.2 eV, C. Dahl, thesis, Princeton
#: 2009, as cited by arXiv:1101.6080. EXO-200 finds 11.5 eV (arXiv:1908.04128), as arXiv:2109.07151
WORK_FUNCTION = 13.7e-3
#: Mean energies for an electron and for a photon in xenon gas [keV], without recombination: usual
#: value; assumed, published ones are 34 to 111 eV (C. Henriques et al., arXiv:2309.14202)
GAS_PER_ELECTRON, GAS_PER_PHOTON = 21.9e-3, 40e-3
_GAS_FANO = 0.15  # of electrons in xenon gas; usual value

#: NEST has one generator of random numbers a process, which one thread at a time seeds and uses
_NEST_GENERATOR = threading.Lock()

#: Interaction -> NEST's model, a member of ``nestpy.interactions``; the others have own functions
_NEST_MODELS = {
    Interaction.PHOTOABSORPTION: "gammaRay",
    Interaction.COMPTON: "beta",
    Interaction.BETA: "beta",
    Interaction.NUCLEAR_RECOIL: "NR",
    Interaction.ALPHA: "ion",
}


class NestYields:
    """Yields and their fluctuations from NEST, the Noble Element Simulation Technique.

    Photoabsorption has NEST's gamma model, electrons of Compton scattering and beta decays its beta
    model, the two steps of Kr-83m, alphas and nuclear recoils theirs. NEST computes each deposit,
    which takes 4 us: nothing is interpolated.
    """

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
        self._at = density, drift_field

    def mean(self, kind: int, energy: float, delay: float = 0.0):
        """Return NEST's mean yields, with ``PhotonYield`` and ``ElectronYield``, of a deposit.

        Parameters
        ----------
        kind
            An `Interaction` in the liquid.
        energy
            [keV]
        delay
            After the 32.1 keV of Kr-83m, for its 9.4 keV [ns].
        """
        if kind in (Interaction.KR83M_FIRST, Interaction.KR83M_SECOND):
            # Yields of the 9.4 keV depend on the delay after the 32.1 keV, within 1 ns
            delays = delay + 1.0, max(delay - 1.0, 0.0)
            return self._calculator.GetYieldKr83m(energy, *self._at, *delays)
        model = getattr(self._nest.interactions, _NEST_MODELS[Interaction(kind)])
        helium = (4.0, 2.0) if kind == Interaction.ALPHA else ()  # mass and atomic number
        return self._calculator.GetYields(model, energy, *self._at, *helium)

    def quanta(self, rng: Rng, deposits: Deposits) -> tuple[np.ndarray, np.ndarray]:
        """Return numbers of photons and of electrons of deposits, both of shape (n,).

        NEST's random numbers are seeded from `rng`.
        """
        seed = int(rng.integers(2**31))
        photons = np.zeros(len(deposits.energy), dtype=np.int64)
        electrons = np.zeros_like(photons)
        in_gas = deposits.kind == Interaction.GAS
        columns = (deposits.kind, deposits.energy, deposits.delay)
        rows = zip(
            np.flatnonzero(~in_gas), *(column[~in_gas].tolist() for column in columns), strict=True
        )
        with _NEST_GENERATOR:
            self._nest.RandomGen.rndm().set_seed(seed)
            for i, *row in rows:
                quanta = self._calculator.GetQuanta(self.mean(*row), self._at[0])
                photons[i], electrons[i] = quanta.photons, quanta.electrons
        photons[in_gas], electrons[in_gas] = gas_quanta(rng, deposits.energy[in_gas])
        return np.maximum(photons, 0), np.maximum(electrons, 0)


def gas_quanta(rng: Rng, energy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return numbers of photons and of electrons of deposits in the gas, both of shape (n,)."""
    mean = energy / GAS_PER_ELECTRON
    electrons = np.rint(rng.normal(mean, np.sqrt(_GAS_FANO * mean))).astype(np.int64)
    return rng.poisson(energy / GAS_PER_PHOTON), np.maximum(electrons, 0)


class SimpleYields:
    """Yields without nestpy: a fixed share of photons among a fixed number of quanta per keV.

    Shares are about those of NEST at 500 V/cm, for 60 keV (nuclear recoils: 20 keV). With energy,
    they change in NEST and not here: its share of photons falls to 0.4 for photons of 662 keV, and
    to 0.3 for electrons. The number of quanta fluctuates with a Fano factor of 0.03, the share by
    0.03.
    """

    _FANO = 0.03
    _SHARE_SPREAD = 0.03
    #: Interaction -> share of photons, share of the energy that gives quanta
    _SHARES = {
        Interaction.PHOTOABSORPTION: (0.6, 1.0),
        Interaction.COMPTON: (0.53, 1.0),
        Interaction.BETA: (0.53, 1.0),
        Interaction.KR83M_FIRST: (0.6, 1.0),
        Interaction.KR83M_SECOND: (0.84, 1.0),
        Interaction.ALPHA: (0.98, 0.92),
        Interaction.NUCLEAR_RECOIL: (0.66, 0.2),
    }

    def quanta(self, rng: Rng, deposits: Deposits) -> tuple[np.ndarray, np.ndarray]:
        """Return numbers of photons and of electrons of deposits, both of shape (n,)."""
        # Those in the gas are replaced
        table = np.array([self._SHARES.get(kind, (0.0, 0.0)) for kind in Interaction])
        share, quenching = table[deposits.kind].T
        mean = deposits.energy / WORK_FUNCTION * quenching
        total = np.rint(rng.normal(mean, np.sqrt(self._FANO * mean)))
        total = np.maximum(total, 0).astype(np.int64)
        spread = np.where(deposits.kind == Interaction.ALPHA, 0.0, self._SHARE_SPREAD)
        photons = rng.binomial(total, np.clip(rng.normal(share, spread), 0, 1))
        electrons = total - photons
        in_gas = deposits.kind == Interaction.GAS
        photons[in_gas], electrons[in_gas] = gas_quanta(rng, deposits.energy[in_gas])
        return photons, electrons


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

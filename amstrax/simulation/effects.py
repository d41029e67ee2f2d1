"""Effects of the simulation that can be switched off, one by one.

An effect is switched off by `Settings.without`. Most have numbers of `Detector` at which they do
nothing: `switch_off` sets these.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from immutabledict import immutabledict

from amstrax.exceptions import InvalidOption, did_you_mean
from amstrax.simulation.detector import Detector

#: Effects that can be switched off -> what the simulation then leaves out
EFFECTS: Mapping[str, str] = immutabledict(
    {
        "adc_saturation": "the end of the ADC's range: counts go on to the end of 16-bit integers",
        "afterpulses": "after-pulses of PMTs",
        "dark_counts": "dark counts of PMTs and SiPM",
        "delayed_electrons": "single electrons up to 100 ms after S2s",
        "diffusion": "diffusion of drifting electrons, along and across the drift",
        "double_photoelectrons": "second photoelectrons of VUV photons; areas stay on average",
        "electron_gain_spread": "differences of the light of electrons, besides photon statistics",
        "electron_lifetime": "capture of drifting electrons by impurities",
        "extraction": "electrons that stay in the liquid",
        "multiple_scatters": "what a photon does after its first deposit",
        "noise": "noise of the digitizer",
        "photoelectron_spread": "spread of the charge of photoelectrons",
        "photoionisation": "electrons that the light of S1s and S2s sets free in the liquid",
        "pmt_saturation": "loss of gain of PMTs after much charge",
        "sipm_crosstalk": "avalanches of the SiPM that start others",
        "surface_charge_loss": "loss of electrons at the wall and at the cathode",
        "transit_time_spread": "spread of the transit time of PMTs",
    }
)

_ENDLESS = 1e18  # a time [ns] or charge [PE] that nothing comes near

#: Effect -> numbers of `Detector` at which it does nothing
_OFF: Mapping[str, Mapping[str, Any]] = immutabledict(
    {
        "adc_saturation": {"adc_saturates": False},
        "afterpulses": {"afterpulse_probability": 0.0},
        "dark_counts": {"dark_rate": 0.0, "sipm_dark_rate": 0.0},
        "delayed_electrons": {"delayed_electron_probability": 0.0},
        "diffusion": {"diffusion_longitudinal": 0.0, "diffusion_transverse": 0.0},
        "double_photoelectrons": {"dpe_probability": 0.0},
        "electron_gain_spread": {"se_gain_spread": 0.0},
        "electron_lifetime": {"electron_lifetime": _ENDLESS},
        "extraction": {"extraction_efficiency": 1.0},
        "multiple_scatters": {"multiple_scatters": False},
        "noise": {"noise": 0.0},
        "photoelectron_spread": {
            "photoelectron_spread": 0.0,
            "photoelectron_small": 0.0,
            "sipm_spread": 0.0,
        },
        "photoionisation": {"photoionisation_probability": 0.0},
        "pmt_saturation": {"pmt_saturation_charge": _ENDLESS},
        "sipm_crosstalk": {"sipm_crosstalk": 0.0},
        "surface_charge_loss": {"wall_charge_share": 1.0, "cathode_charge_share": 1.0},
        "transit_time_spread": {"transit_time_spread": 0.0},
    }
)


def check(names: Iterable[Any]) -> None:
    """Raise InvalidOption for a name that is not in `EFFECTS`."""
    for name in names:
        if name not in EFFECTS:
            near = did_you_mean(str(name), EFFECTS)
            raise InvalidOption(f"the simulation has no effect {name!r} to leave out{near}")


def switch_off(detector: Detector, names: Iterable[str]) -> Detector:
    """Return a detector without the effects `names`, as far as they are numbers of a detector."""
    off: dict[str, Any] = {}
    for name in names:
        off |= _OFF.get(name, {})
    return detector.with_values(**off)

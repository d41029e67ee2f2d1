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
        "diffusion": "diffusion of drifting electrons, along and across the drift",
        "double_photoelectrons": "second photoelectrons of VUV photons; areas stay on average",
        "electron_lifetime": "capture of drifting electrons by impurities",
        "extraction": "electrons that stay in the liquid",
        "noise": "noise of the digitizer",
        "photoelectron_spread": "spread of the charge of photoelectrons",
        "sipm_crosstalk": "avalanches of the SiPM that start others",
        "transit_time_spread": "spread of the transit time of PMTs",
    }
)

_NEVER = 1e18  # a time that no drift comes near [ns]

#: Effect -> numbers of `Detector` at which it does nothing
_OFF: Mapping[str, Mapping[str, Any]] = immutabledict(
    {
        "adc_saturation": {"adc_saturates": False},
        "afterpulses": {"afterpulse_probability": 0.0},
        "dark_counts": {"dark_rate": 0.0, "sipm_dark_rate": 0.0},
        "diffusion": {"diffusion_longitudinal": 0.0, "diffusion_transverse": 0.0},
        "double_photoelectrons": {"dpe_probability": 0.0},
        "electron_lifetime": {"electron_lifetime": _NEVER},
        "extraction": {"extraction_efficiency": 1.0},
        "noise": {"noise": 0.0},
        "photoelectron_spread": {
            "photoelectron_spread": 0.0,
            "photoelectron_small": 0.0,
            "sipm_spread": 0.0,
        },
        "sipm_crosstalk": {"sipm_crosstalk": 0.0},
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

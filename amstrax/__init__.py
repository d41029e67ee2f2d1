"""Processing of data from XAMS and XAMSL, the dual-phase xenon TPCs at Nikhef, with strax.

All public names are attributes of this module: ``amstrax.contexts``, ``amstrax.get_elife``, and
every plugin class. Each is imported at its first use, so command-line tools start quickly.
"""

import sys
from typing import Any

from amstrax._lazy import OldModules, attributes_of

__version__ = "3.0.0"

_MODULES = (
    "SiPMdata",
    "analyses",
    "auto_processing",
    "common",
    "contexts",
    "corrections",
    "exceptions",
    "hitfinder_thresholds",
    "itp_map",
    "plugins",
    "processing",
    "redax",
    "rundb",
    "run_metadata",
    "rundoc",
    "settings",
    "simulation",
    "strax_ext",
)

# Public name -> its module, with ``:NAME`` if it has another name there
_MEMBERS = {
    **dict.fromkeys(
        (
            "amstrax_dir",
            "get_config_defaults",
            "get_elife",
            "n_tpc_pmts",
            "n_xamsl_channel",
            "print_versions",
            "run_ids_from_file",
            "select_channels",
            "to_pe",
            "tpc_r",
            "tpc_z",
        ),
        "common",
    ),
    "XAMSConfig": "corrections.config",
    "get_correction": "corrections.store",
    "get_rundoc_value": "run_values",
    "channels_in_map_group": "rundoc",
    "extract_channel_polarity": "rundoc",
    "hit_min_amplitude": "hitfinder_thresholds",
    "RunDB": "rundb",
    "storage": "strax_ext",
    "get_mongo_client": "rundb",
    "get_mongo_collection": "rundb",
    "DAQReader": "plugins.daqreader",
    "RadonDAQReader": "plugins.radon:DAQReader",
    **dict.fromkeys(
        ("PulseProcessing", "PulseProcessingEXT", "PulseProcessingSiPM"),
        "plugins.pulse_processing",
    ),
    **dict.fromkeys(
        (
            "Hits",
            "LoneHits",
            "PeakBasics",
            "PeakBasicsEXT",
            "PeakBasicsSiPM",
            "PeakCoincidences",
            "PeakPositions",
            "Peaks",
            "PeaksEXT",
            "PeaksSiPM",
        ),
        "plugins.peak_processing",
    ),
    **dict.fromkeys(
        (
            "CorrectedAreas",
            "EventAreaPerChannel",
            "EventBasics",
            "EventCoincidences",
            "EventInfo",
            "EventPositions",
            "EventWaveform",
            "Events",
        ),
        "plugins.event_processing",
    ),
    **dict.fromkeys(("LEDCalibration", "RecordsLED"), "plugins.led_calibration"),
    "PulseProcessingAltBaseline": "plugins.pulse_processing_alt_baseline",
    "RecordsFromPax": "plugins.pax_interface",
    "pax_to_records": "plugins.pax_interface",
    **dict.fromkeys(
        ("RadonHits", "RadonPeakBasics", "RadonPeaks", "RadonPulseProcessing"), "plugins.radon"
    ),
}

__all__ = ["__version__", *_MODULES, *_MEMBERS]


_get = attributes_of(__name__, _MEMBERS)


def __getattr__(name: str) -> Any:
    try:
        return _get(name)
    except AttributeError:
        if name.startswith("_"):
            raise
        from amstrax import _legacy

        if name not in _legacy.NAMES:
            raise
    return _legacy.attribute(name)


if OldModules not in sys.meta_path:
    sys.meta_path.append(OldModules)  # type: ignore[arg-type]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

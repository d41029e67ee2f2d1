"""Processing of data from XAMS and XAMSL, the dual-phase xenon TPCs at Nikhef, with strax.

All public names are attributes of this module: ``amstrax.contexts``, ``amstrax.get_elife``, and
every plugin class. Each is imported at its first use, so command-line tools start quickly.
"""

import sys
from typing import Any

from amstrax._lazy import OldModules, attributes_of

__version__ = "3.0.0"

_MODULES = (
    *("SiPMdata", "analyses", "auto_processing", "common", "contexts", "corrections", "exceptions"),
    *("hitfinder_thresholds", "itp_map", "plugins", "processing", "redax", "rundb", "run_metadata"),
    *("rundoc", "settings", "simulation", "strax_ext"),
)

# Module -> its public names, as ``NAME:OTHER`` if the module calls it OTHER
_NAMES = {
    "common": "amstrax_dir get_config_defaults get_elife n_tpc_pmts n_xamsl_channel print_versions "
    "run_ids_from_file select_channels to_pe tpc_r tpc_z",
    "corrections.config": "XAMSConfig",
    "corrections.store": "get_correction",
    "run_values": "get_rundoc_value",
    "rundoc": "channels_in_map_group extract_channel_polarity",
    "hitfinder_thresholds": "hit_min_amplitude",
    "rundb": "RunDB get_mongo_client get_mongo_collection",
    "strax_ext": "storage",
    "plugins.daqreader": "DAQReader",
    "plugins.pulse_processing": "PulseProcessing PulseProcessingEXT PulseProcessingSiPM",
    "plugins.peak_processing": "Hits LoneHits PeakBasics PeakBasicsEXT PeakBasicsSiPM "
    "PeakCoincidences PeakPositions Peaks PeaksEXT PeaksSiPM",
    "plugins.event_processing": "CorrectedAreas EventAreaPerChannel EventBasics EventCoincidences "
    "EventInfo EventPositions EventWaveform Events",
    "plugins.led_calibration": "LEDCalibration RecordsLED",
    "plugins.pulse_processing_alt_baseline": "PulseProcessingAltBaseline",
    "plugins.pax_interface": "RecordsFromPax pax_to_records",
    "plugins.radon": "RadonDAQReader:DAQReader RadonHits RadonPeakBasics RadonPeaks "
    "RadonPulseProcessing",
}

# Public name -> its module, with ``:NAME`` if it has another name there
_MEMBERS = {
    name.partition(":")[0]: module + "".join(name.partition(":")[1:])
    for module, names in _NAMES.items()
    for name in names.split()
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

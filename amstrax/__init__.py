"""Processing of data from XAMS and XAMSL, the dual-phase xenon TPCs at Nikhef, with strax.

All public names are attributes of this module: ``amstrax.contexts``, ``amstrax.get_elife``, and
every plugin class. Each is imported at its first use, so command-line tools start quickly.
"""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.machinery import ModuleSpec
from typing import Any

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
    "PeakCoincidences PeakPositions Peaks PeaksEXT PeaksSiPM SingleElectrons",
    "plugins.event_processing": "CorrectedAreas EventAreaPerChannel EventBasics EventCoincidences "
    "EventEnergy EventInfo EventKr83m EventPositions EventWaveform Events",
    "plugins.improved_events": "EventScatters PeakShadow",
    "plugins.cuts": "CutFiducialVolume CutS1Area CutS2Area CutS2Width CutSaturation "
    "CutSingleScatter EventCuts",
    "plugins.led_calibration": "LEDCalibration RecordsLED",
    "plugins.pulse_processing_alt_baseline": "PulseProcessingAltBaseline",
    "plugins.pax_interface": "RecordsFromPax pax_to_records",
    "plugins.simulation_truth": "PeakTruth PeakTruthEXT PeakTruthSiPM RadonPeakTruth "
    "RadonSimulationTruth SimulationTruth",
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


def members_of(package: str) -> dict[str, str]:
    """Return the public names in the modules of ``amstrax.PACKAGE``, with their modules there."""
    prefix = f"{package}."
    found = {name: module for name, module in _MEMBERS.items() if module.startswith(prefix)}
    return {name: module.removeprefix(prefix) for name, module in found.items()}


def attributes_of(package: str, members: Mapping[str, str] | None = None) -> Callable[[str], Any]:
    """Return a ``__getattr__`` for a package, which finds its modules and the names in `members`.

    `members` maps public names to modules of the package (``.MODULE``: of the package above it), or
    to ``MODULE:NAME``.
    """
    members = members or {}

    def getattr_(name: str) -> Any:
        if name in members:
            module, _, member = members[name].partition(":")
            value = getattr(import_module(f".{module}", package), member or name)
            setattr(sys.modules[package], name, value)
            return value
        full_name = f"{package}.{name}"
        if not name.startswith("_"):
            try:
                return import_module(full_name)
            except ModuleNotFoundError as error:
                if error.name is None:
                    raise AttributeError(error.msg) from None  # of amstrax._legacy
                if error.name != full_name:
                    raise
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return getattr_


class OldModules:
    """Finder of modules of amstrax 2, which Python calls last."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Return the spec of an old module; None for other names."""
        if not name.startswith("amstrax."):
            return None
        from amstrax import _legacy

        return _legacy.find_spec(name)


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

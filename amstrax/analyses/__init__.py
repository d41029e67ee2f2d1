"""Plots and figures of merit: arrays in, a matplotlib figure or numbers out."""

from importlib import import_module
from typing import Any

from amstrax._lazy import submodules_of

# Public name -> the module that defines it
_MEMBERS = {
    "event_display": "event_displays",
    "event_scatter": "events",
    "plot_drift_time": "events",
    "plot_positions": "events",
    "plot_peaks": "peaks",
    "plot_records": "peaks",
    "plot_validation": "validation_plots",
    "validation_report": "validation",
}

_submodule = submodules_of(__name__)


def __getattr__(name: str) -> Any:
    if name in _MEMBERS:
        return getattr(import_module(f"{__name__}.{_MEMBERS[name]}"), name)
    return _submodule(name)

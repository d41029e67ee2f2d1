"""Plots and figures of merit: arrays in, a matplotlib figure or numbers out."""

from amstrax._lazy import attributes_of

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

__getattr__ = attributes_of(__name__, _MEMBERS)

"""Plots and figures of merit: arrays in, a matplotlib figure or numbers out."""

from amstrax._lazy import attributes_of

# Public name -> the module that defines it
_MEMBERS = {
    "channel_gains": "gains",
    "event_display": "event_displays",
    "event_scatter": "events",
    "fit_gain": "gains",
    "mean_gain": "gains",
    "plot_drift_time": "events",
    "plot_gains": "gain_plots",
    "plot_positions": "events",
    "plot_peaks": "peaks",
    "plot_records": "peaks",
    "plot_validation": "validation_plots",
    "validation_report": "validation",
}

__getattr__ = attributes_of(__name__, _MEMBERS)

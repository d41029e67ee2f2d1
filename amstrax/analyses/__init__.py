"""Plots and figures of merit: arrays in, a matplotlib figure or numbers out.

The context has most of them as methods that load what they draw: ``st.plot_peaks(run_id)``, see
`amstrax.analyses.mini_analysis`.
"""

from amstrax import attributes_of

# Public name -> the module that defines it
_MEMBERS = {
    "channel_gains": "gains",
    "event_display": "event_displays",
    "event_scatter": "events",
    "fit_gain": "gains",
    "mean_gain": "gains",
    "plot_aft_histogram": "peak_histograms",
    "plot_area_aft": "peak_histograms",
    "plot_area_per_channel": "peak_histograms",
    "plot_area_width": "peak_histograms",
    "plot_drift_time": "events",
    "plot_gains": "gain_plots",
    "plot_led_pulses": "led_plots",
    "plot_led_spectra": "led_plots",
    "plot_matrix": "run_plots",
    "plot_positions": "events",
    "plot_rates": "run_plots",
    "plot_peaks": "peaks",
    "plot_records": "peaks",
    "plot_validation": "validation_plots",
    "validation_report": "validation",
}

__getattr__ = attributes_of(__name__, _MEMBERS)

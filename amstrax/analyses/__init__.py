"""Plots of arrays, which return a matplotlib figure, and figures of merit.

Plots draw into `axes` or `figure`; None: into a new one. They write `empty` where they have no data
to draw. Areas are in `unit`, as of `amstrax.analyses.loading.area_unit`. The context has most of
them as methods that load their data: ``st.plot_peaks(run_id)``, see
`amstrax.analyses.on_context` and `calibrations`.
"""

from amstrax import attributes_of

# Public name -> the module that defines it
_MEMBERS = {
    "channel_gains": ".calibration.gains",
    "event_display": "event_plots",
    "event_scatter": "event_plots",
    "fit_gain": ".calibration.gains",
    "mean_gain": ".calibration.gains",
    "plot_aft_histogram": "peak_plots",
    "plot_area_aft": "peak_plots",
    "plot_area_per_channel": "peak_plots",
    "plot_area_width": "peak_plots",
    "plot_drift_time": "event_plots",
    "plot_gains": "led_plots",
    "plot_led_pulses": "led_plots",
    "plot_led_spectra": "led_plots",
    "plot_matrix": "waveform_plots",
    "plot_positions": "event_plots",
    "plot_rates": "run_plots",
    "plot_peaks": "waveform_plots",
    "plot_records": "waveform_plots",
    "plot_validation": "validation_plots",
    "validation_report": "validation",
}

__getattr__ = attributes_of(__name__, _MEMBERS)

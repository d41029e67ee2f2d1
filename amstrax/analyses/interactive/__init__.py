"""Interactive figures of peaks, events, LED pulses, rates and waveforms, with Bokeh.

Figures of one source show each other's selections: points in scatter plots, and in histograms a
second histogram of the selected rows. The browser does this in JavaScript, without a server.
`options` of all figures are those of `bokeh.plotting.figure`, such as width and height. `unit` and
`area_unit` are the unit of areas, as of `amstrax.analyses.loading.area_unit`.
"""

from amstrax import attributes_of

# Public name -> the module that defines it
_MEMBERS = {
    **dict.fromkeys(
        (
            *("event_source", "led_source", "peak_source", "scatter", "s1_s2", "positions"),
            *("depth", "area_width", "area_aft", "density", "value_histogram", "drift_time"),
            *("led_spectrum", "rates", "comparison"),
        ),
        "distributions",
    ),
    **dict.fromkeys(("channels", "event", "waveform_display", "waveforms"), "signals"),
}

__getattr__ = attributes_of(__name__, _MEMBERS)

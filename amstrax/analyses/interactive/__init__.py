"""Interactive figures of peaks, events, LED pulses, rates and waveforms, with Bokeh.

Figures that are given one source show each other's selections: points in scatter plots, and in
histograms the part that is selected, as a second histogram. The latter, and selecting a range in a
histogram, is JavaScript in the browser; nothing is fetched, and no server is asked.
"""

from amstrax import attributes_of

# Public name -> the module that defines it
_MEMBERS = {
    **dict.fromkeys(("event_source", "led_source", "peak_source"), "sources"),
    **dict.fromkeys(
        ("area_aft", "area_width", "density", "depth", "positions", "s1_s2", "scatter"), "points"
    ),
    **dict.fromkeys(("drift_time", "led_spectrum", "rates", "value_histogram"), "distributions"),
    **dict.fromkeys(("channels", "event", "waveform_display", "waveforms"), "signals"),
}

__getattr__ = attributes_of(__name__, _MEMBERS)

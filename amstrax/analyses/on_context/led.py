"""Analyses on a context of LED runs."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from amstrax.analyses import led_plots
from amstrax.analyses.loading import Part
from amstrax.analyses.mini_analysis import on_context
from amstrax.analyses.on_context.channels import channels_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@on_context("records_led", warn_beyond_sec=60)
def plot_led_records(
    part: Part,
    channels: Sequence[int] | None = None,
    show_most: int = 100,
    figure: "Figure | None" = None,
) -> "Figure":
    """Draw pulses of an LED run over each other, with the mean of all, a panel a channel.

    Parameters
    ----------
    channels
        Those that get a panel; None: those of the TPC.
    show_most
        Draw at most so many of a channel, at random; the mean is of all.
    figure
        Draw into this; None: into a new one.

    Returns
    -------
    The figure.
    """
    pulses = part.load("records_led")
    windows = {}
    if part.has("led_calibration"):
        plugin = part.context.get_single_plugin(part.run_id, part.names("led_calibration")[0])
        windows = {"light": plugin.config["led_window"], "noise": plugin.config["noise_window"]}
    figure = led_plots.plot_led_pulses(
        pulses, _channels(part, channels), figure, show_most, windows, part.nothing("pulses")
    )
    figure.suptitle(f"Run {part.run_id}", x=0.01, ha="left", fontsize="large")
    return figure


@on_context("led_calibration")
def plot_led_areas(
    part: Part,
    channels: Sequence[int] | None = None,
    n_bins: int = 150,
    log: bool = True,
    figure: "Figure | None" = None,
) -> "Figure":
    """Draw the spectrum of areas of pulses in an LED run, a panel a channel.

    Parameters
    ----------
    channels
        Those that get a panel; None: those of the TPC.
    n_bins
        Number of bins over the central 99.8 % of areas; the few beyond are in the outer bins.
    log
        Numbers of pulses on a logarithmic scale.
    figure
        Draw into this; None: into a new one.

    Returns
    -------
    The figure.
    """
    pulses = part.load("led_calibration", columns=("time", "channel", "area"))
    figure = led_plots.plot_led_spectra(
        pulses, _channels(part, channels), figure, n_bins, log, part.nothing("pulses")
    )
    figure.suptitle(f"Run {part.run_id}", x=0.01, ha="left", fontsize="large")
    return figure


def _channels(part: Part, channels: Sequence[int] | None) -> list[int]:
    return channels_of(part, "raw_records") if channels is None else list(channels)

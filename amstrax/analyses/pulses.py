"""Pulses of a digitizer, as in raw records: their properties, and those of several runs."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from amstrax.analyses.quantities import histogram
from amstrax.analyses.run_plots import plot_comparison
from amstrax.exceptions import InvalidOption

#: Pulses of two channels that begin within this time are of the same light [ns]
COINCIDENCE = 100


class Pulses(NamedTuple):
    """Pulses of negative polarity, arrays of shape (n,), sorted by channel and time."""

    channel: np.ndarray
    time: np.ndarray  # of the first sample [ns]
    length: np.ndarray  # [ns]
    baseline: np.ndarray  # mean of the first samples [ADC counts]
    noise: np.ndarray  # standard deviation of the first samples [ADC counts]
    height: np.ndarray  # greatest distance from the baseline, downwards [ADC counts]
    area: np.ndarray  # below the baseline [ADC counts x samples]

    def of(self, channel: int) -> "Pulses":
        """Return the pulses of one channel."""
        mine = self.channel == channel
        return Pulses(*(column[mine] for column in self))

    def above(self, height: float) -> "Pulses":
        """Return the pulses of at least a height [ADC counts]."""
        high = self.height >= height
        return Pulses(*(column[high] for column in self))


class PulseNumber(NamedTuple):
    """A number of a channel in several runs."""

    channel: int
    text: str  # what it is, with its unit
    values: tuple[float, ...]  # NaN: no such pulses


def pulses_of(raw_records: np.ndarray, n_baseline: int = 20) -> Pulses:
    """Return the pulses of raw records, which follow each other in any order.

    Raises InvalidOption (a ValueError) when a pulse lacks its beginning, as at an edge of a range.

    Parameters
    ----------
    raw_records
        Fragments as of ``raw_records`` or ``raw_records_v1730``, shape (m,).
    n_baseline
        Number of samples before the trigger, of which baseline and noise are.
    """
    rows = raw_records[np.lexsort((raw_records["time"], raw_records["channel"]))]
    starts = np.flatnonzero(rows["record_i"] == 0)
    if len(rows) and (len(starts) == 0 or starts[0] != 0):
        raise InvalidOption(
            f"the pulse at {rows['time'][0]} ns in channel {rows['channel'][0]} lacks its "
            "beginning: load the whole run"
        )
    first = rows[starts]
    quiet = first["data"][:, :n_baseline].astype(np.float64)
    baseline = quiet.mean(axis=1)
    pulse = np.cumsum(rows["record_i"] == 0) - 1
    below = baseline[pulse, np.newaxis] - rows["data"]
    below[np.arange(below.shape[1]) >= rows["length"][:, np.newaxis]] = 0
    height = np.maximum.reduceat(below.max(axis=1), starts) if len(starts) else np.zeros(0)
    return Pulses(
        first["channel"].astype(np.int64),
        first["time"],
        first["pulse_length"].astype(np.int64) * first["dt"],
        baseline,
        quiet.std(axis=1),
        height,
        np.bincount(pulse, below.sum(axis=1), len(starts)),
    )


def share_coincident(pulses: Pulses, channel: int) -> float:
    """Return the share of pulses of a channel that others join within `COINCIDENCE`; NaN: none."""
    times = pulses.time[pulses.channel == channel]
    others = np.sort(pulses.time[pulses.channel != channel])
    if not len(times):
        return np.nan
    near = np.searchsorted(others, times + COINCIDENCE, "right") - np.searchsorted(
        others, times - COINCIDENCE
    )
    return float(np.mean(near > 0))


def pulse_numbers(
    runs: Mapping[str, tuple[Pulses, float]], least_height: float = 200.0
) -> Iterator[PulseNumber]:
    """Yield numbers of each channel, with the value of each run.

    `runs` maps names to pulses and the duration of the run [s]. Pulses of at least `least_height`
    [ADC counts] have own numbers.
    """
    channels = np.unique(np.concatenate([pulses.channel for pulses, _ in runs.values()]))
    high = f"of {least_height:.0f} ADC counts and more"
    for channel in channels.tolist():
        columns = []
        for pulses, seconds in runs.values():
            own, large = pulses.of(channel), pulses.above(least_height).of(channel)
            columns.append(
                {
                    "rate of pulses [Hz]": len(own.time) / seconds,
                    f"rate of pulses {high} [Hz]": len(large.time) / seconds,
                    "median baseline [ADC counts]": _quantile(own.baseline, 0.5),
                    "median noise [ADC counts]": _quantile(own.noise, 0.5),
                    "median length [ns]": _quantile(own.length, 0.5),
                    "length that 99 % do not exceed [ns]": _quantile(own.length, 0.99),
                    f"median height {high} [ADC counts]": _quantile(large.height, 0.5),
                    f"median area {high} [ADC counts x samples]": _quantile(large.area, 0.5),
                    f"share with another channel within {COINCIDENCE} ns": share_coincident(
                        pulses, channel
                    ),
                }
            )
        for text in columns[0]:
            yield PulseNumber(channel, text, tuple(column[text] for column in columns))


def _quantile(values: np.ndarray, share: float) -> float:
    return float(np.quantile(values, share)) if len(values) else np.nan


def plot_pulses(runs: Mapping[str, tuple[Pulses, float]], figure: Figure | None = None) -> Figure:
    """Draw spectra of the pulses of runs over each other: a panel a quantity and channel.

    `runs` are those of `pulse_numbers`.
    """
    channels = np.unique(np.concatenate([pulses.channel for pulses, _ in runs.values()]))
    quantities = (
        ("area", "area [ADC counts x samples]", True, None),
        ("height", "height [ADC counts]", True, None),
        ("length", "length [ns]", False, (0.0, 2500.0)),
        ("noise", "noise [ADC counts]", False, (0.0, 6.0)),
        ("baseline", "baseline [ADC counts]", False, None),
    )
    panels = []
    for name, label, log, limits in quantities:
        for channel in channels.tolist():
            values = {run: getattr(p.of(channel), name) for run, (p, _) in runs.items()}
            both = np.concatenate(list(values.values())).astype(np.float64)
            # Without the most extreme, for which bins would be too wide
            inner = both[both > 1] if log else both
            bounds = np.quantile(inner, (0.002, 0.998)) if len(inner) else (1.0, 10.0)
            bounds = bounds if limits is None else limits
            of_runs = {
                run: histogram(column, 50, tuple(bounds), log).over(runs[run][1])
                for run, column in values.items()
            }
            panels.append((f"channel {channel}: {label}", of_runs, log))
    return plot_comparison(panels, "pulses [Hz per bin]", figure)

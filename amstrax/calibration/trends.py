"""Trends: numbers of one run that are followed over weeks, and limits on them.

Functions take arrays and return a `Part`: values by name, as of `QUANTITIES` and, with ``_N`` for
channel N, of `CHANNEL_QUANTITIES`; and for each value that is absent the reason.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from amstrax.calibration.drift import find_edges
from amstrax.calibration.energy import find_line
from amstrax.calibration.lifetime import lifetime_of_events
from amstrax.calibration.single_electrons import fit_electrons, select
from amstrax.exceptions import InvalidOption, NoResult, did_you_mean

#: Numbers of a run -> unit
QUANTITIES = {
    "livetime": "s",
    "s1_rate": "Hz",
    "s2_rate": "Hz",
    "event_rate": "Hz",
    "elife": "ns",
    "elife_error": "ns",
    "light_yield": "PE/keV",
    "charge_yield": "PE/keV",
    "se_gain": "PE/e",
    "se_gain_error": "PE/e",
    "drift_time_gate": "ns",
    "drift_time_gate_error": "ns",
    "drift_time_cathode": "ns",
    "drift_time_cathode_error": "ns",
}
#: Numbers of each channel -> unit
CHANNEL_QUANTITIES = {
    "baseline": "ADC counts",
    "noise": "ADC counts",
    "pulse_rate": "Hz",
    "pe_rate": "PE/s",
    "gain": "PE per ADC count x sample",
}
#: Columns of events, and of single electrons, that are used
EVENT_COLUMNS = (
    *("time", "s2_area", "drift_time", "r", "s2_n_saturated_channels"),
    *("cs1", "cs2"),
)
ELECTRON_COLUMNS = ("time", "area", "delay", "range_50p_area")

#: Samples of the bootstrap of a lifetime, whose interval is not used
_BOOTSTRAP = 10

#: Lowest and highest value; None: no limit
Limit = tuple[float | None, float | None]


class Part(NamedTuple):
    """Values of a run by name, and reasons for absent ones."""

    values: dict[str, float]
    reasons: dict[str, str]


def of_peaks(types: np.ndarray, seconds: float) -> Part:
    """Return rates of S1 and S2 from the types of peaks, shape (n,), and the live time [s]."""
    names = {"s1_rate": 1, "s2_rate": 2}
    if not seconds > 0:
        return Part({}, dict.fromkeys(names, "no live time"))
    return Part({name: float((types == t).sum() / seconds) for name, t in names.items()}, {})


def of_events(events: np.ndarray, seconds: float, energy: float | None = None) -> Part:
    """Return the event rate, lifetime, drift times of gate and cathode, and yields of a line.

    Parameters
    ----------
    events
        With `EVENT_COLUMNS`, shape (n,).
    seconds
        Live time [s].
    energy
        Of the line that most events are of [keV]; None: there are no yields.
    """
    values: dict[str, float] = {}
    reasons: dict[str, str] = {}
    if seconds > 0:
        values["event_rate"] = len(events) / seconds
    else:
        reasons["event_rate"] = "no live time"
    try:
        found = lifetime_of_events(events, n_samples=_BOOTSTRAP)[1].likelihood
        values |= {"elife": found.value, "elife_error": found.error}
    except NoResult as error:
        reasons["elife"] = str(error)
    try:
        for edge in find_edges(events["drift_time"]):
            name, result = edge.likelihood.name, edge.likelihood
            values |= {name: result.value, f"{name}_error": result.error}
    except NoResult as error:
        reasons["drift_time_gate"] = reasons["drift_time_cathode"] = str(error)
    if energy is None:
        reasons["light_yield"] = reasons["charge_yield"] = "no energy of a line was given"
        return Part(values, reasons)
    try:
        mean = find_line(energy, events["cs1"], events["cs2"]).mean
        values |= {"light_yield": mean[0] / energy, "charge_yield": mean[1] / energy}
    except NoResult as error:
        reasons["light_yield"] = reasons["charge_yield"] = str(error)
    return Part({name: float(value) for name, value in values.items()}, reasons)


def of_electrons(peaks: np.ndarray) -> Part:
    """Return the gain of single electrons from small peaks with `ELECTRON_COLUMNS`, shape (n,)."""
    try:
        gain = fit_electrons(select(peaks)).gain
    except NoResult as error:
        return Part({}, {"se_gain": str(error)})
    return Part({"se_gain": float(gain.value), "se_gain_error": float(gain.error)}, {})


def of_channels(
    numbers: Mapping[int, Mapping[str, float]], areas: Mapping[int, float], gains: np.ndarray | None
) -> Part:
    """Return the numbers of channels under their names in a row.

    Parameters
    ----------
    numbers
        Channel -> its baseline, noise and pulse rate, as of `CHANNEL_QUANTITIES`.
    areas
        Channel -> area of its pulses in a second of live time [ADC counts x samples / s].
    gains
        Gain of each channel [PE per ADC count x sample]; None, or 0: not known.
    """
    values = {
        f"{name}_{channel}": float(value)
        for channel, own in numbers.items()
        for name, value in own.items()
        if np.isfinite(value)
    }
    reasons = {}
    for channel, area in areas.items():
        gain = 0.0 if gains is None or channel >= len(gains) else float(gains[channel])
        if gain > 0:
            values[f"gain_{channel}"], values[f"pe_rate_{channel}"] = gain, float(area * gain)
        else:
            reasons[f"gain_{channel}"] = reasons[f"pe_rate_{channel}"] = "the gain is not known"
    return Part(values, reasons)


def quantity_of(column: str) -> tuple[str, int | None]:
    """Return quantity and channel of a name in a row; the channel is None for those of a run."""
    found = re.fullmatch(r"(\w+?)_(\d+)", column)
    if column not in QUANTITIES and found and found[1] in CHANNEL_QUANTITIES:
        return found[1], int(found[2])
    return column, None


def unit_of(column: str) -> str:
    """Return the unit of a quantity, or of that of a channel."""
    return (QUANTITIES | CHANNEL_QUANTITIES)[quantity_of(column)[0]]


def check_names(names: Iterable[str]) -> None:
    """Raise InvalidOption for a name that is no quantity, nor that of a channel."""
    known = QUANTITIES | CHANNEL_QUANTITIES
    for name in names:
        if quantity_of(name)[0] not in known:
            raise InvalidOption(f"no quantity {name!r} in trends{did_you_mean(name, known)}")


def check_limits(limits: Mapping[str, Sequence[float | None]]) -> dict[str, Limit]:
    """Return limits as pairs of lowest and highest value, after a check.

    A name without a channel holds for all channels.

    Raises InvalidOption for an unknown name, or values that are no pair of numbers (or None) in
    order.
    """
    check_names(limits)
    result = {}
    for name, pair in limits.items():
        is_pair = isinstance(pair, Sequence) and not isinstance(pair, str) and len(pair) == 2
        is_number = is_pair and all(
            x is None or (isinstance(x, (int, float)) and not isinstance(x, bool) and x == x)
            for x in pair
        )
        if not is_number or (None not in pair and not pair[0] <= pair[1]):  # type: ignore
            raise InvalidOption(
                f"limit {name}: {pair!r} is no lowest and highest value: give [LOW, HIGH], as "
                "[1, 20], or null for one that does not exist"
            )
        low, high = (None if x is None else float(x) for x in pair)
        result[name] = (low, high)
    return result


def broken(values: Mapping[str, float], limits: Mapping[str, Limit]) -> list[str]:
    """Return which limits the values of a run break, in words; absent values break none."""
    flags = []
    for column, value in values.items():
        for name in dict.fromkeys((column, quantity_of(column)[0])):
            low, high = limits.get(name, (None, None))
            if low is not None and value < low:
                flags.append(f"{column} {value:.4g} is below {low:g} {unit_of(column)}")
            if high is not None and value > high:
                flags.append(f"{column} {value:.4g} is above {high:g} {unit_of(column)}")
    return flags

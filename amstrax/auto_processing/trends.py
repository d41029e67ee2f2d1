"""Rows of trends: numbers of stored data of a run, for `amstrax trends` and for jobs."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import amstrax
from amstrax.exceptions import AmstraxError, NoGain
from amstrax.rundb import connection
from amstrax.strict_json import one_line

if TYPE_CHECKING:
    import numpy as np
    import strax

    from amstrax.analyses.pulses import Pulses
    from amstrax.calibration.trends import Limit, Part

log = logging.getLogger("amstrax.trends")

#: Sorts of data that a row is made of
_SORTS = ("raw_records", "peak_basics", "event_info", "single_electrons", "led_calibration")
#: Number of `amstrax.analyses.pulses.pulse_numbers` -> its name in a row
_PULSE_NUMBERS = {
    "median baseline [ADC counts]": "baseline",
    "median noise [ADC counts]": "noise",
    "rate of pulses [Hz]": "pulse_rate",
}


@dataclass(frozen=True)
class TrendOptions:
    """What rows are made with."""

    detector: str
    context: str
    limits: "Mapping[str, Limit]" = field(default_factory=dict)
    energy: float | None = None  #: of a line [keV]


def reason(error: Exception) -> str:
    """Return an error as one line."""
    return one_line(error) or type(error).__name__


def data_types(st: "strax.Context") -> tuple[str, ...]:
    """Return the data types of a context that a row is made of."""
    from amstrax.analyses.loading import SORTS

    known = st._plugin_class_registry
    return tuple(name for sort in _SORTS for name in SORTS.get(sort, (sort,)) if name in known)


def record(st: "strax.Context", run_id: str, options: TrendOptions) -> dict[str, Any]:
    """Store and return the row of a run, of its stored data, and log broken limits."""
    row = row_of(st, run_id, options)
    connection.save_trend(connection.get_trends_collection(options.detector), row)
    report(row)
    return row


def row_of(
    st: "strax.Context",
    run_id: str,
    options: TrendOptions,
    failed: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the row of a run, of the data that is stored; no data is made.

    `failed` maps data types that could not be made to the reason. A part of the row that fails
    costs only its own numbers; the row says why.
    """
    failed = failed or {}
    stored = [name for name in data_types(st) if st.is_stored(run_id, name)]
    if not stored:
        why = next(iter(failed.values()), f"no data of run {run_id} is stored: process it first")
        return make_row(run_id, options, error=why)
    values: dict[str, float] = {}
    reasons = {name: failed.get(name, "not stored") for name in data_types(st)}
    live = st.livetime(run_id)
    seconds = float(live["live"].min()) / 1e9
    values["livetime"] = seconds
    for name in stored:
        del reasons[name]
        try:
            part = _part(st, run_id, name, seconds, options)
        except Exception as error:
            log.debug("%s of run %s", name, run_id, exc_info=True)
            reasons[name] = reason(error)
            continue
        values |= part.values
        reasons |= part.reasons
    lineage = _lineage(st, run_id, options)
    # Reasons for what another data type has given
    reasons = {name: why for name, why in reasons.items() if name not in values}
    start = datetime.fromtimestamp(int(live["start"].min()) / 1e9, UTC)
    errors = [f"{name}: {why}" for name, why in failed.items() if name not in stored]
    return make_row(run_id, options, start, lineage, values, reasons, "; ".join(errors) or None)


def make_row(
    run_id: str,
    options: TrendOptions,
    start: datetime | None = None,
    lineage: str = "",
    values: Mapping[str, float] | None = None,
    reasons: Mapping[str, str] | None = None,
    error: str | None = None,
) -> dict[str, Any]:
    """Return a row of trends, as stored."""
    from amstrax.calibration.trends import broken

    values = dict(values or {})
    flags = broken(values, options.limits)
    now = datetime.now(UTC)
    return {
        "name": run_id,
        "number": int(run_id),
        "detector": options.detector,
        "context": options.context,
        "lineage": lineage,
        "start": start,
        "time": now.replace(microsecond=now.microsecond // 1000 * 1000),
        "amstrax_version": amstrax.__version__,
        "values": values,
        "reasons": dict(reasons or {}),
        "limits": {name: list(pair) for name, pair in options.limits.items()},
        "flags": flags,
        "error": error,
        "is_flagged": bool(flags or error),
    }


def _lineage(st: "strax.Context", run_id: str, options: TrendOptions) -> str:
    """Return the hash of the lineages of all data that a row may be of, and of its options."""
    import strax

    hashes = {name: st.key_for(run_id, name).lineage_hash for name in data_types(st)}
    return str(strax.deterministic_hash([hashes, options.energy]))


def _part(
    st: "strax.Context", run_id: str, data_type: str, seconds: float, options: TrendOptions
) -> "Part":
    from amstrax.calibration import trends

    def load(columns: Sequence[str] | None = None) -> "np.ndarray":
        return st.get_array(run_id, data_type, keep_columns=columns, progress_bar=False)

    if data_type.startswith("raw_records"):
        return _of_raw_records(st, run_id, data_type, seconds)
    if data_type == "event_info":
        return trends.of_events(load(trends.EVENT_COLUMNS), seconds, options.energy)
    if data_type == "single_electrons":
        return trends.of_electrons(load(trends.ELECTRON_COLUMNS))
    if data_type == "led_calibration":
        return _of_led(st, run_id, load())
    if data_type == "radon_peak_basics":
        return trends.Part({}, dict.fromkeys(("s1_rate", "s2_rate"), "XAMSL's peaks have no types"))
    return trends.of_peaks(load(("time", "type"))["type"], seconds)


def _of_raw_records(st: "strax.Context", run_id: str, data_type: str, seconds: float) -> "Part":
    import numpy as np

    from amstrax.analyses.loading import Part as PartOfRun
    from amstrax.analyses.pulses import Pulses, pulse_numbers
    from amstrax.calibration import trends

    found = list(_pulses(st, run_id, data_type))
    if not found or not seconds > 0:
        return trends.Part({}, {data_type: "no pulses, or no live time"})
    pulses = Pulses(*(np.concatenate(columns) for columns in zip(*found, strict=True)))
    numbers: dict[int, dict[str, float]] = {}
    for number in pulse_numbers({run_id: (pulses, seconds)}):
        name = _PULSE_NUMBERS.get(number.text)
        if name is not None:
            numbers.setdefault(number.channel, {})[name] = number.values[0]
    areas = {c: float(pulses.of(c).area.sum()) / seconds for c in numbers}
    try:
        gains = PartOfRun(st, run_id, ("raw_records",)).gains(np.array(list(numbers)))
    except (AmstraxError, OSError) as error:
        log.debug("gains of run %s: %s", run_id, error)
        gains = None
    if gains is not None and (gains == 1).all():
        gains = None  # Areas in ADC counts x samples
    return trends.of_channels(numbers, areas, gains)


def _pulses(st: "strax.Context", run_id: str, data_type: str) -> "Iterator[Pulses]":
    """Yield the pulses of each chunk, since raw records of a whole run may not fit in memory."""
    from amstrax.analyses.pulses import pulses_of

    for chunk in st.get_iter(run_id, data_type, progress_bar=False):
        if len(chunk.data):
            yield pulses_of(chunk.data)


def _of_led(st: "strax.Context", run_id: str, pulses: "np.ndarray") -> "Part":
    from amstrax.calibration import trends
    from amstrax.calibration.gains import channel_gains

    made_with = st.get_metadata(run_id, "led_calibration")["lineage"]["led_calibration"][2]
    led_window, noise_window = (tuple(made_with[name]) for name in ("led_window", "noise_window"))
    values, reasons = {}, {}
    for channel, methods in channel_gains(pulses, led_window, noise_window).items():
        gain = methods["mean"]
        if isinstance(gain, NoGain):
            reasons[f"gain_{channel}"] = str(gain)
        else:
            values[f"gain_{channel}"] = float(gain.to_pe.value)
    return trends.Part(values, reasons)


def report(row: Mapping[str, Any]) -> None:
    """Log broken limits, and what a row lacks."""
    if row["error"] is not None:
        log.warning("run %s has no complete row: %s", row["name"], row["error"])
    for flag in row["flags"]:
        log.warning("run %s is flagged: %s", row["name"], flag)

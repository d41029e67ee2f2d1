"""The command ``amstrax trends``: a row of numbers for each run, kept in the run database."""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import amstrax
from amstrax.auto_processing import amstraxer
from amstrax.auto_processing.amstraxer import ProcessingOptions
from amstrax.commands import base, calibrating
from amstrax.exceptions import AmstraxError, NoGain, NotAvailable, Stopped, UsageError
from amstrax.rundb import connection, documents
from amstrax.rundb.leases import Stop
from amstrax.settings import CONTEXT_DETECTORS, DETECTORS
from amstrax.strict_json import one_line

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import strax

    from amstrax.analyses.pulses import Pulses
    from amstrax.calibration.trends import Limit, Part

log = logging.getLogger("amstrax.trends")

#: Sorts of data that a row is made of
_SORTS = ("raw_records", "peak_basics", "event_info", "single_electrons", "led_calibration")
#: Time to wait for live data that is missing [s]: runs have ended, and it will not come
_TIMEOUT = 1.0
#: Number of `amstrax.analyses.pulses.pulse_numbers` -> its name in a row
_PULSE_NUMBERS = {
    "median baseline [ADC counts]": "baseline",
    "median noise [ADC counts]": "noise",
    "rate of pulses [Hz]": "pulse_rate",
}


def parse_args(argv: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    """Parse `argv` (by default the command line) into options; exit with 2 on invalid ones."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Measure rates, baselines, noise, gains, lifetime and other numbers of runs, "
        "and keep a row for each run in the run database. Numbers that a run does not have are "
        "absent. Exit status: 1 if a run broke a limit, or failed.",
    )
    add = parser.add_argument
    add("run_ids", nargs="*", metavar="RUN_ID", type=base.run_id, help="runs, as 006724")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--flagged",
        action="store_true",
        help="measure nothing; list the rows of runs that broke a limit or failed, of all runs or "
        "those given",
    )
    which.add_argument(
        "--stored",
        action="store_true",
        help="measure nothing; list the rows of all runs or those given",
    )
    base.add_trend_limits(parser, "--limit")
    add(
        "--energy",
        type=base.positive_number,
        metavar="KEV",
        help="energy of the line that most events are of, for light and charge yield [keV]",
    )
    add(
        "--only_stored_data",
        action="store_true",
        help="make no data: numbers of data types that are not stored are absent",
    )
    add("--output", type=Path, metavar="FILE", help="write the rows as .csv or .parquet too")
    add("--plot", type=Path, metavar="FILE", help="draw the rows against the start of the runs")
    add(
        "--quantity",
        nargs="+",
        default=[],
        metavar="NAME",
        help="quantities to draw, as s1_rate baseline (default: all that a row has)",
    )
    add(
        "--detector",
        choices=DETECTORS,
        help="detector of the runs (default: that of the context, or else xams)",
    )
    calibrating.add_data(parser)
    calibrating.add_events(parser)
    args = parser.parse_args(argv)
    if not (args.run_ids or args.flagged or args.stored):
        parser.error("give runs, or --flagged or --stored for the rows of all runs")
    if args.output is not None and args.output.suffix not in (".csv", ".parquet"):
        parser.error(f"--output {args.output}: end the name of the file in .csv or .parquet")
    if args.context is None:
        args.context = "xams_little" if args.detector == "xamsl" else "xams"
    own = CONTEXT_DETECTORS[args.context]
    if args.detector not in (None, own):
        parser.error(f"--detector {args.detector}: context {args.context} is of {own}")
    args.detector = own
    return calibrating.check_runs(parser, args, args.run_ids)


@base.main_of(parse_args)
def main(args: argparse.Namespace) -> int:
    """Make or list rows, and return the exit status."""
    from amstrax.auto_processing import job

    folder = args.output_folder or "the output folder"
    flagged: list[str] = []
    status = job.run_strax_tool(
        args, log, lambda stop: work(args, flagged, stop), "the trends", folder
    )
    # A list of flagged runs that was asked for is a success
    return status or int(bool(flagged) and not (args.flagged or args.stored))


@dataclass(frozen=True)
class TrendOptions:
    """What rows are made with."""

    detector: str
    context: str
    limits: "Mapping[str, Limit]" = field(default_factory=dict)
    energy: float | None = None  #: of a line [keV]


def work(args: argparse.Namespace, flagged: list[str], stop: Stop) -> str:
    """Make or read rows, write the requested files, and return the table to print.

    Names of flagged runs are appended to `flagged`. Raises UsageError for an unknown quantity.
    """
    from amstrax.analyses.tables import trends_table
    from amstrax.calibration import trends

    trends.check_names(args.quantity)
    collection = connection.get_trends_collection(args.detector)
    if args.flagged or args.stored:
        rows = documents.read_trends(collection, args.run_ids or None, args.flagged)
    else:
        options = base.filled(TrendOptions, args, limits=args.limit)
        rows = []
        for run_id in args.run_ids:
            row = _measure(run_id, args, options, stop)
            documents.save_trend(collection, row)
            rows.append(row)
            _report(row)
    flagged += [row["name"] for row in rows if row["is_flagged"]]
    if args.output is not None:
        write_table(trends_table(rows), args.output)
    if args.plot is not None:
        calibrating.save_plot(args, lambda: _figure(rows, args.quantity))
    return _text(rows)


def _measure(
    run_id: str, args: argparse.Namespace, options: TrendOptions, stop: Stop
) -> dict[str, Any]:
    """Make the data of a run and return its row, which says why it failed."""
    failed: dict[str, str] = {}
    try:
        processing = base.filled(ProcessingOptions, args, run_document=_document(args, run_id))
        st, _ = amstraxer.make_context(processing, run_id)
        for target in () if args.only_stored_data else data_types(st):
            try:
                for _, made in calibrating.processed(
                    args, [run_id], (target,), stop, timeout=_TIMEOUT
                ):
                    st = made
            except Exception as error:
                _check_stopped(error, stop)
                failed[target] = _reason(error)
        return row_of(st, run_id, options, failed)
    except (UsageError, Stopped):
        raise
    except Exception as error:
        _check_stopped(error, stop)
        log.debug("run %s", run_id, exc_info=True)
        return _row(run_id, options, error=_reason(error))


def _document(args: argparse.Namespace, run_id: str) -> Mapping[str, Any] | None:
    path = args.run_documents.get(run_id)
    return None if path is None else base.run_document(path)


def _check_stopped(error: Exception, stop: Stop) -> None:
    if isinstance(error, Stopped) or stop.reason:
        raise error


def _reason(error: Exception) -> str:
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
    documents.save_trend(connection.get_trends_collection(options.detector), row)
    _report(row)
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
        return _row(run_id, options, error=why)
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
            reasons[name] = _reason(error)
            continue
        values |= part.values
        reasons |= part.reasons
    lineage = _lineage(st, run_id, options)
    # Reasons for what another data type has given
    reasons = {name: why for name, why in reasons.items() if name not in values}
    start = datetime.fromtimestamp(int(live["start"].min()) / 1e9, UTC)
    errors = [f"{name}: {why}" for name, why in failed.items() if name not in stored]
    return _row(run_id, options, start, lineage, values, reasons, "; ".join(errors) or None)


def _row(
    run_id: str,
    options: TrendOptions,
    start: datetime | None = None,
    lineage: str = "",
    values: Mapping[str, float] | None = None,
    reasons: Mapping[str, str] | None = None,
    error: str | None = None,
) -> dict[str, Any]:
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
    """Return the numbers that a stored data type gives."""
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
    """Return the gains that an LED run gives."""
    from amstrax.analyses.gains import channel_gains
    from amstrax.calibration import trends

    made_with = st.get_metadata(run_id, "led_calibration")["lineage"]["led_calibration"][2]
    windows = [tuple(made_with[name]) for name in ("led_window", "noise_window")]
    values, reasons = {}, {}
    for channel, methods in channel_gains(pulses, *windows).items():
        gain = methods["mean"]
        if isinstance(gain, NoGain):
            reasons[f"gain_{channel}"] = str(gain)
        else:
            values[f"gain_{channel}"] = float(gain.to_pe.value)
    return trends.Part(values, reasons)


# Output


def _report(row: Mapping[str, Any]) -> None:
    if row["error"] is not None:
        log.warning("run %s has no complete row: %s", row["name"], row["error"])
    for flag in row["flags"]:
        log.warning("run %s is flagged: %s", row["name"], flag)


def _text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as a table: the numbers of runs, without those of channels."""
    from amstrax.calibration.trends import QUANTITIES

    if not rows:
        return "no rows"
    names = [n for n in QUANTITIES if any(n in row["values"] for row in rows)]
    names = [name for name in names if not name.endswith("_error")]
    lines = [["run", "start (UTC)", *(f"{n} [{QUANTITIES[n]}]" for n in names), "flags"]]
    for row in rows:
        start = "" if row["start"] is None else f"{row['start']:%Y-%m-%d %H:%M:%S}"
        numbers = [f"{row['values'][n]:.4g}" if n in row["values"] else "" for n in names]
        flags = [*row["flags"], *([] if row["error"] is None else [f"failed: {row['error']}"])]
        lines.append([row["name"], start, *numbers, "; ".join(flags)])
    return base.format_table(lines)


def write_table(table: "pd.DataFrame", path: Path) -> None:
    """Write a table as CSV or Parquet, by the suffix, atomically; make the folder.

    Raises NotAvailable without the package for Parquet.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".new_{path.name}")
    write: Callable[..., Any] = table.to_csv if path.suffix == ".csv" else table.to_parquet
    try:
        write(new, index=False)
        os.replace(new, path)
    except ImportError as error:
        raise NotAvailable(
            f"{path}: Parquet needs the package pyarrow, which cannot be imported ({error}): pip "
            "install 'amstrax[export]'"
        ) from None
    finally:
        new.unlink(missing_ok=True)


def _figure(rows: Sequence[Mapping[str, Any]], quantities: Sequence[str]) -> Any:
    from amstrax.analyses.run_plots import plot_trends
    from amstrax.analyses.tables import trends_table

    limits = {name: pair for row in rows for name, pair in row["limits"].items()}
    return plot_trends(trends_table(rows), quantities or None, limits)


if __name__ == "__main__":
    sys.exit(main())

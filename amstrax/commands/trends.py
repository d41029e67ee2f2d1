"""The command ``amstrax trends``: a row of numbers for each run, kept in the run database."""

import argparse
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amstrax import analyses, strict_json
from amstrax.auto_processing import amstraxer
from amstrax.auto_processing import trends as measuring
from amstrax.auto_processing.amstraxer import ProcessingOptions
from amstrax.commands import base, calibrating
from amstrax.exceptions import NotAvailable, Stopped, UsageError
from amstrax.rundb import connection
from amstrax.rundb.leases import Stop
from amstrax.settings import CONTEXT_DETECTORS

if TYPE_CHECKING:
    import pandas as pd


log = logging.getLogger("amstrax.trends")


def parse_args(argv: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
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
    text = "detector of the runs (default: that of the context, or else xams)"
    base.add(parser, "--detector", default=None, help=text)
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
    from amstrax.auto_processing import job

    folder = args.output_folder or "the output folder"
    flagged: list[str] = []
    status = job.run_strax_tool(
        args, log, lambda stop: work(args, flagged, stop), "the trends", folder, "--output_folder"
    )
    # A list of flagged runs that was asked for is a success
    return status or int(bool(flagged) and not (args.flagged or args.stored))


def work(args: argparse.Namespace, flagged: list[str], stop: Stop) -> str:
    """Make or read rows, write the requested files, and return the table to print.

    Names of flagged runs are appended to `flagged`. Raises UsageError for an unknown quantity.
    """
    from amstrax.analyses.tables import trends_limits, trends_table
    from amstrax.calibration import trends

    trends.check_names(args.quantity)
    collection = connection.get_trends_collection(args.detector)
    if args.flagged or args.stored:
        rows = connection.read_trends(collection, args.run_ids or None, args.flagged)
    else:
        options = base.filled(measuring.TrendOptions, args, limits=args.limit)
        rows = []
        for run_id in args.run_ids:
            row = _measure(run_id, args, options, stop)
            connection.save_trend(collection, row)
            rows.append(row)
            measuring.report(row)
    flagged += [row["name"] for row in rows if row["is_flagged"]]
    if args.output is not None:
        write_table(trends_table(rows), args.output)
    if args.plot is not None:
        calibrating.save_plot(
            args.plot,
            lambda: analyses.run_plots.plot_trends(
                trends_table(rows), args.quantity or None, trends_limits(rows)
            ),
        )
    return _text(rows)


def _measure(
    run_id: str, args: argparse.Namespace, options: measuring.TrendOptions, stop: Stop
) -> dict[str, Any]:
    """Make the data of a run and return its row, which says why it failed."""
    failed: dict[str, str] = {}
    path = args.run_documents.get(run_id)
    try:
        document = None if path is None else base.run_document(path)
        processing = base.filled(ProcessingOptions, args, run_document=document)
        st, _ = amstraxer.make_context(processing, run_id)
        calibrating.check_run(st, run_id, args.context, path)
        for target in () if args.only_stored_data else measuring.data_types(st):
            try:
                amstraxer.process(run_id, replace(processing, targets=(target,)), stop)
            except Exception as error:
                if isinstance(error, Stopped) or stop.reason:
                    raise
                failed[target] = measuring.reason(error)
        return measuring.row_of(st, run_id, options, failed)
    except (UsageError, Stopped):
        raise
    except Exception as error:
        if stop.reason:
            raise
        log.debug("run %s", run_id, exc_info=True)
        return measuring.make_row(run_id, options, error=measuring.reason(error))


# Output


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
    write: Callable[..., Any] = table.to_csv if path.suffix == ".csv" else table.to_parquet
    try:
        with strict_json.replacing(path) as new:
            write(new, index=False)
    except ImportError as error:
        raise NotAvailable(
            f"{path}: Parquet needs the package pyarrow, which cannot be imported ({error}): pip "
            "install 'amstrax[export]'"
        ) from None


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python
"""Process a run on this machine, for the lab's scripts of 2026.

Raw data is made first, then the data types derived from it. Without --production the run database
is not changed. The status of the run is set only with --production and --is_online. The exit status
is that of ``process_run``.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__" and not __package__:
    # Run as a file: import the amstrax that this file belongs to
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from amstrax.auto_processing import process_run
from amstrax.auto_processing_new import auto_processing
from amstrax.commands import base
from amstrax.exceptions import UsageError
from amstrax.rundb import documents
from amstrax.rundb.leases import Stop

log = logging.getLogger("amstrax.process")

NO_RAW_RECORDS = "raw_records requested without --allow_raw_records"


def parse_args(argv: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    """Return the options in `argv` (the command line's, by default); exits with 2 on wrong ones."""
    parser = argparse.ArgumentParser(prog=prog, description="Process a run of XAMS")
    parser.add_argument(
        "--run_id", required=True, metavar="RUN_ID", type=base.run_id, help="run to process"
    )
    auto_processing.add_data_options(parser)
    parser.add_argument(
        "--is_online",
        action="store_true",
        help="with --production, set the status of the run, as processing that follows the DAQ",
    )
    parser.add_argument(
        "--fix_targets",
        action="store_true",
        help="make just the targets, also of LED runs and of runs with the NaI detector",
    )
    parser.add_argument(
        "--allow_raw_records",
        action="store_true",
        help="make raw_records, when it is among the targets",
    )
    parser.add_argument(
        "--live_data_dir",
        type=Path,
        metavar="FOLDER",
        help="folder with the runs' folders of live data (default: from settings or run document)",
    )
    return parser.parse_args(argv)


@base.main_of(parse_args)
def main(args: argparse.Namespace) -> int:
    """Process a run, and return the exit status."""
    base.log_to_console(args.debug)
    try:
        auto_processing.check_options(args)
        if args.amstrax_path is not None and not _is_this(args.amstrax_path):
            raise UsageError(
                f"--amstrax_path {args.amstrax_path} is another clone: start "
                f"{auto_processing.program(args.amstrax_path)}"
            )
    except UsageError as error:
        log.error("%s", error)
        return 2
    if "raw_records" in args.target and not args.allow_raw_records:
        return _refuse(args)
    options = [args.run_id, "--detector=xams", "--no-progress"]
    options += ["--debug"] if args.debug else []
    options += ["--fix_targets"] if args.fix_targets else []
    options += ["--is_online"] if args.is_online else ["--leave_status"]
    for name in ("output_folder", "corrections_version", "live_data_dir", "amstrax_path"):
        if getattr(args, name) is not None:
            options.append(f"--{name}={getattr(args, name)}")
    given = process_run.parse_args([*options, "--target", *args.target])
    given.config_kwargs = args.set_config_kwargs
    if args.production:
        return process_run.main(given)
    from amstrax.auto_processing.job import run_strax_tool

    return run_strax_tool(
        given,
        log,
        lambda stop: process_run.make_only(given, stop),
        f"run {args.run_id}",
        args.output_folder or "the folder for data",
        "--output_folder",
    )


def _is_this(amstrax_path: Path) -> bool:
    return auto_processing.program(amstrax_path).samefile(__file__)


def _refuse(args: argparse.Namespace) -> int:
    """Record that --allow_raw_records is missing, and return the exit status."""

    def work(_stop: Stop) -> None:
        from amstrax.rundb import get_mongo_collection

        if args.production:
            collection = get_mongo_collection("xams")
            documents.set_target_status(
                collection, args.run_id, "raw_records", "failed", args.is_online, NO_RAW_RECORDS
            )
            entry = documents.history_entry(
                "target_raw_records", "failed", args.is_online, reason=NO_RAW_RECORDS
            )
            documents.add_history(collection, args.run_id, entry)
        raise UsageError(f"run {args.run_id}: {NO_RAW_RECORDS}: give that option")

    return base.run_tool(args, log, work, f"run {args.run_id}", args.output_folder)


if __name__ == "__main__":
    sys.exit(main())

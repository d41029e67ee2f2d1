#!/usr/bin/env python
"""Process a run on this machine, for the lab's scripts of 2026.

Raw data is made first, then the data types derived from it. Without --production the run database
is not changed. The status of the run is set only with --production and --is_online. The exit status
is that of ``process_run``.
"""

import argparse
import contextlib
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__" and not __package__:
    # Run as a file: import the amstrax that this file belongs to
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from amstrax.auto_processing import process_run
from amstrax.auto_processing.process_run import JobOptions
from amstrax.auto_processing_new import auto_processing
from amstrax.commands import base
from amstrax.exceptions import AlreadyAtWork, UsageError
from amstrax.rundb import leases
from amstrax.rundb.connection import get_mongo_collection
from amstrax.rundb.leases import Stop

NO_RAW_RECORDS = "raw_records requested without --allow_raw_records"


def parse_args(argv: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    """Parse `argv` (by default the command line) into options; exit with 2 on invalid ones."""
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
        "--fix_targets", action="store_true", help="make only the targets, also of LED and NaI runs"
    )
    parser.add_argument(
        "--allow_raw_records",
        action="store_true",
        help="make raw_records, when it is among the targets",
    )
    base.add(parser, "--live_data_dir")
    return parser.parse_args(argv)


@base.main_of(parse_args)
def main(args: argparse.Namespace) -> int:
    """Process a run, and return the exit status."""
    options = base.filled(
        JobOptions,
        args,
        targets=tuple(args.target),
        detector="xams",
        config_kwargs=args.set_config_kwargs,
        progress=False,
        leave_status=not args.is_online,
        amstrax_path=None if args.amstrax_path is None else str(args.amstrax_path),
    )

    def work(stop: Stop) -> None:
        auto_processing.check_options(args)
        program = auto_processing.program(args.amstrax_path)
        if not program.samefile(__file__):
            raise UsageError(
                f"--amstrax_path {args.amstrax_path} is another clone: start {program}"
            )
        if "raw_records" in args.target and not args.allow_raw_records:
            if args.production:
                _record_refusal(args.run_id, args.is_online, stop)
            raise UsageError(f"run {args.run_id}: {NO_RAW_RECORDS}: give that option")
        process = process_run.process if args.production else process_run.make_only
        process(args.run_id, options, stop)

    return process_run.run(args, work)


def _record_refusal(run_id: str, is_online: bool, stop: Stop) -> None:
    """Record that --allow_raw_records is missing, unless another process has the run."""
    claim = leases.RunClaim(
        get_mongo_collection("xams"), run_id, f"{run_id}-{uuid.uuid4().hex[:16]}", stop
    )
    with contextlib.suppress(AlreadyAtWork), claim:
        claim.set_target("raw_records", "failed", is_online, NO_RAW_RECORDS)


if __name__ == "__main__":
    sys.exit(main())

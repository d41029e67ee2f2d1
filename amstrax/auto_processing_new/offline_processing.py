#!/usr/bin/env python
"""Submit jobs for a list of runs, for the lab's start scripts of 2026.

It waits while --max_jobs jobs run. Nothing is submitted without --production. Exit status: 0 if a
job was submitted for every run and after a dry run, 1 otherwise, 2 on wrong use.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__" and not __package__:
    # Run as a file: import the amstrax that this file belongs to
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from amstrax.auto_processing_new import auto_processing
from amstrax.commands import base


def parse_args(argv: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    """Parse `argv` (by default the command line) into options; exit with 2 on invalid ones."""
    parser = argparse.ArgumentParser(prog=prog, description="Submit jobs that process runs of XAMS")
    auto_processing.add_options(parser)
    parser.add_argument(
        "--run_id",
        "--run_ids",
        nargs="+",
        required=True,
        type=base.run_id,
        metavar="RUN_ID",
        help="runs to submit, in this order",
    )
    return parser.parse_args(argv)


@base.main_of(parse_args)
def main(args: argparse.Namespace) -> int:
    """Submit jobs and return the exit status."""
    return auto_processing.submit_runs(args, list(dict.fromkeys(args.run_id)), wait=True)


if __name__ == "__main__":
    sys.exit(main())

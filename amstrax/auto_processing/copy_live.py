#!/usr/bin/env python
"""Copy live data from the DAQ to its destinations, and register the copies.

Usable as ``copy_live``, ``amstrax copy-live``, ``python -m amstrax.auto_processing.copy_live``, and
as a file. Nothing is copied without ``--production``. Exit status: 0 on success or when a loop was
stopped, 1 if a run could not be copied, 2 on wrong use.
"""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__" and not __package__:
    # Run as a file: import the amstrax that this file belongs to
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from amstrax.auto_processing.copying import (
    Copier,
    Copies,
    CopyOptions,
    allowed_folders,
    copy_data,
    wanted_destinations,
)
from amstrax.commands import base
from amstrax.exceptions import CopyFailed
from amstrax.rundb import get_mongo_collection
from amstrax.rundb.leases import Stop

__all__ = ["copy_data", "get_rundocs", "handle_runs", "main", "parse_args"]

log = logging.getLogger("amstrax.copy_live")


def parse_args(argv: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    """Parse `argv` (by default the command line) into options; exit with 2 on invalid ones."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Copy live data from this machine, the DAQ's, to the destinations in setting "
        "XAMS_COPY_TO or XAMSL_COPY_TO, and register each copy once it is verified by checksum",
        epilog="Runs that are being taken, and those with the tag 'abandon', are skipped.",
    )
    base.add_live_runs(parser, "copied", "all that lack a copy, newest first", pause=60)
    parser.add_argument(
        "--min_run_number", type=int, default=0, metavar="N", help="skip runs below this number"
    )
    parser.add_argument(
        "--to", nargs="+", metavar="NAME", help="copy only to these destinations (default: all)"
    )
    parser.add_argument(
        "--again",
        action="store_true",
        help="verify and repair registered copies too: with --run_id",
    )
    parser.add_argument(
        "--workers",
        type=base.positive_integer,
        default=1,
        metavar="N",
        help="runs copied at the same time (default: %(default)s)",
    )
    parser.add_argument(
        "--bandwidth",
        type=base.positive_integer,
        metavar="KB/S",
        help="largest bandwidth of each copy (default: unlimited)",
    )
    parser.add_argument(
        "--production", action="store_true", help="copy; otherwise only report what would be copied"
    )
    args = base.parse(parser, "copy_live", argv)
    if args.again and not args.run_id:
        parser.error("--again repeats copies of named runs: add --run_id")
    if args.loop and (args.dry_run or not args.production):
        parser.error("--loop needs --production")
    args.production = args.production and not args.dry_run
    return args


@base.main_of(parse_args)
def main(args: argparse.Namespace) -> int:
    """Copy, and return the exit status."""
    return base.run_tool(
        args,
        log,
        lambda stop: _run(args, stop),
        "copying",
        args.log_folder,
        "--log_folder",
        log_name="copy_live",
    )


def _run(args: argparse.Namespace, stop: Stop) -> None:
    """Copy all runs that lack copies, once or in a loop."""
    stop.remark = "incomplete copies are continued at the next start"
    copier = Copier(get_mongo_collection(args.detector), _options(args), stop.event.is_set)

    def one_round() -> None:
        tally = copier.handle(copier.find())
        if tally.copies or not args.loop:
            log.info("%s", tally.describe(args.production))
        if tally.problems and not args.loop:
            stop.check()
            raise CopyFailed(f"{tally.problems} of {tally.all} copies could not be made, see above")

    base.repeat(one_round, args, stop, log)


def _options(args: argparse.Namespace) -> CopyOptions:
    return base.filled(
        CopyOptions,
        args,
        destinations=wanted_destinations(args.detector, args.to or ()),
        folders=allowed_folders(args.detector, args.live_data),
        run_ids=args.run_id or (),
    )


def get_rundocs(runsdb: Any, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Find the documents of the runs to copy in a collection; `args` as from `parse_args`.

    Raises RunNotFound when a run in ``args.run_id`` is unknown.
    """
    return Copier(runsdb, _options(args)).find()


def handle_runs(
    rundocs: Sequence[dict[str, Any]], args: argparse.Namespace, stopped: Callable[[], bool] = bool
) -> Copies:
    """Copy runs and register the copies; log errors and continue with the next run.

    Raises RunDatabaseError when the run database cannot be read or written.

    Parameters
    ----------
    rundocs
        Run documents, as `get_rundocs` returns them.
    args
        As from `parse_args`; nothing is changed without ``args.production``.
    stopped
        Called at intervals; when it returns True, copying ends.
    """
    return Copier(get_mongo_collection(args.detector), _options(args), stopped).handle(rundocs)


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python
"""Delete old live data from the DAQ after verifying every required copy.

Usable as ``delete_live``, ``amstrax delete-live``, ``python -m
amstrax.auto_processing.delete_live``, and as a file. Nothing is deleted without ``--production
--we_are_really_sure``. Exit status: 0 on success or when a loop was stopped, 1 if a run could not
be deleted, 2 on wrong use.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__" and not __package__:
    # Run as a file: import the amstrax that this file belongs to
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from amstrax.auto_processing.copying import allowed_folders, delete_after_copies
from amstrax.auto_processing.deleting import DeleteOptions, Deleter, why_not
from amstrax.commands import base
from amstrax.exceptions import DeletionRefused
from amstrax.rundb import get_mongo_collection
from amstrax.rundb.leases import Stop

__all__ = ["get_rundocs", "main", "parse_args", "run", "why_not"]

log = logging.getLogger("amstrax.delete_live")


def parse_args(argv: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    """Parse `argv` (by default the command line) into options; exit with 2 on invalid ones."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Delete old live data from this machine, the DAQ's. A run is deleted when "
        "every copy in the setting XAMS_DELETE_AFTER_COPIES (or that of XAMSL; by default all of "
        "XAMS_COPY_TO) has the same files, of the same size and checksum, at that moment.",
        epilog="Runs that are being taken or processed, and those with the tag 'abandon', are "
        "skipped.",
    )
    base.add_live_runs(parser, "deleted", "all that are old enough, oldest first", pause=3600)
    parser.add_argument(
        "--min_age",
        type=base.positive_number,
        default=30.0,
        metavar="DAYS",
        help="skip runs that ended less than this ago (default: %(default)g)",
    )
    parser.add_argument(
        "--production",
        action="store_true",
        help="delete, together with --we_are_really_sure; otherwise only verify the copies, and "
        "report what would be deleted",
    )
    parser.add_argument(
        "--we_are_really_sure", action="store_true", help="delete, together with --production"
    )
    args = base.parse(parser, "delete_live", argv)
    args.delete = args.production and args.we_are_really_sure and not args.dry_run
    if args.loop and not args.delete:
        parser.error("--loop needs --production and --we_are_really_sure")
    return args


@base.main_of(parse_args)
def main(args: argparse.Namespace) -> int:
    """Delete old live data, and return the exit status."""
    return base.run_tool(
        args,
        log,
        lambda stop: run(args, stop),
        "deleting live data",
        args.log_folder,
        "--log_folder",
        log_name="delete_live",
    )


def run(args: argparse.Namespace, stop: Stop) -> None:
    """Delete all live data that may be deleted, once or in a loop.

    Raises AmstraxError when, without ``args.loop``, something could not be deleted.
    """
    stop.remark = "interrupted deletions are settled at the next start"
    if args.production and not args.delete:
        log.info("nothing is deleted without --we_are_really_sure")
    deleter = Deleter(get_mongo_collection(args.detector), _options(args), stop.event.is_set)

    def one_round() -> None:
        problems = deleter.settle()
        tally = deleter.handle(deleter.find())
        problems += tally.problems
        if tally.runs or not args.loop:
            log.info("%s", tally.describe(args.delete))
        stop.check()
        if problems and not args.loop:
            raise DeletionRefused(f"{problems} runs could not be deleted, see above")

    base.repeat(one_round, args, stop, log)


def _options(args: argparse.Namespace) -> DeleteOptions:
    return base.filled(
        DeleteOptions,
        args,
        folders=allowed_folders(args.detector, args.live_data),
        required=delete_after_copies(args.detector),
        run_ids=args.run_id or (),
    )


def get_rundocs(runsdb: Any, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Find the documents of the runs to delete in a collection; `args` as from `parse_args`.

    Raises RunNotFound when a run in ``args.run_id`` is unknown.
    """
    return Deleter(runsdb, _options(args)).find()


if __name__ == "__main__":
    sys.exit(main())

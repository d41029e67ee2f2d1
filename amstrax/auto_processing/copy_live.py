#!/usr/bin/env python
"""Copy live data from the DAQ to its destinations, and register the copies.

Usable as ``copy_live``, ``amstrax copy-live``, ``python -m amstrax.auto_processing.copy_live``, and
as a file. Nothing is copied without ``--production``. Exit status: 0 on success or when a loop was
stopped, 1 if a run could not be copied, 2 on wrong use.
"""

import argparse
import contextlib
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__" and not __package__:
    # Run as a file: import the amstrax that this file belongs to
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from amstrax.auto_processing import live_folder, loop
from amstrax.auto_processing.copying import (
    Copier,
    Copies,
    Destination,
    copy_data,
    missing,
    wanted_destinations,
    why_not,
)
from amstrax.commands import base
from amstrax.exceptions import (
    CopyFailed,
)
from amstrax.rundb import documents, get_mongo_collection
from amstrax.rundb.leases import Stop
from amstrax.settings import DETECTORS

__all__ = ["copy_data", "get_rundocs", "handle_runs", "main", "parse_args"]

log = logging.getLogger("amstrax.copy_live")


_FIELDS = ("name", "number", "start", "end", "tags", "data", "copy_claim")

Document = Mapping[str, Any]


def parse_args(argv: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    """Parse `argv` (by default the command line) into options; exit with 2 on invalid ones."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Copy live data from this machine, the DAQ's, to the places in the setting "
        "XAMS_COPY_TO or XAMSL_COPY_TO, and register each copy once it is verified by checksum",
        epilog="Runs that are being taken, and those with the tag 'abandon', are left alone.",
    )
    parser.add_argument(
        "--detector", choices=DETECTORS, default="xams", help="whose runs (default: xams)"
    )
    parser.add_argument(
        "--run_id",
        nargs="+",
        metavar="RUN_ID",
        type=base.run_id,
        help="copy these runs (default: all that lack a copy, newest first)",
    )
    parser.add_argument(
        "--min_run_number", type=int, default=0, metavar="N", help="leave older runs alone"
    )
    parser.add_argument(
        "--to", nargs="+", metavar="NAME", help="copy to these places alone (default: all)"
    )
    parser.add_argument(
        "--again",
        action="store_true",
        help="look at copies that are registered, too, and repair them: with --run_id",
    )
    base.add_live_data(parser, "copied")
    parser.add_argument(
        "--max_runs", type=base.positive_integer, metavar="N", help="so many in a round"
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
        help="the most that each of them may take of the line (default: all there is)",
    )
    parser.add_argument(
        "--production", action="store_true", help="do it; without, say what would be copied"
    )
    parser.add_argument(
        "--dry_run", action="store_true", help="say what would be copied, as without --production"
    )
    base.add_rounds(parser, pause=60)
    base.add_log_folder(parser)
    base.add_console(parser)
    args = base.parse(parser, "copy_live", argv)
    if args.again and not args.run_id:
        parser.error("--again copies runs that have been copied already: name them with --run_id")
    if args.loop and (args.dry_run or not args.production):
        parser.error("--loop copies again and again: add --production")
    args.production = args.production and not args.dry_run
    return args


@base.main_of(parse_args)
def main(args: argparse.Namespace) -> int:
    """Copy, and return the exit status."""
    return base.run_tool(
        args,
        log,
        lambda stop: run(args, stop),
        "copying",
        args.log_folder,
        "--log_folder",
        log_name="copy_live",
    )


def run(args: argparse.Namespace, stop: Stop) -> None:
    """Copy all runs that lack copies, once or in a loop.

    Raises
    ------
    AmstraxError
        When, without ``args.loop``, something could not be copied.
    """
    stop.remark = "copies that are not complete are gone on with at the next start"
    collection = get_mongo_collection(args.detector)
    wanted_destinations(args)  # Wrong settings are no trouble that passes
    copier = Copier(collection, args, stop.event.is_set)

    def one_round() -> None:
        tally = copier.handle(get_rundocs(collection, args, copier.backoff.names()))
        if tally.copies or not args.loop:
            log.info("%s", tally.describe(args.production))
        if tally.problems and not args.loop:
            stop.check()
            raise CopyFailed(f"{tally.problems} of {tally.all} copies could not be made, see above")

    loop.repeat(one_round, args, stop, log)


def get_rundocs(
    runsdb: Any, args: argparse.Namespace, resting: frozenset[str] = frozenset()
) -> list[dict[str, Any]]:
    """Return the documents of the runs to copy.

    Parameters
    ----------
    runsdb
        Collection of run documents.
    args
        As from `parse_args`.
    resting
        Names of runs to skip.

    Raises
    ------
    RunNotFound
        When a run in ``args.run_id`` is unknown.
    """
    destinations = wanted_destinations(args)
    folders = live_folder.allowed_folders(args.detector, args.live_data)
    if args.run_id:
        found = [documents.find_run(runsdb, run_id, None, _FIELDS) for run_id in args.run_id]
    else:
        condition = _to_copy(args, destinations)
        found = documents.read(runsdb, condition, _FIELDS, sort=[("number", -1)])
    wanted = []
    for document in found:
        name = documents.name_of(document)
        to = missing(document, destinations, args.again)
        reason = None
        # For a run requested by name, and for one that cannot be judged, copying reports the error
        if not (args.run_id and to):
            with contextlib.suppress(Exception):
                reason = why_not(document, to, folders)
        if reason is not None:
            log.debug("run %s is not copied: %s", name, reason)
        elif name not in resting:
            wanted.append(document)
    return wanted[: args.max_runs]


def _to_copy(args: argparse.Namespace, destinations: Sequence["Destination"]) -> dict[str, Any]:
    """Return a filter for runs that lack a copy."""
    lacks = [
        {"data": {"$not": {"$elemMatch": {"type": "live", "host": destination.name}}}}
        for destination in destinations
    ]
    return {
        "$and": [
            documents.has_data("live", host=documents.this_host()),
            {"end": {"$ne": None}},
            documents.lacks_tag(documents.ABANDON),
            {"number": {"$gte": args.min_run_number}} if args.min_run_number else {},
            {"$or": lacks},
        ]
    }


def handle_runs(
    rundocs: Sequence[dict[str, Any]], args: argparse.Namespace, stopped: Callable[[], bool] = bool
) -> "Copies":
    """Copy runs and register the copies; log errors and continue with the next run.

    Parameters
    ----------
    rundocs
        Run documents, as `get_rundocs` returns them.
    args
        As from `parse_args`; nothing is changed without ``args.production``.
    stopped
        Called at intervals; when it returns True, copying ends.

    Returns
    -------
    tally
        Numbers of copies made (or to be made in a dry run) and of failed ones.

    Raises
    ------
    RunDatabaseError
        When the run database cannot be read or written.
    """
    return Copier(get_mongo_collection(args.detector), args, stopped).handle(rundocs)


if __name__ == "__main__":
    sys.exit(main())

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
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

if __name__ == "__main__" and not __package__:
    # Run as a file: import the amstrax that this file belongs to
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from amstrax import rundoc
from amstrax.auto_processing import copying, deleting, loop
from amstrax.auto_processing.copying import Destination, Document, delete_after_copies
from amstrax.auto_processing.deleting import Deleter
from amstrax.commands import base
from amstrax.exceptions import AmstraxError, DeletionRefused
from amstrax.rundb import documents, get_mongo_collection
from amstrax.rundb.leases import Stop

log = logging.getLogger("amstrax.delete_live")

_FIELDS = (
    *("name", "number", "start", "end", "tags", "data", "deleted_data", "copy_claim"),
    *("processing_status", "processing_claim"),
)


def parse_args(argv: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    """Parse `argv` (by default the command line) into options; exit with 2 on invalid ones."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Delete old live data from this machine, the DAQ's. A run is deleted when "
        "every copy in the setting XAMS_DELETE_AFTER_COPIES (or that of XAMSL; by default all of "
        "XAMS_COPY_TO) has the same files, of the same size and checksum, at that moment.",
        epilog="Runs that are being taken or processed, and those with the tag 'abandon', are left "
        "alone.",
    )
    base.add_live_runs(parser, "deleted", "all that are old enough, oldest first", pause=3600)
    parser.add_argument(
        "--min_age",
        type=base.positive_number,
        default=30.0,
        metavar="DAYS",
        help="leave runs alone that ended after this (default: %(default)g)",
    )
    parser.add_argument(
        "--production",
        action="store_true",
        help="do it, together with --we_are_really_sure; without, verify the copies, and say what "
        "would be deleted",
    )
    parser.add_argument(
        "--we_are_really_sure", action="store_true", help="do it, together with --production"
    )
    args = base.parse(parser, "delete_live", argv)
    args.delete = args.production and args.we_are_really_sure and not args.dry_run
    if args.loop and not args.delete:
        parser.error(
            "--loop deletes again and again: add --production and --we_are_really_sure for that"
        )
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
    folders = copying.allowed_folders(args.detector, args.live_data)
    required = delete_after_copies(args.detector)
    collection = get_mongo_collection(args.detector)
    deleter = Deleter(collection, folders, required, args.delete, stop.event.is_set)

    def one_round() -> None:
        problems = deleter.settle()
        found = get_rundocs(collection, args, deleter.backoff.names())
        tally = deleter.handle(
            found, lambda document: why_not(document, args.min_age, required, folders)
        )
        problems += tally.problems
        if tally.runs or not args.loop:
            log.info("%s", tally.describe(args.delete))
        stop.check()
        if problems and not args.loop:
            raise DeletionRefused(f"{problems} runs could not be deleted, see above")

    loop.repeat(one_round, args, stop, log)


def get_rundocs(
    runsdb: Any, args: argparse.Namespace, resting: frozenset[str] = frozenset()
) -> list[dict[str, Any]]:
    """Find the documents of runs whose live data on this machine may be deleted, oldest first.

    `args` as from `parse_args`; runs named in `resting` are skipped. Raises RunNotFound when a run
    in ``args.run_id`` is unknown.
    """
    required = delete_after_copies(args.detector)
    folders = copying.allowed_folders(args.detector, args.live_data)
    if args.run_id:
        found = [documents.find_run(runsdb, run_id, None, _FIELDS) for run_id in args.run_id]
    else:
        condition = {
            "$and": [
                documents.has_data("live", host=documents.this_host()),
                *(documents.has_data("live", host=destination.name) for destination in required),
                {"end": {"$lte": datetime.now(UTC) - timedelta(days=args.min_age)}},
            ]
        }
        found = documents.read(runsdb, condition, _FIELDS, sort=[("number", 1)])

    def reason(document: Document) -> str | None:
        # For a run requested by name, deleting reports the reason
        return None if args.run_id else why_not(document, args.min_age, required, folders)

    return copying.select(found, reason, resting, args.max_runs)


def why_not(
    document: Document,
    min_age: float,
    required: Sequence[Destination],
    folders: Sequence[Path],
) -> str | None:
    """Return why live data of a run is not deleted; None if only verification remains.

    `min_age` is the time since the end of the run [days], `required` the required copies; `folders`
    may be deleted from, given without links.
    """
    try:
        copying.run_name(document)
        end = rundoc.end_time(document)
        locations = deleting.locations(document, folders)
    except AmstraxError as error:
        return str(error)
    tags = documents.tags_of(document)
    for tag in (documents.ABANDON, documents.PROCESS):
        if tag in tags:
            return f"it has the tag {tag!r}"
    if end is None:
        return "it is still being taken"
    if datetime.now(UTC) - end < timedelta(days=min_age):
        return f"it ended less than {min_age:g} days ago (--min_age)"
    status = documents.status_of(document).status
    if status in ("submitted", "running") or documents.is_claimed(document):
        return "it is being processed"
    if not locations:
        return (
            f"its document has no live data on host {documents.this_host()}: check its data, and "
            "the setting AMSTRAX_HOST, which names this machine"
        )
    for destination in required:
        if not documents.data_of(document, type="live", host=destination.name):
            return f"it has no copy at {destination.name}: copy_live makes one"
    return None


if __name__ == "__main__":
    sys.exit(main())

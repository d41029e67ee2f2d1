"""The command ``amstrax rundb``: show and change run documents."""

import argparse
import functools
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from amstrax import settings
from amstrax.commands import base
from amstrax.exceptions import UsageError
from amstrax.rundb import documents, get_mongo_collection, leases, stored, transfer

log = logging.getLogger("amstrax.rundb")


def parse_args(argv: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=prog, description="Show and change run documents")
    base.add(parser, "--debug", "--detector")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, help_: str, run_ids: str | None = None) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help_, description=help_)
        # Given before the subcommand, they must not be overwritten by its defaults
        base.add(sub, "--debug", "--detector", default=argparse.SUPPRESS)
        if run_ids is not None:
            sub.add_argument(
                "run_ids" if run_ids else "run_id",
                metavar="RUN_ID",
                type=base.run_id,
                nargs=run_ids or None,
                help="run, as 006724",
            )
        return sub

    command("check", "show the settings, and test each step to the run database")
    show = command("show", "show the document of a run", "")
    show.add_argument("--fields", nargs="+", metavar="FIELD", help="show only these fields")
    list_ = command("list", "list runs", "*")
    list_.add_argument("--status", choices=documents.STATES, help="runs in this state")
    list_.add_argument("--tag", help="runs with this tag")
    list_.add_argument("--type", help="runs with data of this type")
    list_.add_argument(
        "--limit",
        type=base.positive_integer,
        help="largest number of runs, the newest ones (default: all)",
    )
    import_ = command("import", "add run documents from JSON files, one a line or in an array")
    import_.add_argument("files", nargs="+", metavar="FILE", help="file, - for standard input")
    import_.add_argument(
        "--replace", action="store_true", help="replace existing documents of these runs"
    )
    export = command("export", "write run documents to a JSON file, one a line", "*")
    export.add_argument(
        "--output", default=transfer.STDIO, metavar="FILE", help="default: standard output"
    )
    add = command("add", "add a run from its folder of live data")
    add.add_argument("folder", type=Path, metavar="LIVE_FOLDER/RUN_ID", help="folder of the run")
    add.add_argument(
        "--rundoc",
        type=Path,
        metavar="FILE",
        help="file with its document (default: rundoc_RUN_ID.json next to the folder)",
    )
    tag = command("tag", "add a tag to a run, or remove it", "")
    tag.add_argument("tag", metavar="TAG", help="tag, as process or abandon")
    tag.add_argument("--remove", action="store_true", help="remove the tag")
    status = command("status", "show or set the status of a run's processing", "")
    status.add_argument("status", nargs="?", choices=documents.STATUSES, metavar="STATUS")
    status.add_argument("--reason", help="reason of the new status")
    remove = command("remove", "remove documents of runs, and print them", "+")
    remove.add_argument("--yes", action="store_true", help="confirm the removal")
    storage = command(
        "storage", "show sizes of stored data, free space, and what newer data replaces", "*"
    )
    storage.add_argument(
        "--old", action="store_true", help="print only the commands that delete replaced data"
    )
    base.add(storage, "--corrections_version", "--reconstruction")
    storage.add_argument(
        "--output_folder", metavar="FOLDER", help="folder of data (default: those of the settings)"
    )
    delete = command("delete-data", "delete replaced data of a run from this machine", "")
    delete.add_argument("data_type", metavar="DATA_TYPE", help="data type, as peaks")
    delete.add_argument("lineage_hash", metavar="LINEAGE", help="hash of its lineage")
    delete.add_argument(
        "--folder", type=Path, help="folder that has it (default: all of this machine)"
    )
    delete.add_argument("--yes", action="store_true", help="confirm the deletion")
    return parser.parse_args(argv)


@base.main_of(parse_args)
def main(args: argparse.Namespace) -> int:
    def work() -> int | None:
        if args.command == "check":
            from amstrax.rundb.diagnose import check

            return check(args.detector)
        return _COMMANDS[args.command](get_mongo_collection(args.detector), args)

    return base.run_subcommand(args, log, work)


def show(collection: Any, args: argparse.Namespace) -> None:
    print(transfer.to_json(documents.find_run(collection, args.run_id, None, args.fields), 2))


def list_runs(collection: Any, args: argparse.Namespace) -> None:
    conditions: list[Mapping[str, Any]] = []
    followed = leases.runs_at_work(settings.processed_data(args.detector))
    if args.status:
        conditions.append(documents.has_state(args.status, followed=followed))
    if args.tag:
        conditions.append(documents.has_tag(args.tag))
    if args.type:
        conditions.append(documents.has_data(args.type))
    if args.run_ids:
        filters = [f for run_id in args.run_ids for f in documents.run_filters(run_id)]
        conditions.append({"$or": filters})
    found = documents.read(
        collection,
        {"$and": conditions} if conditions else {},
        transfer.SUMMARY_FIELDS,
        sort=[("number", -1)],
        limit=args.limit or 0,
    )
    rows: list[tuple[str, ...]] = [
        ("run", "start (UTC)", "length", "status", "mode", "tags", "data")
    ]
    for document in reversed(found):
        run = transfer.summary(document, followed)
        start = "" if run.start is None else f"{run.start:%Y-%m-%d %H:%M:%S}"
        length = "" if run.length is None else f"{run.length:.0f} s"
        tags, types = ",".join(run.tags), ",".join(run.types)
        rows.append((run.run_id, start, length, run.status, run.mode, tags, types))
    print(base.format_table(rows))


def import_files(collection: Any, args: argparse.Namespace) -> None:
    """Import documents from files; change nothing if one of the files is invalid."""
    new = [document for path in args.files for document in transfer.documents_in(path)]
    bar = tqdm(new, desc="importing", unit="run", disable=not sys.stderr.isatty())
    added, present = transfer.import_documents(collection, bar, args.replace)
    log.info(
        "%d runs added, %d existed already%s", added, present, " and are replaced" * args.replace
    )


def export(collection: Any, args: argparse.Namespace) -> None:
    found: Iterator[dict[str, Any]]
    if args.run_ids:
        found = (documents.find_run(collection, run_id) for run_id in args.run_ids)
    else:
        found = iter(documents.read(collection, {}, sort=[("number", 1)]))
    count = transfer.export_documents(found, args.output)
    if args.output != transfer.STDIO:
        log.info("%d runs written to %s", count, args.output)


def add(collection: Any, args: argparse.Namespace) -> None:
    log.info("%s", transfer.add_live(collection, args.folder, args.rundoc))


def tag(collection: Any, args: argparse.Namespace) -> None:
    if args.remove:
        done = documents.remove_tag(collection, args.run_id, args.tag)
    else:
        done = documents.add_tag(collection, args.run_id, args.tag, settings.login_name())
    if not done:
        has = "does not have" if args.remove else "already has"
        log.info("run %s %s the tag %s", args.run_id, has, args.tag)


def status(collection: Any, args: argparse.Namespace) -> None:
    """Set the status of a run, or print it."""
    if args.status is not None:
        documents.set_status(collection, args.run_id, args.status, args.reason)
        return
    if args.reason is not None:
        raise UsageError("--reason is the reason of a new status: name the status too")
    fields = [*documents.STATE_FIELDS, "processing_failed"]
    document = documents.find_run(collection, args.run_id, None, fields)
    followed = leases.runs_at_work(settings.processed_data(args.detector))
    known = documents.state_of(document, followed)
    print(known.status)
    for name in ("time", "host", "reason"):
        if getattr(known, name) is not None:
            print(f"{name:8s}{getattr(known, name)}")
    if documents.failures_of(document):
        print(f"failed  {documents.failures_of(document)} times")
    claim = document.get("processing_claim")
    if isinstance(claim, Mapping):
        print(f"claimed by {claim.get('owner')} until {claim.get('expires')} UTC")


def remove(collection: Any, args: argparse.Namespace) -> None:
    """Print documents, which can be imported again, and remove them."""
    found = [documents.find_run(collection, run_id) for run_id in args.run_ids]
    if not args.yes:
        raise UsageError(f"this removes {len(found)} documents from the run database: add --yes")
    for document in found:
        print(transfer.to_json(document), flush=True)
        collection.delete_one({"_id": document["_id"]})
    log.info("%d documents removed from the run database; no data is deleted", len(found))


def storage(collection: Any, args: argparse.Namespace) -> None:
    """Print what is stored, and the commands that delete what newer data replaces."""
    # These import strax, which takes seconds
    from amstrax import contexts
    from amstrax.auto_processing import process_run
    from amstrax.rundb import RunDB

    default = next(n for n, its in settings.CONTEXT_DETECTORS.items() if its == args.detector)
    plan = process_run.Plan((), default, args.detector, ())

    @functools.cache
    def context(name: str) -> Any:
        return getattr(contexts, name)(
            init_rundb=False,
            storage=[RunDB(collection=collection)],
            corrections_version=args.corrections_version,
            **({"reconstruction": args.reconstruction} if name == "xams" else {}),
        )

    found = stored.find_storage(
        collection,
        lambda document: context(process_run.plan_of_run(plan, document).context),
        process_run.all_folders(plan, args.output_folder, None),
        args.run_ids,
    )
    for folder, reason in found.unread.items():
        log.warning("%s cannot be read (%s): sizes are without it", folder, reason)
    lines = []
    for host, commands in found.commands(args.detector).items():
        lines += [f"# on {host}:", *commands]
    if args.old:
        print("\n".join(lines))
        return
    amounts: list[tuple[str, ...]] = [("data type", "runs", "size", "of unknown size")]
    amounts += [(x.data_type, str(x.n_runs), *_sizes(x)) for x in found.types]
    folders: list[tuple[str, ...]] = [
        ("host", "folder", "runs", "size", "of unknown size", "free", "disk")
    ]
    for place in found.places:
        disk = ["" if n is None else base.size(n) for n in (place.free, place.total)]
        folders.append((place.host, place.folder, str(place.n_runs), *_sizes(place), *disk))
    tables = [base.format_table(amounts), base.format_table(folders)]
    if args.run_ids:
        runs = [("run", *amounts[0])]
        for run_id, its in found.of_runs(args.run_ids):
            runs += [(run_id, x.data_type, str(x.n_runs), *_sizes(x)) for x in its]
        tables.insert(0, base.format_table([(*row[:2], *row[3:]) for row in runs]))
    print("\n\n".join(tables))
    if found.n_gone:
        log.warning("%d entries of run documents name folders that are not there", found.n_gone)
    if lines:
        print("\n# These delete data that newer data replaces:", *lines, sep="\n")


def _sizes(amount: stored.Amount | stored.Place) -> tuple[str, str]:
    return base.size(amount.n_bytes), str(amount.n_unknown or "")


def delete_data(collection: Any, args: argparse.Namespace) -> None:
    """Delete data of a lineage of a run from this machine, if other data of its type stays."""
    from amstrax.auto_processing import deleting, process_run

    if not args.yes:
        raise UsageError(f"this deletes {args.data_type} of run {args.run_id} for ever: add --yes")
    default = next(n for n, its in settings.CONTEXT_DETECTORS.items() if its == args.detector)
    plan = process_run.Plan((), default, args.detector, ())
    folders = process_run.all_folders(plan, None, None)
    what = args.run_id, args.data_type, args.lineage_hash
    size = deleting.delete_data(collection, *what, folders, args.folder)
    log.info("%s of run %s is deleted, %s", args.data_type, args.run_id, base.size(size))


_COMMANDS = {
    "storage": storage,
    "delete-data": delete_data,
    "show": show,
    "list": list_runs,
    "import": import_files,
    "export": export,
    "add": add,
    "tag": tag,
    "status": status,
    "remove": remove,
}


if __name__ == "__main__":
    sys.exit(main())

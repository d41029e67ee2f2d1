"""The command ``amstrax campaign``: process many runs again, in waves that can be stopped.

Exit status: 0, 1 on failure or, of ``run``, when runs have failed, 2 on wrong use.
"""

import argparse
import contextlib
import csv
import io
import logging
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tqdm import tqdm

from amstrax import settings, strict_json
from amstrax.auto_processing import auto_processing, submit_stbc
from amstrax.auto_processing.grouping import Grouping, add_grouping
from amstrax.auto_processing.loop import RunSelection
from amstrax.commands import base
from amstrax.exceptions import UsageError
from amstrax.rundb import campaigns, documents, get_mongo_collection, transfer
from amstrax.rundb.leases import Stop

# Functions import campaign_plan and campaign_loop, and so strax, too slow for --help

log = logging.getLogger("amstrax.campaign")


def parse_args(argv: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Process many runs again: plan, submit in waves, follow, and report. The "
        "campaign is in the run database, so anybody can follow and continue it from anywhere.",
    )
    parser.add_argument(
        "name",
        metavar="NAME",
        help=f"name of the campaign, as v2_2026; {campaigns.ALL!r} lists all campaigns",
    )
    base.add(parser, "--debug")
    default = "default: plan if runs or options follow, else status"
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", help=default)

    def command(name: str, help_: str, epilog: str = "") -> argparse.ArgumentParser:
        return commands.add_parser(name, help=help_, description=help_, epilog=epilog)

    plan = command("plan", "find what is to be made of which runs, and what that takes")
    submit_stbc.add_runs(plan)
    base.add_target(plan)
    base.add_trends(plan)
    base.add_count(
        plan, "--max_failures", RunSelection.max_failures, auto_processing.MAX_FAILURES_HELP
    )
    plan.add_argument("--dry_run", action="store_true", help="show the plan, and do not keep it")
    base.add_console(plan, argparse.SUPPRESS)

    run = command(
        "run",
        "submit the runs in waves, and follow them until all have ended",
        "After Ctrl-C jobs go on. Start it again, anywhere, to continue. While another process "
        "runs the campaign, this one shows its progress, and takes over at its end.",
    )
    base.add_jobs(run)
    add_grouping(run)
    base.add_count(run, "--max_jobs", 10, auto_processing.MAX_JOBS_HELP)
    base.add_seconds(
        run,
        "--retry_pause",
        RunSelection.retry_pause,
        "time from a first failure to the next attempt, twice as long after each further one",
    )
    base.add_seconds(run, "--pause", 10.0, auto_processing.PAUSE_HELP)
    text = "space on the disks for data that is not to be filled: submission waits"
    base.add_number(run, "--keep_free", 1.0, "GB", text, base.positive_number)
    base.add_console(run, argparse.SUPPRESS)

    others = {
        "pause": "submit nothing until the campaign is resumed; jobs go on",
        "resume": "submit again",
        "retry": "let runs that have failed be submitted again, even if given up",
        "status": "show progress, rate and time left",
        "report": "show each run: done, or why not",
        "old-data": "list older versions of the data as commands that delete them; delete nothing",
        "remove": "remove the campaign from the run database; jobs and data stay",
    }
    subs = {name: command(name, help_) for name, help_ in others.items()}
    subs["retry"].add_argument(
        "run_ids",
        nargs="*",
        metavar="RUN_ID",
        type=base.run_id,
        help="only these, also if their job is on a machine that is gone (default: all failed)",
    )
    subs["report"].add_argument(
        "--state", choices=campaigns.STATES, help="only runs in this state (default: all)"
    )
    for name, what in (("report", "CSV file with the table"), ("old-data", "file for the list")):
        subs[name].add_argument(
            "--output", type=Path, metavar="FILE", help=f"{what} (default: print a text)"
        )
    subs["remove"].add_argument("--yes", action="store_true", help="confirm the removal")
    for sub in subs.values():
        base.add(sub, "--debug", default=argparse.SUPPRESS)
    args = parser.parse_args(_with_plan(sys.argv[1:] if argv is None else argv))
    if args.name in commands.choices:
        parser.error(f"{args.name!r} is a command: the name of a campaign is given before it")
    if args.name == campaigns.ALL and args.command is not None:
        parser.error(f"{campaigns.ALL!r} lists all campaigns, and takes no command")
    return args


def _with_plan(argv: Sequence[str]) -> list[str]:
    """Return the command line with the word ``plan`` where options of a plan, or runs, follow."""
    words = list(argv)
    place = [i for i, word in enumerate(words) if word not in ("--debug", "--help", "-h")]
    if len(place) > 1 and re.match(r"--|[0-9]", words[place[1]]):
        words.insert(place[0] + 1, "plan")
    return words


@base.main_of(parse_args)
def main(args: argparse.Namespace) -> int:
    if args.command == "plan":
        place = args.output_folder or "the folder for data"
        return base.run_tool(
            args, log, lambda stop: plan(args, stop), "the plan", place, "--output_folder"
        )
    if args.command == "run":
        failed: list[str] = []
        log_name = None
        with contextlib.suppress(UsageError):  # Which `run` raises
            log_name = f"campaign_{campaigns.check_name(args.name)}"
        status = base.run_tool(
            args,
            log,
            lambda stop: run(args, stop, failed),
            f"campaign {args.name}",
            args.log_folder,
            "--log_folder",
            log_name,
        )
        return status or bool(failed)

    def work() -> None:
        if args.name == campaigns.ALL:
            list_campaigns()
        else:
            collection = campaigns.get_collection()
            _COMMANDS[args.command or "status"](collection, args)

    return base.run_subcommand(args, log, work)


def plan(args: argparse.Namespace, stop: Stop) -> str:
    """Plan a campaign, keep it in the run database, and return the text of the plan."""
    from amstrax.auto_processing import campaign_plan, process_run, submitting
    from amstrax.auto_processing.amstraxer import ProcessingOptions

    campaigns.check_name(args.name)
    options = ProcessingOptions.of(args)
    more_options = submitting.trend_words(args)
    detector = process_run.find_plan(options, check_corrections=True).detector
    runs = get_mongo_collection(detector)
    run_ids = submit_stbc.find_runs(runs, submit_stbc.RunQuery.of(args))

    def watch(items: Iterable) -> Iterable:
        show = base.shows_progress(args.progress)
        for item in tqdm(items, desc="planning", unit="run", disable=not show, leave=False):
            stop.check()
            yield item

    stop.remark = "no campaign has been planned"
    planned = campaign_plan.make_plan(
        args.name, run_ids, options, runs, more_options, args.max_failures, watch
    )
    planned.warn()
    if args.dry_run:
        return f"{planned.text()}\ndry run: nothing is kept"
    campaigns.add(campaigns.get_collection(), planned.campaign)
    return f"{planned.text()}\n`amstrax campaign {args.name} run` submits the runs"


def run(args: argparse.Namespace, stop: Stop, failed: list[str]) -> str:
    """Run a campaign; return the text at the end, and add the failed runs to a list."""
    from amstrax.auto_processing import campaign_loop, campaign_plan, submitting

    campaign = campaigns.find(campaigns.get_collection(), args.name)
    options, more_options = campaign_plan.options_of(campaign)
    template = submitting.make_job_template(
        options,
        args.job_folder,
        args.log_folder,
        memory=args.mem,
        queue=args.queue,
        more_options=more_options,
    )
    loop_options = base.filled(
        campaign_loop.LoopOptions,
        args,
        engine=args.engine or settings.engine(),
        grouping=base.filled(Grouping, args),
    )
    progress = campaign_loop.run(campaign, template, loop_options, stop)
    n_failed = progress.counts[campaigns.FAILED]
    if n_failed:
        failed.append(f"{n_failed} runs")
    more = f"; `amstrax campaign {args.name} report` tells why" if n_failed else ""
    return f"campaign {args.name}: {progress.text()}{more}"


def list_campaigns() -> None:
    collection = campaigns.get_collection()
    now = documents.server_time(collection)
    rows: list[tuple[str, ...]] = [
        ("campaign", "planned (UTC)", "by", "detector", "runs", "state", "submitted by")
    ]
    for document in campaigns.find_all(collection):
        time = documents.utc_time_of(document, "time")
        runs = document.get("runs")
        planned = f"{time:%Y-%m-%d %H:%M}" if time else "?"
        n_runs = len(runs) if isinstance(runs, list) else "?"
        name, user = document.get("name"), document.get("user") or "?"
        cells = (name, planned, user, document.get("detector"), n_runs, document.get("state"))
        rows.append((*map(str, cells), campaigns.holder(document, now)))
    print(base.format_table(rows))


def pause(collection: Any, args: argparse.Namespace) -> None:
    campaigns.set_state(collection, args.name, campaigns.PAUSED)
    log.info("campaign %s is paused; submitted jobs go on", args.name)


def resume(collection: Any, args: argparse.Namespace) -> None:
    campaigns.set_state(collection, args.name, campaigns.OPEN)
    holder = campaigns.claimed_by(collection, args.name)
    text = f"{holder} runs it" if holder else f"`amstrax campaign {args.name} run` submits"
    log.info("campaign %s is resumed: %s", args.name, text)


def retry(collection: Any, args: argparse.Namespace) -> None:
    """Set failed runs pending."""
    from amstrax.auto_processing import campaign_loop

    campaign = campaigns.find(collection, args.name)
    runs = get_mongo_collection(campaign.detector)
    user = settings.login_name()
    done, left = campaign_loop.retry(campaign, runs, args.run_ids, user)
    log.info("%d runs are to be submitted again%s", len(done), _names(done))
    for reason in dict.fromkeys(left.values()):
        names = [name for name, why in left.items() if why == reason]
        log.warning("%d runs are left alone, since %s%s", len(names), reason, _names(names))


def _names(names: Sequence[str]) -> str:
    return f": {', '.join(names[:10])}{' ...' * (len(names) > 10)}" if names else ""


def status(collection: Any, args: argparse.Namespace) -> None:
    from amstrax.auto_processing import campaign_loop

    campaign = campaigns.find(collection, args.name)
    runs = get_mongo_collection(campaign.detector)
    states = campaign_loop.states_of(campaign, runs)
    progress = campaign_loop.progress_of(campaign, states, documents.server_time(runs))
    holder = campaigns.claimed_by(collection, args.name)
    targets = ", ".join(campaign.kinds[0].targets)
    print(
        f"campaign {campaign.name}, planned by {campaign.user} on "
        f"{campaign.time:%Y-%m-%d %H:%M} UTC: {len(campaign.runs)} runs of {campaign.detector} to "
        f"{targets}"
    )
    print(
        f"{'paused by ' + campaign.changed_by if campaign.state == campaigns.PAUSED else 'open'}, "
        f"{'run by ' + holder if holder else 'nobody submits'}"
    )
    print(progress.text())


def report(collection: Any, args: argparse.Namespace) -> None:
    """Print a row for each run, and totals; or write them to a CSV file."""
    from amstrax.auto_processing import campaign_loop

    campaign = campaigns.find(collection, args.name)
    all_rows = campaign_loop.report(campaign, get_mongo_collection(campaign.detector))
    rows = [row for row in all_rows if args.state in (None, row.state)]
    if args.output is not None:
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["run", "state", "input_mb", "seconds", "failures", "end", "reason"])
        for row in rows:
            end = row.end.astimezone(UTC).isoformat() if row.end else ""
            seconds = "" if row.seconds is None else f"{row.seconds:.3f}"
            table.writerow([row.run, row.state, row.mb, seconds, row.failures, end, row.reason])
        _write(args.output, text.getvalue())
        log.info("%d runs written to %s", len(rows), args.output)
    else:
        header = ("run", "state", "MB", "s", "MB/s", "failures", "end (UTC)", "reason")
        print(base.format_table([header, *map(_cells, rows)]))
    print(campaign_loop.totals(campaign, all_rows))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    strict_json.write_text(path, text)


def _cells(row: Any) -> tuple[str, ...]:
    seconds, end = row.seconds, row.end
    return (
        *(row.run, row.state, f"{row.mb:.1f}"),
        "" if seconds is None else f"{seconds:.1f}",
        f"{row.mb / seconds:.2f}" if seconds else "",
        str(row.failures) if row.failures else "",
        f"{end:%Y-%m-%d %H:%M:%S}" if isinstance(end, datetime) else "",
        row.reason,
    )


def old_data(collection: Any, args: argparse.Namespace) -> None:
    """Print commands that delete older versions, or write them to a file."""
    from amstrax.auto_processing import campaign_loop

    campaign = campaigns.find(collection, args.name)
    found = campaign_loop.old_data(campaign, get_mongo_collection(campaign.detector))
    text = campaign_loop.deletion_commands(campaign, found)
    if args.output is None:
        print(text)
    else:
        _write(args.output, f"{text}\n")
    log.info("%d old data, %.4g GB", len(found), sum(x.n_bytes or 0 for x in found) / 1e9)


def remove(collection: Any, args: argparse.Namespace) -> None:
    """Print the document of a campaign, and remove it, also if it is invalid."""
    document = campaigns.find_document(collection, args.name)
    if not args.yes:
        raise UsageError(f"this removes campaign {args.name} from the run database: add --yes")
    print(transfer.to_json(document), flush=True)
    campaigns.remove(collection, args.name)
    log.info("campaign %s is removed; jobs and data stay", args.name)


_COMMANDS = {
    "pause": pause,
    "resume": resume,
    "retry": retry,
    "status": status,
    "report": report,
    "old-data": old_data,
    "remove": remove,
}


if __name__ == "__main__":
    sys.exit(main())

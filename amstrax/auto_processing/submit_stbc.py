#!/usr/bin/env python
"""Submit jobs that process runs: one run, several, a range, those in a file, or those of a query.

Usable as ``submit_stbc``, ``amstrax submit``, ``python -m amstrax.auto_processing.submit_stbc``,
and as a file. Exit status: 0 if every run has a job, 1 otherwise, 2 on wrong use.
"""

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__" and not __package__:
    # Run as a file: import the amstrax that this file belongs to
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from amstrax import settings, strict_json
from amstrax.auto_processing import engines, submitting
from amstrax.auto_processing.engines.base import Engine
from amstrax.auto_processing.submitting import JobTemplate, Submission
from amstrax.commands import base
from amstrax.exceptions import (
    EngineUnreachable,
    RunDatabaseError,
    UsageError,
)
from amstrax.rundb import documents, get_mongo_collection
from amstrax.rundb.leases import Stop

log = logging.getLogger("amstrax.submit_stbc")


def parse_args(argv: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    """Parse `argv` (by default the command line) into options; exit with 2 on invalid ones."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Submit jobs that process runs. Name the runs, or those of a file, or ask for "
        "them by status, tag, mode or query; the newest come first then.",
    )
    parser.add_argument(
        "runs", nargs="*", metavar="RUN_ID", help="run, as 006724, or a range, as 006724-006730"
    )
    parser.add_argument(
        "--run_id", nargs="+", default=[], metavar="RUN_ID", help="the same, as an option"
    )
    parser.add_argument(
        "--run_file",
        type=Path,
        metavar="FILE",
        help="file of runs: one a line, # starts a comment",
    )
    asked = parser.add_argument_group("runs asked of the run database")
    asked.add_argument("--status", choices=documents.STATUSES, help="those of this status")
    asked.add_argument("--tag", help="those with this tag")
    asked.add_argument("--mode", help="those of this mode")
    asked.add_argument(
        "--query", type=base.json_object, metavar="JSON", help="those that match this filter"
    )
    parser.add_argument(
        "--max_runs",
        type=base.positive_integer,
        metavar="N",
        help="submit no more than so many (default: all)",
    )
    parser.add_argument(
        "--again",
        action="store_true",
        help="submit runs too that are done, with data of the target",
    )
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="show exactly what would be submitted, and change nothing",
    )
    base.add_work(parser)
    return base.parse(parser, "submit_stbc", argv)


@base.main_of(parse_args)
def main(args: argparse.Namespace) -> int:
    """Submit jobs, and return the exit status."""
    from amstrax.auto_processing import job

    report = Report()
    status = job.run_strax_tool(
        args,
        log,
        lambda stop: run(args, stop, report),
        "the submission",
        args.job_folder,
        "--job_folder",
    )
    if report.rows:
        print(report.text())
    return status or report.n_failed > 0


class Report:
    """Report of submitted runs for the user."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, ...]] = []
        self.scripts: list[str] = []
        self.n_submitted = self.n_failed = 0

    def add(self, submission: "Submission") -> None:
        """Add a run with a job, or one that is busy."""
        self.n_submitted += submission.state in ("submitted", "dry run")
        text = submission.text
        if submission.state == "dry run":
            self.scripts.append(text)
            text = submission.name
        self.rows.append((submission.run_id, submission.state, submission.job_id, text))

    def leave(self, run_id: str, why: str) -> None:
        """Add a run that needs no job now."""
        self.rows.append((run_id, "skipped", "", why))

    def fail(self, run_id: str, error: Exception) -> None:
        """Add a run that cannot be submitted."""
        self.n_failed += 1
        self.rows.append((run_id, "not submitted", "", " ".join(str(error).split())))

    def text(self) -> str:
        """Return a table, after what would be submitted in a dry run."""
        rows = [("run", "state", "job", ""), *self.rows]
        return "\n".join([*self.scripts, base.format_table(rows)])


def run(args: argparse.Namespace, stop: Stop, report: Report) -> None:
    """Submit the runs selected by `args`.

    Parameters
    ----------
    args
        As from `parse_args`.
    stop
        When this is set, submission ends.
    report
        Collects the result of each run.

    Raises
    ------
    UsageError
        When an option makes no sense, or no run is asked for.
    AmstraxError
        When nothing (more) can be submitted.
    """
    engine = engines.get(args.engine or settings.engine())
    work = find_work(args)
    collection = get_mongo_collection(work.detector)
    for run_id in _with_bar(find_runs(collection, args)):
        stop.check()
        if args.max_runs is not None and report.n_submitted >= args.max_runs:
            report.leave(run_id, f"beyond --max_runs {args.max_runs}")
            continue
        try:
            why = "" if args.again or args.status == "done" else why_done(work, run_id, collection)
            if why:
                report.leave(run_id, why)
            else:
                report.add(submit(work, run_id, collection, engine))
        except (EngineUnreachable, RunDatabaseError):
            # All other runs would fail in the same way
            raise
        except Exception as error:
            # Affects only this run, even if it is a bug
            log.debug("run %s", run_id, exc_info=error)
            report.fail(run_id, error)


def _with_bar(run_ids: Sequence[str]) -> Any:
    from tqdm import tqdm  # costs 0.1 s, which --help does not need

    is_short = len(run_ids) < 3
    return tqdm(run_ids, desc="submitting", unit="run", disable=is_short or not sys.stderr.isatty())


def why_done(work: "JobTemplate", run_id: str, collection: Any) -> str:
    """Return why a run needs no job; empty if it needs one."""
    fields = [*submitting.PLAN_FIELDS, "processing_status", "data"]
    document = documents.find_run(collection, run_id, None, fields)
    if documents.PROCESS in documents.tags_of(document):
        return ""
    if documents.status_of(document).status != "done":
        return ""
    targets = submitting.plan_of_run(work.plan, document).targets
    here = {"host": documents.this_host()}
    if all(documents.data_of(document, type=target, **here) for target in targets):
        return "done already, --again submits it all the same"
    return ""


def find_runs(collection: Any, args: argparse.Namespace) -> list[str]:
    """Return the names of the selected runs: named ones in that order, without duplicates.

    Parameters
    ----------
    collection
        Collection of run documents.
    args
        As from `parse_args`.

    Raises
    ------
    UsageError
        When none is asked for, and for what is no run.
    """
    from amstrax.common import run_ids_from_file

    named = [run_id for text in (*args.runs, *args.run_id) for run_id in _range(text)]
    if args.run_file is not None:
        try:
            listed = run_ids_from_file(args.run_file)
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--run_file {args.run_file} cannot be read: {error}") from None
        named += [run_id for text in listed for run_id in _range(text)]
    condition = _condition(args)
    if not condition and not named:
        if args.run_file is not None:
            raise UsageError(f"--run_file {args.run_file} names no run")
        raise UsageError("no runs: name some, or give --run_file, --status, --tag, --mode, --query")
    if not condition:
        return list(dict.fromkeys(named))
    if named:
        filters = [f for run_id in named for f in documents.run_filters(run_id)]
        condition.append({"$or": filters})
    found = documents.read(
        collection, {"$and": condition}, ["name", "number"], sort=[("number", -1)]
    )
    if not found:
        raise UsageError("no run in the run database is as asked for")
    return [name for name in map(documents.name_of, found) if name is not None]


def _condition(args: argparse.Namespace) -> list[Mapping[str, Any]]:
    """Return the filters for what is asked of the run database."""
    condition: list[Mapping[str, Any]] = []
    if args.status:
        condition.append(documents.has_status(args.status))
    if args.tag:
        condition.append(documents.has_tag(args.tag))
    if args.mode:
        condition.append({"mode": args.mode})
    if args.query:
        condition.append(_query(args.query))
    return condition


def _query(query: Mapping[str, Any]) -> dict[str, Any]:
    """Return a filter in which dates, ids and the like may be written as extended JSON."""
    import bson
    from bson import json_util

    text = json_util.dumps(query)
    found = strict_json.parse(text, "--query", UsageError, json_util.object_hook)
    try:
        bson.encode({"": found})
    except Exception as error:
        # bson raises its own errors, Python's and those of other libraries
        raise UsageError(
            f"--query {strict_json.short(query)} cannot be asked: "
            f"{strict_json.short(error, strict_json.one_line)}"
        ) from None
    return found


def _range(text: str) -> list[str]:
    """Return the run ids in a range, or the one."""
    first, dash, last = text.partition("-")
    try:
        if not dash:
            return [base.run_id(text)]
        ends = [int(base.run_id(end)) for end in (first, last)]
    except argparse.ArgumentTypeError as error:
        if not dash:
            raise UsageError(str(error)) from None
        ends = [1, 0]
    if ends[0] > ends[1]:
        raise UsageError(f"{text!r} is no range of runs: give two numbers, as 006724-006730")
    if ends[1] - ends[0] >= _LONGEST_RANGE:
        raise UsageError(f"{text!r} is a range of more than {_LONGEST_RANGE} runs")
    return [f"{number:06d}" for number in range(ends[0], ends[1] + 1)]


_LONGEST_RANGE = 100_000


def find_work(args: argparse.Namespace) -> "JobTemplate":
    """Return what `args`, of `base.add_work`, ask to be submitted for runs.

    Raises
    ------
    UsageError
        When no context makes the targets, or takes the options.
    """
    return submitting.make_job_template(
        args.target,
        args.context,
        args.detector,
        job_folder=args.job_folder,
        log_folder=args.log_folder,
        memory=args.mem,
        queue=args.queue,
        dry_run=args.dry_run,
        output_folder=args.output_folder,
        live_data_dir=args.live_data_dir,
        allow_incomplete=args.allow_incomplete,
        config_kwargs=args.config_kwargs,
        corrections_version=args.corrections_version,
        workers=args.workers,
    )


def submit(
    work: "JobTemplate",
    run_id: str,
    collection: Any,
    engine: "Engine",
    reset_failures: bool = False,
) -> "Submission":
    """Submit the job for a run; see `amstrax.auto_processing.submitting.submit`."""
    return submitting.submit(work, run_id, collection, engine, reset_failures)


def submit_job(
    run_id: str,
    target: str | Sequence[str],
    context: str | None = None,
    detector: str | None = None,
    job_folder: str | Path = "jobs",
    log_folder: str | Path = "logs",
    script: str | Path = "process_run",
    *,
    engine: "str | Engine | None" = None,
    collection: Any = None,
    **options: Any,
) -> "Submission":
    """Submit the job that processes a run, unless there is one, and return what became of it.

    Parameters
    ----------
    run_id
        Run.
    target
        Data type to make, or several.
    context
        Name of a context; None for the first that makes the target.
    detector
        ``"xams"`` or ``"xamsl"``, whose run database knows the run; None for that of the context.
    job_folder, log_folder
        Folders for the job's script and for its log, each with a folder for each run.
    script
        What the job runs: the name of a tool of this package, or a file; it is given the options
        of `process_run`.
    engine
        Engine, or its name; None for that of the settings.
    collection
        Collection of run documents; None for that of the settings.
    **options
        ``memory`` [MB], ``queue``, ``dry_run`` (change nothing, ``text`` is what would be
        submitted), ``output_folder``, ``live_data_dir``, ``allow_incomplete``,
        ``config_kwargs``, ``corrections_version``, ``workers``.

    Returns
    -------
    A `amstrax.auto_processing.submitting.Submission`.

    Raises
    ------
    UsageError
        When no context makes the target.
    RunNotFound
        When there is no such run.
    RunNotReady
        When it is being taken, or to be left alone.
    UnknownEngine, NotAvailable, JobRefused, EngineUnreachable
        When the engine does not take the job.
    RunDatabaseError
        When the run database cannot be reached.
    """
    targets = (target,) if isinstance(target, str) else tuple(target)
    work = submitting.make_job_template(
        targets,
        context,
        detector,
        job_folder=Path(job_folder),
        log_folder=Path(log_folder),
        script=script,
        **options,
    )
    if engine is None or isinstance(engine, str):
        engine = engines.get(engine or settings.engine())
    if collection is None:
        collection = get_mongo_collection(work.detector)
    return submitting.submit(work, base.run_id(run_id), collection, engine)


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python
"""Submit jobs that process runs: one run, several, a range, those in a file, or those of a query.

Each run gets its own job, or with --runs_per_job or --job_minutes a job processes several runs.

Usable as ``submit_stbc``, ``amstrax submit``, ``python -m amstrax.auto_processing.submit_stbc``,
and as a file. Exit status: 0 if every run has a job, 1 otherwise, 2 on wrong use.
"""

import argparse
import logging
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__" and not __package__:
    # Run as a file: import the amstrax that this file belongs to
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from amstrax import settings, strict_json
from amstrax.auto_processing import engines, process_run, submitting
from amstrax.auto_processing.amstraxer import ProcessingOptions
from amstrax.auto_processing.engines.base import Engine
from amstrax.auto_processing.grouping import ONE_RUN_A_JOB, Grouping, add_grouping
from amstrax.auto_processing.submitting import (
    NOT_SUBMITTED,
    JobTemplate,
    Submission,
    find_work,
    submit,
    submit_groups,
)
from amstrax.commands import base
from amstrax.exceptions import RunDatabaseError, UsageError
from amstrax.rundb import documents
from amstrax.rundb.connection import get_mongo_collection
from amstrax.rundb.leases import Stop

__all__ = [
    *("Report", "RunQuery", "find_runs", "find_work", "main", "parse_args", "run", "submit"),
    *("submit_job", "why_done"),
]

log = logging.getLogger("amstrax.submit_stbc")

_LONGEST_RANGE = 100_000
#: Largest number of runs to submit at once, as jobs for several runs
_RUNS_AT_ONCE = 10_000


@dataclass(frozen=True)
class RunQuery:
    """Runs to submit: named runs and ranges, also in a file, and conditions that all must meet.

    These are the options of `parse_args`; without names all runs that meet the conditions.
    """

    names: tuple[str, ...] = ()
    file: Path | None = None
    status: str | None = None
    tag: str | None = None
    mode: str | None = None
    query: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, args: argparse.Namespace) -> "RunQuery":
        """Return the runs that the options of `parse_args` name."""
        return base.filled(cls, args, names=(*args.runs, *args.run_id), file=args.run_file)

    def named(self) -> list[str]:
        """Return the names of the named runs, with ranges expanded."""
        texts = list(self.names)
        if self.file is not None:
            from amstrax.common import run_ids_from_file  # imports numpy, slow

            try:
                texts += run_ids_from_file(self.file)
            except (OSError, UnicodeDecodeError) as error:
                raise UsageError(f"--run_file {self.file} cannot be read: {error}") from None
        return [run_id for text in texts for run_id in expanded(text)]

    def conditions(self) -> list[Mapping[str, Any]]:
        """Return the conditions as filters for the run database."""
        found: list[Mapping[str, Any]] = []
        if self.status:
            found.append(documents.has_state(self.status))
        if self.tag:
            found.append(documents.has_tag(self.tag))
        if self.mode:
            found.append({"mode": self.mode})
        if self.query:
            found.append(_from_extended_json(self.query))
        return found


def add_runs(parser: argparse.ArgumentParser) -> None:
    """Add the arguments and options that select runs, see `RunQuery`."""
    parser.add_argument(
        "runs", nargs="*", metavar="RUN_ID", help="run, as 006724, or a range, as 006724-006730"
    )
    parser.add_argument(
        "--run_id", nargs="+", default=[], metavar="RUN_ID", help="the same, as an option"
    )
    parser.add_argument(
        "--run_file", type=Path, metavar="FILE", help="file of runs: one a line, # starts a comment"
    )
    selection = parser.add_argument_group("runs selected in the run database")
    selection.add_argument("--status", choices=documents.STATES, help="runs in this state")
    selection.add_argument("--tag", help="runs with this tag")
    selection.add_argument("--mode", help="runs with this mode")
    selection.add_argument(
        "--query", type=base.json_object, metavar="JSON", help="runs that match this filter"
    )


def parse_args(argv: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    """Parse `argv` (by default the command line) into options; exit with 2 on invalid ones."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Submit jobs that process runs: named runs, runs in a file, or runs selected "
        "by status, tag, mode or query, newest first.",
    )
    add_runs(parser)
    parser.add_argument(
        "--max_runs",
        type=base.positive_integer,
        metavar="N",
        help="largest number of runs to submit (default: no limit)",
    )
    parser.add_argument(
        "--again", action="store_true", help="submit also runs that are done and have the data"
    )
    parser.add_argument(
        "--dry_run", action="store_true", help="show what would be submitted, and change nothing"
    )
    base.add_work(parser)
    add_grouping(parser)
    return base.parse(parser, "submit_stbc", argv)


@base.main_of(parse_args)
def main(args: argparse.Namespace) -> int:
    """Submit jobs, and return the exit status."""
    from amstrax.auto_processing import job  # imports strax, which --help does not need

    report = Report()

    def work(stop: Stop) -> None:
        query = RunQuery.of(args)
        again = args.again or args.status == "done"
        grouping = base.filled(Grouping, args)
        run(query, find_work(args), stop, report, args.engine, args.max_runs, again, grouping)

    status = job.run_strax_tool(args, log, work, "the submission", args.job_folder, "--job_folder")
    if report.rows:
        print(report.text())
    return status or report.count(NOT_SUBMITTED) > 0


class Report:
    """Table of runs for the user: name, state, id of the job, and a text."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str, str, str]] = []
        self.scripts: list[str] = []

    def add(self, run_id: str, state: str, job_id: str = "", text: str = "") -> None:
        """Add a run."""
        self.rows.append((run_id, state, job_id, text))

    def sort(self, run_ids: Sequence[str]) -> None:
        """Sort the runs into the order of `run_ids`."""
        places = {run_id: place for place, run_id in enumerate(run_ids)}
        self.rows.sort(key=lambda row: places.get(row[0], len(places)))

    def count(self, *states: str) -> int:
        """Return the number of runs in any of these states."""
        return sum(row[1] in states for row in self.rows)

    def text(self) -> str:
        """Return a table, after the jobs of a dry run."""
        rows = [("run", "state", "job", ""), *self.rows]
        return "\n".join([*self.scripts, base.format_table(rows)])


def run(
    query: RunQuery,
    template: JobTemplate,
    stop: Stop,
    report: Report,
    engine_name: str | None = None,
    max_runs: int | None = None,
    again: bool = False,
    grouping: Grouping = ONE_RUN_A_JOB,
) -> None:
    """Submit jobs for the runs of a query until `stop` is set, and add the results to a report.

    With `again`, also runs that are done are submitted; `max_runs` limits the number of runs, and
    `grouping` tells which runs share a job. Raises UsageError when the query is invalid, or finds
    no run; AmstraxError when nothing (more) can be submitted.
    """
    engine = engines.get(engine_name or settings.engine())
    collection = get_mongo_collection(template.plan.detector)
    batch: list[str] = []
    most = 1 if grouping.most == 1 else _RUNS_AT_ONCE

    def groups() -> Iterator[list[str]]:
        for group in grouping.groups(batch, collection, template.plan):
            # If it raises, nothing of this batch is submitted
            stop.check()
            yield group

    def submit_batch() -> None:
        for done in submit_groups(template, groups(), collection, engine):
            if done.state == "dry run":
                report.scripts += [done.text] if done.text else []
                report.add(done.run_id, done.state, text=done.name)
            else:
                if done.error is not None:
                    log.debug("run %s", done.run_id, exc_info=done.error)
                report.add(done.run_id, done.state, done.job_id, done.text)
        batch.clear()

    run_ids = find_runs(collection, query)
    for run_id in _with_bar(run_ids):
        stop.check()
        n_chosen = report.count("submitted", "dry run") + len(batch)
        if max_runs is not None and n_chosen >= max_runs:
            report.add(run_id, "skipped", text=f"beyond --max_runs {max_runs}")
            continue
        try:
            why = "" if again else why_done(template, run_id, collection)
        except RunDatabaseError:
            # All other runs would fail in the same way
            raise
        except Exception as error:
            # Affects only this run, even if it is a bug
            log.debug("run %s", run_id, exc_info=error)
            report.add(run_id, NOT_SUBMITTED, text=strict_json.one_line(error))
            continue
        if why:
            report.add(run_id, "skipped", text=why)
            continue
        batch.append(run_id)
        if len(batch) >= most:
            submit_batch()
    submit_batch()
    report.sort(run_ids)


def _with_bar(run_ids: Sequence[str]) -> Iterable[str]:
    from tqdm import tqdm  # costs 0.1 s, which --help does not need

    is_short = len(run_ids) < 3
    return tqdm(run_ids, desc="submitting", unit="run", disable=is_short or not sys.stderr.isatty())


def why_done(template: JobTemplate, run_id: str, collection: Any) -> str:
    """Return why a run needs no job; empty if it needs one."""
    fields = [*process_run.PLAN_FIELDS, "processing_status", "data"]
    document = documents.find_run(collection, run_id, None, fields)
    is_tagged = documents.PROCESS in documents.tags_of(document)
    if is_tagged or documents.status_of(document).status != "done":
        return ""
    targets = process_run.plan_of_run(template.plan, document).targets
    here = {"host": documents.this_host()}
    has_all = all(documents.data_of(document, type=target, **here) for target in targets)
    return "done already, --again submits it again" if has_all else ""


def find_runs(collection: Any, query: RunQuery) -> list[str]:
    """Return the names of the runs of a query: named ones in that order, without duplicates.

    Raises UsageError when the query is empty, invalid, or finds no run.
    """
    named, conditions = query.named(), query.conditions()
    if not conditions and not named:
        if query.file is not None:
            raise UsageError(f"--run_file {query.file} names no run")
        raise UsageError("no runs: name some, or give --run_file, --status, --tag, --mode, --query")
    if not conditions:
        return list(dict.fromkeys(named))
    if named:
        conditions.append({"$or": [f for run_id in named for f in documents.run_filters(run_id)]})
    found = documents.read(
        collection, {"$and": conditions}, ["name", "number"], sort=[("number", -1)]
    )
    if not found:
        raise UsageError("no run in the run database matches")
    return [name for name in map(documents.name_of, found) if name is not None]


def _from_extended_json(query: Mapping[str, Any]) -> dict[str, Any]:
    import bson  # costs 0.1 s, which --help does not need
    from bson import json_util

    text = json_util.dumps(query)
    found = strict_json.parse(text, "--query", UsageError, json_util.object_hook)
    try:
        bson.encode({"": found})
    except Exception as error:
        # bson raises its own errors, Python's and those of other libraries
        raise UsageError(
            f"--query {strict_json.short(query)} is invalid: "
            f"{strict_json.short(error, strict_json.one_line)}"
        ) from None
    return found


def expanded(text: str) -> list[str]:
    """Return the run ids in a range, or the one; raise UsageError for anything else."""
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


def submit_job(
    run_id: str,
    target: str | Sequence[str],
    context: str | None = None,
    detector: str | None = None,
    job_folder: str | Path = "jobs",
    log_folder: str | Path = "logs",
    script: str | Path = "process_run",
    *,
    engine: str | Engine | None = None,
    collection: Any = None,
    **options: Any,
) -> Submission:
    """Submit the job that processes a run unless it has one, and return the result.

    Parameters
    ----------
    run_id
        Run.
    target
        Data type to make, or several.
    context, detector
        Names; None for the first context that makes the target, and for its detector.
    job_folder, log_folder
        Folders for the job's script and for its log, each with a folder for each run.
    script
        Program of the job: the name of a tool of this package, or a file; it gets the options of
        `process_run`.
    engine, collection
        Engine or its name, and collection of run documents; None for those of the settings.
    **options
        ``memory`` [MB], ``queue``, ``dry_run`` (change nothing; ``text`` of the result is what
        would be submitted), ``output_folder``, ``live_data_dir``, ``allow_incomplete``,
        ``config_kwargs``, ``corrections_version``, ``reconstruction``, ``workers``.

    Raises
    ------
    UsageError
        When no context makes the target.
    RunNotFound, RunNotReady
        When the run does not exist, is being taken, or has the tag ``abandon``.
    UnknownEngine, NotAvailable, JobRefused, EngineUnreachable
        When the engine does not accept the job.
    RunDatabaseError
        When the run database cannot be reached.
    """
    targets = (target,) if isinstance(target, str) else tuple(target)
    for_jobs = {key: options.pop(key) for key in ("memory", "queue", "dry_run") if key in options}
    processing = ProcessingOptions(targets, context, detector, **options)
    template = submitting.make_job_template(processing, job_folder, log_folder, script, **for_jobs)
    if engine is None or isinstance(engine, str):
        engine = engines.get(engine or settings.engine())
    if collection is None:
        collection = get_mongo_collection(template.plan.detector)
    return submit(template, base.run_id(run_id), collection, engine)


if __name__ == "__main__":
    sys.exit(main())

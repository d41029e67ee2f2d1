#!/usr/bin/env python
"""Submit jobs that process runs: one run, several, a range, those in a file, or those of a query.

Usable as ``submit_stbc``, ``amstrax submit``, ``python -m amstrax.auto_processing.submit_stbc``,
and as a file. Exit status: 0 if every run has a job, 1 otherwise, 2 on wrong use.
"""

import argparse
import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__" and not __package__:
    # Run as a file: import the amstrax that this file belongs to
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from amstrax import settings, strict_json
from amstrax.auto_processing import engines, submitting
from amstrax.auto_processing.engines.base import Engine
from amstrax.auto_processing.submitting import JobTemplate, Submission, find_work, submit
from amstrax.commands import base
from amstrax.exceptions import EngineUnreachable, RunDatabaseError, UsageError
from amstrax.rundb import documents
from amstrax.rundb.connection import get_mongo_collection
from amstrax.rundb.leases import Stop

__all__ = [
    *("Report", "RunQuery", "find_runs", "find_work", "main", "parse_args", "run", "submit"),
    *("submit_job", "why_done"),
]

log = logging.getLogger("amstrax.submit_stbc")

_LONGEST_RANGE = 100_000


@dataclass(frozen=True)
class RunQuery:
    """Runs to submit: named ones, or those of the run database that meet all conditions, or both.

    Attributes
    ----------
    names
        Names and ranges of runs, such as ``006724-006730``.
    file
        File with such names and ranges.
    status, tag, mode
        Status, tag and mode of the runs.
    query
        Filter for the run database; dates, ids and the like may be extended JSON.
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
        names = (*args.runs, *args.run_id)
        return cls(names, args.run_file, args.status, args.tag, args.mode, args.query)

    def named(self) -> list[str]:
        """Return the names of the named runs, with ranges expanded."""
        texts = list(self.names)
        if self.file is not None:
            from amstrax.common import run_ids_from_file  # imports numpy, slow

            try:
                texts += run_ids_from_file(self.file)
            except (OSError, UnicodeDecodeError) as error:
                raise UsageError(f"--run_file {self.file} cannot be read: {error}") from None
        return [run_id for text in texts for run_id in _expanded(text)]

    def conditions(self) -> list[Mapping[str, Any]]:
        """Return the conditions as filters for the run database."""
        found: list[Mapping[str, Any]] = []
        if self.status:
            found.append(documents.has_status(self.status))
        if self.tag:
            found.append(documents.has_tag(self.tag))
        if self.mode:
            found.append({"mode": self.mode})
        if self.query:
            found.append(_from_extended_json(self.query))
        return found


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
    from amstrax.auto_processing import job  # imports strax, which --help does not need

    report = Report()

    def work(stop: Stop) -> None:
        query = RunQuery.of(args)
        again = args.again or args.status == "done"
        run(query, find_work(args), stop, report, args.engine, args.max_runs, again)

    status = job.run_strax_tool(args, log, work, "the submission", args.job_folder, "--job_folder")
    if report.rows:
        print(report.text())
    return status or report.n_failed > 0


class Report:
    """Report of submitted runs for the user."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, ...]] = []
        self.scripts: list[str] = []
        self.n_submitted = self.n_failed = 0

    def add(self, submission: Submission) -> None:
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
) -> None:
    """Submit runs.

    Parameters
    ----------
    query, template
        Runs, and jobs for them.
    stop
        When this is set, submission ends.
    report
        Collects the result of each run.
    engine_name
        Name of the engine; None for that of the settings.
    max_runs
        Largest number of jobs; None for no limit.
    again
        Submit also runs that are done.

    Raises
    ------
    UsageError
        When the query is invalid, or finds no run.
    AmstraxError
        When nothing (more) can be submitted.
    """
    engine = engines.get(engine_name or settings.engine())
    collection = get_mongo_collection(template.plan.detector)
    for run_id in _with_bar(find_runs(collection, query)):
        stop.check()
        if max_runs is not None and report.n_submitted >= max_runs:
            report.leave(run_id, f"beyond --max_runs {max_runs}")
            continue
        try:
            why = "" if again else why_done(template, run_id, collection)
            if why:
                report.leave(run_id, why)
            else:
                report.add(submit(template, run_id, collection, engine))
        except (EngineUnreachable, RunDatabaseError):
            # All other runs would fail in the same way
            raise
        except Exception as error:
            # Affects only this run, even if it is a bug
            log.debug("run %s", run_id, exc_info=error)
            report.fail(run_id, error)


def _with_bar(run_ids: Sequence[str]) -> Iterable[str]:
    from tqdm import tqdm  # costs 0.1 s, which --help does not need

    is_short = len(run_ids) < 3
    return tqdm(run_ids, desc="submitting", unit="run", disable=is_short or not sys.stderr.isatty())


def why_done(work: JobTemplate, run_id: str, collection: Any) -> str:
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


def find_runs(collection: Any, query: RunQuery) -> list[str]:
    """Return the names of the runs of a query: named ones in that order, without duplicates.

    Raises
    ------
    UsageError
        When the query is empty, invalid, or finds no run.
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
        raise UsageError("no run in the run database is as asked for")
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
            f"--query {strict_json.short(query)} cannot be asked: "
            f"{strict_json.short(error, strict_json.one_line)}"
        ) from None
    return found


def _expanded(text: str) -> list[str]:
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
        As of `amstrax.auto_processing.amstraxer.ProcessingOptions`.
    job_folder, log_folder
        Folders for the job's script and for its log, each with a folder for each run.
    script
        Program of the job: the name of a tool of this package, or a file; it gets the options of
        `process_run`.
    engine
        Engine, or its name; None for that of the settings.
    collection
        Collection of run documents; None for that of the settings.
    **options
        ``memory`` [MB], ``queue``, ``dry_run`` (change nothing; ``text`` of the result is what
        would be submitted), and ``output_folder``, ``live_data_dir``, ``allow_incomplete``,
        ``config_kwargs``, ``corrections_version``, ``workers`` of `ProcessingOptions`.

    Raises
    ------
    UsageError
        When no context makes the target.
    RunNotFound
        When the run does not exist.
    RunNotReady
        When the run is being taken, or has the tag ``abandon``.
    UnknownEngine, NotAvailable, JobRefused, EngineUnreachable
        When the engine does not accept the job.
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
        collection = get_mongo_collection(work.plan.detector)
    return submit(work, base.run_id(run_id), collection, engine)


if __name__ == "__main__":
    sys.exit(main())

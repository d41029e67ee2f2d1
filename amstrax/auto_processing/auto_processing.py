#!/usr/bin/env python
"""Process new runs: submit a job for each run, follow it, and retry failed runs.

Usable as ``auto_processing``, ``amstrax auto``, ``python -m
amstrax.auto_processing.auto_processing``, and as a file. Exit status: 0 when told to end (SIGTERM,
SIGINT, SIGHUP), or when the run of --run_id is done; 1 on failure, 2 on wrong use.
"""

import argparse
import itertools
import logging
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

if __name__ == "__main__" and not __package__:
    # Run as a file: import the amstrax that this file belongs to
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from amstrax import settings
from amstrax.auto_processing import alarms, engines, process_run, submitting
from amstrax.auto_processing.grouping import ONE_RUN_A_JOB, Grouping, add_grouping
from amstrax.auto_processing.loop import (
    Document,
    RunSelection,
    begun_jobs,
    consequence,
    find_runs,
    followed_runs,
    is_switched_on,
    job_states,
    key_of,
    live_jobs,
    record_refusal,
    remove_old_job_files,
    settle,
    write_status,
)
from amstrax.auto_processing.submitting import JobTemplate, Submission
from amstrax.commands import base
from amstrax.commands.base import RetryBackoff, describe_error
from amstrax.exceptions import (
    AmstraxError,
    InvalidRunDocument,
    JobRefused,
    RunDatabaseError,
    RunDatabaseRefused,
    RunNotFound,
    RunNotReady,
    UsageError,
)
from amstrax.rundb import connection, documents
from amstrax.rundb.leases import Stop

log = logging.getLogger("amstrax.auto_processing")

#: Longest pause after rounds that failed, such as for an unreachable service [s]
LONGEST_WAIT = 300.0
#: Interval between two looks for alarms [s]
ALARMS_EVERY = 60.0
#: Longest time for messages about alarms before `--once` ends [s]
LONGEST_SENDING = 40.0
#: Interval between two counts of waiting runs without changes; a count reads all runs [s]
COUNT_EVERY = 60.0
#: Interval for removing old scripts and logs of jobs [s]
CLEAN_EVERY = 3600.0
#: Up to this many refusals in a row count as failures of the runs; further ones do not
MOST_REFUSALS = 3


MAX_JOBS_HELP = "jobs at the same time, running or waiting"
MAX_FAILURES_HELP = "failures after which a run is given up"
PAUSE_HELP = "time between two rounds"


@dataclass(frozen=True)
class LoopOptions:
    """Jobs to submit, runs to submit them for, and the options of `parse_args`.

    With the ``dry_run`` of the template, nothing is changed.
    """

    template: JobTemplate
    selection: RunSelection
    grouping: Grouping = ONE_RUN_A_JOB
    engine: str | None = None
    max_jobs: int = 10
    pause: float = 10
    once: bool = False
    status_file: Path | None = None

    @classmethod
    def of(cls, args: argparse.Namespace, template: JobTemplate) -> "LoopOptions":
        """Return the options in `args`, which has at least some of those of `parse_args`."""
        plan = template.plan
        selection = base.filled(
            RunSelection,
            args,
            detector=plan.detector,
            targets=plan.targets,
            raw_types=plan.raw_types,
        )
        grouping = base.filled(Grouping, args)
        return base.filled(cls, args, template=template, selection=selection, grouping=grouping)


def parse_args(argv: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    """Parse `argv` (by default the command line) into options; exit with 2 on invalid ones."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Process runs as they come: submit a job for each, or for several, and follow "
        "it",
        epilog="Status 'off' of auto_processing in daq.processing switches it off; submitted jobs "
        "go on. Runs with the tag 'abandon' are skipped, those with the tag 'process' are "
        "processed whatever their state.",
    )
    base.add_work(parser)
    add_grouping(parser)
    parser.add_argument(
        "--run_id", metavar="RUN_ID", type=base.run_id, help="process this run, then end"
    )
    parser.add_argument(
        "--min_run_number", type=int, default=0, metavar="N", help="skip runs below this number"
    )
    base.add_count(parser, "--max_jobs", LoopOptions.max_jobs, MAX_JOBS_HELP)
    base.add_count(parser, "--max_failures", RunSelection.max_failures, MAX_FAILURES_HELP)
    base.add_seconds(
        parser,
        "--retry_pause",
        RunSelection.retry_pause,
        "time from a first failure to the next attempt, twice as long after each further one",
    )
    base.add_seconds(parser, "--pause", LoopOptions.pause, PAUSE_HELP)
    parser.add_argument("--once", action="store_true", help="run one round, and end")
    parser.add_argument(
        "--dry_run", action="store_true", help="show what would be submitted, and change nothing"
    )
    parser.add_argument(
        "--status_file",
        type=Path,
        metavar="FILE",
        help="JSON file with the status, for a monitor (default: auto_processing_DETECTOR.json in "
        "the log folder)",
    )
    return base.parse(parser, "auto_processing", argv)


@base.main_of(parse_args)
def main(args: argparse.Namespace) -> int:
    """Run the loop until it is stopped, and return the exit status."""
    # Not `job.run_strax_tool`, which stops when any thread fails, even one of a library
    return base.run_tool(
        args,
        log,
        lambda stop: run(LoopOptions.of(args, submitting.find_work(args)), stop),
        "automatic processing",
        args.log_folder,
        "--log_folder",
        None if args.dry_run else "auto_processing",
    )


def run(options: LoopOptions, stop: Stop) -> str | None:
    """Run the loop until `stop` is set; in a dry run, return what would be submitted.

    Jobs continue after the end of the loop. Raises AmstraxError when the only run to process has
    been given up; with ``once`` and in a dry run, when a service is unreachable or a job is
    refused.
    """
    stop.remark = "jobs go on"
    loop = Loop(options)
    is_single = options.once or loop.dry_run
    try:
        base.run_rounds(
            loop.round,
            options.pause,
            stop,
            log,
            remark=", jobs go on",
            is_fatal=lambda error: is_single or isinstance(error, UsageError),
            after=loop.after_round,
            is_finished=lambda: is_single or loop.is_finished(),
            longest_wait=LONGEST_WAIT,
        )
    except BaseException as error:
        loop.end(describe_error(error))
        raise
    if loop.dry_run:
        return "\n".join(loop.texts) or "nothing would be submitted"
    loop.end(stop.reason)
    return None


def _label(document: Document) -> str:
    """Return a label for a run, which may have neither number nor name."""
    return documents.name_of(document) or f"with _id {document['_id']!r}"


def _is_tagged(document: Document) -> bool:
    return documents.PROCESS in documents.tags_of(document)


class Loop:
    """State of the loop between two rounds; all persistent state is in the run database."""

    def __init__(self, options: LoopOptions):
        self.options, self.template, self.wanted = options, options.template, options.selection
        self.dry_run, self.max_failures = self.template.dry_run, self.wanted.max_failures
        self.engine = engines.get(options.engine or settings.engine())
        self.collection = connection.get_mongo_collection(self.template.plan.detector)
        self.switches = connection.get_collection("daq", "processing")
        self.followed: dict[str, str] = {}
        self.alive: set[str] = set()
        self.states: dict[str, str] = {}
        self.counts = {"submitted": 0, "done": 0, "failed": 0}
        self.backoff = RetryBackoff()
        self._refusals = 0
        self.texts: list[str] = []
        self.trouble = self.ended_by = ""
        self.switched_on = True
        self.waiting: int | None = None
        self._counted: tuple[dict[str, int], int] | None = None
        self._count_at = self._clean_at = 0.0
        self._watch: threading.Thread | None = None
        self._has_ended = threading.Event()
        self.began = datetime.now(UTC)
        log.info(
            "processing %s of %s to %s with engine %s",
            f"run {self.wanted.run_id}" if self.wanted.run_id else "runs",
            self.template.plan.detector,
            ", ".join(self.template.plan.targets),
            self.engine.name,
        )

    def round(self) -> None:
        """Follow existing jobs and submit new ones."""
        self._follow()
        switched_on = is_switched_on(self.switches)
        if switched_on != self.switched_on:
            word = "on: going on" if switched_on else "off: submitting nothing"
            log.info("daq.processing says that automatic processing is %s", word)
        self.switched_on = switched_on
        free = self.options.max_jobs - len(self.alive)
        if switched_on and free > 0:
            for group in self._find_groups(free):
                self._submit(group)
        self._count()
        self._clean()

    def _count(self) -> None:
        """Count the waiting runs, after a change or a minute later."""
        now = (self.counts.copy(), len(self.followed))
        if now != self._counted or time.monotonic() > self._count_at:
            server_now = documents.server_time(self.collection)
            self.waiting = self.collection.count_documents(self.wanted.filter(server_now))
            self._counted, self._count_at = now, time.monotonic() + COUNT_EVERY

    def _find_groups(self, most: int) -> list[list[Document]]:
        """Return the documents of the runs of each new job; at most that number of jobs."""
        grouping = self.options.grouping
        skip = {*self.backoff.names(), *self.followed}
        found = find_runs(self.collection, self.wanted, most * grouping.most, skip)
        left = iter(found)
        names = [documents.name_of(document) or "" for document in found]
        groups = grouping.groups(names, self.collection, self.template.plan)
        return [list(itertools.islice(left, len(group))) for group in groups[:most]]

    def _follow(self) -> None:
        """Settle jobs that have ended."""
        runs = followed_runs(self.collection, self.engine.name)
        states = job_states(self.engine, runs)
        begun = begun_jobs(self.collection, runs, states)
        before, self.followed = self.followed, {}
        self.alive = live_jobs(runs, states)
        for run_ in runs:
            state = states[run_.attempt]
            if not self.dry_run:
                try:
                    line = settle(
                        self.collection, self.engine, run_, state, self.max_failures, begun
                    )
                except RunDatabaseError:
                    raise
                except Exception as error:
                    line = None
                    self._back_off(
                        run_.document, f"its job cannot be followed: {describe_error(error)}"
                    )
                if line is not None:
                    self.counts["failed"] += 1
                    log.warning("%s", line)
                    self.states.pop(run_.run_id, None)
                    continue
            self.followed[run_.run_id] = run_.attempt
            word = state.state if state.state != "pending" else f"pending {state.reason}".strip()
            if self.states.get(run_.run_id) != word:
                self.states[run_.run_id] = word
                log.info("run %s: %s is %s", run_.run_id, run_.describe(), word)
        for run_id in before.keys() - self.followed.keys():
            self._report_end(run_id)

    def _report_end(self, run_id: str) -> None:
        """Log the end that a followed job has recorded."""
        if self.states.pop(run_id, None) is None:
            return  # Already settled and reported
        fields = ["processing_status", "processing_failed", "processing_job"]
        try:
            document = documents.find_run(self.collection, run_id, None, fields)
        except RunNotFound as error:
            log.warning("run %s: its job is followed no more: %s", run_id, error)
            return
        status = documents.status_of(document)
        if documents.cancelled_by(document) is not None:
            log.info("run %s: %s, and left alone", run_id, status.reason)
        elif status.status == "failed":
            self.counts["failed"] += 1
            outcome = consequence(documents.failures_of(document), self.max_failures)
            log.warning("run %s failed: %s (%s)", run_id, status.reason, outcome)
        else:
            self.counts["done"] += status.status == "done"
            log.info("run %s: %s", run_id, status.status)

    def _submit(self, group: Sequence[Document]) -> None:
        named: dict[str, Document] = {}
        for document in group:
            run_id = documents.name_of(document)
            if run_id is None:
                why = "its document has neither number nor name: add the number"
                self._record_failure(document, InvalidRunDocument(why))
            else:
                named.setdefault(run_id, document)
        # The tag starts a new series of attempts; earlier failures do not count
        tagged = {run_id for run_id, document in named.items() if _is_tagged(document)}
        results = submitting.submit_groups(
            self.template, [list(named)], self.collection, self.engine, tagged
        )
        refused = None
        for document, result in zip(named.values(), results, strict=True):
            if isinstance(result.error, RunNotReady):
                self._back_off(document, f"cannot be submitted: {result.error}")
            elif isinstance(result.error, JobRefused):
                self._refusals += refused is None
                refused = result.error
                if self._refusals <= MOST_REFUSALS:
                    self._record_failure(document, result.error)
                else:
                    self.backoff.note(key_of(document), failed=True)
            elif result.error is not None:
                self._record_failure(document, result.error)
            else:
                self._note(document, result)
        if refused is not None and self._refusals >= MOST_REFUSALS:
            # The runs are probably not the cause: try one a round until one is accepted
            raise JobRefused(f"{self._refusals} jobs in a row are refused: {refused}") from refused

    def _note(self, document: Document, submission: Submission) -> None:
        """Note that a run has a job, or that another process has the run."""
        if submission.state == "dry run":
            self.texts += [submission.text] if submission.text else []
            return
        if submission.state == "busy":
            return
        if _is_tagged(document):
            documents.remove_tag(self.collection, document, documents.PROCESS)
        self._refusals = 0
        self.backoff.note(key_of(document), failed=False)
        self.counts["submitted"] += submission.state == "submitted"
        run_id = submission.run_id
        self.followed[run_id] = submission.attempt
        self.alive.add(submission.job_id)
        self.states[run_id] = submission.state
        log.info("run %s: job %s %s", run_id, submission.job_id, submission.state)

    def _record_failure(self, document: Document, error: Exception) -> None:
        label = _label(document)
        if self.dry_run:
            self.texts.append(f"# run {label} cannot be submitted: {describe_error(error)}")
            return
        log.debug("run %s", label, exc_info=error)
        is_tagged = _is_tagged(document)
        tag = documents.PROCESS if is_tagged else None
        text, is_recorded = record_refusal(
            self.collection, document, error, self.max_failures, is_tagged, tag
        )
        if not is_recorded:
            self._back_off(document, text)
            return
        self.counts["failed"] += 1
        self.backoff.note(key_of(document), failed=True)
        log.warning("run %s %s", label, text)

    def _back_off(self, document: Document, why: str) -> None:
        """Back off from a run, longer each time, and log why unless it is backed off already."""
        key = key_of(document)
        if key not in self.backoff.names():
            log.warning("run %s: %s", _label(document), why)
            self.backoff.note(key, failed=True)

    def _clean(self) -> None:
        """Remove old scripts and logs of jobs at intervals."""
        if self.dry_run or time.monotonic() < self._clean_at:
            return
        self._clean_at = time.monotonic() + CLEAN_EVERY
        condition = documents.has_status("submitted", "running")
        # The other detector may use the same folders
        collections = map(connection.get_mongo_collection, settings.DETECTORS)
        try:
            found = [documents.read(c, condition, ["name", "number"]) for c in collections]
        except RunDatabaseRefused as error:
            log.info("old scripts and logs stay: %s", error)
            return
        names = {documents.name_of(document) for document in itertools.chain(*found)}
        alive = {job.name for job in self.engine.jobs()}
        n_files = remove_old_job_files(
            (self.template.job_folder, self.template.log_folder),
            settings.keep_logs(),
            lambda run_id: run_id in names or any(f"-{run_id}-" in name for name in alive),
        )
        if n_files:
            log.info("%d scripts and logs older than AMSTRAX_KEEP_LOGS are removed", n_files)

    def is_finished(self) -> bool:
        """Return whether the requested run has ended.

        Raises AmstraxError when the run has been given up, or has the tag ``abandon``.
        """
        run_id = self.wanted.run_id
        if run_id is None or self.trouble:
            return False
        document = documents.find_run(self.collection, run_id)
        status = documents.status_of(document)
        tags = documents.tags_of(documents.merge_tags(self.collection, document))
        if documents.ABANDON in tags:
            raise AmstraxError(f"run {run_id} has the tag 'abandon': remove that to process it")
        if documents.PROCESS in tags:
            return False
        if documents.cancelled_by(document) is not None:
            raise AmstraxError(
                f"run {run_id} was {status.reason}: submit it, or tag it '{documents.PROCESS}'"
            )
        if status.status == "failed" and (documents.failures_of(document) >= self.max_failures):
            raise AmstraxError(f"run {run_id} is given up: {status.reason}")
        return status.status == "done"

    def after_round(self, trouble: str) -> None:
        """Write the status after a round, with its error if any."""
        self.trouble = trouble
        self._write_status("in trouble" if trouble else "at work")
        self._start_watch()

    def _start_watch(self) -> None:
        if self._watch is None and not self.dry_run and not self.wanted.run_id:
            # In a thread, so that it notices a round that hangs, and no server holds a round
            self._watch = threading.Thread(target=self._watch_for_alarms, daemon=True)
            self._watch.start()

    def _watch_for_alarms(self) -> None:
        """Tell people what goes wrong, see `alarms`, until the loop ends."""
        plan, processing = self.template.plan, self.template.processing
        # Other loops may be silent too
        files = {
            detector: self.template.log_folder / f"auto_processing_{detector}.json"
            for detector in settings.DETECTORS
        } | {plan.detector: self._status_file()}
        told = ""
        while True:
            try:
                found = alarms.find_causes(
                    plan.detector,
                    lambda: self.collection,
                    lambda: connection.get_trends_collection(plan.detector),
                    lambda: process_run.all_folders(
                        plan, processing.output_folder, processing.live_data_dir
                    ),
                    files,
                )
                known = alarms.Alarms()
                known.update(found, plan.detector)
                told = ""
                if self._has_ended.wait(ALARMS_EVERY):
                    return known.finish()
            except Exception as error:
                if told != (told := describe_error(error)):
                    log.warning("alarms are not looked for: %s", told)
                    log.debug("alarms", exc_info=error)
                if self._has_ended.wait(ALARMS_EVERY):
                    return None

    def end(self, reason: str) -> None:
        """Log the end of the loop and its cause, a signal or an error if any."""
        self.ended_by = reason
        log.info(
            "ended%s: %d submitted, %d done, %d failed, %d jobs go on",
            f" by {reason}" if reason else "",
            *self.counts.values(),
            len(self.alive),
        )
        self._write_status("ended")
        if reason:
            self._start_watch()
        self._has_ended.set()
        if self._watch is not None:
            # What could not be sent is sent by the next loop
            self._watch.join(LONGEST_SENDING if self.options.once else 2)

    def _status_file(self) -> Path:
        name = f"auto_processing_{self.template.plan.detector}.json"
        return self.options.status_file or self.template.log_folder / name

    def _write_status(self, state: str) -> None:
        if self.dry_run:
            return
        write_status(
            self._status_file(),
            {
                "state": state,
                "run_id": self.wanted.run_id,
                "pause": self.options.pause,
                "ended_by": self.ended_by,
                "switch": "on" if self.switched_on else "off",
                "since": self.began,
                "engine": self.engine.name,
                "targets": self.template.plan.targets,
                "waiting": self.waiting,
                "jobs": self.states,
                **self.counts,
                "trouble": self.trouble,
            },
        )


if __name__ == "__main__":
    sys.exit(main())

"""Submit jobs for runs, one run or several a job, and at most one job per run at a time.

The name of the attempt is recorded in the run document before the job is submitted, and the id of
the job afterwards. If a submitting process dies in between, the next one adopts the job, which it
finds in the engine.
"""

import argparse
import contextlib
import json
import logging
import os
import sys
import time
import uuid
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from amstrax import _legacy, rundoc, settings, strict_json
from amstrax.auto_processing.amstraxer import ProcessingOptions
from amstrax.auto_processing.engines import base
from amstrax.auto_processing.engines.base import Engine, Job, KnownJob
from amstrax.auto_processing.process_run import (
    PLAN_FIELDS,
    Plan,
    check_ready,
    find_plan,
    options_of_run,
    plan_of_run,
)
from amstrax.commands.base import filled
from amstrax.exceptions import (
    EngineUnreachable,
    InvalidOption,
    JobRefused,
    RunDatabaseError,
    UsageError,
)
from amstrax.rundb import connection, documents, leases

log = logging.getLogger(__name__)

#: Environment variables that jobs get, in addition to settings that are not secret
_VARIABLES = ("PATH", "HOME", "LANG", "XDG_DATA_HOME", "XDG_STATE_HOME", "NUMBA_CACHE_DIR")
_FOLDERS = ("LIVE_DATA", "RAW_DATA", "PROCESSED_DATA")

#: State of a run that cannot be submitted
NOT_SUBMITTED = "not submitted"

#: Largest number of jobs in a job array: MaxArraySize of Slurm is 1001 by default
_LONGEST_ARRAY = 1000

# Secrets already reported as withheld from jobs
_warned: set[str] = set()


class Submission(NamedTuple):
    """Result of submitting a run: names of run, job, engine and attempt, id of the job, and state.

    The state is ``submitted``; ``alive already``, if the run had a job, which is followed from now
    on; ``busy``, if another process submits or processes the run; or ``dry run``. The text is the
    path of the log, the owner of a busy run, or the script in a dry run.
    """

    run_id: str
    name: str
    engine: str
    job_id: str
    state: str
    attempt: str
    text: str
    error: Exception | None = None


@dataclass(frozen=True)
class JobTemplate:
    """Jobs to submit for runs: `plan` is that for ordinary runs, `script` a program with arguments.

    `processing` tells what data to make, and how; `more_options` are other options of process_run.
    Jobs get `memory` [MB], and go to `queue` of the batch system. Scripts and logs are put into a
    subfolder of `job_folder` and `log_folder` for each run; if `flat` directly into these, with
    logs named ``.out``, as the lab's dashboard expects. With `dry_run`, nothing is changed.
    """

    plan: Plan
    job_folder: Path
    log_folder: Path
    script: tuple[str, ...]
    processing: ProcessingOptions
    more_options: tuple[str, ...]
    memory: int
    queue: str | None = None
    dry_run: bool = False
    flat: bool = False

    def options_for(self, plan: Plan) -> tuple[list[str], str]:
        """Return the options of process_run for a run, and a text that names those left out."""
        options, left = options_of_run(self.processing, plan)
        words = [f"--workers={options.workers}"]
        for name in ("output_folder", "live_data_dir"):
            folder = getattr(options, name)
            if folder is not None:
                words.append(f"--{name}={settings.expanded(folder).absolute()}")
        if options.allow_incomplete:
            words.append("--allow_incomplete")
        if options.config_kwargs:
            words.append(f"--config_kwargs={json.dumps(options.config_kwargs)}")
        if options.corrections_version is not None:
            words.append(f"--corrections_version={options.corrections_version}")
        chosen = options.reconstruction
        if chosen:
            text = chosen if isinstance(chosen, str) else ",".join(chosen)
            words.append(f"--reconstruction={text}")
        return [*words, *self.more_options], left


def make_job_template(
    options: ProcessingOptions,
    job_folder: str | Path,
    log_folder: str | Path,
    script: str | Path = "process_run",
    memory: int | None = None,
    queue: str | None = None,
    dry_run: bool = False,
    more_options: Sequence[str] = (),
    flat: bool = False,
) -> JobTemplate:
    """Return the template of jobs that make data; other parameters are those of `JobTemplate`.

    Jobs get those `options` that `submit_stbc` has, and `more_options` of process_run. The script
    is the name of a tool of this package, or a file. Memory [MB] and queue are by default those of
    the settings. Raises errors of `find_plan`, and InvalidOption when the script does not exist or
    a setting is invalid.
    """
    plan = find_plan(options, check_corrections=True)
    return JobTemplate(
        plan=plan,
        job_folder=settings.expanded(job_folder).absolute(),
        log_folder=settings.expanded(log_folder).absolute(),
        script=_program(script),
        processing=options,
        more_options=tuple(more_options),
        memory=settings.job_memory() if memory is None else memory,
        queue=queue or settings.get("AMSTRAX_QUEUE"),
        dry_run=dry_run,
        flat=flat,
    )


def find_work(args: argparse.Namespace) -> JobTemplate:
    """Return the job template for the options of `base.add_work` in `args`.

    Errors are those of `make_job_template`.
    """
    return make_job_template(
        filled(ProcessingOptions, args, targets=tuple(args.target or ())),
        args.job_folder,
        args.log_folder,
        memory=args.mem,
        queue=args.queue,
        dry_run=args.dry_run,
        more_options=trend_words(args),
    )


def trend_words(args: argparse.Namespace) -> list[str]:
    """Return the options of `base.add_trends` for process_run."""
    if args.trend_limit and not args.trends:
        raise UsageError("--trend_limit needs --trends, which makes what the limits are of")
    limits = [f"--trend_limit={json.dumps(args.trend_limit)}"] if args.trend_limit else []
    return ["--trends", *limits] if args.trends else []


def _program(script: str | Path) -> tuple[str, ...]:
    """Return the command for a script: a tool of this package, or a file."""
    new = _legacy.SCRIPTS.get(str(script))
    if new is not None:
        _legacy.warn(f"script={str(script)!r} is now script={new!r}, the default")
        script = new
    for path in (Path(__file__).parent / f"{script}.py", settings.expanded(script).absolute()):
        if path.is_file():
            return (sys.executable, str(path)) if path.suffix == ".py" else (str(path),)
    raise InvalidOption(
        f"there is no script {str(script)!r}: name a tool of amstrax.auto_processing, as "
        "'process_run', or a file"
    )


def submit(
    template: JobTemplate,
    run_id: str,
    collection: Any,
    engine: Engine,
    reset_failures: bool = False,
) -> Submission:
    """Submit the job for a run unless it has one, and return the result.

    `reset_failures` clears earlier failures of the run.

    Raises
    ------
    RunNotFound, InvalidRunDocument
        When there is no such run, or it has several documents or an invalid one.
    RunNotReady
        When the run is being taken, or has the tag ``abandon``.
    JobRefused
        When the engine refuses the job; the run document is unchanged.
    EngineUnreachable
        When the engine does not answer; if it has accepted the job, the next submission adopts it.
    RunDatabaseError
        When the run database cannot be reached.
    """
    [result] = submit_groups(template, [[run_id]], collection, engine, reset_failures)
    if result.error is not None:
        raise result.error
    return result


def submit_groups(
    template: JobTemplate,
    groups: Iterable[Sequence[str]],
    collection: Any,
    engine: Engine,
    reset_failures: bool | Container[str] = False,
) -> list[Submission]:
    """Submit one job for each group of runs; return the result for each run, in their order.

    A job processes the runs of its group one after the other. A run that has a job, is at work
    elsewhere, or cannot be processed stays out of its group, and does not stop the others: its
    state is ``alive already``, ``busy``, or ``not submitted`` with the error. Runs of a group that
    need another context or other targets, such as LED runs, get a job of their own. A group of one
    run gets the same job as from `submit`. On Slurm all jobs of a call are one job array, on
    HTCondor one cluster.

    `reset_failures` clears earlier failures of all runs, or of the runs with these names. Raises
    EngineUnreachable (the next submission of these runs adopts jobs that the engine has accepted)
    and RunDatabaseError.
    """
    with _Submitter(template, collection, engine, reset_failures) as submitter:
        for group in groups:
            submitter.add(group)
        return submitter.results()


def follow(template: JobTemplate, run_id: str, collection: Any, engine: Engine) -> Submission:
    """Submit a job in which ``amstraxer`` follows a run while it is taken, unless it has one.

    The status of the run stays: what is made is registered when the run is processed, after its
    end. The script of the template is ``amstraxer``. The state of the result is ``submitted``,
    ``alive already``, ``busy`` or ``dry run``, as of `submit`. Raises UsageError when the run has
    ended, otherwise errors of `submit`.
    """
    document = documents.find_only(collection, run_id, PLAN_FIELDS)
    name = rundoc.check_run_name(documents.name_of(document))
    if rundoc.end_time(document) is not None:
        raise UsageError(f"run {name} has ended, so nothing is left to follow: process it")
    run = _Run(name, plan_of_run(template.plan, document), collection, document)
    with _Submitter(template, collection, engine, follows=True) as submitter:
        return submitter.follow(run)


#: Instead of data types in the name of a job that follows a run: another one processes it
_FOLLOW = "follow"


class _Run:
    """A run that is being submitted.

    `before` and `status` are the record of its last job, and its status, when its lease was taken.
    """

    def __init__(self, run_id: str, plan: Plan, collection: Any, document: Mapping[str, Any]):
        self.run_id, self.plan, self.collection = run_id, plan, collection
        self._document = document
        self.attempt = f"{run_id}-{uuid.uuid4().hex[:16]}"
        owner = f"{leases.OWNER_PREFIX}{documents.this_host()}"
        self.lease = leases.Lease(collection, run_id, owner)
        self.before = documents.job_of(document)
        self.status = ""
        self.result: Submission | None = None

    def acquire(self) -> bool:
        """Take the lease of the run, and read what is known of its last job."""
        # Not renewed by threads, of which many runs would have many: every write is conditional
        if not connection.resilient(self.lease.acquire, renew=False):
            return False
        fields = ["processing_job", "processing_status"]
        document = documents.find_run(self.collection, self.run_id, None, fields)
        self.before = documents.job_of(document)
        self.status = documents.status_of(document).status
        return True

    def set(self, change: Callable[..., bool], *args: Any, **kwargs: Any) -> bool:
        """Change the run document with a function of `amstrax.rundb.documents`."""
        return connection.resilient(change, self.collection, self._document, *args, **kwargs)

    def set_submitted(self, job: Mapping[str, Any]) -> bool:
        return self.set(documents.set_status, "submitted", owner=self.lease.owner, job=job)

    def set_job(self, job: Mapping[str, Any]) -> bool:
        return self.set(documents.set_job, job, self.lease.owner)

    def describe_owner(self) -> str:
        """Return who works on the run instead."""
        document = documents.find_run(self.collection, self.run_id, None, ["processing_claim"])
        claim = document.get("processing_claim")
        if not isinstance(claim, Mapping):
            return "another process has just worked on it"
        submits = str(claim.get("owner")).startswith(leases.OWNER_PREFIX)
        return (
            f"{claim.get('host')} {'submits' if submits else 'processes'} it; its lease "
            f"ends at {claim.get('expires')} UTC unless renewed"
        )


class _Submitter(contextlib.AbstractContextManager):
    """Submits jobs; a context manager that holds the leases of runs until they are submitted."""

    def __init__(
        self,
        template: JobTemplate,
        collection: Any,
        engine: Engine,
        reset_failures: bool | Container[str] = False,
        follows: bool = False,
    ):
        self.template, self.collection, self.engine = template, collection, engine
        self._follows = follows
        self._reset_failures = reset_failures
        #: Label and time of the present job array, and number of its jobs
        self._label = self._time = ""
        self._index = 0
        self._alive: list[KnownJob] | None = None
        #: Runs, of which each gets its result, and results of those that cannot be submitted
        self._found: list[_Run | Submission] = []
        #: Jobs to submit, and the runs of each
        self._jobs: list[tuple[Job, list[_Run]]] = []
        self._held: list[_Run] = []
        self._held_since = 0.0

    def __exit__(self, *_error: Any) -> None:
        for run in self._held:
            # The result must not be lost if this fails
            run.lease.release()
        self._held = []

    def results(self) -> list[Submission]:
        """Submit the jobs that are left, and return all results."""
        self._submit_jobs()
        results = (each.result if isinstance(each, _Run) else each for each in self._found)
        return [result for result in results if result is not None]

    def add(self, run_ids: Sequence[str]) -> None:
        """Prepare the jobs of a group: one for each combination of context and targets."""
        groups: dict[Plan, list[_Run]] = {}
        for run_id in run_ids:
            try:
                run = self._find(run_id)
                run.result = None if self.template.dry_run else self._prepare(run)
            except (EngineUnreachable, RunDatabaseError):
                raise
            except Exception as error:
                # Affects only this run, even if it is a bug
                self._found.append(self._refusal(run_id, error))
                continue
            self._found.append(run)
            if run.result is None:
                groups.setdefault(run.plan, []).append(run)
            elif run in self._held:
                self._held.remove(run)
                run.lease.release()
        for plan, runs in groups.items():
            job = self._job(plan, runs)
            if self.template.dry_run:
                self._describe(job, runs)
            else:
                self._jobs.append((job, runs))
        if self._held and time.monotonic() - self._held_since > leases.LIFETIME / 4:
            self._submit_jobs()

    def _find(self, run_id: str) -> _Run:
        document = documents.find_run(self.collection, run_id, None, PLAN_FIELDS)
        check_ready(documents.merge_tags(self.collection, document))
        fields = (*PLAN_FIELDS, "processing_job")
        document = documents.find_only(self.collection, run_id, fields)
        name = rundoc.check_run_name(documents.name_of(document))
        plan = plan_of_run(self.template.plan, document)
        return _Run(name, plan, self.collection, document)

    def _name(self, run: _Run) -> str:
        """Return the name of the job of this run alone."""
        plan = run.plan
        return base.job_name(run.run_id, self._targets(plan), plan.context, plan.detector)

    def _targets(self, plan: Plan) -> tuple[str, ...]:
        """Return the data types in the name of a job."""
        return (_FOLLOW,) if self._follows else plan.targets

    def _refusal(self, run_id: str, error: Exception) -> Submission:
        text = strict_json.one_line(error)
        return Submission(run_id, "", self.engine.name, "", NOT_SUBMITTED, "", text, error)

    def _result(self, run: _Run, name: str, state: str, job_id: str = "", text: str = ""):
        return Submission(run.run_id, name, self.engine.name, job_id, state, run.attempt, text)

    def _job(self, plan: Plan, runs: Sequence[_Run]) -> Job:
        label, suffix, index = runs[0].run_id, runs[0].attempt[-6:], None
        time = f"{datetime.now(UTC):%Y%m%d-%H%M%S}"
        if len(runs) > 1:
            # Jobs of an array differ in the number only
            if self._index % _LONGEST_ARRAY == 0:
                self._label, self._index = f"{label}+{uuid.uuid4().hex[:8]}", 0
                self._time = time
            self._index += 1
            index = self._index
            label, suffix, time = f"{self._label}.{index}", self._label[-6:], self._time
        subfolder = "" if self.template.flat else label
        file_name = f"{label}-{time}-{suffix}"
        log_suffix = "out" if self.template.flat else "log"
        return Job(
            label,
            self._targets(plan),
            plan.context,
            plan.detector,
            self.template.job_folder / subfolder / f"{file_name}.sh",
            self.template.log_folder / subfolder / f"{file_name}.{log_suffix}",
            self.template.memory,
            self.template.queue,
            n_runs=len(runs),
            index=index,
        )

    def _command(self, job: Job, runs: Sequence[_Run]) -> tuple[list[str], str]:
        """Return the command of a job, and a text that names options that are left out."""
        plan = runs[0].plan
        words, left = self.template.options_for(plan)
        attempts = [] if self._follows else [f"--attempt={runs[0].attempt}"]
        if len(runs) > 1:
            attempts = ["--attempt", *(run.attempt for run in runs)]
        command = [
            *self.template.script,
            *(run.run_id for run in runs),
            f"--context={plan.context}",
            f"--detector={plan.detector}",
            *attempts,
            *words,
            "--target",
            *plan.targets,
        ]
        return command, left

    def _describe(self, job: Job, runs: Sequence[_Run]) -> None:
        """Set the results of a dry run: the job at the first run, its name at the others."""
        command, left = self._command(job, runs)
        options = f"# options {left}\n" if left else ""
        text = (
            f"# {job.name}\n{options}{self.engine.describe(job)}\n"
            f"# where {job.script} is\n{base.script_text(command, environment())}"
        )
        for run in runs:
            alive = [known for known in self._jobs_of(run) if known.state.alive]
            if alive:
                found = (alive[0].job_id, _describe_state(alive[0]))
                run.result = self._result(run, alive[0].name, "alive already", *found)
                continue
            run.result = self._result(run, job.name, "dry run", text=text)
            text = ""

    def _jobs_of(self, run: _Run, again: bool = False) -> list[KnownJob]:
        """Return the jobs of a run that the engine knows, by name; with `again`, ask it again."""
        if self._alive is None or again:
            self._alive = self.engine.jobs()
        names = {self._name(run)}
        is_alike = (run.before.get("targets"), run.before.get("context")) == (
            list(run.plan.targets),
            run.plan.context,
        )
        is_same_kind = bool(run.before.get("follows")) == self._follows
        if is_alike and is_same_kind and run.before.get("engine") == self.engine.name:
            names.add(str(run.before.get("name")))
        return [known for known in self._alive if known.name in names]

    def _prepare(self, run: _Run) -> Submission | None:
        """Take the lease of a run; return the result if it needs no job."""
        name = self._name(run)
        if not run.acquire():
            return self._result(run, name, "busy", text=run.describe_owner())
        self._held.append(run)
        if len(self._held) == 1:
            self._held_since = time.monotonic()
        known_jobs = self._jobs_of(run)
        if not known_jobs and run.status in ("submitted", "running"):
            # Another process may have submitted it since
            known_jobs = self._jobs_of(run, again=True)
        for known in known_jobs:
            if known.state.alive:
                if run.before.get("job_id") == known.job_id and run.status in ("done", "failed"):
                    if documents.is_of_several_runs(run.before):
                        # That job is over with this run, and may have many others to process
                        continue
                    return self._result(run, name, "busy", text="its last job is about to end")
                return self._adopt(run, known)
            log.info(
                "run %s: job %s is %s: removed", run.run_id, known.job_id, _describe_state(known)
            )
            self.engine.cancel(known.job_id)
        return None

    def follow(self, run: _Run) -> Submission:
        """Submit a job that follows a run, and record it without a change of the status."""
        job = self._job(run.plan, [run])
        if self.template.dry_run:
            self._describe(job, [run])
            assert run.result is not None
            return run.result
        if not run.acquire():
            return self._result(run, job.name, "busy", text=run.describe_owner())
        self._held.append(run)
        for known in self._jobs_of(run):
            if known.state.alive:
                found = (known.job_id, _describe_state(known))
                return self._result(run, known.name, "alive already", *found)
        self._write_script(job, [run])
        try:
            job_id = self.engine.submit(job)
        except JobRefused:
            job.script.unlink(missing_ok=True)
            raise
        run.set_job(self._record(job, run) | {"job_id": job_id, "follows": True})
        return self._result(run, job.name, "submitted", job_id, f"log {job.log}")

    def _adopt(self, run: _Run, known: KnownJob) -> Submission:
        record = run.before
        is_recorded = (record.get("engine"), record.get("name")) == (self.engine.name, known.name)
        if not is_recorded or record.get("job_id") not in (known.job_id, None):
            record = {}
        if not record.get("attempt"):
            # Submitted for another run database, or by a process that was taken for dead
            attempt = f"{run.run_id}-{known.job_id}"
            job = self._job(run.plan, [run])
            record = self._record(job, run) | {"log": None, "attempt": attempt}
        run.attempt = record["attempt"]
        if record.get("job_id") != known.job_id or run.status == "pending":
            run.set_submitted(record | {"job_id": known.job_id})
        return self._result(run, known.name, "alive already", known.job_id, _describe_state(known))

    def _submit_jobs(self) -> None:
        """Submit the prepared jobs, record them, and release the leases of their runs."""
        ready: list[tuple[Job, list[_Run]]] = []
        for job, runs in self._jobs:
            try:
                if left := self._write(job, runs):
                    ready.append((job, left))
            except JobRefused as error:
                self._refuse(runs, error)
        if ready:
            answers = self.engine.submit_many([job for job, _ in ready])
            for (job, runs), answer in zip(ready, answers, strict=True):
                if isinstance(answer, JobRefused):
                    job.script.unlink(missing_ok=True)
                    self._refuse(runs, answer)
                else:
                    self._record_ids(job, runs, answer)
        self._jobs = []
        self.__exit__()

    def _refuse(self, runs: Iterable[_Run], error: JobRefused) -> None:
        for run in runs:
            if run.result is None:
                run.set_job(run.before)
                run.result = self._refusal(run.run_id, error)

    def _write(self, job: Job, runs: Sequence[_Run]) -> list[_Run]:
        """Record the job in its runs, write its script, and return those that are not busy."""
        self._make_folders(job)
        reset = self._reset_failures
        for run in runs:
            if reset if isinstance(reset, bool) else run.run_id in reset:
                run.set(documents.set_status, "pending", owner=run.lease.owner)
            if not run.set_job(self._record(job, run)):
                run.result = self._result(run, job.name, "busy", text=run.describe_owner())
        left = [run for run in runs if run.result is None]
        if left:
            self._write_script(job, left)
        return left

    def _make_folders(self, job: Job) -> None:
        if self.engine.name != "local":
            _warn_of_secrets()
        try:
            for path in (job.script, job.log):
                path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unwritable(error) from error

    def _write_script(self, job: Job, runs: Sequence[_Run]) -> None:
        self._make_folders(job)
        command, _left = self._command(job, runs)
        try:
            base.write_script(job.script, command, environment())
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> JobRefused:
        options = "--logs_path" if self.template.flat else "--job_folder and --log_folder"
        return JobRefused(
            f"the script or the log of the job cannot be written ({error}): see {options}"
        )

    def _record_ids(self, job: Job, runs: Sequence[_Run], job_id: str) -> None:
        _words, left = self.template.options_for(runs[0].plan)
        text = f"log {job.log}{f'; options {left}' if left else ''}"
        for run in runs:
            run.result = self._result(run, job.name, "submitted", job_id, text)
            # The job may have begun and taken the claim
            if not run.set_submitted(self._record(job, run) | {"job_id": job_id}) and not run.set(
                documents.set_job_id, run.attempt, job_id
            ):
                # Submission took so long that another process has begun
                if len(runs) == 1:
                    self.engine.cancel(job_id)
                run.result = self._result(run, job.name, "busy", text=run.describe_owner())

    def _record(self, job: Job, run: _Run) -> dict[str, Any]:
        """Return the record of the job in the run document before it is submitted."""
        record = {
            "attempt": run.attempt,
            "engine": self.engine.name,
            "job_id": None,
            "name": job.name,
            "host": documents.this_host(),
            "targets": list(run.plan.targets),
            "context": job.context,
            "log": str(job.log),
            "time": datetime.now(UTC),
        }
        return record | ({"n_runs": job.n_runs} if job.n_runs > 1 else {})


def _describe_state(known: KnownJob) -> str:
    state = known.state
    return f"{state.state}: {state.reason}" if state.reason else state.state


def environment() -> dict[str, str]:
    """Return the environment variables of jobs; no secrets, which others might read there."""
    names = [*_VARIABLES, settings.CONFIG_VARIABLE, *settings.RUN_DATABASE, *settings.BATCH]
    names += [*settings.CONTEXTS, *settings.CORRECTIONS, "AMSTRAX_SSH_CONFIG"]
    names += [f"{d.upper()}_{kind}" for d in settings.DETECTORS for kind in _FOLDERS]
    values = {name: os.environ.get(name) for name in names if name not in settings.SECRETS}
    return {name: value for name, value in values.items() if value}


def _warn_of_secrets() -> None:
    """Report once the secrets that jobs on a batch system do not get."""
    missing = {name for name in settings.SECRETS if settings.find(name)[1] == "environment"}
    if missing - _warned:
        _warned.update(missing)
        log.warning(
            "jobs do not get %s from the environment, which others could read: put it into %s",
            " and ".join(sorted(missing)),
            settings.config_path(),
        )

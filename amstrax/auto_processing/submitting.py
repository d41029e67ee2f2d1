"""Submit jobs for runs, at most one per run at a time.

The name of the attempt is recorded in the run document before the job is submitted, and the id of
the job afterwards. If a submitting process dies in between, the next one adopts the job, which it
finds in the engine.
"""

import argparse
import json
import logging
import os
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from amstrax import _legacy, rundoc, settings
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
from amstrax.exceptions import InvalidOption, JobRefused, UsageError
from amstrax.rundb import connection, documents, leases

log = logging.getLogger(__name__)

#: Environment variables that jobs get, in addition to settings that are not secret
_VARIABLES = ("PATH", "HOME", "LANG", "XDG_DATA_HOME", "XDG_STATE_HOME", "NUMBA_CACHE_DIR")
_FOLDERS = ("LIVE_DATA", "RAW_DATA", "PROCESSED_DATA")

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


@dataclass(frozen=True)
class JobTemplate:
    """Jobs to submit for runs.

    Attributes
    ----------
    plan
        Plan for ordinary runs.
    job_folder, log_folder
        Folders for scripts and logs.
    script
        Program with its first arguments.
    processing
        Data to make, and how.
    more_options
        Other options of process_run.
    memory, queue
        Memory of a job [MB], and queue of the batch system.
    dry_run
        Change nothing.
    flat
        Put scripts and logs directly into the folders, with logs named ``.out``, as the lab's
        dashboard expects; otherwise into a subfolder for each run.
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
    """Return the template of jobs that make data.

    Other parameters are those of `JobTemplate`; memory and queue are by default those of the
    settings.

    Parameters
    ----------
    options
        Data to make; jobs get those options that `submit_stbc` has.
    script
        Name of a tool of this package, or a file.
    more_options
        Other options of process_run.

    Raises
    ------
    UsageError, CorrectionError
        As of `find_plan`.
    InvalidOption
        When the script does not exist, or a setting is invalid.
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
        ProcessingOptions.of(args),
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
    RunNotFound
        When there is no such run.
    InvalidRunDocument
        When the run has several documents, or an invalid one.
    RunNotReady
        When the run is being taken, or has the tag ``abandon``.
    JobRefused
        When the engine refuses the job; the run document is unchanged.
    EngineUnreachable
        When the engine does not answer; if it has accepted the job, the next submission adopts it.
    RunDatabaseError
        When the run database cannot be reached.
    """
    document = documents.find_run(collection, run_id, None, PLAN_FIELDS)
    check_ready(documents.merge_tags(collection, document))
    document = documents.find_only(collection, run_id, PLAN_FIELDS)
    name = rundoc.check_run_name(documents.name_of(document))
    submitter = _Submitter(template, name, plan_of_run(template.plan, document), collection, engine)
    return submitter.dry_run() if template.dry_run else submitter.submit(reset_failures)


class _Submitter:
    """Submits one job."""

    def __init__(
        self, template: JobTemplate, run_id: str, plan: Plan, collection: Any, engine: Engine
    ):
        self.run_id, self.collection, self.engine, self.flat = (
            run_id,
            collection,
            engine,
            template.flat,
        )
        self.attempt = f"{run_id}-{uuid.uuid4().hex[:16]}"
        self.lease = leases.Lease(
            collection, run_id, f"{leases.OWNER_PREFIX}{documents.this_host()}"
        )
        subfolder = "" if template.flat else run_id
        file_name = f"{run_id}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{self.attempt[-6:]}"
        self.job = Job(
            run_id,
            plan.targets,
            plan.context,
            plan.detector,
            template.job_folder / subfolder / f"{file_name}.sh",
            template.log_folder / subfolder / f"{file_name}.{'out' if template.flat else 'log'}",
            template.memory,
            template.queue,
        )
        words, self._left = template.options_for(plan)
        self.command = [
            *template.script,
            run_id,
            f"--context={plan.context}",
            f"--detector={plan.detector}",
            f"--attempt={self.attempt}",
            *words,
            "--target",
            *plan.targets,
        ]

    def result(self, state: str, job_id: str = "", text: str = "") -> Submission:
        """Return the result."""
        return Submission(
            self.run_id, self.job.name, self.engine.name, job_id, state, self.attempt, text
        )

    def dry_run(self) -> Submission:
        """Return the job that would be submitted."""
        for known in self.engine.find(self.job.name):
            if known.state.alive:
                return self.result("alive already", known.job_id, _describe_state(known))
        script = base.script_text(self.command, environment())
        left = f"# options {self._left}\n" if self._left else ""
        return self.result(
            "dry run",
            text=f"# {self.job.name}\n{left}{self.engine.describe(self.job)}\n"
            f"# where {self.job.script} is\n{script}",
        )

    def submit(self, reset_failures: bool) -> Submission:
        """Submit the job while holding the lease of the run."""
        if not connection.resilient(self.lease.acquire):
            return self._busy()
        try:
            return self._submit(reset_failures)
        finally:
            # The result must not be lost if this fails
            self.lease.release()

    def _submit(self, reset_failures: bool) -> Submission:
        fields = ["processing_job", "processing_status"]
        document = documents.find_run(self.collection, self.run_id, None, fields)
        before, status = documents.job_of(document), documents.status_of(document).status
        for known in self.engine.find(self.job.name):
            if known.state.alive:
                if before.get("job_id") == known.job_id and status in ("done", "failed"):
                    return self.result("busy", text="its last job is about to end")
                return self._adopt(before, status, known)
            log.info(
                "run %s: job %s is %s: removed", self.run_id, known.job_id, _describe_state(known)
            )
            self.engine.cancel(known.job_id)
        self._write_files()
        if reset_failures:
            self._set(documents.set_status, "pending", owner=self.lease.owner)
        intended = self._record()
        if not self._set(documents.set_job, intended, self.lease.owner):
            return self._busy()
        try:
            job_id = self.engine.submit(self.job)
        except JobRefused:
            self._set(documents.set_job, before, self.lease.owner)
            self.job.script.unlink(missing_ok=True)
            raise
        # The job may have begun and taken the claim
        if not self._set_submitted(intended | {"job_id": job_id}) and not self._set(
            documents.set_job_id, self.attempt, job_id
        ):
            # Submission took so long that another process has begun
            self.engine.cancel(job_id)
            return self._busy()
        left = f"; options {self._left}" if self._left else ""
        return self.result("submitted", job_id, f"log {self.job.log}{left}")

    def _adopt(self, before: dict[str, Any], status: str, known: KnownJob) -> Submission:
        """Adopt an existing job and follow it."""
        record = before
        is_recorded = (before.get("engine"), before.get("name")) == (self.engine.name, known.name)
        if not is_recorded or before.get("job_id") not in (known.job_id, None):
            record = {}
        if not record.get("attempt"):
            # Submitted for another run database, or by a process that was taken for dead
            attempt = f"{self.run_id}-{known.job_id}"
            record = self._record() | {"log": None, "attempt": attempt}
        self.attempt = record["attempt"]
        if record.get("job_id") != known.job_id or status == "pending":
            self._set_submitted(record | {"job_id": known.job_id})
        return self.result("alive already", known.job_id, _describe_state(known))

    def _set(self, change: Callable[..., bool], *args: Any, **kwargs: Any) -> bool:
        """Change the run document with a function of `amstrax.rundb.documents`."""
        return connection.resilient(change, self.collection, self.run_id, *args, **kwargs)

    def _set_submitted(self, job: Mapping[str, Any]) -> bool:
        return self._set(documents.set_status, "submitted", owner=self.lease.owner, job=job)

    def _write_files(self) -> None:
        if self.engine.name != "local":
            _warn_of_secrets()
        try:
            for path in (self.job.script, self.job.log):
                path.parent.mkdir(parents=True, exist_ok=True)
            base.write_script(self.job.script, self.command, environment())
        except OSError as error:
            options = "--logs_path" if self.flat else "--job_folder and --log_folder"
            raise JobRefused(
                f"the script or the log of the job cannot be written ({error}): see {options}"
            ) from error

    def _record(self) -> dict[str, Any]:
        """Return the record of the job in the run document before it is submitted."""
        return {
            "attempt": self.attempt,
            "engine": self.engine.name,
            "job_id": None,
            "name": self.job.name,
            "host": documents.this_host(),
            "targets": list(self.job.targets),
            "context": self.job.context,
            "log": str(self.job.log),
            "time": datetime.now(UTC),
        }

    def _busy(self) -> Submission:
        """Return the result for a run that another process works on."""
        document = documents.find_run(self.collection, self.run_id, None, ["processing_claim"])
        claim = document.get("processing_claim")
        if not isinstance(claim, Mapping):
            return self.result("busy", text="another process has just worked on it")
        submits = str(claim.get("owner")).startswith(leases.OWNER_PREFIX)
        return self.result(
            "busy",
            text=f"{claim.get('host')} {'submits' if submits else 'processes'} it; its lease "
            f"ends at {claim.get('expires')} UTC unless renewed",
        )


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

#!/usr/bin/env python
"""Process runs of the run database, as jobs do.

The tool claims each run, makes, checks and registers its data, and sets its status. Usable as
``process_run``, ``amstrax process-run``, ``python -m amstrax.auto_processing.process_run``, and as
a file. Exit status: 0 when the run is done, 1 on failure, 2 on wrong use, 75 if another process has
the run; of several runs as of `amstrax.auto_processing.supervision.supervise`.
"""

import argparse
import functools
import logging
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

if __name__ == "__main__" and not __package__:
    # Run as a file: import the amstrax that this file belongs to
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import amstrax
from amstrax import run_metadata, rundoc, settings
from amstrax.auto_processing import amstraxer, trends
from amstrax.auto_processing.amstraxer import ProcessingOptions
from amstrax.commands import base
from amstrax.exceptions import (
    AlreadyAtWork,
    AmstraxError,
    InvalidOption,
    Postponed,
    RunNotReady,
    UsageError,
)
from amstrax.rundb import connection, documents, leases
from amstrax.rundb.connection import get_mongo_collection
from amstrax.rundb.leases import Stop
from amstrax.settings import CONTEXT_DETECTORS
from amstrax.strict_json import one_line, short

# Functions import job, and so strax, which takes seconds, too long for --help

log = logging.getLogger("amstrax.process_run")

#: Interval at which an orphaned job checks whether it has lost its claim, and then stops [s]
_ORPHAN_PAUSE = 2.0

#: In messages, where no other folder is set
_FOLDER = "the folder for data"

_Options = TypeVar("_Options", bound=ProcessingOptions)

#: Context and targets of LED runs
LED_CONTEXT = "xams_led"
LED_TARGETS = ("raw_records", "records_led", "led_calibration")
#: Mode of runs with the NaI detector, if nothing else tells, and the additional target
NAI_MODE, NAI_TARGETS = "_nai", ("peak_basics_ext",)

#: Fields of a run document that `plan_of_run` and `check_ready` read
PLAN_FIELDS = (
    *("name", "number", "mode", "start", "end", "tags", "xams_bookkeeping"),
    *("daq_config.channels", "daq_config.registers"),
)


@dataclass(frozen=True)
class JobOptions(ProcessingOptions):
    """Data to make of a run, and how to claim and record it: the options of `parse_args`."""

    any_length: bool = False
    fix_targets: bool = False
    is_online: bool = False
    leave_status: bool = False
    amstrax_path: str | None = None
    attempt: str | None = None
    claim_lifetime: float = leases.LIFETIME
    patience: float = 1800
    trends: bool = False
    trend_limit: Mapping[str, Any] = field(default_factory=dict)


def parse_args(argv: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    """Parse `argv` (by default the command line) into options; exit with 2 on invalid ones."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Process runs of the run database, check and register their data, and set "
        "their status, as jobs do",
    )
    amstraxer.add_runs(parser)
    base.add_target(parser)
    base.add_trends(parser)
    parser.add_argument(
        "--any_length", action="store_true", help="accept raw data that does not cover the run"
    )
    parser.add_argument(
        "--fix_targets", action="store_true", help="make only the targets, also of LED and NaI runs"
    )
    parser.add_argument(
        "--is_online",
        action="store_true",
        help="record that this is the processing that follows the DAQ",
    )
    parser.add_argument(
        "--leave_status",
        action="store_true",
        help="set the status and the history of the targets, but not the status of the run",
    )
    parser.add_argument(
        "--amstrax_path",
        metavar="FOLDER",
        help="folder of amstrax to record in the run document (default: that of this one)",
    )
    parser.add_argument(
        "--attempt",
        nargs="+",
        metavar="NAME",
        help="name of the attempt of a job, one for each run (default: a new one)",
    )
    base.add_seconds(
        parser,
        "--claim_lifetime",
        JobOptions.claim_lifetime,
        "lifetime of the claim: time until others may process the run if this process has died",
    )
    base.add_seconds(
        parser,
        "--patience",
        JobOptions.patience,
        "time to wait for the run database before the run is claimed; later at most two thirds of "
        "--claim_lifetime",
    )
    base.add_seconds(
        parser, "--timeout", JobOptions.timeout, "time to wait for live data that is missing"
    )
    base.add_console(parser)
    args = base.parse(parser, "process_run", argv)
    if args.attempt and len(args.attempt) != 1 + len(args.more_runs):
        parser.error(f"--attempt names {len(args.attempt)} attempts: name one for each run")
    if args.attempt and not args.more_runs:
        [args.attempt] = args.attempt
    return args


@base.main_of(parse_args, ("0",))
def main(args: argparse.Namespace) -> int:
    """Process runs, and return the exit status."""
    if args.more_runs:
        from amstrax.auto_processing import supervision  # only this needs it

        return supervision.supervise("amstrax.auto_processing.process_run", args, log)
    return run(args, lambda stop: process_one(args, stop))


def process_one(args: argparse.Namespace, stop: Stop) -> None:
    """Process a run, also as one of several."""
    process(args.run_id, JobOptions.of(args), stop)


def run(args: argparse.Namespace, work: Callable[[Stop], None]) -> int:
    """Run the work of a command that processes ``args.run_id``, and return the exit status."""
    from amstrax.auto_processing import job

    left: list[str] = []

    def unless_taken(stop: Stop) -> None:
        try:
            work(stop)
        except AlreadyAtWork as error:
            left.append(str(error))

    where = args.output_folder or _FOLDER
    status = job.run_strax_tool(
        args, log, unless_taken, f"run {args.run_id}", where, "--output_folder"
    )
    if left:
        log.warning("%s", left[0])
        return base.LEFT_TO_ANOTHER
    return status


class Plan(NamedTuple):
    """Data types to make for runs of a detector, their context, and its raw data types."""

    targets: tuple[str, ...]
    context: str
    detector: str
    raw_types: tuple[str, ...]


def find_plan(options: ProcessingOptions, check_corrections: bool = False) -> Plan:
    """Return the plan for ordinary runs.

    The version of the corrections is checked with `check_corrections`, unless its file cannot be
    reached now.

    Raises
    ------
    UsageError
        When no context makes the targets or takes the options, or only one of another detector.
    InvalidOption, CorrectionError
        When the version of the corrections is invalid, or does not exist.
    """
    from amstrax import contexts

    detector = options.detector
    of_detector = [name for name, its in CONTEXT_DETECTORS.items() if its == detector]
    names = tuple(CONTEXT_DETECTORS)
    if options.context is not None:
        names = (options.context,)
    elif len(of_detector) == 1:
        names = tuple(of_detector)
    name, made, raw_types = contexts.find_context(
        options.targets,
        names,
        corrections_version=options.corrections_version if check_corrections else None,
        reconstruction=options.reconstruction,
    )
    own = CONTEXT_DETECTORS[name]
    taken = contexts.options_of(name, reconstruction=options.reconstruction)
    may_choose = options.context is None and own == CONTEXT_DETECTORS[LED_CONTEXT]
    if may_choose and not taken >= options.config_kwargs.keys():
        # The run may choose this context, see `plan_of_run` and `options_of_run`
        taken |= contexts.options_of(LED_CONTEXT)
    contexts.check_options(options.config_kwargs, taken)
    if detector not in (None, own):
        raise UsageError(
            f"--detector {detector}: context {name}, which makes {', '.join(made)}, is of {own}: "
            f"leave --detector out, or take a context of {detector}"
        )
    return Plan(made, name, own, raw_types)


def plan_of_run(plan: Plan, document: Mapping[str, Any]) -> Plan:
    """Return the plan for a run, by the result of `amstrax.run_metadata` for its document.

    LED runs of XAMS have their own context. Runs with the NaI detector also get its peaks; if
    neither digitizers nor ``xams_bookkeeping`` tell about the detector, the mode decides.
    """
    if run_metadata.is_led_run(document) and plan.detector == CONTEXT_DETECTORS[LED_CONTEXT]:
        return plan._replace(targets=LED_TARGETS, context=LED_CONTEXT)
    has_nai = run_metadata.nai_channel_enabled(document)
    if has_nai is None:
        # The default channel map has these channels even if nothing is connected
        is_default = run_metadata.reader_channel_map(document) == run_metadata.DEFAULT_CHANNEL_MAP
        has_nai = NAI_MODE in str(document.get("mode") or "") or (
            not is_default and run_metadata.has_nai_detector(document)
        )
    return plan_with_nai(plan) if has_nai else plan


def plan_with_nai(plan: Plan) -> Plan:
    """Return the plan for runs with the NaI detector, whose peaks are made too."""
    if plan.context != "xams":
        return plan
    more = tuple(target for target in NAI_TARGETS if target not in plan.targets)
    return plan._replace(targets=plan.targets + more)


def options_of_run(options: _Options, plan: Plan) -> tuple[_Options, str]:
    """Return the options that the context of a run takes, and a text that names all others.

    Options are checked for all contexts that runs may choose, see `find_plan` and `plan_of_run`.
    """
    from amstrax import contexts

    parts = options.reconstruction if plan.context == "xams" else ()
    taken = contexts.options_of(plan.context, reconstruction=parts)
    config = {name: value for name, value in options.config_kwargs.items() if name in taken}
    left = [name for name in options.config_kwargs if name not in taken]
    if options.reconstruction and not parts:
        left.append("reconstruction")
    why = f"left out, since {plan.context} does not take: {', '.join(left)}" if left else ""
    return replace(options, config_kwargs=config, reconstruction=parts), why


def check_ready(document: Mapping[str, Any]) -> None:
    """Check that a run may be processed now.

    Raises RunNotReady when the run is still being taken, or has the tag ``abandon``.
    """
    name = documents.name_of(document)
    if documents.ABANDON in documents.tags_of(document):
        raise RunNotReady(
            f"run {name} has the tag '{documents.ABANDON}', so it is skipped: `amstrax rundb "
            f"tag {name} {documents.ABANDON} --remove` removes the tag"
        )
    if rundoc.end_time(document) is None:
        raise RunNotReady(
            f"run {name} is still being taken, its document has no end: wait until the DAQ has "
            "ended it. amstraxer can follow a run that is being taken"
        )


def process(run_id: str, options: JobOptions, stop: Stop) -> None:
    """Process a run, and set its status; end with an error when `stop` is set.

    Raises
    ------
    AlreadyAtWork
        When another process has the run; its document is not changed then.
    UsageError
        When an option is invalid.
    RunNotReady
        When the run is being taken, or has the tag ``abandon``.
    Postponed
        Without ``options.waits``, when the run would have to be waited for.
    AmstraxError
        When the run cannot be processed; its document has the reason.
    """
    began = time.monotonic()
    plan = find_plan(options)
    collection = get_mongo_collection(plan.detector)
    attempt = options.attempt or f"{run_id}-{uuid.uuid4().hex[:16]}"
    # Only a job may wait: a command has a user at a terminal
    patience = options.patience if options.attempt else 0.0
    lifetime = options.claim_lifetime
    with leases.RunClaim(collection, run_id, attempt, stop, lifetime, patience) as claim:
        # Once data is made, waiting costs less than a failure
        claim.patience = options.patience
        document = claim.read()
        try:
            check_ready(document)
        except RunNotReady as error:
            if documents.status_of(document).status in ("submitted", "running"):
                claim.set_status("pending", str(error))
            raise
        if not options.fix_targets:
            plan = plan_of_run(plan, document)
        options = _chosen_options(run_id, options, plan)
        who = documents.cancelled_by(document)
        if who and options.attempt == documents.job_of(document).get("attempt", ""):
            raise AlreadyAtWork(f"run {run_id}: its job was cancelled by {who}: left alone")
        if options.attempt and _is_done(document, plan):
            log.info("run %s was done before this job began: nothing is changed", run_id)
            return
        if not options.leave_status:
            claim.set_status("running", job=_job_record(claim, document, plan))
        history = History(claim, plan, options.is_online)
        try:
            claim.call(documents.find_only, ["_id"])
            st = _make_and_register(run_id, options, document, history, stop)
        except Postponed as error:
            if not options.leave_status:
                # Only a job that is followed may leave it submitted
                status = "submitted" if options.attempt else "pending"
                claim.set_status(status, str(error), keep_failures=True)
            raise
        except Exception as error:
            claim.check()
            reason = stop.message()
            if not stop.reason:
                where = options.output_folder or _FOLDER
                reason = base.describe_failure(
                    error, options, f"run {run_id}", where, "--output_folder"
                )
            reason = " ".join(reason.split())
            try:
                history.fail(reason)
            finally:
                if not options.leave_status:
                    claim.record_failure(reason)
            raise
        history.add("process_run_end", "done")
        if not options.leave_status:
            claim.set_status("done")
        if documents.PROCESS in documents.tags_of(document):
            claim.call(documents.remove_tag, documents.PROCESS)
    if options.trends:
        _record_trends(st, run_id, plan, options)
    seconds = time.monotonic() - began
    log.info("run %s done in %.1f s: %s", run_id, seconds, ", ".join(plan.targets))


def _collection_of(args: argparse.Namespace) -> Any:
    return get_mongo_collection(args.detector or find_plan(JobOptions.of(args)).detector)


def record_crash(args: argparse.Namespace, reason: str) -> None:
    """Record that a process of this machine has died while it worked on a run."""
    collection = _collection_of(args)
    fields = ["name", "number", documents.PROCESSING_CLAIM, "processing_job"]
    document = documents.find_run(collection, args.run_id, None, fields)
    claim, job = document.get(documents.PROCESSING_CLAIM), documents.job_of(document)
    owner = str(claim.get("owner")) if isinstance(claim, Mapping) else ""
    attempt = args.attempt or owner.partition(leases.JOB_SUFFIX)[0]
    is_its = owner.startswith(f"{attempt}{leases.JOB_SUFFIX}") and leases.is_dead(owner)
    if not is_its and not args.attempt:
        return  # It had not claimed the run, or another process has it
    if job.get("log"):
        reason += f"; see {job['log']}"
    condition: dict[str, Any] = {"processing_job.attempt": attempt, "processing_claim": None}
    if is_its:
        condition = {"processing_claim.owner": owner}
    # It may have died after it had set the status
    condition["$nor"] = [documents.has_status("done", "failed")]
    if not args.leave_status:
        documents.record_failure(collection, document, reason, attempt, condition=condition)
    if is_its:
        leases.release(collection, args.run_id, owner)


def give_back(args: argparse.Namespace, reason: str) -> None:
    """Set a run pending that its job has not begun."""
    if not args.attempt or args.leave_status:
        return
    not_begun = {"processing_job.attempt": args.attempt, "processing_claim": None}
    condition = {"$and": [not_begun, documents.has_status("submitted")]}
    documents.set_status(
        *(_collection_of(args), args.run_id, "pending", reason),
        keep_failures=True,
        condition=condition,
    )


def _make_and_register(
    run_id: str, options: JobOptions, document: Mapping[str, Any], history: "History", stop: Stop
) -> Any:
    """Make the data of a run, verify it, and register it; return the context."""
    from amstrax.auto_processing import job
    from amstrax.rundb.frontend import new_entry

    version, path = options.corrections_version, options.amstrax_path
    history.add(
        "process_run_start",
        "running",
        corrections_version=version,
        amstrax_path=path or settings.amstrax_path(),
        amstrax_version=amstrax.__version__,
        production=True,
    )
    st, places = _make(run_id, history.plan, options, document, stop, history.tell)
    any_length = options.any_length or options.allow_incomplete
    checked = []
    try:
        for key, place, metadata in job.check_written(
            st, run_id, document, places, any_length, stop.check
        ):
            checked.append(new_entry(key, place, metadata, version, options.is_online, path))
    finally:
        # Also what was checked before an error
        if checked:
            history.claim.add_data(checked)
            log.info(
                "run %s: complete and registered: %s",
                run_id,
                ", ".join(entry["type"] for entry in checked),
            )
        for entry in checked:
            history.registered(entry)
    return st


def _record_trends(st: Any, run_id: str, plan: Plan, options: JobOptions) -> None:
    """Keep the row of trends of a run that is done; log a failure, which is not one of the run."""
    try:
        trends.record(
            st, run_id, trends.TrendOptions(plan.detector, plan.context, options.trend_limit)
        )
    except Exception as error:
        log.debug("trends of run %s", run_id, exc_info=True)
        log.warning(
            "run %s is done, but has no row of trends (%s): make it with `amstrax trends %s`",
            run_id,
            short(error, one_line),
            run_id,
        )


def make_only(run_id: str, options: JobOptions, stop: Stop) -> None:
    """Make the data of a run as `process`, without claim or change of the run database."""
    plan = find_plan(options)
    document = documents.find_run(get_mongo_collection(plan.detector), run_id)
    check_ready(document)
    if not options.fix_targets:
        plan = plan_of_run(plan, document)
    options = _chosen_options(run_id, options, plan)
    _make(run_id, plan, options, document, stop, lambda target, state: None)


def _chosen_options(run_id: str, options: JobOptions, plan: Plan) -> JobOptions:
    """Return the options that the context of a run takes; log the others."""
    options, left = options_of_run(options, plan)
    if left:
        log.warning("run %s: options %s", run_id, left)
    return options


def _is_done(document: Mapping[str, Any], plan: Plan) -> bool:
    """Return whether an earlier job has made all targets.

    A batch system that was unreachable may start a job twice, or a job that was given up.
    """
    job = documents.job_of(document)
    return (
        documents.status_of(document).status == "done"
        and job.get("context") == plan.context
        and set(plan.targets) <= set(job.get("targets") or ())
    )


def _job_record(
    claim: leases.RunClaim, document: Mapping[str, Any], plan: Plan
) -> dict[str, Any] | None:
    """Return the record of a job that was not submitted; None for a submitted job."""
    if documents.job_of(document).get("attempt") == claim.attempt:
        return None
    return {
        "attempt": claim.attempt,
        "engine": None,
        "job_id": None,
        "host": documents.this_host(),
        "targets": list(plan.targets),
        "context": plan.context,
    }


class History:
    """Writes the history of a run, and the status of each of its targets."""

    def __init__(self, claim: leases.RunClaim, plan: Plan, is_online: bool):
        self.claim, self.plan, self._is_online = claim, plan, is_online
        #: Target -> state, if known
        self._states: dict[str, str] = {}

    def add(self, action: str, status: str, **fields: Any) -> None:
        """Add an entry with the targets and `fields`."""
        fields = {"targets": list(self.plan.targets), **fields}
        self.claim.add_history(action, status, self._is_online, **fields)

    def _set(self, target: str, status: str, reason: str | None = None, **fields: Any) -> None:
        self._states[target] = status
        self.claim.set_target(target, status, self._is_online, reason, **fields)

    def tell(self, target: str, state: str) -> None:
        """Record that a target is about to be made, or is stored; see `amstraxer.process`."""
        if target in self.plan.targets:
            if state == "stored":
                self._set(target, "skipped", "already stored")
            else:
                self._set(target, "running")

    def registered(self, entry: Mapping[str, Any]) -> None:
        """Record that data is complete and registered."""
        if entry["type"] in self.plan.targets:
            fields = {key: entry[key] for key in ("n_chunks", "size_mb", "lineage_hash")}
            self._set(entry["type"], "done", **fields)

    def fail(self, reason: str) -> None:
        """Record the end, and the failure of the running target and all that depends on it."""
        failed = [target for target, state in self._states.items() if state == "running"]
        for target in failed:
            self._set(target, "failed", reason)
        left = [target for target in self.plan.targets if target not in self._states]
        raw_failed = any(target in self.plan.raw_types for target in failed)
        why = "raw_records stage failed; derived targets skipped" if raw_failed else reason
        for target in left:
            self._set(target, "skipped", why)
        if left and raw_failed:
            self.add("derived_targets_skipped", "skipped", targets=left, reason=why)
        self.add("process_run_end", "failed", reason=reason)


class Step(NamedTuple):
    """Data types to make, and the folder for them."""

    folder: Path
    targets: tuple[str, ...]


def folders(plan: Plan, output_folder: str | Path | None) -> tuple[Path, Path]:
    """Return the folders for raw data, and for all other data.

    Without `output_folder`, they are those of the settings or the context. Raises InvalidOption
    when a folder of the settings does not exist.
    """
    if output_folder is not None:
        folder = settings.expanded(output_folder).absolute()
        return folder, folder
    found: list[Path | None] = []
    for kind in ("RAW", "PROCESSED"):
        name = f"{plan.detector.upper()}_{kind}_DATA"
        value = settings.get(name)
        path = settings.expanded(value).absolute() if value else None
        if path is not None and not path.is_dir():
            raise InvalidOption(
                f"the folder {path} of the setting {name} does not exist: make it, or mount "
                "its disk"
            )
        found.append(path)
    raw, processed = found
    default = Path("amstrax_data" if plan.context == "xams_little" else "strax_data")
    folder = processed or default.absolute()
    return raw or folder, folder


def all_folders(
    plan: Plan, output_folder: str | Path | None, live_data_dir: str | Path | None
) -> tuple[Path, ...]:
    """Return those of `folders`, and that of live data if there is one on this machine."""
    live = live_data_dir or settings.live_data(plan.detector)
    return (*folders(plan, output_folder), *((settings.expanded(live).absolute(),) if live else ()))


def _make(
    run_id: str,
    plan: Plan,
    options: JobOptions,
    document: Mapping[str, Any],
    stop: Stop,
    tell: Callable[[str, str], None],
) -> tuple[Any, tuple[Path, Path]]:
    """Make the data of a run; return the context and the folders for raw and all other data."""
    places = folders(plan, options.output_folder)
    options = replace(
        options,
        targets=plan.targets,
        context=plan.context,
        detector=plan.detector,
        output_folder=places[1],
        run_document=document,
    )
    st: Any = None
    if places[0] != places[1]:
        st, _ = amstraxer.make_context(options, run_id)

    def on_error(error: AlreadyAtWork, left: float) -> None:
        stop.check()
        if not options.waits:
            raise Postponed(str(error)) from error
        if not left:
            # Not as AlreadyAtWork: this process has the claim, so the run has failed
            raise AmstraxError(str(error)) from error
        log.info("%s; it should end soon, since this process has the claim", error)

    for step in _steps(st, run_id, plan, places):
        of_step = replace(options, targets=step.targets, output_folder=step.folder)
        # An orphaned job may hold the lock until it finds its claim lost
        st = connection.retry(
            functools.partial(amstraxer.process, run_id, of_step, stop, tell),
            options.claim_lifetime,
            (AlreadyAtWork,),
            _ORPHAN_PAUSE,
            stop.event.wait,
            on_error,
        )
    return st, places


def _steps(st: Any, run_id: str, plan: Plan, places: tuple[Path, Path]) -> Iterator[Step]:
    """Yield the steps: with a folder for raw data, first the raw data if it is needed."""
    from amstrax.auto_processing.job import Source

    raw_folder, folder = places
    if raw_folder == folder:
        # Raw data first; others keep their order
        yield Step(folder, tuple(sorted(plan.targets, key=lambda t: t not in plan.raw_types)))
        return
    missing = [target for target in plan.targets if not st.is_stored(run_id, target)]
    if any(Source(st, run_id, target).needs_live_data for target in missing):
        yield Step(raw_folder, plan.raw_types)
    others = tuple(target for target in plan.targets if target not in plan.raw_types)
    if others:
        yield Step(folder, others)


if __name__ == "__main__":
    sys.exit(main())

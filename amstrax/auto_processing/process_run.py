#!/usr/bin/env python
"""Process a run of the run database; jobs run this tool.

It claims the run, makes the data, checks and registers it, and sets the status of the run. Usable
as ``process_run``, ``amstrax process-run``, ``python -m amstrax.auto_processing.process_run``, and
as a file. Exit status: 0 when the run is done, 1 on failure, 2 on wrong use, 75 if another process
has the run.
"""

import argparse
import logging
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

if __name__ == "__main__" and not __package__:
    # Run as a file: import the amstrax that this file belongs to
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from amstrax import settings
from amstrax.auto_processing import amstraxer, submitting
from amstrax.auto_processing.submitting import Plan
from amstrax.commands import base
from amstrax.exceptions import AlreadyAtWork, AmstraxError, InvalidOption, RunNotReady
from amstrax.rundb import documents, get_mongo_collection, leases
from amstrax.rundb.leases import Stop

log = logging.getLogger("amstrax.process_run")

#: Exit status if another process has the run (EX_TEMPFAIL of sysexits.h)
LEFT_TO_ANOTHER = 75
#: Interval at which an orphaned job checks whether it has lost its claim, and then stops [s]
_ORPHAN_PAUSE = 2.0


def parse_args(argv: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    """Parse `argv` (by default the command line) into options; exit with 2 on invalid ones."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Process a run of the run database, check and register its data, and set its "
        "status: what a job runs",
    )
    parser.add_argument(
        "run_id", metavar="RUN_ID", type=base.run_id, help="run to process, as 006724"
    )
    base.add_target(parser)
    parser.add_argument(
        "--any_length",
        action="store_true",
        help="take raw data as it is, though the run document says that the run was longer",
    )
    parser.add_argument(
        "--fix_targets",
        action="store_true",
        help="make just the targets, also of LED runs and of runs with the NaI detector",
    )
    parser.add_argument(
        "--is_online",
        action="store_true",
        help="note in the run document that this is the processing that follows the DAQ",
    )
    parser.add_argument(
        "--leave_status",
        action="store_true",
        help="leave the status of the run as it is; its history and that of its targets go on",
    )
    parser.add_argument(
        "--amstrax_path",
        metavar="FOLDER",
        help="note this as the folder of amstrax in the run document (default: that of this one)",
    )
    parser.add_argument(
        "--attempt",
        metavar="NAME",
        help="name of this attempt, by which its job is known (default: a new one)",
    )
    parser.add_argument(
        "--claim_lifetime",
        type=base.positive_number,
        default=leases.LIFETIME,
        metavar="SECONDS",
        help="time after which others may process the run when this process is gone (default: "
        "%(default)s)",
    )
    parser.add_argument(
        "--patience",
        type=base.positive_number,
        default=1800,
        metavar="SECONDS",
        help="wait so long for a run database that is away, before the run is claimed; after that, "
        "for two thirds of --claim_lifetime at most (default: %(default)s)",
    )
    parser.add_argument(
        "--timeout",
        type=base.positive_number,
        default=300,
        metavar="SECONDS",
        help="give up when live data that is still missing does not come for this long (default: "
        "%(default)s)",
    )
    base.add_console(parser)
    return base.parse(parser, "process_run", argv)


@base.main_of(parse_args, ("0",))
def main(args: argparse.Namespace) -> int:
    """Process a run, and return the exit status."""
    from amstrax.auto_processing.job import run_strax_tool

    left: list[str] = []

    def work(stop: Stop) -> None:
        try:
            process(args, stop)
        except AlreadyAtWork as error:
            left.append(str(error))

    status = run_strax_tool(
        args,
        log,
        work,
        f"run {args.run_id}",
        args.output_folder or "the folder for data",
        "--output_folder",
    )
    if left:
        log.warning("%s", left[0])
        return LEFT_TO_ANOTHER
    return status


def process(args: argparse.Namespace, stop: Stop) -> None:
    """Process a run, and set its status.

    Parameters
    ----------
    args
        As from `parse_args`.
    stop
        When this is set, the work ends with an error.

    Raises
    ------
    AlreadyAtWork
        When another process has the run; its document is not changed then.
    UsageError
        When an option is invalid.
    RunNotReady
        When the run is being taken, or to be left alone.
    AmstraxError
        When the run cannot be processed; its document says why.
    """
    began = time.monotonic()
    found = submitting.find_plan(args.target, args.context, args.detector, args.config_kwargs)
    collection = get_mongo_collection(found.detector)
    attempt = args.attempt or f"{args.run_id}-{uuid.uuid4().hex[:16]}"
    # A job has no user at a terminal
    patience = args.patience if args.attempt else 0.0
    lifetime = args.claim_lifetime
    with leases.RunClaim(collection, args.run_id, attempt, stop, lifetime, patience) as claim:
        # Data is made by now, so waiting is worthwhile
        claim.patience = args.patience
        document = claim.read()
        _check_ready(claim, document)
        its_plan = found if args.fix_targets else submitting.plan_of_run(found, document)
        if args.attempt and _is_done(document, its_plan):
            log.info("run %s was done before this job began: nothing is changed", args.run_id)
            return
        if not args.leave_status:
            claim.set_status("running", job=_job(claim, document, its_plan))
        history = History(claim, its_plan, args)
        try:
            claim.check_only_document()
            history.begin()
            _make_and_register(args, its_plan, document, claim, history, stop)
        except Exception as error:
            claim.check()
            reason = _reason(error, args, stop)
            try:
                history.fail(reason)
            finally:
                if not args.leave_status:
                    claim.record_failure(reason)
            raise
        history.end("done")
        if not args.leave_status:
            claim.set_status("done")
        if documents.PROCESS in documents.tags_of(document):
            claim.remove_tag(documents.PROCESS)
    log.info(
        "run %s done in %.1f s: %s",
        args.run_id,
        time.monotonic() - began,
        ", ".join(its_plan.targets),
    )


def make_only(args: argparse.Namespace, stop: Stop) -> None:
    """Make the data of a run without changing the run database.

    Parameters
    ----------
    args
        As from `parse_args`.
    stop
        When this is set, the work ends with an error.

    Raises
    ------
    UsageError
        When an option is invalid.
    AmstraxError
        When the run cannot be processed.
    """
    from amstrax.auto_processing import submitting
    from amstrax.rundb import get_mongo_collection

    found = submitting.find_plan(args.target, args.context, args.detector, args.config_kwargs)
    document = documents.find_run(get_mongo_collection(found.detector), args.run_id)
    submitting.check_ready(document)
    its_plan = found if args.fix_targets else submitting.plan_of_run(found, document)
    raw_folder, folder = folders(its_plan, args.output_folder)
    st = _context(args, its_plan, folder, document)
    for step in _steps(st, args.run_id, its_plan, raw_folder, folder):
        _make(args, its_plan, step, document, stop, lambda _target, _state: None)


def _check_ready(claim: leases.RunClaim, document: Mapping[str, Any]) -> None:
    """Check that the run may be processed; if not, set a submitted run to pending."""
    try:
        submitting.check_ready(document)
    except RunNotReady as error:
        if documents.status_of(document).status in ("submitted", "running"):
            claim.set_status("pending", str(error))
        raise


def _is_done(document: Mapping[str, Any], its_plan: "Plan") -> bool:
    """Return whether an earlier job has made all targets of this one.

    A batch system that was unreachable may start a job twice, or a job that was given up.
    """
    job = documents.job_of(document)
    return (
        documents.status_of(document).status == "done"
        and job.get("context") == its_plan.context
        and set(its_plan.targets) <= set(job.get("targets") or ())
    )


def _job(claim: leases.RunClaim, document: Mapping[str, Any], its_plan: "Plan") -> dict | None:
    """Return the record of a job that was not submitted; None for a submitted job."""
    if documents.job_of(document).get("attempt") == claim.attempt:
        return None
    return {
        "attempt": claim.attempt,
        "engine": None,
        "job_id": None,
        "host": documents.this_host(),
        "targets": list(its_plan.targets),
        "context": its_plan.context,
    }


def _reason(error: Exception, args: argparse.Namespace, stop: Stop) -> str:
    """Return why the run has failed, in one line."""
    reason = (
        stop.message()
        if stop.reason
        else base.describe_failure(
            error,
            f"run {args.run_id}",
            args.output_folder or "the folder for data",
            "--output_folder",
        )
    )
    return " ".join(reason.split())


class History:
    """Writes the history of a run, and the status of each of its targets.

    Parameters
    ----------
    claim
        Claim of the run.
    plan
        What is made.
    args
        As from `parse_args`.
    """

    def __init__(self, claim: leases.RunClaim, plan: "Plan", args: argparse.Namespace):
        self._claim, self._plan, self._args = claim, plan, args
        self._is_online = args.is_online
        #: Target -> state, if known
        self._states: dict[str, str] = {}

    def _add(self, action: str, status: str, **fields: Any) -> None:
        self._claim.add_history(action, status, self._is_online, **fields)

    def _set(self, target: str, status: str, reason: str | None = None, **fields: Any) -> None:
        self._states[target] = status
        self._claim.set_target(target, status, self._is_online, reason, **fields)

    def begin(self) -> None:
        """Record the start."""
        import amstrax

        self._add(
            "process_run_start",
            "running",
            targets=list(self._plan.targets),
            corrections_version=self._args.corrections_version,
            amstrax_path=self._args.amstrax_path or settings.amstrax_path(),
            amstrax_version=amstrax.__version__,
            production=True,
        )

    def tell(self, target: str, state: str) -> None:
        """Record that a target is about to be made, or is stored; see `amstraxer.process`."""
        if target in self._plan.targets:
            if state == "stored":
                self._set(target, "skipped", "already stored")
            else:
                self._set(target, "running")

    def registered(self, entry: Mapping[str, Any]) -> None:
        """Record that data is complete and registered."""
        if entry["type"] in self._plan.targets:
            fields = {key: entry[key] for key in ("n_chunks", "size_mb", "lineage_hash")}
            self._set(entry["type"], "done", **fields)

    def fail(self, reason: str) -> None:
        """Record a failure of the running target and of the targets that depend on it."""
        failed = [target for target, state in self._states.items() if state == "running"]
        for target in failed:
            self._set(target, "failed", reason)
        left = [target for target in self._plan.targets if target not in self._states]
        raw_failed = any(target in self._plan.raw_types for target in failed)
        why = "raw_records stage failed; derived targets skipped" if raw_failed else reason
        for target in left:
            self._set(target, "skipped", why)
        if left and raw_failed:
            self._add("derived_targets_skipped", "skipped", targets=left, reason=why)
        self.end("failed", reason=reason)

    def end(self, status: str, **fields: Any) -> None:
        """Record the end."""
        self._add("process_run_end", status, targets=list(self._plan.targets), **fields)


class Step(NamedTuple):
    """Data types to make, and the folder for them."""

    folder: Path
    targets: tuple[str, ...]


def _make_and_register(
    args: argparse.Namespace,
    its_plan: "Plan",
    document: Mapping[str, Any],
    claim: leases.RunClaim,
    history: History,
    stop: Stop,
) -> None:
    """Make and check the data of a run, and register data that is not registered yet."""
    from amstrax.auto_processing.job import Written
    from amstrax.rundb.frontend import new_entry

    raw_folder, folder = folders(its_plan, args.output_folder)
    st = _context(args, its_plan, folder, document)
    for step in _steps(st, args.run_id, its_plan, raw_folder, folder):
        _make(args, its_plan, step, document, stop, history.tell)
    written = Written(st, args.run_id, its_plan.raw_types, document, (raw_folder, folder))
    raw_range = written.raw_range(args.any_length or args.allow_incomplete)
    for key, place in written.unregistered():
        metadata = written.check(place / str(key), raw_range, stop.check)
        entry = new_entry(
            key, place, metadata, args.corrections_version, args.is_online, args.amstrax_path
        )
        claim.add_data(entry)
        history.registered(entry)
        log.info("%s is complete, and registered", place / str(key))


def folders(its_plan: "Plan", output_folder: Path | None) -> tuple[Path, Path]:
    """Return the folders for raw data, and for all other data.

    Parameters
    ----------
    its_plan
        What is made.
    output_folder
        Folder for all data; None for those of the settings or the context.

    Raises
    ------
    InvalidOption
        When a folder of the settings does not exist.
    """
    if output_folder is not None:
        folder = settings.expanded(output_folder).absolute()
        return folder, folder
    raw, processed = (
        _lab_folder(f"{its_plan.detector.upper()}_{kind}_DATA") for kind in ("RAW", "PROCESSED")
    )
    default = Path("amstrax_data" if its_plan.context == "xams_little" else "strax_data")
    folder = processed or default.absolute()
    return raw or folder, folder


def _lab_folder(name: str) -> Path | None:
    value = settings.get(name)
    if not value:
        return None
    path = settings.expanded(value).absolute()
    if not path.is_dir():
        raise InvalidOption(
            f"the folder {path} of the setting {name} is not there: make it, if its disk is there"
        )
    return path


def _steps(
    st: Any, run_id: str, its_plan: "Plan", raw_folder: Path, folder: Path
) -> Iterator[Step]:
    """Yield the steps: with a folder for raw data, first the raw data if it is needed."""
    from amstrax.auto_processing.job import Source

    if raw_folder == folder:
        # Raw data first; others keep their order
        yield Step(
            folder, tuple(sorted(its_plan.targets, key=lambda t: t not in its_plan.raw_types))
        )
        return
    missing = [target for target in its_plan.targets if not st.is_stored(run_id, target)]
    if any(Source(st, run_id, target).needs_live_data for target in missing):
        yield Step(raw_folder, its_plan.raw_types)
    others = tuple(target for target in its_plan.targets if target not in its_plan.raw_types)
    if others:
        yield Step(folder, others)


def _arguments(
    args: argparse.Namespace, its_plan: "Plan", step: Step, document: Mapping[str, Any]
) -> argparse.Namespace:
    """Return the arguments of amstraxer for a step."""
    return argparse.Namespace(
        run_id=args.run_id,
        target=list(step.targets),
        context=its_plan.context,
        detector=its_plan.detector,
        output_folder=step.folder,
        live_data_dir=args.live_data_dir,
        allow_incomplete=args.allow_incomplete,
        testing_rundoc=document,
        config_kwargs=args.config_kwargs,
        context_kwargs={},
        corrections_version=args.corrections_version,
        from_scratch=False,
        build_lowlevel=False,
        timeout=args.timeout,
        workers=args.workers,
        progress=args.progress,
        debug=args.debug,
    )


def _context(
    args: argparse.Namespace, its_plan: "Plan", folder: Path, document: Mapping[str, Any]
) -> Any:
    return amstraxer.make_context(
        _arguments(args, its_plan, Step(folder, its_plan.targets), document)
    )[0]


def _make(
    args: argparse.Namespace,
    its_plan: "Plan",
    step: Step,
    document: Mapping[str, Any],
    stop: Stop,
    tell: Callable[[str, str], None],
) -> None:
    """Make the data of a step; wait for the end of an orphaned job that writes it too."""
    end = time.monotonic() + args.claim_lifetime
    while True:
        try:
            amstraxer.process(_arguments(args, its_plan, step, document), stop, tell)
            return
        except AlreadyAtWork as error:
            stop.check()
            if time.monotonic() > end:
                # Not for lack of a claim: this run has failed
                raise AmstraxError(str(error)) from error
            log.info("%s; it is to end soon, since this process has the claim", error)
            stop.event.wait(_ORPHAN_PAUSE)


if __name__ == "__main__":
    sys.exit(main())

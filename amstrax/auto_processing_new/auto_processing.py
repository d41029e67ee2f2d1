#!/usr/bin/env python
"""Submit jobs for the lab's dashboard and start scripts of 2026.

With --run_id it submits that run and ends, otherwise it loops as ``auto_processing`` does. Nothing
is submitted without --production. Exit status: 0 on success and after a dry run, 1 if no job was
submitted, 2 on wrong use.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__" and not __package__:
    # Run as a file: import the amstrax that this file belongs to
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from amstrax import settings
from amstrax.auto_processing import auto_processing, engines, submitting
from amstrax.auto_processing.amstraxer import ProcessingOptions
from amstrax.auto_processing.auto_processing import LoopOptions
from amstrax.auto_processing.engines.base import Engine
from amstrax.auto_processing.loop import followed_runs, job_states, live_jobs
from amstrax.auto_processing.submitting import JobTemplate
from amstrax.commands import base
from amstrax.exceptions import Stopped, UsageError
from amstrax.rundb.connection import get_mongo_collection
from amstrax.rundb.leases import Stop

log = logging.getLogger("amstrax.auto_processing_new")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for data, resources and batch system of jobs."""
    add_data_options(parser)
    base.add_seconds(parser, "--timeout", 20, auto_processing.PAUSE_HELP, dest="pause")
    base.add_count(parser, "--max_jobs", 5, auto_processing.MAX_JOBS_HELP)
    base.add_count(parser, "--mem", 8000, "memory of a job", metavar="MB")
    parser.add_argument(
        "--logs_path",
        type=Path,
        metavar="FOLDER",
        help="folder for scripts and logs of jobs (default: the setting AMSTRAX_LOG_FOLDER, or "
        "else ./logs)",
    )
    parser.add_argument(
        "--queue", default="short", help="queue or job category (default: %(default)s)"
    )
    base.add(parser, "--engine")


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for the data to make."""
    parser.add_argument(
        "--target",
        "--targets",
        nargs="+",
        default=["raw_records"],
        metavar="TYPE",
        help="data types to make (default: raw_records)",
    )
    parser.add_argument("--output_folder", type=Path, metavar="FOLDER", help=base.LAB_FOLDERS)
    base.add(parser, "--corrections_version")
    parser.add_argument(
        "--amstrax_path",
        type=Path,
        metavar="FOLDER",
        help="clone of amstrax that processes (default: this one)",
    )
    parser.add_argument("--set_config_kwargs", **base.OPTIONS["--config_kwargs"])
    parser.add_argument(
        "--set_context_kwargs",
        type=base.json_object,
        default={},
        metavar="JSON",
        help="only {}: use --output_folder, --set_config_kwargs and --corrections_version",
    )
    parser.add_argument(
        "--production", action="store_true", help="change the run database (default: dry run)"
    )
    base.add(parser, "--debug")


def check_options(args: argparse.Namespace) -> None:
    """Check the options of `add_data_options`.

    Raises
    ------
    UsageError
        When context arguments are given, or --amstrax_path has no amstrax 3.
    """
    if args.set_context_kwargs:
        raise UsageError(
            f"--set_context_kwargs names {', '.join(map(repr, args.set_context_kwargs))}: use "
            "--output_folder, --set_config_kwargs and --corrections_version"
        )
    if args.amstrax_path is not None and not program(args.amstrax_path).is_file():
        raise UsageError(
            f"--amstrax_path {args.amstrax_path}: no amstrax 3 there ({program(args.amstrax_path)} "
            "is missing): name the folder of a clone"
        )


def program(amstrax_path: Path | None) -> Path:
    """Return the script of a clone of amstrax that processes a run; None means this clone."""
    root = Path(__file__).resolve().parents[2] if amstrax_path is None else amstrax_path
    return settings.expanded(root).absolute() / "amstrax/auto_processing_new/process.py"


def parse_args(argv: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    """Parse `argv` (by default the command line) into options; exit with 2 on invalid ones."""
    parser = argparse.ArgumentParser(
        prog=prog, description="Submit jobs that process runs of XAMS as they come, or one run"
    )
    add_options(parser)
    parser.add_argument(
        "--run_id", metavar="RUN_ID", type=base.run_id, help="submit this run, then end"
    )
    text = auto_processing.MAX_FAILURES_HELP
    base.add_count(parser, "--n_failures_max", 3, text, dest="max_failures")
    parser.add_argument(
        "--min_run_number",
        type=int,
        default=6000,
        metavar="N",
        help="skip runs below this number, but not that of --run_id (default: %(default)s)",
    )
    return parser.parse_args(argv)


@base.main_of(parse_args)
def main(args: argparse.Namespace) -> int:
    """Submit jobs, and return the exit status."""
    if args.run_id is not None:
        return submit_runs(args, [args.run_id])

    def work(stop: Stop) -> str | None:
        check_options(args)
        options = LoopOptions.of(args, make_template(args, is_online=True))
        return auto_processing.run(options, stop)

    log_name = "auto_processing" if args.production else None
    args.log_folder = args.logs_path
    return base.run_tool(
        args, log, work, "automatic processing", args.logs_path, "--logs_path", log_name
    )


def submit_runs(args: argparse.Namespace, run_ids: Sequence[str], wait: bool = False) -> int:
    """Submit runs and return the exit status; with `wait`, wait while too many jobs run."""
    results: list[bool] = []
    pause = args.pause if wait else None

    def work(stop: Stop) -> None:
        try:
            check_options(args)
            template = make_template(args, is_online=False)
            engine = engines.get(args.engine or settings.engine())
            collection = get_mongo_collection(template.plan.detector)
        except Exception as error:
            say(f"Error submitting job: {base.describe_error(error)}")
            raise
        for run_id in run_ids:
            try:
                has_slot = template.dry_run or _wait_for_slot(
                    collection, engine, args.max_jobs, pause, stop
                )
                stop.check()
                results.append(has_slot and submit(template, run_id, collection, engine))
            except Stopped:
                raise
            except Exception as error:
                log.debug("run %s", run_id, exc_info=error)
                say(f"Error submitting job: {base.describe_error(error)}")
                results.append(False)

    status = base.run_tool(args, log, work, "the submission", args.logs_path, "--logs_path")
    return status or not all(results)


def _wait_for_slot(
    collection: Any, engine: Engine, max_jobs: int, pause: float | None, stop: Stop
) -> bool:
    """Return whether fewer than `max_jobs` jobs wait and run; wait for that unless `pause` is None.

    `pause` is the time between two checks [s].
    """
    while (n_jobs := count_jobs(collection, engine)) >= max_jobs:
        say(f"Too many jobs running ({n_jobs}/{max_jobs})")
        if pause is None:
            return False
        stop.event.wait(pause)
        stop.check()
    return True


def count_jobs(collection: Any, engine: Engine) -> int:
    """Return the number of waiting and running jobs."""
    runs = followed_runs(collection, engine.name)
    return len(live_jobs(runs, job_states(engine, runs)))


def submit(template: JobTemplate, run_id: str, collection: Any, engine: Engine) -> bool:
    """Submit a run and print the result in the wording of the lab's tools.

    Return whether a job was submitted, or would have been in a dry run.
    """
    result = submitting.submit(template, run_id, collection, engine, reset_failures=True)
    if result.state == "submitted":
        say(f"Job {result.name} submitted successfully")
    elif result.state == "dry run":
        print(result.text)
        say(f"Would have submitted job for run {run_id}")
    else:
        # The existing job may have other options. Without an id the run is being processed
        job = f"{result.name} {result.job_id}: " if result.job_id else ""
        say(
            f"Error submitting job: run {run_id} is {result.state} ({job}{result.text}): wait "
            "until that has ended"
        )
    return result.state in ("submitted", "dry run")


def say(line: str) -> None:
    """Print a line that the lab's dashboard reads."""
    print(line, flush=True)


def make_template(args: argparse.Namespace, is_online: bool) -> JobTemplate:
    """Return the template of the jobs to submit."""
    folder = args.logs_path or Path(settings.batch("AMSTRAX_LOG_FOLDER"))
    options = ["--is_online"] if is_online else []
    script = program(args.amstrax_path).parents[1] / "auto_processing/process_run.py"
    if args.amstrax_path is not None:
        options.append(f"--amstrax_path={program(args.amstrax_path).parents[2]}")
    config, targets = args.set_config_kwargs, tuple(args.target)
    processing = base.filled(
        ProcessingOptions, args, detector="xams", targets=targets, config_kwargs=config
    )
    return submitting.make_job_template(
        processing,
        folder,
        folder,
        script=script,
        memory=args.mem,
        queue=args.queue,
        dry_run=not args.production,
        more_options=options,
        flat=True,
    )


if __name__ == "__main__":
    sys.exit(main())

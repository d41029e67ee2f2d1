#!/usr/bin/env python
"""Process runs with amstrax, from live or stored data to any data type.

Usable as ``amstraxer``, ``amstrax process``, ``python -m amstrax.auto_processing.amstraxer``, and
as a file. Exit status: 0 if the data is stored at the end, 1 on failure, 2 on wrong use; of several
runs as of `amstrax.auto_processing.supervision.supervise`.
"""

import argparse
import contextlib
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if __name__ == "__main__" and not __package__:
    # Run as a file: import the amstrax that this file belongs to
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from amstrax import strict_json
from amstrax.commands import base
from amstrax.commands.base import CONTEXTS
from amstrax.exceptions import AlreadyAtWork, AmstraxError, Postponed, RunNotFound, UsageError
from amstrax.rundb.leases import Stop
from amstrax.settings import CONTEXT_DETECTORS

if TYPE_CHECKING:
    import strax

# Functions import strax, and modules that import it, which takes seconds, too long for --help

log = logging.getLogger("amstrax.amstraxer")


@dataclass(frozen=True)
class ProcessingOptions:
    """Data to make of a run, and how: the options of `parse_args`, see the help there.

    Without targets all raw data is made. ``run_document`` is the option ``--testing_rundoc``.
    Without ``waits``, a run that has not ended, or that another process writes, raises `Postponed`.
    """

    targets: tuple[str, ...] = ()
    context: str | None = None
    detector: str | None = None
    output_folder: str | Path | None = None
    live_data_dir: str | Path | None = None
    allow_incomplete: bool = False
    config_kwargs: Mapping[str, Any] = field(default_factory=dict)
    context_kwargs: Mapping[str, Any] = field(default_factory=dict)
    corrections_version: str | None = None
    reconstruction: str | tuple[str, ...] = ()
    run_document: Mapping[str, Any] | None = None
    from_scratch: bool = False
    build_lowlevel: bool = False
    timeout: float = 300
    workers: int = 1
    progress: bool | None = None
    waits: bool = True

    @classmethod
    def of(cls, args: argparse.Namespace) -> Self:
        """Return the options from those of a command; missing ones have their defaults."""
        targets = (args.target,) if isinstance(args.target, str) else tuple(args.target or ())
        document = getattr(args, "testing_rundoc", None)
        return base.filled(cls, args, targets=targets, run_document=document)


def add_runs(parser: argparse.ArgumentParser) -> None:
    """Add the runs to process: ``run_id``, and ``more_runs``."""
    parser.add_argument(
        "run_id", metavar="RUN_ID", type=base.run_id, help="run to process, as 006724"
    )
    parser.add_argument(
        "more_runs",
        nargs="*",
        default=[],
        metavar="RUN_ID",
        type=base.run_id,
        help="more runs, each processed by itself: one that fails, or crashes, does not stop the "
        "others",
    )


def parse_args(argv: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    """Parse `argv` (by default the command line) into options; exit with 2 on invalid ones."""
    parser = argparse.ArgumentParser(prog=prog, description="Process runs with amstrax")
    add_runs(parser)
    base.add_target(
        parser, "folder to write to (default: ./strax_data, for xams_little ./amstrax_data)"
    )
    parser.add_argument(
        "--testing_rundoc",
        type=base.run_document,
        metavar="JSON",
        help="run document to use, or a file with it, instead of the run database's",
    )
    base.add(parser, "--context_kwargs")
    parser.add_argument(
        "--from_scratch",
        action="store_true",
        help="make everything above raw data again; stored data is replaced once the new data is "
        "complete. With --build_lowlevel: the raw data too",
    )
    parser.add_argument(
        "--build_lowlevel", action="store_true", help="make data that the context forbids to make"
    )
    base.add_seconds(
        parser,
        "--timeout",
        ProcessingOptions.timeout,
        "give up when a run that has not ended gets no new live data for this long",
    )
    base.add_console(parser)
    args = base.parse(parser, "amstraxer", argv)
    if args.more_runs and args.testing_rundoc is not None:
        parser.error("--testing_rundoc is the document of one run: name one run")
    return args


@base.main_of(parse_args, ("0",))
def main(args: argparse.Namespace) -> int:
    """Process runs and return the exit status."""
    if args.more_runs:
        from amstrax.auto_processing import supervision  # only this needs it

        return supervision.supervise("amstrax.auto_processing.amstraxer", args, log)
    from amstrax.auto_processing import job

    def work(stop: Stop) -> None:
        process(args.run_id, ProcessingOptions.of(args), stop)

    where = args.output_folder or "the output folder"
    return job.run_strax_tool(args, log, work, f"run {args.run_id}", where, "--output_folder")


def process_one(args: argparse.Namespace, stop: Stop) -> None:
    """Process one of several runs, see `amstrax.auto_processing.supervision.supervise`."""
    try:
        process(args.run_id, ProcessingOptions.of(args), stop)
    except AlreadyAtWork as error:
        if args.waits:
            raise
        raise Postponed(str(error)) from error


def process(
    run_id: str,
    options: ProcessingOptions,
    stop: Stop,
    tell: Callable[[str, str], None] = lambda target, state: None,
) -> "strax.Context":
    """Make and store the targets of a run, and return the context that has them.

    It ends with an error when `stop` is set.

    `tell` is called with each target and ``stored`` when it is stored already, else with
    ``running`` before it is made.

    Raises
    ------
    UsageError
        When an option is invalid.
    Postponed
        Without ``options.waits``, when the run would have to be waited for.
    AmstraxError
        When the run cannot be processed; incomplete data is removed.
    """
    from amstrax.auto_processing import job
    from amstrax.processing.compiled import remove_damaged_cache

    began = time.monotonic()
    job.retain_freed_memory()
    st, options = make_context(options, run_id)
    st.run_values.check_options(run_id)
    remove_damaged_cache()
    output = _make_output_folder(st)
    scratch: contextlib.AbstractContextManager = contextlib.nullcontext()
    if options.from_scratch:
        scratch = job.from_scratch(st, run_id, output, remake_raw=options.build_lowlevel)
    with job.existing_objects_frozen(), job.sole_worker(output, run_id), scratch:
        for target in options.targets:
            stop.check()
            if st.is_stored(run_id, target):
                log.info("%s of run %s is stored already", target, run_id)
                tell(target, "stored")
                continue
            tell(target, "running")
            try:
                _make(st, run_id, target, options, stop)
            except BaseException:
                job.remove_incomplete(output, run_id)
                raise
            if not st.is_stored(run_id, target):
                raise AmstraxError(
                    f"{target} of run {run_id} was made but is not stored in {output}: check "
                    "that the context's storage accepts this data type"
                )
    seconds = time.monotonic() - began
    log.info("run %s done in %.1f s: %s", run_id, seconds, ", ".join(options.targets))
    return st


def make_context(
    options: ProcessingOptions, run_id: str
) -> tuple["strax.Context", ProcessingOptions]:
    """Return the context for `options`, and these with its name and the targets filled in.

    ``options.run_document`` is that of `run_id`. Raises UsageError for unknown targets, options and
    arguments of the context.
    """
    from amstrax import contexts

    kwargs, config = to_dict_tuple(options.context_kwargs), to_dict_tuple(options.config_kwargs)
    names = (options.context,) if options.context else CONTEXTS
    if options.reconstruction:
        kwargs["reconstruction"] = options.reconstruction
    variant = {name: kwargs.get(name) for name in ("release", "reconstruction")}
    name, targets, _ = contexts.find_context(options.targets, names, config, **variant)
    if options.output_folder is not None:
        kwargs["output_folder"] = str(options.output_folder)
    if options.corrections_version is not None:
        kwargs["corrections_version"] = options.corrections_version
    try:
        st = getattr(contexts, name)(**kwargs)
    except TypeError as error:
        raise UsageError(f"--context_kwargs for {name}: {error}") from error
    if options.live_data_dir is not None:
        config["live_data_dir"] = str(options.live_data_dir)
    if options.allow_incomplete:
        config["allow_incomplete"] = True
    st.set_config(config)
    if options.run_document is not None:
        st.set_run_document(run_id, options.run_document)
    if not set(targets) <= st._plugin_class_registry.keys():
        detector = options.detector or CONTEXT_DETECTORS[name]
        contexts.add_truth(st, name, run_id, detector, options.run_document)
    if options.build_lowlevel:
        st.set_context_config({"forbid_creation_of": ()})
    return st, replace(options, context=name, targets=targets)


def to_dict_tuple(res: Mapping[str, Any]) -> dict[str, Any]:
    """Return `res` with lists turned into tuples, at every depth, as plugins expect them."""
    return strict_json.with_tuples(res)


def _make_output_folder(st: "strax.Context") -> Path:
    """Return the folder to write to; make it and check that it is writable."""
    import strax

    for frontend in reversed(st.storage):
        if isinstance(frontend, strax.DataDirectory) and not frontend.readonly:
            folder = Path(frontend.path)
            break
    else:
        raise UsageError("--context_kwargs: storage has no folder to write to")
    # strax silently skips a folder that it cannot write to
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(error.errno, f"cannot write to {folder}: {error.strerror}") from error
    return folder


def _make(
    st: "strax.Context", run_id: str, target: str, options: ProcessingOptions, stop: Stop
) -> None:
    from amstrax import contexts
    from amstrax.auto_processing import job
    from amstrax.strax_ext.plugin import Processor

    source = job.Source(st, run_id, target)
    if source.needs_live_data:
        contexts.context_for_daq_reader(
            st,
            run_id,
            detector=options.detector or CONTEXT_DETECTORS[str(options.context)],
            run_doc=options.run_document,
            # Stored raw data stays; only missing types are made
            check_exists=False,
        )
        source.meter_reader(options.timeout, stop)
        if not options.waits and source.time_range()[1] is None:
            raise Postponed("its live data has not ended")
    elif not source.stored:
        raise RunNotFound(
            f"no stored or live data to make {target} of run {run_id} from: check both"
        )
    show_bar = sys.stderr.isatty() if options.progress is None else options.progress
    with job.Progress(f"{target} of run {run_id}", *source.time_range(), show_bar) as progress:
        source.on_raw_data = progress.add_raw
        chunks = st.get_iter(
            run_id,
            target,
            save=(target,),
            max_workers=options.workers,
            processor=Processor,
            progress_bar=False,
        )
        try:
            for chunk in chunks:
                stop.check()
                source.report_stored_until(chunk.end)
                progress.add_chunk(chunk.end, len(chunk))
        except BaseException:
            # strax closes its files, and raises its own exception
            with contextlib.suppress(Exception):
                chunks.close()
            raise
        log.info("%s", progress.totals())


if __name__ == "__main__":
    sys.exit(main())

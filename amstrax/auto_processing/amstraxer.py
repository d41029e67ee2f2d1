#!/usr/bin/env python
"""Process a single run with amstrax: from live data, or what is stored of it, to any data type.

Usable as ``amstraxer``, ``amstrax process``, ``python -m amstrax.auto_processing.amstraxer``, and
as a file. Exit status: 0 when the data is made or already there, 1 on failure, 2 on wrong use.
"""

import argparse
import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__" and not __package__:
    # Run as a file: import the amstrax that this file belongs to
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import tempfile

from amstrax.commands import base
from amstrax.commands.base import CONTEXTS
from amstrax.exceptions import AmstraxError, RunNotFound, UsageError, did_you_mean
from amstrax.rundb.leases import Stop
from amstrax.settings import CONTEXT_DETECTORS, DETECTORS
from amstrax.strax_ext import memory

if TYPE_CHECKING:
    import strax

log = logging.getLogger("amstrax.amstraxer")


def parse_args(argv: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    """Parse `argv` (by default the command line) into options; exit with 2 on invalid ones."""
    parser = argparse.ArgumentParser(prog=prog, description="Process a single run with amstrax")
    parser.add_argument(
        "run_id", metavar="RUN_ID", type=base.run_id, help="run to process, as 006724"
    )
    parser.add_argument(
        "--target",
        nargs="+",
        metavar="TYPE",
        help="data types to make, one after the other (default: the raw data of the context)",
    )
    parser.add_argument(
        "--context",
        type=base.context_name,
        help=f"one of {', '.join(CONTEXTS)} (default: the first that makes the targets)",
    )
    parser.add_argument(
        "--detector",
        choices=DETECTORS,
        help="detector whose run database knows the run (default: that of the context)",
    )
    parser.add_argument(
        "--output_folder",
        type=Path,
        help="folder to write to (default: ./strax_data, for xams_little ./amstrax_data)",
    )
    base.add_input(parser)
    base.add_allow_incomplete(parser)
    parser.add_argument(
        "--testing_rundoc",
        type=base.run_document,
        metavar="JSON",
        help="run document to use, or a file with it, instead of the run database's",
    )
    parser.add_argument(
        "--corrections_version",
        metavar="VERSION",
        help="version of the corrections, as v1, ONLINE or v1@branch (default: none)",
    )
    parser.add_argument(
        "--context_kwargs",
        type=base.json_object,
        default={},
        metavar="JSON",
        help="arguments for the context, as '{\"init_rundb\": false}'",
    )
    parser.add_argument(
        "--from_scratch",
        action="store_true",
        help="make everything above raw data again, whatever is stored of it; what is stored is "
        "replaced once the new data is complete. With --build_lowlevel: the raw data too",
    )
    parser.add_argument(
        "--build_lowlevel",
        action="store_true",
        help="make data that the context forbids to make",
    )
    parser.add_argument(
        "--timeout",
        type=base.positive_number,
        default=300,
        metavar="SECONDS",
        help="give up when a run that has not ended gets no new live data for this long "
        "(default: %(default)s)",
    )
    base.add_workers(parser)
    base.add_console(parser)
    return base.parse(parser, "amstraxer", argv)


@base.main_of(parse_args, ("0",))
def main(args: argparse.Namespace) -> int:
    """Process a run and return the exit status."""
    from amstrax.auto_processing import job

    return job.run_strax_tool(
        args,
        log,
        lambda stop: process(args, stop),
        f"run {args.run_id}",
        args.output_folder or "the output folder",
        "--output_folder",
    )


def _ignore(_target: str, _state: str) -> None:
    pass


def process(
    args: argparse.Namespace, stop: Stop, tell: Callable[[str, str], None] = _ignore
) -> None:
    """Make the targets that `args` ask for.

    Parameters
    ----------
    args
        As from `parse_args`.
    stop
        When this is set, the work ends with an error.
    tell
        Called with each target and ``stored`` when it is stored already, else with ``running``
        before it is made.

    Raises
    ------
    UsageError
        When an option is invalid.
    AmstraxError
        When the run cannot be processed; what was written then is removed.
    """
    from amstrax.auto_processing import job
    from amstrax.auto_processing.job import Scratch
    from amstrax.processing.compiled import remove_damaged_cache

    began = time.monotonic()
    memory.retain_freed_memory()
    st, targets = make_context(args)
    remove_damaged_cache()
    output = _output_folder(st)
    _check_writable(output)
    with memory.existing_objects_frozen(), job.sole_worker(output, args.run_id):
        if args.from_scratch:
            with Scratch(st, args.run_id, output, remake_raw=args.build_lowlevel):
                _make(st, args, targets, output, stop, tell)
        else:
            _make(st, args, targets, output, stop, tell)
    log.info("run %s done in %.1f s: %s", args.run_id, time.monotonic() - began, ", ".join(targets))


def make_context(args: argparse.Namespace) -> tuple["strax.Context", tuple[str, ...]]:
    """Return the context that `args` ask for, and the targets; ``args.context`` is set to its name.

    Raises
    ------
    UsageError
        For unknown targets, options and arguments of the context.
    """
    import strax

    from amstrax import contexts

    kwargs = to_dict_tuple(args.context_kwargs)
    if args.output_folder is not None:
        kwargs["output_folder"] = str(args.output_folder)
    if args.corrections_version is not None:
        kwargs["corrections_version"] = args.corrections_version
    version = kwargs.pop("corrections_version", None)
    tried: dict[str, list[str]] = {}
    known: list[str] = []
    for name in (args.context,) if args.context else CONTEXTS:
        try:
            st = getattr(contexts, name)(**kwargs)
        except TypeError as error:
            raise UsageError(f"--context_kwargs for {name}: {error}") from error
        targets = strax.to_str_tuple(args.target or contexts.raw_data_types(st))
        tried[name] = [d for d in targets if d not in st._plugin_class_registry]
        if not tried[name]:
            break
        known += st._plugin_class_registry
    else:
        wrong = min(tried.values(), key=len)[0]
        hint = did_you_mean(wrong, known)
        if args.context:
            raise UsageError(f"--target {wrong}: context {args.context} does not make it{hint}")
        what = f"all of {', '.join(targets)}" if len(targets) > 1 else "it"
        raise UsageError(f"--target {wrong}: no context makes {what}{hint}")
    args.context = name
    if version is not None:
        st = getattr(contexts, name)(**kwargs, corrections_version=version)
    _set_config(st, args)
    if args.build_lowlevel:
        st.set_context_config({"forbid_creation_of": ()})
    return st, targets


def to_dict_tuple(res: dict) -> dict:
    """Return `res` with lists turned into tuples, at every depth, as plugins expect them."""

    def convert(value: Any) -> Any:
        if isinstance(value, dict):
            return to_dict_tuple(value)
        if isinstance(value, (list, tuple)):
            return tuple(convert(item) for item in value)
        return value

    return {key: convert(value) for key, value in res.items()}


def _set_config(st: "strax.Context", args: argparse.Namespace) -> None:
    config = to_dict_tuple(args.config_kwargs)
    plugins = st._plugin_class_registry.values()
    known = {option for plugin in plugins for option in plugin.takes_config}
    known.update(st.context_config["free_options"])
    for option in config:
        if option not in known:
            raise UsageError(
                f"--config_kwargs: no plugin takes the option {option!r}"
                f"{did_you_mean(option, known)}"
            )
    if args.live_data_dir is not None:
        config["live_data_dir"] = str(args.live_data_dir)
    if args.allow_incomplete:
        config["allow_incomplete"] = True
    st.set_config(config)


def _output_folder(st: "strax.Context") -> Path:
    import strax

    for frontend in reversed(st.storage):
        if isinstance(frontend, strax.DataDirectory) and not frontend.readonly:
            return Path(frontend.path)
    raise UsageError("--context_kwargs: storage has no folder to write to")


def _check_writable(folder: Path) -> None:
    """Try to write, since strax leaves out what it cannot write without a word."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(error.errno, f"cannot write to {folder}: {error.strerror}") from error


def _make(
    st: "strax.Context",
    args: argparse.Namespace,
    targets: Iterable[str],
    output: Path,
    stop: Stop,
    tell: Callable[[str, str], None],
) -> None:
    """Make and store targets that are not stored."""
    from amstrax.auto_processing import job

    for target in targets:
        stop.check()
        if st.is_stored(args.run_id, target):
            log.info("%s of run %s is there already", target, args.run_id)
            tell(target, "stored")
            continue
        tell(target, "running")
        try:
            _make_one(st, args, target, stop)
        except BaseException:
            job.remove_incomplete(output, args.run_id)
            raise
        if not st.is_stored(args.run_id, target):
            raise AmstraxError(
                f"{target} of run {args.run_id} was made but is not stored in {output}: does the "
                "context's storage take this data type?"
            )


def _make_one(st: "strax.Context", args: argparse.Namespace, target: str, stop: Stop) -> None:
    from amstrax.auto_processing import job
    from amstrax.auto_processing.job import Progress
    from amstrax.strax_ext.plugin import Processor

    source = job.Source(st, args.run_id, target)
    if source.needs_live_data:
        _set_up_reader(st, args)
        source.meter_reader(args.timeout, stop)
    elif not source.stored:
        raise RunNotFound(f"there is nothing that {target} of run {args.run_id} can be made from")
    show_bar = sys.stderr.isatty() if args.progress is None else args.progress
    what = f"{target} of run {args.run_id}"
    start, duration = source.time_range()
    with Progress(what, start, duration, show_bar) as progress:
        source.on_raw_data = progress.add_raw
        chunks = st.get_iter(
            args.run_id,
            target,
            save=(target,),
            max_workers=args.workers,
            processor=Processor,
            progress_bar=False,
        )
        try:
            for chunk in chunks:
                stop.check()
                source.report_stored_until(chunk.end)
                progress.add_chunk(chunk.end, len(chunk))
        except BaseException:
            # strax then closes what it writes, and raises an exception of its own
            with contextlib.suppress(Exception):
                chunks.close()
            raise
        log.info("%s", progress.totals())


def _set_up_reader(st: "strax.Context", args: argparse.Namespace) -> None:
    from amstrax import contexts

    contexts.context_for_daq_reader(
        st,
        args.run_id,
        detector=args.detector or CONTEXT_DETECTORS[args.context],
        run_doc=args.testing_rundoc,
        # Raw data that is stored stays; if some of it is missing, only that is made
        check_exists=False,
    )


if __name__ == "__main__":
    sys.exit(main())

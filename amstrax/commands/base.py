"""Shared code of all commands: options, ``main``, logging, signals, exit status, memory.

Types of options raise `argparse.ArgumentTypeError` (exit status 2) for invalid text. This module
imports nothing slow: ``--help`` must answer at once. Commands that run strax use
`amstrax.auto_processing.job.run_strax_tool`.
"""

import argparse
import atexit
import contextlib
import ctypes
import errno
import functools
import gc
import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from amstrax import _legacy, rundoc, settings, strict_json
from amstrax.auto_processing.engines.base import ENGINES
from amstrax.exceptions import (
    AmstraxError,
    InvalidOption,
    InvalidRunDocument,
    Stopped,
    UsageError,
    did_you_mean,
)
from amstrax.rundb.leases import Stop
from amstrax.settings import CONTEXT_DETECTORS, DETECTORS

CONTEXTS = tuple(CONTEXT_DETECTORS)
#: Exit status of a job that leaves its run to another process (EX_TEMPFAIL of sysexits.h)
LEFT_TO_ANOTHER = 75

#: Options of ``mallopt``, from malloc.h of glibc
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8

T = TypeVar("T")


def main_of(
    parse_args: Callable[[Sequence[str] | None, str | None], argparse.Namespace],
    required: Sequence[str] | None = None,
) -> Callable[[Callable[[argparse.Namespace], int]], Callable[..., int]]:
    """Return a decorator that turns ``main(args)`` into ``main(args=None, prog=None)``.

    The arguments are a namespace of options, a list of words, or None for the command line; and the
    name of the command in its help. With `required`, words for the required arguments, options that
    a namespace lacks get their defaults.
    """

    def decorate(main: Callable[[argparse.Namespace], int]) -> Callable[..., int]:
        @functools.wraps(main)
        def call(
            args: argparse.Namespace | Sequence[str] | None = None, prog: str | None = None
        ) -> int:
            if args is None or isinstance(args, Sequence):
                args = parse_args(args, prog)
            elif required is not None:
                args = _with_defaults(args, parse_args(required, prog))
            try:
                return main(args)
            except RuntimeError as error:
                # Raised by numba during imports, before logging is set up
                if "no locator available" not in str(error):
                    raise
                print(
                    "numba cannot keep compiled functions anywhere: set NUMBA_CACHE_DIR to a "
                    "writable folder",
                    file=sys.stderr,
                )
                return 1

        # Documentation shows the parameters of call, not of main
        del call.__wrapped__  # type: ignore[attr-defined]
        return call

    return decorate


def _with_defaults(args: Any, defaults: argparse.Namespace) -> argparse.Namespace:
    """Return the attributes of `args`, with `defaults` for attributes that are missing or None."""
    for name in vars(args) if isinstance(args, argparse.Namespace) else ():
        if name not in defaults:
            raise UsageError(f"no option {name!r}{did_you_mean(name, vars(defaults))}")
    values = {name: getattr(args, name, None) for name in vars(defaults)}
    given = {name: value for name, value in values.items() if value is not None}
    return argparse.Namespace(**vars(defaults) | given)


def filled(cls: type[T], args: argparse.Namespace, **values: Any) -> T:
    """Return a dataclass from `values`, else the options in `args`, else its defaults."""
    given = {f.name: getattr(args, f.name) for f in fields(cls) if f.name in args}  # type: ignore
    return cls(**given | values)


def parse(
    parser: argparse.ArgumentParser, tool: str, argv: Sequence[str] | None
) -> argparse.Namespace:
    """Parse `argv` into options; options of amstrax 2 are translated, or end with status 2."""
    words = list(sys.argv[1:] if argv is None else argv)
    if _legacy.OPTIONS[tool].keys() & {word.partition("=")[0] for word in words}:
        try:
            words = _legacy.options(tool, words)
        except _legacy.OldOption as error:
            parser.error(str(error))
    return parser.parse_args(words)


def run_id(text: str) -> str:
    """Return a run id of six digits."""
    try:
        return rundoc.check_run_name(text.strip()).zfill(6)
    except InvalidRunDocument:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no run id: give a number, as 006724"
        ) from None


def _one_of(what: str, names: Collection[str]) -> Callable[[str], str]:
    """Return the type of an option that is one of some names."""

    def check(text: str) -> str:
        if text not in names:
            raise argparse.ArgumentTypeError(f"no {what} {text!r}{did_you_mean(text, names)}")
        return text

    return check


context_name, engine_name = _one_of("context", CONTEXTS), _one_of("engine", ENGINES)


def run_document(text: str) -> dict[str, Any]:
    """Return the run document in a JSON text or file."""
    try:
        return rundoc.from_json(text)
    except InvalidRunDocument as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def options(text: str) -> dict[str, Any]:
    """Return the options in a JSON object or file."""
    if text.lstrip().startswith("{"):
        return json_object(text)
    try:
        content = strict_json.read_text(text, InvalidOption)
    except InvalidOption as error:
        raise argparse.ArgumentTypeError(
            f"no JSON object, as '{{\"elife\": 25000}}', and no file with one: {error}"
        ) from None
    return json_object(content, strict_json.place_of(text))


def json_object(text: str, place: str = "") -> dict[str, Any]:
    """Return a JSON object; `place` is its file, if any."""
    place = place or strict_json.short(text)
    try:
        value = strict_json.parse(text, place, InvalidOption)
    except InvalidOption as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{place} is not a JSON object, as '{{\"elife\": 25000}}'")
    return value


def positive_number(text: str, type: Callable[[str], Any] = float, what: str = "number") -> Any:
    """Return a number above 0."""
    with contextlib.suppress(ValueError):
        if type(text) > 0:
            return type(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a positive {what}")


def positive_integer(text: str) -> int:
    """Return an integer above 0."""
    return positive_number(text, int, "whole number")


def add_number(
    parser: argparse.ArgumentParser,
    name: str,
    default: float,
    metavar: str,
    text: str,
    type: Callable[[str], float] = float,
    **more: Any,
) -> None:
    """Add an option for a number, with its default in the help."""
    text = f"{text} (default: %(default)s)"
    parser.add_argument(name, type=type, default=default, metavar=metavar, help=text, **more)


def add_seconds(
    parser: argparse.ArgumentParser, name: str, default: float, text: str, **more: Any
) -> None:
    """Add an option for a time in seconds, with its default in the help."""
    add_number(parser, name, default, "SECONDS", text, positive_number, **more)


def add_count(
    parser: argparse.ArgumentParser,
    name: str,
    default: int,
    text: str,
    metavar: str = "N",
    **more: Any,
) -> None:
    """Add an option for a positive integer, with its default in the help."""
    add_number(parser, name, default, metavar, text, positive_integer, **more)


def parts(text: str) -> tuple[str, ...]:
    """Return the names in a list with commas."""
    return tuple(part.strip() for part in text.split(","))


#: Options that several commands have: name -> arguments of ``add_argument``, see `add`
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "--detector": dict(
        choices=DETECTORS, default="xams", help="detector of the runs (default: xams)"
    ),
    "--live_data_dir": dict(
        type=Path,
        metavar="FOLDER",
        help="folder with the runs' folders of live data (default: from settings or run document)",
    ),
    "--config_kwargs": dict(
        type=options,
        default={},
        metavar="JSON",
        help="options for the plugins, as '{\"elife\": 25000}', or a file with them",
    ),
    "--context_kwargs": dict(
        type=json_object,
        default={},
        metavar="JSON",
        help="arguments for the context, as '{\"init_rundb\": false}'",
    ),
    "--allow_incomplete": dict(
        action="store_true",
        help="process ended runs although live data is missing; metadata and run database then "
        "list what is missing",
    ),
    "--corrections_version": dict(
        metavar="VERSION",
        help="version of the corrections, as v1 or ONLINE (default: that of the context)",
    ),
    "--reconstruction": dict(
        type=parts,
        default=(),
        metavar="PARTS",
        help="lab, improved, or parts of the improved reconstruction, as hits (default: lab)",
    ),
    "--engine": dict(
        type=engine_name,
        help=f"where jobs run, one of {', '.join(ENGINES)} (default: the setting AMSTRAX_ENGINE, "
        "or else local)",
    ),
    "--queue": dict(help="queue, partition or job category (default: the setting AMSTRAX_QUEUE)"),
    "--mem": dict(
        type=positive_integer,
        metavar="MB",
        help="memory of a job (default: the setting AMSTRAX_JOB_MEMORY, or else 2000)",
    ),
    "--yields": dict(
        default="nest",
        help="model of photon and electron yields: nest (nestpy), or simple, which needs no nestpy "
        "(default: %(default)s)",
    ),
    "--trends": dict(
        action="store_true",
        help="after a run is done, keep a row of its rates, baselines, gains and so on in the run "
        "database, see `amstrax trends`; if that fails, the run is done all the same",
    ),
    "--workers": dict(
        type=positive_integer,
        default=1,
        metavar="N",
        help="number of cores to use (default: %(default)s)",
    ),
    "--progress": dict(
        action=argparse.BooleanOptionalAction,
        help="show a progress bar (default: in a terminal) instead of log lines",
    ),
    "--debug": dict(action="store_true", help="log more, and errors in full"),
}


def add(parser: argparse.ArgumentParser, *names: str, **changes: Any) -> None:
    """Add options of `OPTIONS`; `changes` are other arguments of ``add_argument`` for them."""
    for name in names:
        parser.add_argument(name, **{**OPTIONS[name], **changes})


def add_context(parser: argparse.ArgumentParser, made: str) -> None:
    """Add the option for the context, by default the first that makes `made`."""
    parser.add_argument(
        "--context",
        type=context_name,
        help=f"one of {', '.join(CONTEXTS)} (default: the first that makes the {made})",
    )


#: Help on the folder for data of a run of the run database
LAB_FOLDERS = (
    "folder for all data (default: those of the settings, as XAMS_RAW_DATA for raw data and "
    "XAMS_PROCESSED_DATA for the rest)"
)


def add_target(parser: argparse.ArgumentParser, output: str = LAB_FOLDERS) -> None:
    """Add the options for the data types to make; `output` is the help on the output folder."""
    parser.add_argument(
        "--target",
        nargs="+",
        metavar="TYPE",
        help="data types to make (default: the raw data of the context)",
    )
    add_context(parser, "targets")
    text = "detector whose run database knows the runs (default: that of the context)"
    add(parser, "--detector", default=None, help=text)
    add_data(parser, output)
    add(parser, "--allow_incomplete", "--corrections_version", "--reconstruction", "--workers")


def add_data(parser: argparse.ArgumentParser, output: str = LAB_FOLDERS) -> None:
    """Add the options for the folders of data, and for plugin options."""
    parser.add_argument("--output_folder", type=Path, metavar="FOLDER", help=output)
    add(parser, "--live_data_dir", "--config_kwargs")


def add_work(parser: argparse.ArgumentParser) -> None:
    """Add the options for jobs: data types, resources and engine."""
    add_target(parser)
    add_trends(parser)
    add_jobs(parser)
    add_console(parser)


def add_jobs(parser: argparse.ArgumentParser) -> None:
    """Add the options for the resources of jobs, and for their engine and folders."""
    add_engine(parser)
    add(parser, "--queue", "--mem")


def add_engine(parser: argparse.ArgumentParser) -> None:
    """Add the options for the engine of jobs, and for the folders of their scripts and logs."""
    add(parser, "--engine")
    for what, name in (("scripts", "job"), ("logs", "log")):
        setting = f"AMSTRAX_{name.upper()}_FOLDER"
        default = settings.BATCH[setting][1]
        with contextlib.suppress(InvalidOption):  # Of the settings, which fails later
            default = settings.batch(setting)
        parser.add_argument(
            f"--{name}_folder",
            type=Path,
            default=Path(default),
            metavar="FOLDER",
            help=f"folder for the {what} of jobs (default: the setting {setting}, or else "
            f"./{name}s)",
        )


def trend_limits(text: str) -> dict[str, Any]:
    """Return limits on quantities of trends, from NAME=LOW:HIGH, a JSON object or its file."""
    from amstrax.calibration.trends import check_limits  # slow, and seldom needed

    found = re.fullmatch(r"\s*(\w+)\s*=([^:]*):([^:]*)", text)
    try:
        if found is None:
            return check_limits(options(text))
        ends = [float(end) if end.strip() else None for end in found.groups()[1:]]
        return check_limits({found[1]: ends})
    except InvalidOption as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r}: write NAME=LOW:HIGH with numbers, as s1_rate=1:20, or s1_rate=1:"
        ) from None


class _AddItems(argparse.Action):
    """Adds the items of a dictionary to those of the same option before."""

    def __call__(self, _parser: Any, args: argparse.Namespace, values: Any, _name: Any = None):
        setattr(args, self.dest, {**getattr(args, self.dest), **values})


def add_trend_limits(parser: argparse.ArgumentParser, name: str) -> None:
    """Add the option `name` for limits on quantities of trends."""
    parser.add_argument(
        name,
        action=_AddItems,
        type=trend_limits,
        default={},
        metavar="LIMIT",
        help="flag runs beyond this limit of a quantity of trends: s1_rate=1:20, baseline_3=15000: "
        'for one end, or a JSON file as {"s1_rate": [1, 20]}. Can be given more than once',
    )


def add_trends(parser: argparse.ArgumentParser) -> None:
    """Add the options for a row of `amstrax trends` of each run."""
    add(parser, "--trends")
    add_trend_limits(parser, "--trend_limit")


def add_live_runs(parser: argparse.ArgumentParser, done: str, default: str, pause: float) -> None:
    """Add the common options of the commands by which live data is copied or deleted.

    `done` is ``copied`` or ``deleted``, `default` describes the runs without ``--run_id``, `pause`
    is the default pause [s].
    """
    add(parser, "--detector")
    parser.add_argument(
        "--run_id",
        nargs="+",
        metavar="RUN_ID",
        type=run_id,
        help=f"only these runs (default: {default})",
    )
    parser.add_argument(
        "--live_data",
        nargs="+",
        type=Path,
        metavar="FOLDER",
        help=f"folders of live data that may be {done} from (default: setting XAMS_LIVE_DATA or "
        "XAMSL_LIVE_DATA)",
    )
    parser.add_argument(
        "--max_runs", type=positive_integer, metavar="N", help="largest number of runs in a round"
    )
    parser.add_argument("--dry_run", action="store_true", help=f"only report what would be {done}")
    parser.add_argument(
        "--loop",
        "--loop_infinite",
        action="store_true",
        help="repeat until stopped (SIGTERM, SIGHUP, Ctrl-C)",
    )
    add_seconds(parser, "--pause", pause, "time between two rounds")
    parser.add_argument(
        "--log_folder",
        type=Path,
        metavar="FOLDER",
        help="folder for the log, with a folder for each day (default: setting "
        "AMSTRAX_LOG_FOLDER, or ./logs)",
    )
    add_console(parser)


def add_console(parser: argparse.ArgumentParser, debug: Any = False) -> None:
    """Add the options for progress and log of a command; `debug` is the default of ``--debug``."""
    add(parser, "--progress")
    add(parser, "--debug", default=debug)


def shows_progress(progress: bool | None) -> bool:
    """Return whether to show a progress bar; for None, only in a terminal."""
    return sys.stderr.isatty() if progress is None else progress


@contextlib.contextmanager
def stop_on_signals(stop: Stop) -> Iterator[None]:
    """Set `stop` at SIGTERM, SIGINT or SIGHUP; a second SIGTERM or SIGINT has its usual effect.

    A second SIGHUP does not: terminals send several, and systemd sends one right after SIGTERM.
    SIGHUP stays ignored if the process was started so, as by nohup. Outside the main thread, which
    alone handles signals, this does nothing. Inside, log lines do not disturb progress bars.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Any] = {}

    def restore(*numbers: int) -> None:
        for number in before.keys() & numbers:
            signal.signal(number, before.pop(number))

    def handle(number: int, _frame: Any) -> None:
        if number != signal.SIGHUP:
            restore(signal.SIGTERM, signal.SIGINT)
        is_news = number != signal.SIGHUP or not stop.reason
        stop.end(signal.Signals(number).name if is_news else stop.reason)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
            continue
        before[number] = signal.signal(number, handle)
    # Takes 0.1 s, too long for --help
    from tqdm.contrib.logging import logging_redirect_tqdm

    try:
        with logging_redirect_tqdm():
            yield
    finally:
        restore(*before)


#: Back-off after the first failure of a run, and the longest one [s]
FIRST_BACKOFF, LONGEST_BACKOFF = 60.0, 86400.0
#: Longest pause after failed rounds, which grows with each failure [s]
LONGEST_WAIT = 600.0


class RetryBackoff:
    """Back-off of runs that have failed: each further failure doubles the time until a retry."""

    def __init__(self) -> None:
        self._until: dict[str, tuple[float, float]] = {}

    def note(self, run_id: str, failed: bool) -> None:
        """Record a failure of a run, or clear its failures after a success."""
        if not failed:
            self._until.pop(run_id, None)
            return
        _, last = self._until.get(run_id, (0.0, FIRST_BACKOFF / 2))
        pause = min(2 * last, LONGEST_BACKOFF)
        self._until[run_id] = (time.monotonic() + pause, pause)

    def names(self) -> frozenset[str]:
        """Return the names of the runs that are not to be retried yet."""
        now = time.monotonic()
        return frozenset(name for name, (until, _) in list(self._until.items()) if until > now)


def describe_error(error: BaseException) -> str:
    """Return an error as one line; an unexpected one with its type."""
    text = " ".join(str(error).split())
    if isinstance(error, (AmstraxError, OSError)) and text:
        return text
    return f"{type(error).__name__}: {text[:150]} (please report it)"


def is_expected(error: Exception) -> bool:
    """Return whether an error comes from input, data or an unreachable service, not from a bug."""
    from pymongo.errors import PyMongoError  # Takes too long for --help

    return isinstance(error, (AmstraxError, PyMongoError, OSError))


def run_rounds(
    one_round: Callable[[], None],
    pause: float,
    stop: Stop,
    logger: logging.Logger,
    *,
    remark: str = "",
    is_fatal: Callable[[Exception], bool] = lambda error: False,
    after: Callable[[str], None] = lambda trouble: None,
    is_finished: Callable[[], bool] = bool,
    longest_wait: float = LONGEST_WAIT,
) -> None:
    """Run rounds until stopped; each failure doubles the pause before the next round.

    Errors are logged when they begin, with a `remark`, and again when they are over.

    Parameters
    ----------
    pause, longest_wait
        Time between two rounds, and the longest such time after failures [s].
    is_fatal
        Returns whether an error is raised, which ends the loop.
    after
        Called after each round with its error; empty after a success.
    is_finished
        Called after each round; True ends the loop.
    """
    trouble, wait = "", pause
    while True:
        before, trouble = trouble, ""
        try:
            one_round()
        except Stopped:
            return
        except Exception as error:
            if is_fatal(error):
                raise
            trouble = describe_error(error)
            if trouble != before:
                is_known = isinstance(error, (AmstraxError, OSError))
                details = None if is_known else error
                logger.error("%s; trying again%s", trouble, remark, exc_info=details)
        if before and not trouble:
            logger.info("the error is over: continuing")
        wait = min(2 * wait, max(longest_wait, pause)) if trouble else pause
        after(trouble)
        if is_finished() or stop.event.wait(wait):
            return


def repeat(
    one_round: Callable[[], None], args: argparse.Namespace, stop: Stop, logger: logging.Logger
) -> None:
    """Run one round or, with ``args.loop``, a round every ``args.pause`` seconds until stopped.

    `args` has the options of `add_live_runs`; for the other parameters see `run_rounds`.
    """
    if not args.loop:
        one_round()
        stop.check()
        return
    if not stop.event.is_set():
        run_rounds(one_round, args.pause, stop, logger)
    logger.info("ended by %s: %s", stop.reason or "another part", stop.remark)


@functools.cache
def _end_quickly() -> None:
    """Skip the garbage collection at the end of the process, which takes 0.3 s with strax."""
    atexit.register(gc.freeze)


def run_tool(
    args: argparse.Namespace,
    logger: logging.Logger,
    work: Callable[[Stop], str | None],
    what: str,
    folder: object,
    option: str,
    log_name: str | None = None,
    around: Callable[[Stop], contextlib.AbstractContextManager] = contextlib.nullcontext,
) -> int:
    """Do the work of a command, and return its exit status: 0, 1 on failure, 2 on wrong use.

    The work returns text to print, if any; signals set its `Stop`. A failure is logged as one line,
    see `describe_failure`, with ``args.debug`` in full. With `log_name` the log is also in the file
    of this name, in ``args.log_folder`` or the folder of the settings.
    """
    log_to_console(args.debug)
    _end_quickly()
    stop = Stop()
    try:
        if log_name is not None:
            log_folder = args.log_folder or settings.batch("AMSTRAX_LOG_FOLDER")
            log_to_folder(log_folder, log_name)
        with stop_on_signals(stop), around(stop):
            text = work(stop)
        if text is not None:
            with _while_read():
                print(text)
    except Exception as error:
        message = stop.message()
        if not stop.reason:
            message = describe_failure(error, args, what, folder, option)
        logger.error("%s", message, exc_info=args.debug)
        return 2 if isinstance(error, UsageError) else 1
    return 0


def run_subcommand(
    args: argparse.Namespace,
    logger: logging.Logger,
    work: Callable[[], int | None],
) -> int:
    """Do the work of a subcommand that prints, and return its exit status, as `run_tool` does.

    The work returns an exit status, or None for 0. Errors that are not expected are raised.
    """
    log_to_console(args.debug)
    status = None
    try:
        with _while_read():
            status = work()
    except Exception as error:
        if not is_expected(error):
            raise
        logger.error("%s", " ".join(str(error).split()), exc_info=args.debug)
        return 2 if isinstance(error, UsageError) else 1
    return status or 0


@contextlib.contextmanager
def _while_read() -> Iterator[None]:
    """Print within it until the reader of standard output, such as `head`, closes it."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # Write nothing at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


#: Loggers of strax that repeat errors at length; commands report them in one line
_NOISY_LOGGERS = ("strax", "ThreadedMailboxProcessor", "SingleThreadProcessor")
_FORMAT, _TIME_FORMAT = "%(asctime)sZ %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"


def log_to_console(debug: bool) -> None:
    """Log to the error stream, with UTC times; messages of strax only with `debug`."""
    logging.Formatter.converter = time.gmtime
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.INFO,
        format=_FORMAT,
        datefmt=_TIME_FORMAT,
        stream=sys.stderr,
        force=True,
    )
    for name in ("numba", "numexpr", "matplotlib", "pymongo", "paramiko", "sshtunnel"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in _NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.NOTSET if debug else logging.CRITICAL + 1)


def log_to_folder(folder: str | Path, name: str) -> None:
    """Log also to ``FOLDER/YYYY-MM-DD/NAME.log`` (UTC); raise OSError if it is not writable.

    Several processes may log to one file. Call `log_to_console` first.
    """
    handler = DatedFileHandler(settings.expanded(folder).absolute(), name)
    handler.setFormatter(logging.Formatter(_FORMAT, _TIME_FORMAT))
    handler.open(datetime.now(UTC)).close()
    logging.getLogger().addHandler(handler)


class DatedFileHandler(logging.Handler):
    """Handler that writes each line to the file of its day, as of `log_to_folder`.

    Files may be removed or moved meanwhile. If writing fails, as on a full disk, the console gets a
    line and the command continues.
    """

    def __init__(self, folder: Path, name: str):
        super().__init__()
        self._folder = folder
        self._name = name
        self._complained = ""

    def open(self, time: datetime) -> BinaryIO:
        """Open the file for a time; make it if it is missing."""
        day = self._folder / f"{time:%Y-%m-%d}"
        day.mkdir(parents=True, exist_ok=True)
        # One write to the end of the file keeps the lines of several processes whole. The file is
        # opened for each line: lines are few, and files on a network come and go
        return (day / f"{self._name}.log").open("ab", buffering=0)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = f"{self.format(record)}\n".encode("utf-8", "backslashreplace")
            with self.open(datetime.fromtimestamp(record.created, UTC)) as file:
                file.write(line)
            self._complained = ""
        except OSError as error:
            text = f"no log in {self._folder}: {error.strerror or error}"
            if text != self._complained:
                self._complained = text
                sys.stderr.write(f"{text}\n")
        except Exception:
            self.handleError(record)  # as of an argument that does not fit the text


def format_table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of text, the first being the header, as a table with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def size(n_bytes: float | None) -> str:
    """Return a number of bytes in the unit that fits; empty for None."""
    if n_bytes is None:
        return ""
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if n_bytes >= unit:
            return f"{n_bytes / unit:.3g} {name}"
    return f"{n_bytes:.0f} B"


def save_figure(figure: Any, path: Path, **options: Any) -> None:
    """Save a matplotlib figure, atomically; make its folder if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with strict_json.replacing(path) as new:
        figure.savefig(new, **options)


def _option_of(options: object, place: str) -> str | None:
    """Return the option with the path of a file, or of a folder above or below it."""
    file = Path(place).absolute()
    values = [(name, v if isinstance(v, list) else [v]) for name, v in vars(options).items()]
    given = [(name, x.absolute()) for name, v in values for x in v if isinstance(x, Path)]
    found = [name for name, path in given if file.is_relative_to(path)]
    found += [name for name, path in given if path.is_relative_to(file)]
    return f"--{found[0]}" if found else None


def describe_failure(
    error: Exception, options: object, what: str, folder: object, option: str
) -> str:
    """Return one line with failure, place and remedy.

    `what` is the subject of the work, such as ``run 006724``. The remedy names the one of `options`
    whose path leads to the file of the error, or else `option`, which names the output `folder`.
    """
    if isinstance(error, AmstraxError):
        return str(error)
    if not isinstance(error, OSError):
        text = " ".join(str(error).split()) or "no message"
        return (
            f"{what} failed with {type(error).__name__}: {text} (--debug shows where; please "
            "report it with that)"
        )
    where = error.filename or folder
    if isinstance(error.filename, str):
        option = _option_of(options, error.filename) or option
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"{what}: no space left to write in {where}. Free some, or set another {option}, and "
            "start again: incomplete data has been removed"
        )
    if error.errno == errno.EFBIG:
        return f"{what}: a file in {where} is too large for the limit set (ulimit -f)"
    return (
        f"{what}: {where}: {error.strerror or error}. Check its permissions, or set another "
        f"{option}"
    )


def libc(function: str, *arguments: int) -> None:
    """Call a function of glibc; do nothing with another C library."""
    with contextlib.suppress(OSError, AttributeError):
        getattr(ctypes.CDLL("libc.so.6"), function)(*arguments)

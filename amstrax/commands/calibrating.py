"""Shared code of the commands that measure corrections: options, data, tables, files."""

import argparse
import json
import logging
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from amstrax import analyses, run_metadata, rundoc, strict_json
from amstrax.auto_processing import amstraxer
from amstrax.auto_processing.amstraxer import ProcessingOptions
from amstrax.commands import base
from amstrax.exceptions import AmstraxError, NoResult, UsageError
from amstrax.rundb.leases import Stop
from amstrax.settings import CONTEXT_DETECTORS

if TYPE_CHECKING:
    import numpy as np
    import strax
    from matplotlib.figure import Figure

    from amstrax.calibration.result import Result
    from amstrax.corrections.lookup import Entry

log = logging.getLogger(__name__)

#: Runs, and what was found in them
Found = tuple[Sequence[str], "Result"]

#: Significant figures of a value in a correction file
_FIGURES = 6
#: Options of a command that do not change what it finds
_NOT_SHOWN = frozenset(
    ("run_ids", "run_documents", "testing_rundoc", "output_folder", "live_data_dir", "workers")
    + ("timeout", "write", "range", "from_run", "to_run", "json", "plot", "progress", "debug")
)


class _Range(argparse.Action):
    """Option with two ends, of which the lower one comes first."""

    def __call__(self, parser, namespace, values, option_string=None):
        low, high = values
        if not low < high:  # nor if one is NaN
            parser.error(f"{option_string} {low:g} {high:g}: give the lower end first")
        setattr(namespace, self.dest, (low, high))


def add_range(
    parser: argparse.ArgumentParser,
    name: str,
    text: str,
    metavar: tuple[str, str] = ("LOW", "HIGH"),
    default: tuple[float, float] | None = None,
) -> None:
    """Add an option with the lower and the upper end of a range."""
    parser.add_argument(
        name, type=float, nargs=2, action=_Range, metavar=metavar, default=default, help=text
    )


def add_options(parser: argparse.ArgumentParser, runs: str, *write_aliases: str) -> None:
    """Add the options of all commands that measure corrections, for `check_options`.

    `runs` is the help on the runs, `write_aliases` are other names of ``--write``.
    """
    add = parser.add_argument
    add("run_ids", nargs="+", metavar="RUN_ID", type=base.run_id, help=runs)
    add(
        "--write",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="correction file, OPTION_VERSION.json, to add an entry to; it may exist. Can be given "
        "more than once",
    )
    for name in write_aliases:
        add(name, dest="write", action="append", type=Path, metavar="FILE", help="as --write")
    for name, which in (("from", "first"), ("to", "last")):
        add(
            f"--{name}-run",
            f"--{name}_run",
            metavar="N",
            type=base.run_id,
            help=f"{which} run that the entry applies to, as 006724; required with --write",
        )
    add("--range", metavar="FIRST-LAST", help="the same in one option, as 006724-006877")
    add("--json", type=Path, metavar="FILE", help="write the results as JSON too")
    add("--force", action="store_true", help="use runs that are of another kind by their documents")
    add("--plot", type=Path, metavar="FILE", help="draw data and fits, as result.png")
    add_data(parser)


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add the options on how data of runs is found, or made."""
    base.add_data(parser, "folder of processed data (default: ./strax_data)")
    parser.add_argument(
        "--testing_rundoc",
        nargs="+",
        default=[],
        metavar="FILE",
        help="run documents to use instead of the run database's, one for each run in the order of "
        "the runs",
    )
    base.add(parser, "--context_kwargs", "--allow_incomplete")
    base.add_seconds(
        parser,
        "--timeout",
        1.0,
        "give up when a run that has not ended gets no new live data for this long",
    )
    base.add(parser, "--workers")
    base.add_console(parser)


def add_events(parser: argparse.ArgumentParser) -> None:
    """Add the options of commands that use events."""
    base.add_context(parser, "data")
    base.add(parser, "--corrections_version", "--reconstruction")


def check_options(
    parser: argparse.ArgumentParser, args: argparse.Namespace, run_ids: Sequence[str] | None = None
) -> argparse.Namespace:
    """Check the options of `add_options`, and return them with ``range`` and ``run_documents``.

    `run_ids` are all runs of the command, by default ``args.run_ids``. Exits with 2 on wrong use.
    """
    run_ids = args.run_ids if run_ids is None else run_ids
    ends = args.from_run, args.to_run
    if any(ends):
        if args.range or not all(ends):
            parser.error("give --from-run and --to-run together, and --range only instead of both")
        args.range = "-".join(dict.fromkeys(ends))
    if bool(args.write) != (args.range is not None):
        parser.error(
            "--write goes with --from-run and --to-run, or --range: files, and the runs that their "
            "entries apply to"
        )
    return check_runs(parser, args, run_ids)


def check_runs(
    parser: argparse.ArgumentParser, args: argparse.Namespace, run_ids: Sequence[str]
) -> argparse.Namespace:
    """Check the options of `add_data` for runs, and return them with ``run_documents``.

    Exits with 2 on wrong use.
    """
    if args.testing_rundoc and len(args.testing_rundoc) != len(run_ids):
        parser.error(f"--testing_rundoc: {len(run_ids)} runs need as many run documents")
    twice = next((run_id for run_id in run_ids if run_ids.count(run_id) > 1), None)
    if twice is not None:
        parser.error(f"run {twice} is given twice, and would count twice: remove one")
    if args.plot is not None:
        # It takes a second, and few give the option
        from matplotlib.backend_bases import FigureCanvasBase

        known = FigureCanvasBase.filetypes
        if args.plot.suffix[1:].lower() not in known:
            parser.error(
                f"--plot {args.plot}: end it in the format of a picture, as .png, .pdf or .svg "
                f"({', '.join(sorted(known))})"
            )
        if args.plot.is_dir():
            parser.error(f"--plot {args.plot} is a folder: name a file")
    # Without the option there are none
    args.run_documents = dict(zip(run_ids, args.testing_rundoc, strict=False))
    return args


class Measured(NamedTuple):
    """What a command has measured."""

    results: "Sequence[Result]"  #: of all runs together
    draw: "Callable[[], Figure]"
    #: Value of an entry to be written; may raise NoResult
    value_of: "Callable[[NewEntry], Any]"
    text: Sequence[str]  #: lines to print, after the table of results
    of_runs: Sequence[Found] = ()  #: further results
    has_table: bool = True  #: whether the table of results is printed


def main_of(
    parse_args: Callable[[Sequence[str] | None, str | None], argparse.Namespace],
    measure: Callable[[argparse.Namespace, Stop], Measured],
    options: Callable[[argparse.Namespace], Collection[str]],
    log: logging.Logger,
    what: str,
) -> Callable[..., int]:
    """Return the function ``main(args=None, prog=None)`` of a command, see `base.main_of`.

    It measures `what`, and adds values of these `options` to correction files. Raises AmstraxError
    if a run cannot be processed, and the errors of `new_entries` before the work.
    """

    def work(args: argparse.Namespace, stop: Stop) -> str:
        new = new_entries(args, options(args))
        return finish(args, measure(args, stop), new)

    @base.main_of(parse_args)
    def main(args: argparse.Namespace) -> int:
        from amstrax.auto_processing import job

        folder = args.output_folder or "the output folder"
        return job.run_strax_tool(
            args, log, lambda stop: work(args, stop), what, folder, "--output_folder"
        )

    return main


# Data


def processed(
    args: argparse.Namespace,
    run_ids: Iterable[str],
    targets: Sequence[str],
    stop: Stop,
    may_differ: Collection[str] = (),
    **more: Any,
) -> Iterator[tuple[str, "strax.Context"]]:
    """Make data types of runs if they are not stored; yield each run with its context.

    `args` has the options of `add_options`, `more` are fields of `ProcessingOptions`. Runs for
    another context are refused without ``args.force``, except those in `may_differ`.
    """
    for run_id in run_ids:
        path = args.run_documents.get(run_id)
        document = None if path is None else rundoc.from_json(path)
        options = base.filled(
            ProcessingOptions, args, targets=tuple(targets), run_document=document, **more
        )
        st, options = amstraxer.make_context(options, run_id)
        check_run(st, run_id, str(options.context), path, args.force or run_id in may_differ)
        amstraxer.process(run_id, options, stop)
        yield run_id, st
        stop.check()


def check_run(
    st: "strax.Context", run_id: str, context: str, path: str | None, may_differ: bool = True
) -> None:
    """Raise AmstraxError for a run of another detector or context; with `may_differ` only warn.

    A run of another detector is always refused. `path` is that of ``--testing_rundoc``, if it is
    given: UsageError, if it is of another run. Without a run document nothing is checked.
    """
    import strax

    try:
        document = st.run_documents.get(run_id) or st.run_metadata(run_id)
    except strax.RunMetadataNotAvailable:
        return
    if path is not None and document.get("number", int(run_id)) != int(run_id):
        raise UsageError(
            f"--testing_rundoc {path}: the document of run {document['number']}, not of {run_id}: "
            "give documents in the order of the runs"
        )
    detectors, detector = document.get("detectors") or (), CONTEXT_DETECTORS[context]
    if detectors and detector not in detectors:
        raise AmstraxError(
            f"run {run_id} is of {', '.join(map(str, detectors))}, and context {context} is of "
            f"{detector}: take a run of {detector}"
        )
    is_led = run_metadata.is_led_run(document)
    if is_led != (context == "xams_led"):
        which = f"run {run_id} is {'an' if is_led else 'no'} LED run by its document"
        if not may_differ:
            raise AmstraxError(
                f"{which}, so context {context} is not for it: give --force to use it"
            )
        log.warning("%s: results of context %s may mean nothing", which, context)


def load(
    args: argparse.Namespace,
    targets: Sequence[str],
    columns: Sequence[str],
    stop: Stop,
    look: Callable[[str, "strax.Context"], None] = lambda run_id, st: None,
) -> dict[str, "np.ndarray"]:
    """Return columns of data types of one kind for each of ``args.run_ids``, see `processed`.

    `look` is called with each run and its context, before data is loaded.
    """
    found = {}
    for run_id, st in processed(args, args.run_ids, targets, stop):
        look(run_id, st)
        found[run_id] = st.get_array(
            run_id, tuple(targets), keep_columns=tuple(columns), progress_bar=False
        )
    return found


def load_together(*args: Any) -> "np.ndarray":
    """Return the data of all runs of `load` in one array."""
    import numpy as np

    return np.concatenate(list(load(*args).values()))


def needs_gains(data_type: str) -> "Callable[[str, strax.Context], None]":
    """Return a function for `load` that raises UsageError for runs whose areas are not in PE."""

    def look(run_id: str, st: "strax.Context") -> None:
        unit = analyses.loading.area_unit(st, run_id, data_type)
        if unit != analyses.quantities.PE:
            raise UsageError(
                f"areas of {data_type} of run {run_id} are in {unit}, and results are in PE: give "
                "the gains, with --corrections_version or in the run document"
            )

    return look


# Results


def table(results: Sequence[Found]) -> str:
    """Return results as a table with their 68 % intervals."""
    rows = [["result", "value", "68 % interval", "unit", "method", "runs"]]
    for runs, result in results:
        ends = f"{result.lower:.6g} to {result.upper:.6g}"
        rows.append(
            [result.name, f"{result.value:.6g}", ends, result.unit, result.method, " ".join(runs)]
        )
    return base.format_table(rows)


def finish(args: argparse.Namespace, found: Measured, new: Iterable["NewEntry"]) -> str:
    """Save the figure, write JSON and correction files, and return the text to print."""
    results = [*((args.run_ids, result) for result in found.results), *found.of_runs]
    if args.plot is not None:
        save_plot(args.plot, found.draw)
    if args.json is not None:
        write_json(args, results)
    written = [write_entry(entry, found.value_of(entry)) for entry in new]
    return "\n".join([*([table(results)] if found.has_table else ()), *found.text, *written])


def write_json(args: argparse.Namespace, results: Sequence[Found]) -> None:
    """Write results to ``args.json``.

    The file has a list of objects with ``name``, ``value``, ``lower``, ``upper``, ``unit``,
    ``method``, ``runs`` and ``options``. Numbers that are not finite are null.
    """
    options = {name: value for name, value in vars(args).items() if name not in _NOT_SHOWN}
    rows = [
        {name: _finite(value) for name, value in asdict(result).items()}
        | {"runs": list(runs), "options": options}
        for runs, result in results
    ]
    text = json.dumps(rows, indent=1, default=str, allow_nan=False)
    args.json.parent.mkdir(parents=True, exist_ok=True)
    strict_json.write_text(args.json, f"{text}\n")


def _finite(value: Any) -> Any:
    if isinstance(value, str):
        return value
    return float(value) if math.isfinite(value) else None


def save_plot(path: Path, draw: "Callable[[], Figure]") -> None:
    """Draw a figure and save it; UsageError for its format."""
    try:
        base.save_figure(draw(), path)
    except ValueError as error:
        raise UsageError(f"--plot {path}: {error}") from None


# Correction files


class NewEntry(NamedTuple):
    """Entry to be added to a correction file."""

    path: Path
    option: str  #: option that the file has values of
    entry: "Entry"  #: range of runs, without a value


def new_entries(args: argparse.Namespace, options: Collection[str]) -> list[NewEntry]:
    """Return the entry for each file of ``args.write``, after a check that it fits.

    Raises
    ------
    UsageError
        If the range or a name is wrong (OPTION_VERSION.json, with one of `options`), or a file is
        given twice.
    InvalidCorrection
        If a file is invalid, or has a value for runs of the range.
    """
    twice = next((path for path in args.write if args.write.count(path) > 1), None)
    if twice is not None:
        raise UsageError(f"--write {twice} is given twice: remove one")
    return [new_entry(path, args.range, options) for path in args.write]


def new_entry(path: Path, range_text: str, options: Collection[str]) -> NewEntry:
    """Return the entry for a range of runs and a file; errors are those of `new_entries`."""
    from amstrax.corrections import lookup, store

    fitting = [option for option in options if path.name.startswith(f"{option}_")]
    if not fitting or path.suffix != ".json":
        names = " or ".join(f"{option}_VERSION.json" for option in options)
        raise UsageError(f"--write {path}: the file must be called {names}")
    try:
        entry = lookup.entry(range_text, None, store.is_development(path.name))
    except AmstraxError as error:
        raise UsageError(f"range of runs: {error}") from None
    lookup.with_entry(lookup.read_entries(path), entry, path)
    return NewEntry(path, max(fitting, key=len), entry)


def write_entry(new: NewEntry, value: Any) -> str:
    """Add an entry to its file, which is made if it is missing, and return the message.

    Numbers are rounded to six significant figures. Raises NoResult for one that is not finite.
    """
    from amstrax.corrections import lookup

    value = _rounded(new, value)
    entries = lookup.read_entries(new.path)
    entry = new.entry._replace(value=value)
    lookup.write_entries(lookup.with_entry(entries, entry, new.path), new.path)
    return f'\nwritten to {new.path}:\n    "{entry.text}": {value}'


def _rounded(new: NewEntry, value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(new, item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(new, item) for item in value]
    if not math.isfinite(value):
        raise NoResult(
            f"{new.option} is {value}, and was not written to {new.path}: take more data"
        )
    return float(f"{value:.{_FIGURES}g}")

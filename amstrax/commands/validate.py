#!/usr/bin/env python
"""Simulate a run, process it, and report how well the true events were reconstructed.

Usable as ``amstrax validate``. To judge a change of an algorithm, make a report before and after it
with the same seed, and compare them. Exit status: 0 if the report is made, 1 on failure, 2 on wrong
use.
"""

import argparse
import contextlib
import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from amstrax import rundoc, strict_json
from amstrax.auto_processing import amstraxer
from amstrax.auto_processing.amstraxer import to_dict_tuple
from amstrax.commands import base
from amstrax.exceptions import DataExists, InvalidOption, LiveDataNotFound
from amstrax.rundb import transfer
from amstrax.rundb.leases import Stop

if TYPE_CHECKING:
    from amstrax.analyses.validation import Conditions, Matched
if TYPE_CHECKING:
    import strax


log = logging.getLogger("amstrax.validate")

RUN_ID = "100101"
NAME = "validation"


def parse_args(argv: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    """Parse `argv` (by default the command line) into options; exit with 2 on invalid ones."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Simulate a run, process it, and say how well the true events were "
        "reconstructed: a table, a JSON file, and a page of plots",
    )
    parser.add_argument(
        "--detector",
        choices=("xams",),
        default="xams",
        help="detector; that of XAMSL has no events to judge (default: %(default)s)",
    )
    parser.add_argument(
        "--source", default="flat", help="source, as `amstrax simulate` has (default: %(default)s)"
    )
    parser.add_argument(
        "--rate",
        type=base.positive_number,
        default=5.0,
        metavar="HZ",
        help="events per second (default: %(default)s)",
    )
    parser.add_argument(
        "--duration",
        type=base.positive_number,
        default=300.0,
        metavar="SECONDS",
        help="duration of the run (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the simulation (default: 0)")
    parser.add_argument(
        "--live_data",
        type=Path,
        metavar="FOLDER",
        help="take this simulated run, the folder RUN_ID that `amstrax simulate` wrote",
    )
    parser.add_argument(
        "--truth",
        type=Path,
        metavar="FILE",
        help="truth of that run (default: truth_RUN_ID.npy beside its folder)",
    )
    parser.add_argument(
        "--config_kwargs",
        type=base.json_object,
        default={},
        metavar="JSON",
        help="options for the plugins, on top of those of the simulated detector",
    )
    base.add_workers(parser)
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(NAME),
        metavar="FOLDER",
        help=f"folder for {NAME}.json, {NAME}.png and {NAME}.pdf (default: ./%(default)s)",
    )
    parser.add_argument("--force", action="store_true", help="replace a report that is there")
    parser.add_argument(
        "--keep", action="store_true", help="keep simulated and processed data, in OUTPUT/data"
    )
    parser.add_argument(
        "--compare", type=Path, metavar="JSON", help="print the differences to this older report"
    )
    parser.add_argument(
        "--report",
        type=Path,
        metavar="JSON",
        help="take this report instead of making one, to print it or to compare it",
    )
    base.add_console(parser)
    args = parser.parse_args(argv)
    if args.truth is not None and args.live_data is None:
        parser.error("--truth goes with --live_data, the run that it is the truth of")
    return args


@base.main_of(parse_args)
def main(args: argparse.Namespace) -> int:
    """Make a report, and return the exit status."""
    from amstrax.auto_processing import job

    return job.run_strax_tool(
        args, log, lambda stop: _report(args, stop), "validation", args.output
    )


def _report(args: argparse.Namespace, stop: Stop) -> str:
    """Return the text of a report, with its differences to another one."""
    from amstrax.analyses import validation_text

    older = validation_text.read_report(args.compare) if args.compare else None
    if args.report:
        report = validation_text.read_report(args.report)
    else:
        report = make_report(args, stop)
    text = validation_text.format_report(report)
    if older:
        difference = validation_text.format_comparison(report, older)
        text += f"\n\nCompared with {args.compare}\n{difference}"
    return text


def make_report(args: argparse.Namespace, stop: Stop) -> dict[str, Any]:
    """Simulate, process and judge, write report and plots, and return the report.

    Parameters
    ----------
    args
        As from `parse_args`.
    stop
        When this is set, the work ends with an error.

    Raises
    ------
    AmstraxError
        When that fails; no files are left then.
    """
    from amstrax.analyses import validation, validation_plots, validation_text

    _check_output(args)
    with _work_folder(args) as work:
        run = _run(args, work, stop)
        matched, conditions, lineage = process_and_match(args, run, work / "processed", stop)
        report = validation.validation_report(matched, conditions)
        report["made"] = _how_it_was_made(args, run, conditions) | {"lineage": lineage}
        figure = validation_plots.plot_validation(matched, report)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # once is enough
        for suffix in ("png", "pdf"):
            path = args.output / f"{NAME}.{suffix}"
            beside = work / path.name
            figure.savefig(beside, dpi=110)
            os.replace(beside, path)
        validation_text.write_report(report, args.output / f"{NAME}.json")
    log.info("written: %s", ", ".join(f"{args.output / NAME}.{x}" for x in ("json", "png", "pdf")))
    return report


def process_and_match(
    args: argparse.Namespace, run: "SimulatedRun", folder: Path, stop: Stop
) -> tuple["Matched", "Conditions", str]:
    """Process a simulated run, and match it with its truth.

    Returns
    -------
    What belongs together, the conditions for its figures of merit, and the lineage of event_info.
    """
    from amstrax.analyses import validation
    from amstrax.simulation import load_truth

    truth, detector = load_truth(run.truth), run.settings().get("detector", {})
    options = run.options() | args.config_kwargs
    run.process(folder, ("event_info",), options, stop, args.workers, args.progress)
    st = run.context(folder, options)
    peaks = st.get_array(run.run_id, "peak_basics", progress_bar=False)
    events = st.get_array(run.run_id, "event_info", progress_bar=False)

    def option(data_type: str, name: str) -> Any:
        return st.get_single_plugin(run.run_id, data_type).config[name]

    conditions = validation.Conditions(
        duration=run.duration(),
        left_event_extension=option("events", "left_event_extension"),
        right_event_extension=option("events", "right_event_extension"),
        elife=option("corrected_areas", "elife"),
        true_elife=float(detector.get("electron_lifetime", "nan")),
    )
    lineage = st.key_for(run.run_id, "event_info").lineage_hash
    return validation.match(truth, peaks, events), conditions, lineage


def _run(args: argparse.Namespace, work: Path, stop: Stop) -> "SimulatedRun":
    """Return the run to take, which is simulated unless one is named."""

    if args.live_data is not None:
        return SimulatedRun.at(args.live_data, args.truth)
    from amstrax.simulation import simulate

    run_dir = simulate(
        RUN_ID,
        work / "live_data",
        detector=args.detector,
        source=args.source,
        rate=args.rate,
        duration=args.duration,
        seed=args.seed,
        show_progress=sys.stderr.isatty() if args.progress is None else args.progress,
        stop=stop.event.is_set,
    )
    return SimulatedRun.at(run_dir)


def _how_it_was_made(
    args: argparse.Namespace, run: "SimulatedRun", conditions: "Conditions"
) -> dict[str, Any]:
    import amstrax

    settings = run.settings()
    return {
        "amstrax": amstrax.__version__,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "run_id": run.run_id,
        "duration": conditions.duration,
        "detector": settings.get("detector", {}).get("name"),
        **{name: settings.get(name) for name in ("source", "rate", "seed")},
        "options": run.options() | args.config_kwargs,
    }


def _check_output(args: argparse.Namespace) -> None:
    if args.source == "led" and args.live_data is None:
        raise InvalidOption("source led makes no events to judge: take another")
    there = [
        str(path)
        for path in (args.output / f"{NAME}.json", args.output / "data")
        if path.exists() and (path.suffix or args.keep)
    ]
    if there and not args.force:
        raise DataExists(f"{', '.join(there)} would be replaced: take another --output, or --force")


@contextlib.contextmanager
def _work_folder(args: argparse.Namespace) -> Iterator[Path]:
    """Give a folder for live and processed data, on the file system of the output."""
    args.output.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".work_", dir=args.output))
    try:
        yield work
        if args.keep:
            kept = args.output / "data"
            shutil.rmtree(kept, ignore_errors=True)
            os.replace(work, kept)
            kept.chmod(0o755)
    finally:
        shutil.rmtree(work, ignore_errors=True)


class SimulatedRun(NamedTuple):
    """Where the parts of a simulated run are; see `amstrax.simulation.simulate`."""

    run_dir: Path
    truth: Path

    @classmethod
    def at(cls, run_dir: Path, truth: Path | None = None) -> "SimulatedRun":
        """Return the run whose live data is in `run_dir`; the truth is next to it unless given.

        Raises
        ------
        LiveDataNotFound
            (a FileNotFoundError) when a part of it is missing.
        """
        run = cls(run_dir.absolute(), truth or run_dir.absolute().parent / _truth_name(run_dir))
        for path in (run.run_dir, run.document_path, run.truth):
            if not path.exists():
                raise LiveDataNotFound(
                    f"{path} is not there: name the folder of a run's live data, beside which lie "
                    f"rundoc_{run.run_id}.json and {_truth_name(run_dir)}, as `amstrax simulate` "
                    "writes them"
                )
        return run

    @property
    def run_id(self) -> str:
        """Number of the run."""
        return self.run_dir.name

    @property
    def document_path(self) -> Path:
        """File with the run document."""
        return self.run_dir.parent / f"rundoc_{self.run_id}.json"

    def duration(self) -> float:
        """Return the duration of the run [s]."""
        document = rundoc.from_json(str(self.document_path))
        end = rundoc.end_time(document)
        if end is None:
            raise InvalidOption(f"{self.document_path} has no end: the run is being taken")
        return (end - rundoc.start_time(document)).total_seconds()

    def options(self) -> dict[str, Any]:
        """Return the options for processing from the file next to the run; empty without it."""
        from amstrax.simulation import load_options

        path = self.run_dir.parent / f"config_{self.run_id}.json"
        return load_options(path) if path.exists() else {}

    def settings(self) -> dict[str, Any]:
        """Return the parameters of the simulation from the file next to the run; empty without it.

        Raises
        ------
        InvalidOption
            (a ValueError) when the file holds something else, or the run is not of XAMS.
        """
        path = self.run_dir.parent / f"simulation_{self.run_id}.json"
        if not path.exists():
            return {}
        try:
            settings = strict_json.load_object(path, InvalidOption)
            context = settings["detector"]["context"]
        except (InvalidOption, LookupError, TypeError):
            raise InvalidOption(
                f"{path} does not say what the run was simulated with: simulate it again"
            ) from None
        if context != "xams":
            raise InvalidOption(
                f"run {self.run_id} is processed in context {context}, which has no events to "
                "judge: take a run of XAMS"
            )
        return settings

    def context(self, folder: Path, options: Mapping[str, Any]) -> "strax.Context":
        """Return a context with the data that `process` made."""
        from amstrax import contexts

        return contexts.xams(
            output_folder=folder, init_rundb=False, config=to_dict_tuple(dict(options))
        )

    def process(
        self,
        folder: Path,
        targets: Sequence[str],
        options: Mapping[str, Any],
        stop: Stop,
        workers: int = 1,
        progress: bool | None = None,
        from_scratch: bool = False,
        document: Mapping[str, Any] | None = None,
    ) -> None:
        """Process it as `amstraxer` does.

        Parameters
        ----------
        folder
            Folder for processed data.
        targets
            Data types to make.
        options
            For the plugins.
        stop
            When this is set, the work ends with an error.
        workers
            Number of cores.
        progress
            Show a bar; None: in a terminal.
        from_scratch
            Make all data again, also existing data.
        document
            Run document; None for the one next to the run.

        Raises
        ------
        AmstraxError
            When it cannot be processed.
        """
        given = self.document_path if document is None else transfer.to_json(document)
        bar = {None: [], True: ["--progress"], False: ["--no-progress"]}[progress]
        arguments = amstraxer.parse_args(
            [
                self.run_id,
                "--context=xams",
                f"--output_folder={folder}",
                f"--live_data_dir={self.run_dir.parent}",
                f"--testing_rundoc={given}",
                f"--config_kwargs={json.dumps(options)}",
                '--context_kwargs={"init_rundb": false}',
                f"--workers={workers}",
                *bar,
                *(["--from_scratch", "--build_lowlevel"] if from_scratch else []),
                "--target",
                *targets,
            ]
        )
        amstraxer.process(self.run_id, amstraxer.ProcessingOptions.of(arguments), stop)


def _truth_name(run_dir: Path) -> str:
    return f"truth_{run_dir.name}.npy"


if __name__ == "__main__":
    sys.exit(main())

"""The command ``amstrax validate``: simulate a run, process it, and assess the reconstruction.

To assess a change of an algorithm, make reports before and after it with the same seed, and compare
them.
"""

import argparse
import contextlib
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
from amstrax.auto_processing.amstraxer import ProcessingOptions, to_dict_tuple
from amstrax.commands import base
from amstrax.exceptions import DataExists, InvalidOption, LiveDataNotFound
from amstrax.rundb.leases import Stop

if TYPE_CHECKING:
    import strax

    from amstrax.analyses.validation import Conditions, Matched

log = logging.getLogger("amstrax.validate")

RUN_ID = "100101"
NAME = "validation"


def parse_args(argv: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    """Parse `argv` (by default the command line) into options; exit with 2 on invalid ones."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Simulate a run, process it, and report how well the true events were "
        "reconstructed: a table, a JSON file, and a page of plots",
    )
    add = parser.add_argument
    add(
        "--detector",
        choices=("xams",),
        default="xams",
        help="detector; XAMSL has no events to assess (default: %(default)s)",
    )
    add("--source", default="flat", help="source, as of `amstrax simulate` (default: %(default)s)")
    add(
        "--rate",
        type=base.positive_number,
        default=5.0,
        metavar="HZ",
        help="events per second (default: %(default)s)",
    )
    base.add_seconds(parser, "--duration", 300.0, "duration of the run")
    add("--seed", type=int, default=0, help="seed of the simulation (default: 0)")
    base.add_yields(parser)
    add(
        "--live_data",
        type=Path,
        metavar="FOLDER",
        help="use this simulated run, the folder RUN_ID that `amstrax simulate` wrote",
    )
    add(
        "--truth",
        type=Path,
        metavar="FILE",
        help="truth of that run (default: truth_RUN_ID.npy next to its folder)",
    )
    add(
        "--config_kwargs",
        type=base.json_object,
        default={},
        metavar="JSON",
        help="options for the plugins, in addition to those of the simulated detector",
    )
    base.add_workers(parser)
    add(
        "--output",
        type=Path,
        default=Path(NAME),
        metavar="FOLDER",
        help=f"folder for {NAME}.json, {NAME}.png and {NAME}.pdf (default: ./%(default)s)",
    )
    add("--force", action="store_true", help="replace an existing report")
    add("--keep", action="store_true", help="keep simulated and processed data, in OUTPUT/data")
    add("--compare", type=Path, metavar="JSON", help="print the differences to this older report")
    add(
        "--report",
        type=Path,
        metavar="JSON",
        help="print or compare this report instead of making one",
    )
    base.add_console(parser)
    args = parser.parse_args(argv)
    if args.truth is not None and args.live_data is None:
        parser.error("--truth needs --live_data, the run of this truth")
    return args


@base.main_of(parse_args)
def main(args: argparse.Namespace) -> int:
    """Make a report, and return the exit status."""
    from amstrax.auto_processing import job

    return job.run_strax_tool(
        args, log, lambda stop: _report(args, stop), "validation", args.output
    )


def _report(args: argparse.Namespace, stop: Stop) -> str:
    """Return the text of a report, and its differences to an older one."""
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
    """Simulate, process and assess a run, write report and plots, and return the report.

    A failure, or `stop`, raises and leaves no files.
    """
    import amstrax
    from amstrax.analyses import validation, validation_plots, validation_text

    _check_output(args)
    with _work_folder(args) as work:
        run = _run(args, work, stop)
        matched, conditions, lineage = process_and_match(args, run, work / "processed", stop)
        report = validation.validation_report(matched, conditions)
        settings = run.settings()
        report["made"] = {
            "amstrax": amstrax.__version__,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "run_id": run.run_id,
            "duration": conditions.duration,
            "detector": settings.get("detector", {}).get("name"),
            **{name: settings.get(name) for name in ("source", "rate", "seed")},
            "options": run.options() | args.config_kwargs,
            "lineage": lineage,
        }
        figure = validation_plots.plot_validation(matched, report)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # one layout for all formats
        for suffix in ("png", "pdf"):
            base.save_figure(figure, args.output / f"{NAME}.{suffix}", dpi=110)
        validation_text.write_report(report, args.output / f"{NAME}.json")
    log.info("written: %s", ", ".join(f"{args.output / NAME}.{x}" for x in ("json", "png", "pdf")))
    return report


def process_and_match(
    args: argparse.Namespace, run: "SimulatedRun", folder: Path, stop: Stop
) -> tuple["Matched", "Conditions", str]:
    """Process a simulated run, and match it with its truth.

    Returns
    -------
    Matches, conditions for the figures of merit, and lineage of event_info.
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
    """Return the run of the options, or a simulated one."""
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
        yields=args.yields,
        show_progress=base.shows_progress(args.progress),
        stop=stop.event.is_set,
    )
    return SimulatedRun.at(run_dir)


def _check_output(args: argparse.Namespace) -> None:
    if args.source == "led" and args.live_data is None:
        raise InvalidOption("source led makes no events to assess: name another source")
    existing = [
        str(path)
        for path in (args.output / f"{NAME}.json", args.output / "data")
        if path.exists() and (path.suffix or args.keep)
    ]
    if existing and not args.force:
        raise DataExists(
            f"{', '.join(existing)} would be replaced: use another --output, or --force"
        )


@contextlib.contextmanager
def _work_folder(args: argparse.Namespace) -> Iterator[Path]:
    """Make a folder for live and processed data, on the file system of the output."""
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
    """Folder of live data and file of the truth of a run of `amstrax.simulation.simulate`."""

    run_dir: Path
    truth: Path

    @classmethod
    def at(cls, run_dir: Path, truth: Path | None = None) -> "SimulatedRun":
        """Return the run with live data in `run_dir`, and by default the truth next to it.

        Raises LiveDataNotFound (a FileNotFoundError) if a part is missing.
        """
        truth_name = f"truth_{run_dir.name}.npy"
        run = cls(run_dir.absolute(), truth or run_dir.absolute().parent / truth_name)
        for path in (run.run_dir, run.document_path, run.truth):
            if not path.exists():
                raise LiveDataNotFound(
                    f"{path} is missing: name the folder of a run's live data, with "
                    f"rundoc_{run.run_id}.json and {truth_name} next to it, as `amstrax simulate` "
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
        """Return the options of plugins from the file next to the run; empty without it."""
        from amstrax.simulation import load_options

        path = self.run_dir.parent / f"config_{self.run_id}.json"
        return load_options(path) if path.exists() else {}

    def settings(self) -> dict[str, Any]:
        """Return the parameters of the simulation from the file next to the run; empty without it.

        Raises InvalidOption (a ValueError) if the file is invalid, or the run is not of XAMS.
        """
        path = self.run_dir.parent / f"simulation_{self.run_id}.json"
        if not path.exists():
            return {}
        try:
            settings = strict_json.load_object(path, InvalidOption)
            context = settings["detector"]["context"]
        except (InvalidOption, LookupError, TypeError):
            raise InvalidOption(
                f"{path} lacks parameters of the simulation: simulate the run again"
            ) from None
        if context != "xams":
            raise InvalidOption(
                f"run {self.run_id} is processed in context {context}, which has no events to "
                "assess: use a run of XAMS"
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
        """Process the run as `amstraxer` does.

        Parameters
        ----------
        folder
            Folder for processed data.
        targets
            Data types to make.
        options
            Options of the plugins.
        stop
            Ends the work with an error when it is set.
        workers, progress
            Number of cores, and whether to show a bar; None: in a terminal.
        from_scratch
            Make all data again, also existing data.
        document
            Run document; None for the one next to the run.
        """
        if document is None:
            document = rundoc.from_json(str(self.document_path))
        processing = ProcessingOptions(
            targets=tuple(targets),
            context="xams",
            output_folder=folder,
            live_data_dir=self.run_dir.parent,
            config_kwargs=options,
            context_kwargs={"init_rundb": False},
            run_document=document,
            from_scratch=from_scratch,
            build_lowlevel=from_scratch,
            workers=workers,
            progress=progress,
        )
        amstraxer.process(self.run_id, processing, stop)


if __name__ == "__main__":
    sys.exit(main())

"""The command ``amstrax validate``: simulate a run, process it, and assess the reconstruction.

To assess a change of an algorithm, make reports before and after it with the same seed, and compare
them.
"""

import argparse
import contextlib
import logging
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from amstrax.auto_processing import amstraxer
from amstrax.auto_processing.amstraxer import ProcessingOptions, to_dict_tuple
from amstrax.commands import base
from amstrax.commands.simulate import add_model, changed_detector, model
from amstrax.exceptions import DataExists
from amstrax.rundb.leases import Stop

if TYPE_CHECKING:
    from amstrax.analyses.validation_data import Conditions, Matched, Parts
    from amstrax.simulation import SimulatedRun

log = logging.getLogger("amstrax.validate")

RUN_ID = "100101"
NAME = "validation"
_WORK = ".work_"
_SET_NAME = re.compile(r"[A-Za-z0-9_-]+")


def parse_args(argv: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Simulate a run, process it, and report how well the true events were "
        "reconstructed: a table, a JSON file, and a page of plots",
    )
    add = parser.add_argument
    add(
        "--detector",
        choices=("xams", "xamsl"),
        default="xams",
        help="detector; of XAMSL, which has no events, peaks (default: %(default)s)",
    )
    add("--source", default="flat", help="source, as of `amstrax simulate` (default: %(default)s)")
    base.add_number(parser, "--rate", 5.0, "HZ", "events per second", base.positive_number)
    base.add_seconds(parser, "--duration", 300.0, "duration of the run")
    add("--seed", type=int, default=0, help="seed of the simulation (default: 0)")
    add_model(parser)
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
    base.add(parser, "--reconstruction")
    add(
        "--options",
        type=_option_set,
        action="append",
        default=[],
        metavar="NAME=JSON",
        help="process the run with these options too, and compare with the first set. Can be given "
        "more than once; files get the name of the set. The option reconstruction is that of the "
        "set",
    )
    add(
        "--pile_up",
        type=base.positive_number,
        nargs="+",
        default=(),
        metavar="HZ",
        help="assess runs at these rates too, each with as many events, but at most as long",
    )
    base.add(parser, "--workers")
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
    _check_use(parser, args)
    return args


#: Options by their names in the arguments that make the run, and its data
_OF_RUN = (
    *("detector", "source", "rate", "duration", "seed", "energy", "source_position"),
    *("backgrounds", "occupancy", "yields", "optics", "without", "values"),
)
_OF_DATA = ("live_data", "truth", "config_kwargs", "options", "pile_up", "reconstruction", "keep")


def _check_use(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Exit with 2 when options exclude each other."""
    flags = {action.dest: action.option_strings[0] for action in parser._actions}

    def given(names: Sequence[str]) -> str:
        found = (name for name in names if getattr(args, name) != parser.get_default(name))
        return ", ".join(flags[name] for name in found)

    if args.report is not None and (unused := given((*_OF_RUN, *_OF_DATA, "force"))):
        parser.error(f"--report makes no report: leave {unused} out")
    if args.live_data is not None and (unused := given(_OF_RUN)):
        parser.error(f"--live_data names a run, so that none is simulated: leave {unused} out")
    if len(dict(args.options)) < len(args.options):
        parser.error("--options has two sets of one name: give each another NAME")
    if args.pile_up and args.live_data is not None:
        parser.error("--pile_up simulates runs: leave --live_data out")
    if args.pile_up and args.source == "led":
        parser.error("--pile_up changes the rate of events: leave it out for --source led")
    if args.truth is not None and args.live_data is None:
        parser.error("--truth needs --live_data, the run of this truth")


def _option_set(text: str) -> tuple[str, dict[str, Any]]:
    name, equals, value = text.partition("=")
    if not (equals and _SET_NAME.fullmatch(name)):
        raise argparse.ArgumentTypeError(
            f"{text!r:.80} is no set of options: write NAME=JSON, with letters, digits, _ and - in "
            "NAME"
        )
    return name, base.json_object(value)


@dataclass(frozen=True)
class ValidationOptions:
    """Run to validate, and how to process it: the options of `amstrax validate`, see the help."""

    output: Path
    detector: str = "xams"
    source: str = "flat"
    rate: float = 5.0
    duration: float = 300.0
    seed: int = 0
    values: tuple[str, ...] = ()
    #: further arguments of `amstrax.simulation.simulate`
    model: Mapping[str, Any] = field(default_factory=dict)
    live_data: Path | None = None
    truth: Path | None = None
    config_kwargs: Mapping[str, Any] = field(default_factory=dict)
    option_sets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    reconstruction: str | tuple[str, ...] = ()
    pile_up: tuple[float, ...] = ()
    workers: int = 1
    progress: bool | None = None
    force: bool = False
    keep: bool = False


@base.main_of(parse_args)
def main(args: argparse.Namespace) -> int:
    from amstrax.auto_processing import job

    return job.run_strax_tool(
        args, log, lambda stop: _report(args, stop), "validation", args.output, "--output"
    )


def _report(args: argparse.Namespace, stop: Stop) -> str:
    """Return the text of reports, and their differences to each other and to an older one."""
    from amstrax.analyses import validation_text

    older = validation_text.read_report(args.compare) if args.compare else None
    if args.report:
        reports = {"": validation_text.read_report(args.report)}
    else:
        sets = dict(args.options)
        options = base.filled(ValidationOptions, args, option_sets=sets, model=model(args))
        reports = make_reports(options, stop)
    (first, report), *others = reports.items()
    text = f"Options {first}\n" if first else ""
    text += validation_text.format_report(report)
    for name, other in others:
        difference = validation_text.format_comparison(other, report)
        text += f"\n\nOptions {name} compared with {first}\n{difference}"
        text += "\n\n" + "\n".join(validation_text.poor_lines(other))
    if older:
        difference = validation_text.format_comparison(report, older)
        text += f"\n\nCompared with {args.compare}\n{difference}"
    return text


def make_reports(options: ValidationOptions, stop: Stop) -> dict[str, dict[str, Any]]:
    """Simulate, process and assess a run, write reports and plots, and return the reports.

    They are by the name of the set of options, ``""`` without such. A failure, or `stop`, raises
    and leaves no files.
    """
    from amstrax.analyses import validation, validation_plots, validation_text

    _check_output(options)
    for more in (options.option_sets or {"": {}}).values():
        _check_options(options, more)
    made: list[tuple[str, dict[str, Any], Any]] = []
    with _work_folder(options) as work:
        run = _run(options, work / "live_data", options.rate, options.duration, stop)
        others = {
            # As many events as in the run itself, but no longer run
            rate: _run(
                options,
                work / f"live_data_{rate:g}_Hz",
                rate,
                options.duration * min(options.rate / rate, 1.0),
                stop,
            )
            for rate in options.pile_up
        }
        for name, more in (options.option_sets or {"": {}}).items():
            folder = work / (f"processed_{name}" if name else "processed")
            more = {**options.config_kwargs, **more}
            report, matched = assess(run, folder, more, options, stop)
            if others:
                at_rates = {options.rate: report}
                for rate, other in others.items():
                    folder_at_rate = folder.with_name(f"{folder.name}_{rate:g}_Hz")
                    at_rates[rate], _ = assess(other, folder_at_rate, more, options, stop)
                report["numbers"] |= validation.pile_up_numbers(at_rates)
                report["poor"] = validation.poor(report["numbers"])
            figure = validation_plots.plot_validation(matched, report)
            made.append((f"{NAME}_{name}" if name else NAME, report, figure))
        for file, report, figure in made:
            for suffix in ("png", "pdf"):
                base.save_figure(figure, options.output / f"{file}.{suffix}", dpi=110)
            validation_text.write_report(report, options.output / f"{file}.json")
    for file, _, _ in made:
        paths = ", ".join(f"{options.output / file}.{x}" for x in ("json", "png", "pdf"))
        log.info("written: %s", paths)
    names = options.option_sets or [""]
    return {name: report for name, (_, report, _) in zip(names, made, strict=True)}


def _check_options(options: ValidationOptions, more: Mapping[str, Any]) -> None:
    """Raise UsageError or InvalidOption for unknown options, before anything is simulated."""
    from amstrax import contexts

    if options.live_data is not None:
        context = _context_of(_settings(_run(options, Path(), 0, 0, Stop())))
    else:
        detector = {"detector": {"context": changed_detector(options.detector, ()).context}}
        context = _context_of(detector | {"source": options.source})
    names = options.config_kwargs.keys() | more.keys() - {"reconstruction"}
    contexts.find_context(
        _Processed.TARGETS[context],
        (context,),
        sorted(names),
        reconstruction=_reconstruction(options, more) or None,
    )


def _reconstruction(options: ValidationOptions, more: Mapping[str, Any]) -> str | tuple[str, ...]:
    return to_dict_tuple(more).get("reconstruction", options.reconstruction)


def assess(
    run: "SimulatedRun",
    folder: Path,
    more_options: Mapping[str, Any],
    options: ValidationOptions,
    stop: Stop,
) -> tuple[dict[str, Any], "Matched | None"]:
    """Process a simulated run; return its report, and matches with its truth (None of LED runs)."""
    import amstrax
    from amstrax.analyses import validation
    from amstrax.simulation import load_truth

    processed = _Processed(run, folder, more_options, options, stop)
    settings, detector = processed.settings, processed.detector
    if processed.context == "xams_led":
        matched = None
        report = validation.led_report(
            processed.load("led_calibration"),
            load_truth(run.truth),
            {
                channel: detector["photoelectron_areas"][channel]
                for channel in (*detector["bottom_channels"], *detector["top_channels"])
            },
            settings["occupancy"],
        )
    else:
        matched, conditions, parts = processed.match()
        report = validation.validation_report(matched, conditions, parts)
    report["made"] = {
        "amstrax": amstrax.__version__,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "run_id": run.run_id,
        "duration": run.duration(),
        "detector": detector.get("name"),
        **{name: settings.get(name) for name in ("source", "rate", "seed")},
        "simulation": run.document().get("simulation"),
        "options": run.options() | dict(more_options),
        "reconstruction": _reconstruction(options, more_options) or "lab",
        "lineage": processed.lineage(),
    }
    if matched is None:
        report["made"]["rate"] = detector["led_rate"]
    return report, matched


def _settings(run: "SimulatedRun") -> dict[str, Any]:
    """Return the settings of a simulation, from its file, or else from the run document."""
    from dataclasses import asdict

    from amstrax.simulation import DETECTORS

    settings = run.settings()
    told = run.document().get("simulation")
    if not settings and isinstance(told, dict) and told.get("detector") in DETECTORS:
        values = to_dict_tuple(told.get("detector_values") or {})
        settings = told | {"detector": asdict(DETECTORS[told["detector"]].with_values(**values))}
    return settings


def _context_of(settings: Mapping[str, Any]) -> str:
    """Return the name of the context that processes a simulated run."""
    if settings.get("source") == "led":
        return "xams_led"
    return settings.get("detector", {}).get("context", "xams")


class _Processed:
    """Data of a processed run."""

    #: Context -> data types that say how well it works, the main one last
    TARGETS: Mapping[str, tuple[str, ...]] = MappingProxyType(
        {
            "xams": ("peak_basics_ext", "peak_basics_sipm", "event_coincidences", "event_info"),
            "xams_led": ("led_calibration",),
            "xams_little": ("radon_peak_basics",),
        }
    )

    def __init__(
        self,
        run: "SimulatedRun",
        folder: Path,
        more_options: Mapping[str, Any],
        options: ValidationOptions,
        stop: Stop,
    ):
        import numpy as np

        from amstrax import contexts
        from amstrax.analyses import validation_data
        from amstrax.simulation import load_truth, parts

        self.run, self.settings = run, _settings(run)
        self.detector = self.settings.get("detector", {})
        self.context = _context_of(self.settings)
        self.has_nai = self.detector.get("external_channel", 5) is not None
        self.has_sipm = self.detector.get("sipm_channel", 6) is not None
        targets = [
            target
            for target in self.TARGETS[self.context]
            if (self.has_sipm or "sipm" not in target)
            and (self.has_nai or target not in ("peak_basics_ext", "event_coincidences"))
        ]
        self.has_parts = run.parts.exists()
        if self.has_parts and self.context != "xams_led":
            deposits = np.concatenate(list(parts.load_parts(run.parts, "deposits")))
            validation_data.check_same_run(load_truth(run.truth), deposits)
        elif not self.has_parts:
            log.warning(
                "%s is missing: without what peaks are made of, Kr-83m pairs and other sensors; "
                "simulate the run again for these",
                run.parts,
            )
        reconstruction = _reconstruction(options, more_options)
        of_plugins = {k: v for k, v in more_options.items() if k != "reconstruction"}
        all_options = run.options() | of_plugins
        self._st = getattr(contexts, self.context)(
            output_folder=folder,
            config=to_dict_tuple(all_options),
            simulation_truth=run.run_dir if self.has_parts else None,
            init_rundb=False,
            **({"reconstruction": reconstruction} if reconstruction else {}),
        )
        self.has_scatters = "event_scatters" in self._st._plugin_class_registry
        process(
            run,
            folder,
            self.context,
            ["event_scatters", *targets] if self.has_scatters else targets,
            all_options,
            stop,
            workers=options.workers,
            progress=options.progress,
            reconstruction=reconstruction,
        )
        self._st.set_run_document(run.run_id, run.document())

    def load(self, data_type: str) -> Any:
        return self._st.get_array(self.run.run_id, data_type, progress_bar=False)

    def lineage(self) -> str:
        """Return the hash of the lineage of the main data type."""
        return self._st.key_for(self.run.run_id, self.TARGETS[self.context][-1]).lineage_hash

    def match(self) -> "tuple[Matched, Conditions, Parts | None]":
        """Return matches, conditions for the figures of merit, and parts of the truth."""
        import numpy as np

        from amstrax.analyses import validation_data
        from amstrax.simulation import load_truth

        is_xams = self.context == "xams"
        prefix = "" if is_xams else "radon_"
        truth, peaks = load_truth(self.run.truth), self.load(f"{prefix}peak_basics")
        conditions = validation_data.Conditions(
            duration=self.run.duration(),
            left_event_extension=self._option("events", "left_event_extension") if is_xams else 0,
            right_event_extension=self._option("events", "right_event_extension") if is_xams else 0,
            elife=self._option("corrected_areas", "elife") if is_xams else np.nan,
            true_elife=float(self.detector.get("electron_lifetime", "nan")),
            has_events=is_xams,
            radius=float(self.detector.get("radius", "nan")),
            depth=float(self.detector.get("gate_cathode_distance", "nan")),
        )
        if is_xams:
            events = self.load("event_info")
        else:
            events = validation_data.NO_EVENTS
            # The chain of XAMSL has neither gains nor types
            peaks = validation_data.with_true_types(
                peaks, truth, float(np.mean(self.detector["photoelectron_areas"]))
            )
        if not self.has_parts:
            return validation_data.match(truth, peaks, events), conditions, None
        parts = validation_data.Parts(
            self.load("truth_deposits"), self.load("truth_light"), self.load(f"{prefix}peak_truth")
        )
        matched = validation_data.match(truth, peaks, events, parts.light)

        def of_sensor(name: str) -> Any:
            loaded = self.load(f"peak_basics_{name}"), self.load(f"peak_truth_{name}")
            return validation_data.OfSensor(*loaded)

        if self.has_scatters:
            parts = parts._replace(scatters=self.load("event_scatters"))
        if is_xams and self.has_sipm:
            parts = parts._replace(sipm=of_sensor("sipm"))
        if is_xams and self.has_nai:
            parts = parts._replace(
                external=of_sensor("ext"), coincidences=self.load("event_coincidences")
            )
        return matched, conditions, parts

    def _option(self, data_type: str, name: str) -> Any:
        return self._st.get_single_plugin(self.run.run_id, data_type).config[name]


def _run(
    options: ValidationOptions, folder: Path, rate: float, duration: float, stop: Stop
) -> "SimulatedRun":
    """Return the run of the options, or a simulated one."""
    from amstrax.simulation import SimulatedRun, simulate

    if options.live_data is not None:
        return SimulatedRun.at(options.live_data, options.truth)
    run_dir = simulate(
        RUN_ID,
        folder,
        detector=changed_detector(options.detector, options.values),
        source=options.source,
        rate=rate,
        duration=duration,
        seed=options.seed,
        **options.model,
        show_progress=base.shows_progress(options.progress),
        stop=stop.event.is_set,
    )
    return SimulatedRun.at(run_dir)


def _check_output(options: ValidationOptions) -> None:
    names = [f"{NAME}_{name}" for name in options.option_sets] or [NAME]
    existing = [
        str(path)
        for path in (*(options.output / f"{x}.json" for x in names), options.output / "data")
        if path.exists() and (path.suffix or options.keep)
    ]
    if existing and not options.force:
        raise DataExists(
            f"{', '.join(existing)} would be replaced: use another --output, or --force"
        )


@contextlib.contextmanager
def _work_folder(options: ValidationOptions) -> Iterator[Path]:
    """Make a folder for live and processed data, on the file system of the output."""
    new = [path for path in (options.output, *options.output.parents) if not path.exists()]
    options.output.mkdir(parents=True, exist_ok=True)
    for left in options.output.glob(f"{_WORK}*"):
        log.warning("%s is of another or a killed validation: remove it, unless one runs", left)
    work = Path(tempfile.mkdtemp(prefix=_WORK, dir=options.output))
    try:
        yield work
        if options.keep:
            kept = options.output / "data"
            shutil.rmtree(kept, ignore_errors=True)
            os.replace(work, kept)
            kept.chmod(0o755)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        # After a failure the folders that were made are empty
        with contextlib.suppress(OSError):
            for path in new:
                path.rmdir()


def process(
    run: "SimulatedRun",
    folder: Path,
    context: str,
    targets: Sequence[str],
    options: Mapping[str, Any],
    stop: Stop,
    from_scratch: bool = False,
    **more: Any,
) -> None:
    """Process a simulated run with its live data as `amstraxer` does.

    `options` are those of the plugins, `more` other fields of `ProcessingOptions`. Existing data is
    made again only `from_scratch`.
    """
    processing = ProcessingOptions(
        targets=tuple(targets),
        context=context,
        output_folder=folder,
        live_data_dir=run.run_dir.parent,
        config_kwargs=options,
        context_kwargs={"init_rundb": False},
        from_scratch=from_scratch,
        build_lowlevel=from_scratch,
        **{"run_document": run.document(), **more},
    )
    amstraxer.process(run.run_id, processing, stop)


if __name__ == "__main__":
    sys.exit(main())

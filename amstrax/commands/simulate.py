#!/usr/bin/env python
"""The command ``amstrax simulate``: live data in the format of the DAQ, run document and truth."""

import argparse
import json
import logging
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amstrax import strict_json
from amstrax.commands import base
from amstrax.exceptions import UsageError
from amstrax.rundb.leases import Stop

if TYPE_CHECKING:
    from amstrax.simulation import Detector

log = logging.getLogger("amstrax.simulate")


def parse_args(argv: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Simulate a run: live data, run document, truth, and the options to process "
        "it with. The same options and seed give the same data.",
    )
    add = parser.add_argument
    add("run_id", nargs="?", metavar="RUN_ID", type=base.run_id, help="run, as 100001")
    add("--detector", default="xams", help="xams or xamsl (default: %(default)s)")
    add(
        "--source",
        default="kr83m",
        help="source in the detector, or led; --sources lists all (default: %(default)s)",
    )
    base.add_number(parser, "--rate", 5.0, "HZ", "rate of events in the xenon")
    base.add_number(parser, "--duration", 60.0, "SECONDS", "duration of the run")
    add("--seed", type=int, default=0, help="seed of the random numbers (default: 0)")
    add(
        "--output",
        type=Path,
        default=Path("./simulated"),
        metavar="FOLDER",
        help="folder to write to (default: ./simulated)",
    )
    add_model(parser)
    add("--numbers", action="store_true", help="print the detector parameters as JSON, and exit")
    add(
        "--compressor", default="lz4", help="lz4 or blosc, for the live data (default: %(default)s)"
    )
    base.add_number(parser, "--hosts", 1, "N", "readout processes", int)
    base.add_number(parser, "--threads", 1, "N", "threads of each process", int)
    add(
        "--start",
        type=_time,
        metavar="TIME",
        help="start of the run, UTC unless it has a time zone, as 2024-01-02T03:04:05 (default: "
        "that time, or now with --realtime)",
    )
    add(
        "--realtime",
        type=float,
        nargs="?",
        const=1.0,
        metavar="SPEED",
        help="write the run as the DAQ would, chunk by chunk in real time, SPEED times as fast "
        "(default: 1); Ctrl-C ends the run",
    )
    add("--force", action="store_true", help="replace an existing run")
    base.add_console(parser)
    args = parser.parse_args(argv)
    if args.run_id is None and not args.numbers:
        parser.error("RUN_ID is missing: give a number, as 100001")
    return args


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the options of a simulation: sources, models, effects and numbers."""
    add = parser.add_argument
    add("--sources", action=_List, nargs=0, help="list the sources, and exit")
    add(
        "--energy",
        type=float,
        nargs=2,
        metavar=("LOWEST", "HIGHEST"),
        help="range of energies of the sources flat, nr, gas and below_cathode [keV]",
    )
    add(
        "--source_position",
        type=float,
        nargs=3,
        metavar=("X", "Y", "Z"),
        help="place of a source of photons, z = 0 at the gate [mm] (default: photons come from "
        "everywhere outside)",
    )
    add(
        "--background",
        dest="backgrounds",
        action="append",
        default=[],
        metavar="NAME=HZ",
        help="another source in the run and its rate, as wall=0.5. Can be given more than once",
    )
    text = "mean number of photoelectrons of a PMT in a flash of the LED"
    base.add_number(parser, "--occupancy", 0.1, "PE", text)
    base.add(parser, "--yields")
    add(
        "--optics",
        default="geometry",
        help="light patterns: geometry, of traced photons, or inverse_of_reconstruction, which "
        "cannot show errors of the reconstruction (default: %(default)s)",
    )
    add(
        "--without",
        nargs="+",
        default=[],
        metavar="NAME",
        help="effects to leave out, as noise afterpulses; --effects lists all",
    )
    add("--effects", action=_List, nargs=0, help="list the effects, and exit")
    add(
        "--set",
        dest="values",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="value of a detector parameter, as electron_lifetime=20000; lists as JSON. Can be "
        "given more than once; --numbers lists the parameters",
    )


def model(args: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of `amstrax.simulation.simulate` for the options of `add_model`.

    Without the detector and its numbers, see `changed_detector`.
    """
    return {
        "energy_range": args.energy and tuple(args.energy),
        "source_position": args.source_position and tuple(args.source_position),
        "backgrounds": _rates(args.backgrounds),
        "occupancy": args.occupancy,
        "yields": args.yields,
        "optics": args.optics,
        "without": tuple(args.without),
    }


class _List(argparse.Action):
    """Print the sources, or the effects that can be left out, and exit."""

    def __call__(self, parser: argparse.ArgumentParser, *_args: Any, **_kwargs: Any) -> None:
        from amstrax.simulation import EFFECTS, SOURCES

        if self.dest == "effects":
            lines = [f"{name:23s}{summary}" for name, summary in EFFECTS.items()]
        else:
            lines = [f"{name:15s}{source.summary}" for name, source in SOURCES.items()]
        print("\n".join(lines))
        parser.exit()


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no time: write it as 2024-01-02T03:04:05"
        ) from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


@base.main_of(parse_args)
def main(args: argparse.Namespace) -> int:
    from amstrax.auto_processing import job

    return job.run_strax_tool(
        args, log, lambda stop: _work(args, stop), "the simulation", args.output, "--output"
    )


def _work(args: argparse.Namespace, stop: Stop) -> str:
    from amstrax import simulation

    detector = changed_detector(args.detector, args.values)
    if args.numbers:
        return json.dumps(asdict(detector), indent=1, default=dict)
    run_dir = simulation.simulate(
        args.run_id,
        args.output,
        detector,
        args.source,
        args.rate,
        args.duration,
        args.seed,
        **model(args),
        compressor=args.compressor,
        n_hosts=args.hosts,
        n_threads=args.threads,
        start=args.start,
        realtime=args.realtime,
        force=args.force,
        show_progress=base.shows_progress(args.progress),
        stop=stop.event.is_set,
    )
    return next_step(run_dir, detector.led_context if args.source == "led" else detector.context)


def changed_detector(name: str, changes: Sequence[str]) -> "Detector":
    """Return a detector with some values changed, each as NAME=VALUE."""
    from amstrax.simulation import detector

    values = {}
    for text in changes:
        number, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--set {text}: write NAME=VALUE, as electron_lifetime=20000")
        try:
            parsed = strict_json.parse(value, "value", UsageError)
            values[number.strip()] = strict_json.with_tuples(parsed)
        except UsageError as error:
            raise UsageError(
                f"--set {strict_json.short(text, str)}: {strict_json.short(value)} is no number "
                f"and no list of them ({error})"
            ) from None
    return detector.find(name).with_values(**values)


def _rates(backgrounds: Sequence[str]) -> dict[str, float]:
    """Return the rates [Hz] of sources, each given as NAME=HZ."""
    rates: dict[str, float] = {}
    for text in backgrounds:
        name, _, rate = text.partition("=")
        if name.strip() in rates:
            raise UsageError(f"--background {text}: {name.strip()} has a rate already, take one")
        try:
            rates[name.strip()] = float(rate)
        except ValueError:
            raise UsageError(f"--background {text}: write NAME=HZ, as wall=0.5") from None
    return rates


def next_step(run_dir: Path, context: str | None) -> str:
    """Return the command that processes a simulated run."""
    folder, run_id = run_dir.parent, run_dir.name
    targets = {"xams": "event_info", "xams_led": "led_calibration"}
    command = [
        *("amstraxer", run_id, "--context", str(context), "--live_data_dir", str(folder)),
        *("--testing_rundoc", str(folder / f"rundoc_{run_id}.json")),
        *("--target", targets.get(str(context), "radon_peak_basics")),
    ]
    return f"process it with\n  {shlex.join(command)}"


if __name__ == "__main__":
    sys.exit(main())

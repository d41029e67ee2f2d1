"""The command ``amstrax drift``: gate, cathode, drift velocity and diffusion from drift times."""

import argparse
import logging
import sys
from collections.abc import Sequence
from typing import Any

from amstrax import analyses
from amstrax.commands import base, calibrating
from amstrax.exceptions import NoResult, UsageError
from amstrax.rundb.leases import Stop

log = logging.getLogger("amstrax.drift")

OPTIONS = ("drift_time_gate", "drift_time_cathode", "electron_drift_velocity")
_COLUMNS = ("time", "drift_time", "s2_area", "s2_range_90p_area")


def parse_args(argv: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Measure drift times from gate and cathode, drift velocity and diffusion, and "
        "write entries of correction files",
    )
    calibrating.add_options(parser, "runs with events at all depths, analysed together")
    calibrating.add_events(parser)
    calibrating.add_range(
        parser,
        "--guess",
        "rough drift times from gate and cathode [ns] (default: ends of the dense part)",
        ("GATE", "CATHODE"),
    )
    parser.add_argument(
        "--drift_length",
        type=base.positive_number,
        metavar="MM",
        help="distance of the two [mm] (default: gate_cathode_distance of the context)",
    )
    calibrating.add_range(parser, "--s2_range", "use S2s of these areas [PE] (default: all)")
    text = "area of an electron, for widths of faint S2s [PE]"
    base.add_number(parser, "--se_gain", 10.0, "PE", text, base.positive_number)
    base.add_count(parser, "--bootstrap", 50, "number of samples for the bootstrap")
    return calibrating.check_options(parser, parser.parse_args(argv))


def measure(args: argparse.Namespace, stop: Stop) -> calibrating.Measured:
    """Measure the drift.

    Raises
    ------
    NoResult
        If the runs do not determine the edges.
    """
    from amstrax.calibration import drift

    events, length, max_length = _load(args, stop)
    gate, cathode = drift.find_edges(events["drift_time"], args.guess, args.bootstrap)
    velocity = drift.velocity(gate.likelihood, cathode.likelihood, length)
    found = [gate.likelihood, gate.bootstrap, cathode.likelihood, cathode.bootstrap, velocity]
    lines = []
    diffusion = None
    inside = (events["drift_time"] > gate.edge) & (events["drift_time"] < cathode.edge)
    try:
        diffusion = drift.find_diffusion(
            events["s2_range_90p_area"][inside],
            events["drift_time"][inside],
            velocity.value,
            events["s2_area"][inside],
            args.se_gain,
        )
        found.append(diffusion.result)
    except NoResult as error:
        lines.append(f"no diffusion: {error}")
    results = [result for result in found if result is not None]
    values = {result.name: result.value for result in reversed(results)}

    def value_of(entry: calibrating.NewEntry) -> float:
        if entry.option == "electron_drift_velocity":
            _check_longest(max_length, velocity.value, cathode.edge)
        return values[entry.option]

    return calibrating.Measured(
        results,
        lambda: analyses.calibration_plots.plot_drift(events, gate, cathode, diffusion),
        value_of,
        lines,
    )


def _load(args: argparse.Namespace, stop: Stop) -> tuple[Any, float, float]:
    """Return events, distance of gate and cathode, and max_drift_length of the context [mm]."""
    lengths, longest = set(), []

    def look(run_id: str, st: Any) -> None:
        positions = st.get_single_plugin(run_id, "event_positions")
        lengths.add(args.drift_length or float(positions.gate_cathode_distance))
        longest.append(float(st.get_single_plugin(run_id, "event_basics").max_drift_length))

    events = calibrating.load_together(args, ("event_info",), _COLUMNS, stop, look)
    if len(lengths) > 1:
        raise UsageError(
            f"gate_cathode_distance differs between the runs ({sorted(lengths)} mm): give the "
            "distance with --drift_length"
        )
    if args.s2_range:
        low, high = args.s2_range
        events = events[(events["s2_area"] > low) & (events["s2_area"] < high)]
    return events, lengths.pop(), min(longest)


def _check_longest(max_length: float, velocity: float, cathode: float) -> None:
    """Warn if alternative S2s from the cathode would be too late with a new drift velocity."""
    longest = 1.01 * max_length / velocity
    if longest < cathode:
        log.warning(
            "max_drift_length %g / electron_drift_velocity leaves out alternative S2s after %.0f "
            "ns, and the cathode is at %.0f ns: set max_drift_length to %.3g mm or more",
            max_length,
            longest,
            cathode,
            1.05 * cathode * velocity,
        )


main = calibrating.main_of(parse_args, measure, lambda args: OPTIONS, log, "the drift")

if __name__ == "__main__":
    sys.exit(main())

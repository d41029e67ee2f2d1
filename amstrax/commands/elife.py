"""The command ``amstrax elife``: electron lifetime from source runs, for a correction file."""

import argparse
import logging
import sys
from collections.abc import Sequence
from typing import Any

from amstrax import analyses
from amstrax.commands import base, calibrating
from amstrax.exceptions import NoResult
from amstrax.rundb.leases import Stop

log = logging.getLogger("amstrax.elife")

OPTION = "elife"
_COLUMNS = ("time", "s2_area", "drift_time", "r", "s2_n_saturated_channels")
#: Limit for a warning: chi-square per degree of freedom of the line
_ODD_CHI2 = 3.0


def parse_args(argv: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Measure the electron lifetime with S2 areas of events of one energy (Kr-83m, "
        "Cs-137, Rn-222) against drift time, and write an entry of a correction file",
    )
    calibrating.add_options(parser, "runs with a source of one energy, analysed together")
    calibrating.add_events(parser)
    add = parser.add_argument
    text = "use S2s of these areas [PE] (default: all, of which the densest line is found)"
    calibrating.add_range(parser, "--s2_range", text)
    calibrating.add_range(
        parser,
        "--drift_range",
        "use these drift times [ns] (default: from gate to cathode as found in the runs, without "
        "500 ns at each end)",
        ("FIRST", "LAST"),
    )
    add(
        "--per_run",
        action="store_true",
        help="also show the lifetime of each run alone, and draw its trend",
    )
    add(
        "--allow_saturated",
        action="store_true",
        help="use S2s with saturated channels, as where the reconstruction corrects for it",
    )
    base.add_count(parser, "--bootstrap", 100, "number of samples for the bootstrap")
    return calibrating.check_options(parser, parser.parse_args(argv))


def measure(args: argparse.Namespace, stop: Stop) -> calibrating.Measured:
    """Measure the lifetime; raise NoResult if the runs do not determine one."""
    import numpy as np

    from amstrax.calibration.lifetime import lifetime_of_events

    runs = calibrating.load(args, ("event_info",), _COLUMNS, stop)
    events = np.concatenate(list(runs.values()))
    limits = args.s2_range, args.drift_range, args.allow_saturated, args.bootstrap
    kept, found = lifetime_of_events(events, *limits)
    lines = []
    by_run = {}
    for run_id, of_run in runs.items() if args.per_run else ():
        try:
            by_run[run_id] = lifetime_of_events(of_run, *limits)[1].likelihood
        except NoResult as error:
            lines.append(f"run {run_id} alone: {error}")
    line = found.line
    lines.append(
        f"{line.in_band.sum()} events; lower limit {found.limit:.4g} ns at 90 % confidence; "
        f"chi2 {line.chi2:.1f} for {len(line.time) - 2} degrees of freedom"
    )
    if line.chi2 > _ODD_CHI2 * max(len(line.time) - 2, 1):
        log.warning("S2s do not fall exponentially with drift time (chi2 above): see --plot")

    def value_of(entry: calibrating.NewEntry) -> float:
        if not found.likelihood.value < float("inf"):
            raise NoResult(
                f"the lifetime is above {found.limit:.4g} ns (90 %) without an upper end, and was "
                f"not written to {entry.path}: take more data, or write that number yourself"
            )
        return found.likelihood.value

    def draw() -> Any:
        figure = analyses.style.new_figure((12, 5) if by_run else (7, 5))
        axes = figure.subplots(1, 2) if by_run else [figure.add_subplot()]
        analyses.calibration_plots.plot_lifetime(kept, found, axes[0])
        if by_run:
            analyses.calibration_plots.plot_trend(by_run, axes[1])
        return figure

    of_runs = [([run_id], result) for run_id, result in by_run.items()]
    results = [found.likelihood, found.bootstrap]
    return calibrating.Measured(results, draw, value_of, lines, of_runs)


main = calibrating.main_of(parse_args, measure, lambda args: (OPTION,), log, "the lifetime")

if __name__ == "__main__":
    sys.exit(main())

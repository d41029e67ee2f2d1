"""The command ``amstrax se-gain``: gain of single electrons, and extraction efficiency."""

import argparse
import logging
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from amstrax import analyses
from amstrax.commands import base, calibrating
from amstrax.rundb.leases import Stop

if TYPE_CHECKING:
    from amstrax.calibration.result import Result
    from amstrax.calibration.single_electrons import ElectronFit

log = logging.getLogger("amstrax.se-gain")

DATA_TYPE, OPTION = "single_electrons", "se_gain"
#: Limit for a warning: p-value of the fit
_ODD_P_VALUE = 1e-3


def parse_args(argv: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Measure the gain of single electrons [PE/e] from small peaks after large ones "
        "and, where g2 is known, the extraction efficiency g2 / gain. Files of --write are called "
        f"{OPTION}_VERSION.json; they are a record, which no plugin reads",
    )
    calibrating.add_options(parser, "runs of one setting, which are analysed together, as 006724")
    calibrating.add_events(parser)
    for name, default, what in (("min", 10.0, "least"), ("max", 2000.0, "longest")):
        text = f"{what} time after the end of a large peak [us]"
        base.add_number(parser, f"--{name}_delay", default, "US", text)
    base.add_number(
        parser,
        "--min_width",
        50.0,
        "NS",
        "least width of the central 50 %% of the area, which S1s and dark counts do not have [ns]",
    )
    base.add_number(parser, "--min_area", 2.5, "PE", "the fit starts at this area [PE]")
    parser.add_argument(
        "--g2",
        type=float,
        nargs=2,
        metavar=("VALUE", "ERROR"),
        help="g2 of `amstrax energy` and its error [PE/electron], for the extraction efficiency",
    )
    args = calibrating.check_options(parser, parser.parse_args(argv))
    if not 0 <= args.min_delay < args.max_delay:
        parser.error("--min_delay must be at least 0 and below --max_delay")
    if args.g2 and not (args.g2[0] > 0 and args.g2[1] >= 0):
        parser.error("--g2: give a value above 0, and its error")
    return args


def measure(args: argparse.Namespace, stop: Stop) -> calibrating.Measured:
    """Measure the gain and, with g2, the extraction efficiency.

    Raises NoResult if small peaks are too few, or do not form a peak.
    """
    from amstrax.calibration.single_electrons import fit_electrons, select

    columns = ("time", "area", "delay", "range_50p_area")
    peaks = calibrating.load_together(args, (DATA_TYPE,), columns, stop)
    area = select(peaks, args.min_delay, args.max_delay, args.min_width)
    fit = fit_electrons(area, args.min_area)
    if fit.p_value < _ODD_P_VALUE:
        log.warning(
            "the fit does not describe the spectrum (p = %.1g): see --plot, and choose --min_delay "
            "or --min_area",
            fit.p_value,
        )
    text = (
        f"{fit.counts.sum()} peaks in the fit, p-value {fit.p_value:.2g}; peaks of k + 1 electrons "
        f"/ of k: {fit.spectrum.overlap:.3f}"
    )
    return calibrating.Measured(
        results(fit, args.g2),
        lambda: analyses.energy_plots.plot_single_electrons(area, fit),
        lambda entry: fit.gain.value,
        ["", text],
    )


def results(fit: "ElectronFit", g2: Sequence[float] | None = None) -> "list[Result]":
    """Return the gain and, with g2 and its error, the extraction efficiency."""
    from amstrax.calibration.result import Result

    gain, found = fit.gain, [fit.gain]
    if g2:
        value, error = g2
        ratio = value / gain.value
        by = ratio * ((error / value) ** 2 + (gain.error / gain.value) ** 2) ** 0.5
        method = "g2 / se_gain"
        found.append(Result.with_error("extraction_efficiency", ratio, by, "1", method))
    return found


main = calibrating.main_of(parse_args, measure, lambda args: (OPTION,), log, "the gain")

if __name__ == "__main__":
    sys.exit(main())

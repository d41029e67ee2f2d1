"""The command ``amstrax se-gain``: gain of single electrons, and extraction efficiency."""

import argparse
import logging
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from amstrax.commands import calibrating
from amstrax.rundb.leases import Stop

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

    from amstrax.calibration.result import Result
    from amstrax.calibration.single_electrons import ElectronFit

log = logging.getLogger("amstrax.se-gain")

DATA_TYPE, OPTION = "single_electrons", "se_gain"
#: Limit for a warning: p-value of the fit
_ODD_P_VALUE = 1e-3


def parse_args(argv: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    """Parse `argv` (by default the command line) into options; exit with 2 on invalid ones."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Measure the gain of single electrons [PE/e] from small peaks after large ones "
        "and, where g2 is known, the extraction efficiency g2 / gain. Files of --write are called "
        f"{OPTION}_VERSION.json; they are a record, which no plugin reads",
    )
    calibrating.add_options(parser, "runs of one setting, which are analysed together, as 006724")
    calibrating.add_events(parser)
    add = parser.add_argument
    for name, default, what in (("min", 10.0, "least"), ("max", 2000.0, "longest")):
        add(
            f"--{name}_delay",
            type=float,
            default=default,
            metavar="US",
            help=f"{what} time after the end of a large peak [us] (default: %(default)s)",
        )
    add(
        "--min_width",
        type=float,
        default=50.0,
        metavar="NS",
        help="least width of the central 50 %% of the area, which S1s and dark counts do not have "
        "[ns] (default: %(default)s)",
    )
    add(
        "--min_area",
        type=float,
        default=2.5,
        metavar="PE",
        help="the fit starts at this area [PE] (default: %(default)s)",
    )
    add(
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


def work(args: argparse.Namespace, stop: Stop) -> str:
    """Measure the gain, write the requested files, and return the table to print.

    Raises
    ------
    NoResult
        If small peaks are too few, or do not form a peak.
    AmstraxError
        If a run cannot be processed.
    """
    import numpy as np

    from amstrax.calibration.single_electrons import fit_electrons, select

    new = calibrating.new_entries(args, (OPTION,))  # reports errors in files before the work
    columns = ("time", "area", "delay", "range_50p_area")
    peaks = np.concatenate(list(calibrating.load(args, (DATA_TYPE,), columns, stop).values()))
    area = select(peaks, args.min_delay, args.max_delay, args.min_width)
    fit = fit_electrons(area, args.min_area)
    if fit.p_value < _ODD_P_VALUE:
        log.warning(
            "the fit does not describe the spectrum (p = %.1g): see --plot, and choose --min_delay "
            "or --min_area",
            fit.p_value,
        )
    found = [(args.run_ids, result) for result in results(fit, args.g2)]
    calibrating.save_plot(args, lambda: _figure(area, fit))
    calibrating.write_json(args, found)
    text = (
        f"{calibrating.table(found)}\n\n{fit.counts.sum()} peaks in the fit, p-value "
        f"{fit.p_value:.2g}; peaks of k + 1 electrons / of k: {fit.spectrum.overlap:.3f}"
    )
    written = [calibrating.write_entry(entry, fit.gain.value) for entry in new]
    return "\n".join([text, *written])


def results(fit: "ElectronFit", g2: Sequence[float] | None = None) -> "list[Result]":
    """Return the gain and, with g2 and its error, the extraction efficiency."""
    from amstrax.calibration.result import Result

    gain, found = fit.gain, [fit.gain]
    if g2:
        value, error = g2
        ratio = value / gain.value
        by = ratio * ((error / value) ** 2 + (gain.error / gain.value) ** 2) ** 0.5
        found.append(
            Result("extraction_efficiency", ratio, ratio - by, ratio + by, "1", "g2 / se_gain")
        )
    return found


def _figure(area: "np.ndarray", fit: "ElectronFit") -> "Figure":
    from amstrax.analyses.energy_plots import plot_single_electrons

    return plot_single_electrons(area, fit)


main = calibrating.main_of(parse_args, work, log, "the gain")

if __name__ == "__main__":
    sys.exit(main())

"""The command ``amstrax alphas``: alpha lines of radon in XAMSL, energy scale, gains, BiPo."""

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from amstrax import analyses
from amstrax.commands import base, calibrating
from amstrax.exceptions import NoResult, UsageError
from amstrax.rundb.leases import Stop

if TYPE_CHECKING:
    from amstrax.calibration.result import Result

log = logging.getLogger("amstrax.alphas")

PEAKS, RECORDS, OPTION = "radon_peak_basics", "radon_records", "xamsl_gain_to_pe_array"
#: Columns of peaks that `amstrax.calibration.alphas.alphas_of_peaks` takes
COLUMNS = ("time", "center_time", "area", "range_50p_area", "area_fraction_top", "n_channels")
#: Gains in a file: of all channels of the context
_N_GAINS = 4
#: Limit for a warning: p-value of the fit
_ODD_P_VALUE = 1e-3


def parse_args(argv: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Find the alpha lines of Rn-222, Po-218 and Po-214 in runs of XAMSL: positions,"
        " widths, energy scale, half-life of Po-214 and, with --gains, the area of a photoelectron "
        f"in each channel. Files of --write are called {OPTION}_VERSION.json",
    )
    calibrating.add_options(parser, "runs of one setting, which are analysed together, as 002240")
    add = parser.add_argument
    base.add_number(
        parser,
        "--max_width",
        30.0,
        "NS",
        "largest width of the central 50 %% of the area of an alpha's S1, which those of betas "
        "exceed [ns]",
    )
    add(
        "--min_area",
        type=float,
        metavar="AREA",
        help="least area of an S1 of an alpha, in the unit of the areas (default: a tenth of the "
        "largest)",
    )
    add(
        "--gains",
        action="store_true",
        help="measure the area of a photoelectron in fluctuations of the tails of alphas' S1s; "
        "--write does so too",
    )
    calibrating.add_range(
        parser,
        "--tail",
        "the tail, after the maximum of the pulse [ns] (default: 30 100)",
        ("FIRST", "LAST"),
        (30.0, 100.0),
    )
    add(
        "--excess",
        type=float,
        default=1.45,
        metavar="X",
        help="mean square of the charge of a photon, in mean charges of a photoelectron, for a "
        "mean of photoelectrons (default: %(default)s, assumed)",
    )
    args = calibrating.check_options(parser, parser.parse_args(argv))
    args.context, args.gains = "xams_little", args.gains or bool(args.write)
    if args.tail[0] < 0:
        parser.error("--tail: FIRST must be at least 0")
    if not (args.excess > 0 and args.max_width > 0):
        parser.error("--excess and --max_width must be above 0")
    return args


def measure(args: argparse.Namespace, stop: Stop) -> calibrating.Measured:
    """Find the lines and, if they are asked for, gains.

    Raises
    ------
    NoResult
        If alphas are too few, do not form lines, or a gain to write cannot be measured.
    """
    from amstrax.calibration import alphas

    units = []

    def look(run_id: str, st: Any) -> None:
        units.append(analyses.loading.area_unit(st, run_id, PEAKS))

    peaks = calibrating.load_together(args, (PEAKS,), COLUMNS, stop, look)
    if len(set(units)) > 1:
        raise UsageError(f"some runs have gains and some do not: {', '.join(args.run_ids)}")
    fit, delays = alphas.alphas_of_peaks(peaks, units[-1], args.max_width, args.min_area)
    if fit.p_value < _ODD_P_VALUE:
        log.warning(
            "three Gaussian lines do not describe the spectrum (p = %.1g): see --plot", fit.p_value
        )
    found = [*fit.lines.values(), *fit.sigmas.values(), *fit.resolutions.values(), fit.scale]
    found.append(alphas.linearity(fit))
    notes = [f"{fit.counts.sum()} alphas in the fit, p-value {fit.p_value:.2g}"]
    try:
        found.append(alphas.half_life(delays))
        notes.append(f"half-life of Po-214 in the literature: {alphas.HALF_LIFE} us")
    except NoResult as error:
        notes.append(f"no half-life: {error}")
    gains = _photoelectrons(args, stop) if args.gains else {}
    found += gains.values()
    values = [1 / gains[c].value if c in gains else 1.0 for c in range(_N_GAINS)]
    if args.write:
        notes.append("channels without a measurement have the gain 1")
        log.warning(
            "gains from tails depend on the shape of the tail: vary --tail, and keep them only if "
            "they change by less than their errors"
        )
    return calibrating.Measured(
        found,
        lambda: analyses.calibration_plots.plot_alphas(fit, units[-1]),
        lambda entry: values,
        ["", *notes],
    )


def _photoelectrons(args: argparse.Namespace, stop: Stop) -> "dict[int, Result]":
    """Return the area of a photoelectron by channel, of channels that alphas reach."""
    import numpy as np

    from amstrax.calibration import alphas

    tails: dict[int, list] = {}
    noise: dict[int, list] = {}
    for run_id, st in calibrating.processed(args, args.run_ids, (RECORDS,), stop):
        for chunk in st.get_iter(run_id, RECORDS, progress_bar=False):
            for channel in np.unique(chunk.data["channel"]).tolist():
                own = chunk.data[chunk.data["channel"] == channel]
                tails.setdefault(channel, []).append(alphas.tails_of(own, args.tail))
                noise.setdefault(channel, []).append(own["baseline_rms"])
    found = {}
    for channel in tails:
        sigma = float(np.median(np.concatenate(noise[channel])))
        rows = np.concatenate(tails[channel])
        result = alphas.photoelectron_area(rows, sigma, excess=args.excess)
        found[channel] = replace(result, name=f"{result.name} {channel}")
    return found


main = calibrating.main_of(parse_args, measure, lambda args: (OPTION,), log, "the lines")

if __name__ == "__main__":
    sys.exit(main())

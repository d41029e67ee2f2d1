"""The command ``amstrax energy``: g1, g2 and the resolution from mono-energetic lines."""

import argparse
import logging
import math
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from amstrax import analyses
from amstrax.commands import base, calibrating
from amstrax.exceptions import NoResult, UsageError
from amstrax.rundb.leases import Stop

if TYPE_CHECKING:
    import numpy as np

    from amstrax.calibration.energy import EnergyScale, Line, PeakFit

    Scales = Mapping[str, EnergyScale | NoResult]

log = logging.getLogger("amstrax.energy")

OPTIONS = "g1", "g2"
_COLUMNS = ("time", "cs1", "cs2", "s2_n_saturated_channels", "s1_n_saturated_channels")
#: Share of saturated events of a line that is worth a warning
_MOST_SATURATED = 0.02
#: Area that nothing exceeds [PE]; infinity is not JSON
_NO_LIMIT = 1e12


class LineSpec(NamedTuple):
    """A line to look for."""

    energy: float  # [keV]
    run_id: str | None = None  # the run that has it; None: all
    #: cS1 and cS2 [PE] among which it is
    ranges: tuple[tuple[float, float], tuple[float, float]] = ((0, _NO_LIMIT), (0, _NO_LIMIT))


def _line(text: str) -> LineSpec:
    energy, _, run_id = text.partition("=")
    run_id, _, window = run_id.partition(":")
    try:
        limits = [float(value) for value in window.split(",")] if window else [0, _NO_LIMIT] * 2
        result = LineSpec(
            float(energy),
            base.run_id(run_id) if run_id else None,
            ((limits[0], limits[1]), (limits[2], limits[3])),
        )
    except (ValueError, IndexError, argparse.ArgumentTypeError):
        result = LineSpec(math.nan)
    (a, b), (c, d) = result.ranges
    if not (0 < result.energy < math.inf and 0 <= a < b and 0 <= c < d):
        raise argparse.ArgumentTypeError(
            f"{text!r}: write KEV, KEV=RUN_ID or KEV=RUN_ID:S1LOW,S1HIGH,S2LOW,S2HIGH, as "
            "41.5=006724"
        )
    return result


def parse_args(argv: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Measure g1 [PE/photon] and g2 [PE/electron] of mono-energetic lines: from the "
        "Doke plot of two or more, and from the ellipse of one; and the resolution at each line",
    )
    calibrating.add_options(parser, "runs with the lines, as 006724")
    calibrating.add_events(parser)
    add = parser.add_argument
    add(
        "--line",
        dest="lines",
        type=_line,
        action="append",
        required=True,
        metavar="KEV[=RUN_ID[:S1LOW,S1HIGH,S2LOW,S2HIGH]]",
        help="energy of a line [keV], the run that has it (default: all runs together), and the "
        "range of cS1 and of cS2 in which it is the densest place [PE]. Can be given more than "
        "once",
    )
    base.add_number(
        parser,
        "--w",
        13.7,
        "EV",
        "mean energy for a photon or an electron [eV]: 13.7 (C. Dahl, thesis, Princeton 2009) or "
        "11.5 (EXO-200, arXiv:1908.04128; L. Baudis et al., arXiv:2109.07151). g1 and g2 are "
        "proportional to it",
    )
    add(
        "--method",
        choices=("doke", "ellipse"),
        help="g1 and g2 to write (default: doke with two or more lines, else ellipse)",
    )
    add(
        "--ellipse_line",
        type=float,
        metavar="KEV",
        help="line whose ellipse is taken (default: that with the most energy)",
    )
    base.add_number(
        parser,
        "--fano",
        0.03,
        "F",
        "variance / mean of the number of quanta, for the ellipse: 0.03 (C. Dahl); NEST has more, "
        "such as 1.7 at 60 keV and 500 V/cm",
    )
    base.add_number(
        parser,
        "--s2_noise",
        0.0,
        "PE",
        "variance / mean of the area of S2s of a fixed number of electrons, for the ellipse [PE]: "
        "about half of the single-electron gain",
    )
    args = calibrating.check_options(parser, parser.parse_args(argv))
    for line in args.lines:
        if line.run_id is not None and line.run_id not in args.run_ids:
            parser.error(f"--line {line.energy:g}={line.run_id}: the run is not among the runs")
    if not 0 < args.w < 100:
        parser.error(f"--w {args.w}: give an energy above 0 [eV], as 13.7")
    energies = [line.energy for line in args.lines]
    if args.ellipse_line is not None and args.ellipse_line not in energies:
        parser.error(f"--ellipse_line {args.ellipse_line:g}: it is not one of --line")
    args.method = args.method or ("doke" if len(args.lines) > 1 else "ellipse")
    return args


def measure(args: argparse.Namespace, stop: Stop) -> calibrating.Measured:
    """Measure the energy scale.

    Raises NoResult if a line is not found, or the chosen method has no result; UsageError for runs
    without gains.
    """
    import numpy as np

    runs = calibrating.load(
        args, ("event_info",), _COLUMNS, stop, calibrating.needs_gains("event_info")
    )
    lines, events = _find_lines(args, runs)
    cs1, cs2 = (np.concatenate([run[name] for run in runs.values()]) for name in ("cs1", "cs2"))
    scales = _scales(args, lines, events)
    chosen = scales[args.method]
    if isinstance(chosen, NoResult):
        raise chosen
    peaks = _peaks(chosen, lines, events)
    rows = []
    text = ["", f"W = {args.w:g} eV"]
    for name, scale in scales.items():
        if isinstance(scale, NoResult):
            text.append(f"{name}: none: {scale}")
        else:
            rows += [scale.g1, scale.g2]
            fit = f", chi2/free {scale.chi2:.1f}/{scale.n_free}" if scale.n_free else ""
            text.append(f"{name}: correlation of g1 and g2 {scale.correlation:.3f}{fit}")
    for peak in peaks.values():
        rows += [peak.mean, peak.sigma, peak.resolution]
    return calibrating.Measured(
        rows,
        lambda: analyses.calibration_plots.plot_energy(cs1, cs2, lines, chosen, peaks),
        lambda entry: getattr(chosen, entry.option).value,
        text,
    )


def _find_lines(
    args: argparse.Namespace, runs: "Mapping[str, np.ndarray]"
) -> "tuple[list[Line], list[np.ndarray]]":
    """Return the lines, and the events that each was looked for in."""
    import numpy as np

    from amstrax.calibration.energy import find_line

    lines: list[Line] = []
    events: list[np.ndarray] = []
    for spec in args.lines:
        own = np.concatenate([v for run, v in runs.items() if spec.run_id in (None, run)])
        line = find_line(spec.energy, own["cs1"], own["cs2"], *spec.ranges)
        saturated = own["s2_n_saturated_channels"] + own["s1_n_saturated_channels"] > 0
        share = float(saturated[line.is_inside].mean())
        if share > _MOST_SATURATED:
            log.warning(
                "%.0f %% of events of %g keV reach the end of the ADC, so S2s are too small: leave "
                "the line out, or lower the gain of the PMTs",
                100 * share,
                spec.energy,
            )
        for other in lines:
            if np.allclose(other.mean, line.mean, rtol=1e-6):
                raise UsageError(
                    f"--line {spec.energy:g}: the same population as {other.energy:g} keV; name "
                    "its run, or give ranges of cS1 and cS2"
                )
        lines.append(line)
        events.append(own)
    return lines, events


def _scales(
    args: argparse.Namespace, lines: "Sequence[Line]", events: "Sequence[np.ndarray]"
) -> "Scales":
    """Return g1 and g2 of each method, or the reason for none."""
    from amstrax.calibration.energy import doke_fit, ellipse_fit

    energy = args.ellipse_line or max(line.energy for line in lines)
    line, own = next(pair for pair in zip(lines, events, strict=True) if pair[0].energy == energy)
    scales: dict[str, EnergyScale | NoResult] = {}
    for name, fit, options in (
        ("doke", doke_fit, (lines, args.w)),
        ("ellipse", ellipse_fit, (line, own["cs1"], own["cs2"], args.w, args.fano, args.s2_noise)),
    ):
        try:
            scales[name] = fit(*options)
        except NoResult as error:
            scales[name] = error
    return scales


def _peaks(
    scale: "EnergyScale", lines: "Sequence[Line]", events: "Sequence[np.ndarray]"
) -> "dict[float, PeakFit]":
    """Return the fitted peak of each line in the spectrum; lines without one are logged."""
    import numpy as np

    from amstrax.calibration.energy import fit_peak

    peaks = {}
    for line, own in zip(lines, events, strict=True):
        per_pe = scale.w_value * 1e-3 / scale.g1.value, scale.w_value * 1e-3 / scale.g2.value
        width = float((np.array(per_pe) @ line.covariance @ np.array(per_pe)) ** 0.5)
        try:
            peaks[line.energy] = fit_peak(scale.energy(own["cs1"], own["cs2"]), line.energy, width)
        except NoResult as error:
            log.warning("%s", error)
    return peaks


main = calibrating.main_of(parse_args, measure, lambda args: OPTIONS, log, "the scale")

if __name__ == "__main__":
    sys.exit(main())

"""The command ``amstrax maps``: measure s1_map and s2_map with a line that fills the volume."""

import argparse
import logging
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from amstrax import analyses
from amstrax.commands import base, calibrating
from amstrax.exceptions import UsageError
from amstrax.rundb.leases import Stop

if TYPE_CHECKING:
    from amstrax.calibration.maps import LightMap
    from amstrax.calibration.result import Result

log = logging.getLogger("amstrax.maps")

MAPS = "s1_map", "s2_map"
_COLUMNS = ("time", "x", "y", "r", "z", "drift_time", "s1_area", "cs1", "cs2")


def parse_args(argv: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Measure maps of light with a mono-energetic source that fills the volume "
        "evenly: s1_map in r and z from uncorrected S1s, s2_map in x and y from S2s corrected for "
        "lost electrons",
    )
    calibrating.add_options(parser, "runs of the source, which are analysed together, as 006724")
    calibrating.add_events(parser)
    add = parser.add_argument
    add(
        "--map",
        dest="maps",
        choices=MAPS,
        action="append",
        help="map to measure (default: both). Can be given more than once",
    )
    for name, what in (("cs1", "cS1"), ("cs2", "cS2")):
        calibrating.add_range(
            parser,
            f"--{name}_range",
            f"{what} of the line, which is the densest place there [PE] (default: all)",
            default=(0.0, 1e12),
        )
    for name, default, text in (
        ("r", 4, "bins of s1_map in r, of equal areas"),
        ("z", 10, "bins of s1_map in z"),
        ("xy", 8, "bins of s2_map in each of x and y"),
    ):
        base.add_count(parser, f"--{name}_bins", default, text)
    base.add_count(
        parser,
        "--min_events",
        30,
        "bins with fewer events are merged with neighbours, in r or in x and y, until they have so "
        "many",
    )
    for name, what in (("radius", "radius"), ("depth", "depth of the cathode below the gate")):
        add(
            f"--{name}",
            type=float,
            metavar="MM",
            help=f"{what} of the volume [mm] (default: that of XAMS)",
        )
    args = calibrating.check_options(parser, parser.parse_args(argv))
    args.maps = tuple(dict.fromkeys(args.maps or MAPS))
    if args.min_events < 2:
        parser.error("--min_events must be at least 2, for statistical errors")
    return args


def measure(args: argparse.Namespace, stop: Stop) -> calibrating.Measured:
    """Measure maps.

    Raises
    ------
    NoResult
        If there is no line, or too few events in a slice of z.
    UsageError
        If S2s are corrected with an s2_map already.
    """
    import numpy as np

    from amstrax.calibration.maps import maps_of_events
    from amstrax.common import XAMS_VOLUME

    def look(run_id: str, st: Any) -> None:
        if "s2_map" in args.maps and st.config.get("s2_map") is not None:
            raise UsageError(
                f"S2s of run {run_id} are corrected with an s2_map already: set it to null with "
                "--config_kwargs '{\"s2_map\": null}'"
            )

    found = maps_of_events(
        calibrating.load_together(args, ("event_info",), _COLUMNS, stop, look),
        (args.r_bins, args.z_bins, args.xy_bins),
        args.maps,
        (args.cs1_range, args.cs2_range),
        args.min_events,
        args.radius or XAMS_VOLUME.radius,
        args.depth or XAMS_VOLUME.depth,
    )
    merged = [
        f"{name}: {np.sum(one.n_used > one.n_events)} of {one.ratio.size} bins merged, "
        f"{np.sum(one.ratio == 0)} without events, {one.n_events.sum()} events"
        for name, one in found.items()
    ]
    return calibrating.Measured(
        [row for name, one in found.items() for row in results(name, one)],
        lambda: analyses.calibration_plots.plot_light_map(found),
        lambda entry: found[entry.option].option(),
        ["", *merged],
    )


def results(name: str, found: "LightMap") -> "list[Result]":
    """Return the light in each bin with events, relative to the mean."""
    import numpy as np

    from amstrax.calibration.result import Result

    rows = []
    for i, j in np.argwhere(found.ratio).tolist():
        value, error = float(found.ratio[i, j]), float(found.error[i, j])
        place = ", ".join(
            f"{axis} {edges[k]:.3g} to {edges[k + 1]:.3g} mm"
            for axis, edges, k in zip(found.axes, found.edges, (i, j), strict=True)
        )
        used, own = found.n_used[i, j], found.n_events[i, j]
        events = f"{own} events" if used == own else f"{own} events, merged to {used}"
        ends = value - error, value + error
        rows.append(Result(f"{name}[{i},{j}]", value, *ends, "1", f"{place}; {events}"))
    return rows


main = calibrating.main_of(parse_args, measure, lambda args: args.maps, log, "the maps")

if __name__ == "__main__":
    sys.exit(main())

"""One page of plots of the quality of the reconstruction."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from amstrax.analyses import statistics, style
from amstrax.analyses.validation import THRESHOLDS, Matched, lifetime_points
from amstrax.simulation.matching import KINDS

_COLORS = {kind: style.TYPE_COLORS[i + 1] for i, kind in enumerate(KINDS)}
_MARKERS = {"s1": "o", "s2": "s"}
#: Bins with fewer entries are left out
_LEAST_IN_BIN = 5
#: Width and height of a panel, its margins (left, right, bottom, top), height of the title [inch]
_PANEL, _MARGINS, _TITLE = (5.3, 4.2), (1.25, 0.5, 0.65, 0.35), 0.4


def plot_validation(matched: Matched | None, report: dict[str, Any]) -> Figure:
    """Return a page of plots.

    `matched` and `report` are those of `amstrax.analyses.validation_data.match` and
    ``validation_report``; ``made`` in the report gives the title. Without `matched` the page has
    the numbers of an LED run.
    """
    panels: list[Callable[[Axes], None]] = []
    if matched is None:
        panels += [partial(plot_numbers, report, "led_")]
    else:
        panels += [
            partial(plot_fractions, report, "n_found"),
            partial(plot_area, report, "bias"),
            partial(plot_area, report, "resolution"),
            partial(plot_fractions, report, "n_saturated"),
            partial(plot_matrix, report),
            partial(plot_outcomes, report),
        ]
    if matched is not None and report["n_events"] is not None:
        panels += [
            partial(plot_drift_time_error, matched),
            partial(plot_depth_error, matched),
            partial(plot_position_error, matched),
            partial(plot_rings, report),
            partial(plot_uniformity, report, "cs1"),
            partial(plot_uniformity, report, "cs2"),
            partial(plot_lifetime, matched, report),
        ]
    if report.get("kr_delays"):
        panels.append(partial(plot_kr_delays, report))
    for sensor in ("sipm", "external"):
        if sensor in report["by_size"]:
            panels.append(partial(plot_sensor, report, sensor))
    if any(name.startswith("pile_up_") for name in report["numbers"]):
        panels.append(partial(plot_pile_up, report))
    n_columns = min(4, len(panels))
    n_rows = -(-len(panels) // n_columns)
    width, height = (size * n for size, n in zip(_PANEL, (n_columns, n_rows), strict=True))
    figure = style.new_figure((width, height + _TITLE))
    if len(panels) > 1:
        # Fixed margins: a layout from the sizes of all texts takes longer than all else
        figure.set_layout_engine(None)
        left, right, bottom, top = _MARGINS
        inner = _PANEL[0] - left - right, _PANEL[1] - bottom - top
        figure.subplots_adjust(
            left=left / width,
            right=1 - right / width,
            bottom=bottom / (height + _TITLE),
            top=1 - (_TITLE + top) / (height + _TITLE),
            wspace=(left + right) / inner[0],
            hspace=(bottom + top) / inner[1],
        )
    axes = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    for panel, own in zip(panels, axes, strict=False):
        panel(own)
    for own in axes[len(panels) :]:
        own.remove()
    made = report.get("made", {})
    if made:
        what = f"{made['source']}, " if made.get("source") else ""
        found = "" if report["n_events"] is None else f", {report['n_events']} reconstructed"
        figure.suptitle(
            f"Run {made['run_id']}: {what}{made['duration']:.4g} s, {report['n_truth']} true "
            f"events{found} (amstrax {made['amstrax']})",
            y=1 - 0.15 / (height + _TITLE),
            va="top",
        )
    return figure


def plot_numbers(report: dict[str, Any], prefix: str, axes: Axes) -> None:
    """Draw fractions in ``numbers`` whose names begin with `prefix`, in percent."""
    entries = [e for name, e in report["numbers"].items() if name.startswith(prefix)]
    position = np.arange(len(entries))
    value, error = (100 * np.array([e[key] for e in entries], float) for key in ("value", "error"))
    axes.errorbar(value, position, xerr=error, fmt="o", color=style.BLUE)
    axes.axvline(0, color=style.GREY, lw=0.8, zorder=0)
    axes.set_yticks(position, [e["text"].partition(":")[0] for e in entries])
    axes.invert_yaxis()
    axes.set(xlabel="found/true - 1 [%]")


def plot_rings(report: dict[str, Any], axes: Axes) -> None:
    """Draw errors of positions in rings."""
    rings = {name: np.array(values, float) for name, values in report["rings"].items()}
    edges = rings["edges"]
    for name, color, marker, text in (
        ("error", style.BLUE, "o", "median distance of found and true"),
        ("bias", style.VERMILLION, "s", "median of found r - true r"),
    ):
        look: dict[str, Any] = {"fmt": marker, "color": color, "label": text}
        _draw_bins(axes, edges, slice(None), rings[name], rings[f"{name}_error"], **look)
    axes.axhline(0, color=style.GREY, lw=0.8, zorder=0)
    axes.set(xlabel="true r [mm]", ylabel="[mm]", title="Position in rings of the same area")
    axes.legend()


def plot_uniformity(report: dict[str, Any], name: str, axes: Axes) -> None:
    """Draw medians of cs1 per photon or cs2 per electron in rings and layers."""
    uniformity = report["uniformity"]
    off = 100 * (np.array(uniformity[name], float) - 1)
    reach = max(float(np.nanmax(np.abs(off))) if np.isfinite(off).any() else 0.0, 1.0)
    square = np.array(uniformity["rings"]) ** 2
    depth = -np.array(uniformity["layers"])
    mesh = axes.pcolormesh(square, depth, off.T, cmap="RdBu", vmin=-reach, vmax=reach)
    style.figure_of(axes).colorbar(mesh, ax=axes)
    quantum = {"cs1": "photon", "cs2": "electron"}[name]
    axes.set(
        xlabel="true r² [mm²]",
        ylabel="true z [mm]",
        title=f"{name}/{quantum}: median / that of all - 1 [%]",
    )


def plot_kr_delays(report: dict[str, Any], axes: Axes) -> None:
    """Draw what the two S1s of Kr-83m were found as, against their delay."""
    table = report["kr_delays"]
    edges = np.array(table["edges"])
    for name, color, marker, label in (
        ("two", style.BLUE, "o", "two S1s"),
        ("one", style.GREEN, "s", "one S1"),
        ("unknown", style.VERMILLION, "^", "no type"),
    ):
        look: dict[str, Any] = {"fmt": marker, "color": color, "label": label}
        _draw_bins(axes, edges, *_fractions(table[name], table["n"]), **look)
    axes.set(xlabel="true delay [ns]", ylabel="found as [%]", title="S1 pairs of Kr-83m")
    axes.legend()


def plot_sensor(report: dict[str, Any], sensor: str, axes: Axes) -> None:
    """Draw the efficiency of ``sipm`` or ``external``, against photoelectrons or energy."""
    data = report["by_size"][sensor]
    shown, value, error = _fractions(data["n_found"], data["n"])
    if not shown.any():
        style.note(axes, "no signals")
        return
    edges = np.array(data["edges"])
    center = np.sqrt(edges[1:] * edges[:-1])[shown]
    axes.errorbar(center, value, yerr=error, fmt="o", color=style.BLUE)
    title, label = {
        "sipm": ("SiPM", "true photoelectrons [PE]"),
        "external": ("NaI detector", "true energy [keV]"),
    }[sensor]
    axes.set(xscale="log", ylim=(-3, 108), xlabel=label, ylabel="in a peak [%]", title=title)


def plot_pile_up(report: dict[str, Any], axes: Axes) -> None:
    """Draw the numbers that depend on the rate."""
    for name, color, marker, text in (
        ("event_efficiency", style.BLUE, "o", "events found"),
        ("events_merged", style.VERMILLION, "s", "events merged"),
        ("events_merged_expected", style.GREY, "_", "events merged, expected"),
        ("s2_merged", style.GREEN, "^", "S2s that share a peak"),
    ):
        prefix = f"pile_up_{name}_"
        points = [
            (float(key.removeprefix(prefix)), 100 * e["value"], 100 * e["error"])
            for key, e in report["numbers"].items()
            if key.startswith(prefix) and key.removeprefix(prefix)[0].isdigit()
        ]
        if points:
            rate, value, error = np.array(points, float).T
            axes.errorbar(rate, value, yerr=error, fmt=marker, color=color, label=text)
    axes.set(xscale="log", xlabel="events per second [Hz]", ylabel="[%]", title="Pile-up")
    axes.legend()


def plot_fractions(report: dict[str, Any], field: str, axes: Axes) -> None:
    """Draw the fraction of signals ``n_found`` or ``n_saturated``, against photoelectrons."""
    for kind in KINDS:
        data = report["by_size"][kind]
        _draw_by_size(axes, kind, data, *_fractions(data[field], data["n"]))
    _label_size(axes)
    if field == "n_found":
        axes.axhline(100, color=style.GREY, lw=0.8, zorder=0)
    title, label = {
        "n_found": ("Efficiency", "found as the right type [%]"),
        "n_saturated": ("Saturation of the ADC", "saturated [%]"),
    }[field]
    axes.set(ylim=(-3, 108), ylabel=label, title=title)


def plot_area(report: dict[str, Any], what: str, axes: Axes) -> None:
    """Draw ``bias`` or ``resolution`` of areas, against true photoelectrons."""
    for kind in KINDS:
        data = report["by_size"][kind]
        shown = np.array(data["n_area"]) >= _LEAST_IN_BIN
        value, error = (100 * np.array(data[name])[shown] for name in (what, f"{what}_error"))
        _draw_by_size(axes, kind, data, shown, value, error)
    _label_size(axes)
    if what == "bias":
        axes.axhline(0, color=style.GREY, lw=0.8, zorder=0)
        axes.set(ylabel="median of found/true - 1 [%]", title="Bias of the area")
        low, high = axes.get_ylim()
        axes.set_ylim(min(low, -2), max(high, 2))
    else:
        axes.set(ylabel="half the central 68 % of found/true [%]", title="Resolution of the area")
        axes.set_ylim(bottom=0)


def _fractions(counted: list[int], n: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return which bins have entries, and fractions and their errors in these [%]."""
    counts, total = np.array(counted), np.array(n)
    shown = total > 0
    counts, total = counts[shown], total[shown]
    low, high = statistics.fraction_interval(counts, total)
    value = counts / total
    return shown, 100 * value, 100 * np.array([value - low, high - value])


def _draw_by_size(
    axes: Axes,
    kind: str,
    data: dict[str, list],
    shown: np.ndarray,
    value: np.ndarray,
    error: np.ndarray,
) -> None:
    """Draw values with errors [%] of the shown bins of photoelectrons."""
    if not shown.any():
        return
    look: dict[str, Any] = {"fmt": _MARKERS[kind], "color": _COLORS[kind], "label": kind.upper()}
    _draw_bins(axes, np.array(data["edges"]), shown, value, error, is_log=True, ms=4, **look)


def _draw_bins(
    axes: Axes,
    edges: np.ndarray,
    shown: np.ndarray | slice,
    value: np.ndarray,
    error: np.ndarray,
    is_log: bool = False,
    **look: Any,
) -> None:
    """Draw values with errors of the shown bins, at the bins' centers."""
    center = np.sqrt(edges[1:] * edges[:-1]) if is_log else (edges[1:] + edges[:-1]) / 2
    width = np.array([center - edges[:-1], edges[1:] - center])
    axes.errorbar(center[shown], value, xerr=width[:, shown], yerr=error, **look)


def _label_size(axes: Axes) -> None:
    axes.set(xscale="log", xlabel="true photoelectrons [PE]")
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
    else:
        style.note(axes, "no signals")


def plot_drift_time_error(matched: Matched, axes: Axes) -> None:
    """Draw the distribution of errors of drift times."""
    truth, events = matched.clean_rows()
    off = events["drift_time"] - truth["drift_time"]
    off = off[np.isfinite(off)]
    axes.set(xlabel="drift time, found - true [ns]", ylabel="events", title="Drift time")
    if not len(off):
        style.note(axes, "no events")
        return
    middle, width = statistics.median(off).value, statistics.spread(off).value
    # Center times are whole ns: other widths of bins would show a comb
    width_of_bin = max(1, round(np.nan_to_num(width) / 5))
    edges = np.floor(middle) + 0.5 + width_of_bin * np.arange(-30, 31)
    axes.hist(
        np.clip(off, edges[0], edges[-1]), edges, color=style.BLUE, histtype="stepfilled", alpha=0.8
    )
    axes.axvline(0, color=style.GREY, lw=0.8)
    text = f"median {middle:.1f} ns\nspread {width:.1f} ns\noff scale: in\nthe outer bins"
    axes.text(0.03, 0.95, text, transform=axes.transAxes, va="top")


def plot_depth_error(matched: Matched, axes: Axes) -> None:
    """Draw errors of z against z."""
    truth, events = matched.clean_rows()
    off = events["z"] - truth["z"]
    axes.set(xlabel="true z [mm]", ylabel="z, found - true [mm]", title="Depth")
    if not len(off):
        style.note(axes, "no events")
        return
    axes.plot(truth["z"], off, ".", ms=3, color=style.BLUE, alpha=0.4, rasterized=True)
    width = statistics.spread(off[np.isfinite(off)]).value
    middle = float(np.nanmedian(off))
    reach = max(8 * np.nan_to_num(width), 0.1)
    axes.set_ylim(min(middle - reach, -reach / 4), max(middle + reach, reach / 4))
    axes.axhline(0, color=style.GREY, lw=0.8)


def plot_position_error(matched: Matched, axes: Axes) -> None:
    """Draw found against true x and y."""
    truth, events = matched.clean_rows()
    axes.set(xlabel="true x or y [mm]", ylabel="found x or y [mm]", title="Position")
    if not len(truth):
        style.note(axes, "no events")
        return
    for field, color in (("x", style.BLUE), ("y", style.VERMILLION)):
        axes.plot(
            truth[field], events[field], ".", ms=3, alpha=0.4, color=color, label=field,
            rasterized=True,
        )  # fmt: skip
    reach = 1.05 * max(np.abs(truth["x"]).max(), np.abs(truth["y"]).max())
    axes.plot([-reach, reach], [-reach, reach], color=style.BLACK, lw=0.8)
    axes.set(xlim=(-reach, reach), ylim=(-1.3 * reach, 1.3 * reach))
    axes.legend(markerscale=3)


def plot_matrix(report: dict[str, Any], axes: Axes) -> None:
    """Draw true against found kinds, shaded by their share of the row."""
    matrix = report["matrix"]
    counts = np.array(matrix["counts"])
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(share, cmap=style.COLOR_MAP, vmin=0, vmax=1, aspect="auto")
    for (i, j), n in np.ndenumerate(counts):
        if i == 2 and j == 3:
            continue
        color = style.BLACK if share[i, j] > 0.5 else "white"
        text = f"{n}\n{100 * share[i, j]:.1f} %"
        axes.text(j, i, text, ha="center", va="center", color=color)
    axes.set_xticks(range(len(matrix["columns"])), matrix["columns"])
    axes.set_yticks(
        range(len(matrix["rows"])),
        [f"true {row}" for row in matrix["rows"][:2]] + matrix["rows"][2:],
    )
    axes.set(xlabel="found as", title="Classification of peaks")


def plot_outcomes(report: dict[str, Any], axes: Axes) -> None:
    """Draw fractions of the outcomes of signals that were not found."""
    names = ("missed", "misclassified", "split", "merged")
    position = np.arange(len(names))
    for kind, shift in zip(KINDS, (-0.2, 0.2), strict=True):
        numbers = [report["numbers"][f"{kind}_{name}"] for name in names]
        value = 100 * np.array([entry["value"] for entry in numbers])
        error = 100 * np.array([entry["error"] for entry in numbers])
        label = f"{kind.upper()} above {THRESHOLDS[kind]} PE"
        axes.barh(position + shift, value, 0.38, color=_COLORS[kind], label=label)
        for y, v, e in zip(position + shift, value, error, strict=True):
            text = f" {v:.2f} ± {e:.2f} %" if np.isfinite(v) else " none there"
            axes.text(v if np.isfinite(v) else 0, y, text, va="center")
    axes.set_yticks(position, names)
    axes.invert_yaxis()
    axes.set(xlabel="share of the signals [%]", title="What went wrong")
    axes.set_xlim(0, max(1.5 * axes.get_xlim()[1], 1))
    axes.legend(loc="lower right")


def plot_lifetime(matched: Matched, report: dict[str, Any], axes: Axes) -> None:
    """Draw corrected S2s per true electron against drift time, and the fitted lifetimes."""
    drift_time, _, per_electron = lifetime_points(matched)
    axes.set(
        xlabel="drift time [µs]", ylabel="cS2 / true electrons [PE]", title="Electron lifetime"
    )
    if not len(drift_time):
        style.note(axes, "no events")
        return
    axes.plot(
        drift_time / 1000, per_electron, ".", ms=3, color=style.BLUE, alpha=0.4, rasterized=True
    )
    line = statistics.fit_line(drift_time, np.log(per_electron))
    x = np.linspace(drift_time.min(), drift_time.max(), 50)
    y = np.exp(line.intercept.value + line.slope.value * x)
    axes.plot(x / 1000, y, color=style.VERMILLION, lw=2)
    low, high = np.percentile(per_electron, (2, 98))
    axes.set_ylim(max(0, low - (high - low)), high + 1.2 * (high - low))
    lines = []
    for name, text in (("elife", "from cS2"), ("elife_per_electron", "from cS2/electrons")):
        entry, bias = report["numbers"][name], report["numbers"][f"{name}_bias"]
        if np.isfinite(entry["value"]):
            value, error = entry["value"] / 1000, entry["error"] / 1000
            found = f"{value:.2f} ± {error:.2f} µs ({100 * bias['value']:+.1f} % of true)"
        else:
            found = "not found, cS2 does not fall with drift time"
        lines.append(f"{text}: {found}")
    axes.text(0.03, 0.97, "\n".join(lines), transform=axes.transAxes, va="top", size="small")

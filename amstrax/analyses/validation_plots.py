"""One page of plots of the quality of the reconstruction."""

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


def plot_validation(matched: Matched, report: dict[str, Any]) -> Figure:
    """Return a page of plots.

    `matched` and `report` are those of `amstrax.analyses.validation.match` and
    ``validation_report``; ``made`` in the report gives the title.
    """
    figure = style.new_figure((15, 12.5))
    axes = figure.subplots(3, 3)
    made = report.get("made", {})
    if made:
        what = f"{made['source']}, " if made.get("source") else ""
        figure.suptitle(
            f"Run {made['run_id']}: {what}{made['duration']:.4g} s, {report['n_truth']} true "
            f"events, {report['n_events']} reconstructed (amstrax {made['amstrax']})"
        )
    plot_efficiency(report, axes[0, 0])
    plot_area(report, "bias", axes[0, 1])
    plot_area(report, "resolution", axes[0, 2])
    plot_drift_time_error(matched, axes[1, 0])
    plot_depth_error(matched, axes[1, 1])
    plot_position_error(matched, axes[1, 2])
    plot_matrix(report, axes[2, 0])
    plot_outcomes(report, axes[2, 1])
    plot_lifetime(matched, report, axes[2, 2])
    return figure


def plot_efficiency(report: dict[str, Any], axes: Axes) -> None:
    """Draw the fraction of true signals found as the right type, against their photoelectrons."""
    for kind in KINDS:
        data = report["by_size"][kind]
        n, found = np.array(data["n"]), np.array(data["n_found"])
        low, high = statistics.fraction_interval(found, n)
        value = found / np.maximum(n, 1)
        _draw_by_size(axes, kind, data, n > 0, value, np.array([value - low, high - value]))
    axes.axhline(100, color=style.GREY, lw=0.8, zorder=0)
    _label_size(axes)
    axes.set(ylim=(-3, 108), ylabel="found as the right type [%]", title="Efficiency")


def plot_area(report: dict[str, Any], what: str, axes: Axes) -> None:
    """Draw ``bias`` or ``resolution`` of areas, against true photoelectrons."""
    for kind in KINDS:
        data = report["by_size"][kind]
        shown = np.array(data["n_area"]) >= _LEAST_IN_BIN
        _draw_by_size(
            axes, kind, data, shown, np.array(data[what]), np.array(data[f"{what}_error"])
        )
    _label_size(axes)
    if what == "bias":
        axes.axhline(0, color=style.GREY, lw=0.8, zorder=0)
        axes.set(ylabel="median of found/true - 1 [%]", title="Bias of the area")
        low, high = axes.get_ylim()
        axes.set_ylim(min(low, -2), max(high, 2))
    else:
        axes.set(ylabel="half the central 68 % of found/true [%]", title="Resolution of the area")
        axes.set_ylim(bottom=0)


def _draw_by_size(
    axes: Axes,
    kind: str,
    data: dict[str, list],
    shown: np.ndarray,
    value: np.ndarray,
    error: np.ndarray,
) -> None:
    """Draw values with errors in percent in the shown bins of photoelectrons."""
    if not shown.any():
        return
    edges = np.array(data["edges"])
    center = np.sqrt(edges[1:] * edges[:-1])
    width = np.array([center - edges[:-1], edges[1:] - center])
    axes.errorbar(
        center[shown],
        100 * value[shown],
        xerr=width[:, shown],
        yerr=100 * error[..., shown],
        fmt=_MARKERS[kind],
        ms=4,
        color=_COLORS[kind],
        label=kind.upper(),
    )


def _label_size(axes: Axes) -> None:
    axes.set(xscale="log", xlabel="true photoelectrons [PE]")
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
    else:
        style.note(axes, "no signals")


def plot_drift_time_error(matched: Matched, axes: Axes) -> None:
    """Draw the distribution of errors of drift times."""
    truth, events = _clean(matched)
    off = events["drift_time"] - truth["drift_time"]
    off = off[np.isfinite(off)]
    axes.set(xlabel="drift time, found - true [ns]", ylabel="events", title="Drift time")
    if not len(off):
        return style.note(axes, "no events")
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
    return None


def plot_depth_error(matched: Matched, axes: Axes) -> None:
    """Draw errors of z against z."""
    truth, events = _clean(matched)
    off = events["z"] - truth["z"]
    axes.set(xlabel="true z [mm]", ylabel="z, found - true [mm]", title="Depth")
    if not len(off):
        return style.note(axes, "no events")
    axes.plot(truth["z"], off, ".", ms=3, color=style.BLUE, alpha=0.4, rasterized=True)
    width = statistics.spread(off[np.isfinite(off)]).value
    middle = float(np.nanmedian(off))
    reach = max(8 * np.nan_to_num(width), 0.1)
    axes.set_ylim(min(middle - reach, -reach / 4), max(middle + reach, reach / 4))
    axes.axhline(0, color=style.GREY, lw=0.8)
    return None


def plot_position_error(matched: Matched, axes: Axes) -> None:
    """Draw found against true x and y."""
    truth, events = _clean(matched)
    axes.set(xlabel="true x or y [mm]", ylabel="found x or y [mm]", title="Position")
    if not len(truth):
        return style.note(axes, "no events")
    for field, color in (("x", style.BLUE), ("y", style.VERMILLION)):
        axes.plot(
            truth[field], events[field], ".", ms=3, alpha=0.4, color=color, label=field,
            rasterized=True,
        )  # fmt: skip
    reach = 1.05 * max(np.abs(truth["x"]).max(), np.abs(truth["y"]).max())
    axes.plot([-reach, reach], [-reach, reach], color=style.BLACK, lw=0.8)
    axes.set(xlim=(-reach, reach), ylim=(-1.3 * reach, 1.3 * reach))
    axes.legend(markerscale=3)
    return None


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
        return style.note(axes, "no events")
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
        lines.append(
            f"{text}: {entry['value'] / 1000:.2f} ± {entry['error'] / 1000:.2f} µs"
            f" ({100 * bias['value']:+.1f} % of true)"
        )
    axes.text(0.03, 0.97, "\n".join(lines), transform=axes.transAxes, va="top")
    return None


def _clean(matched: Matched) -> tuple[np.ndarray, np.ndarray]:
    rows = np.flatnonzero(matched.clean)
    return matched.truth[rows], matched.event_of(rows)

#!/usr/bin/env python
"""Draw the event of README: simulated with a fixed seed, processed as a run of the DAQ would be.

Writes _static/event.png beside this file, or the file that is named: make_event_picture.py [FILE]
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import amstrax
from amstrax import analyses, simulation
from amstrax.analyses.event_plots import draw_hit_pattern
from amstrax.analyses.quantities import record_waveform
from amstrax.analyses.style import BLACK, TYPE_COLORS, channel_color
from amstrax.analyses.waveform_plots import plot_waveform

RUN_ID, SOURCE, RATE, DURATION, SEED = "100100", "am241", 20.0, 4.0, 4
#: The event is the one nearest to this drift time [ns] and distance from the axis [mm]
DRIFT_TIME, RADIUS = 22_000, 18


def main(path: Path) -> None:
    """Write the picture to `path`."""
    with tempfile.TemporaryDirectory() as folder:
        figure = draw(*simulated_event(Path(folder)))
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=100)


def simulated_event(folder: Path) -> tuple[np.void, np.ndarray, np.ndarray]:
    """Return an event, its peaks, and the records of these, of a run that is simulated."""
    simulation.simulate(
        RUN_ID, folder, source=SOURCE, rate=RATE, duration=DURATION, seed=SEED, show_progress=False
    )
    options = simulation.load_options(folder / f"config_{RUN_ID}.json")
    run_doc = json.loads((folder / f"rundoc_{RUN_ID}.json").read_text())
    st = amstrax.contexts.xams(
        folder / "processed", init_rundb=False, config=options | {"live_data_dir": str(folder)}
    )
    st = amstrax.contexts.context_for_daq_reader(st, RUN_ID, run_doc=run_doc)
    events = st.get_array(
        RUN_ID, ("event_info", "event_waveform", "event_area_per_channel"), progress_bar=False
    )
    st.make(RUN_ID, "records", save="records", progress_bar=False)
    r = np.hypot(events["x"], events["y"])
    off = np.abs(events["drift_time"] / DRIFT_TIME - 1) + np.abs(r / RADIUS - 1)
    event = events[np.nanargmin(off)]
    peaks = st.get_array(RUN_ID, ("peaks", "peak_basics"), time_within=event, progress_bar=False)
    records = st.get_array(
        RUN_ID,
        "records",
        time_range=(event["s2_time"], event["s2_endtime"]),
        time_selection="touching",
        progress_bar=False,
    )
    return event, peaks, records


def draw(event: np.void, peaks: np.ndarray, records: np.ndarray) -> Figure:
    """Return the picture."""
    figure = Figure(figsize=(10, 5.8), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.06, h_pad=0.06)  # type: ignore[union-attr]
    axes = figure.subplot_mosaic(
        [["whole"] * 4, ["s1", "s2", "channels", "pattern"]],
        width_ratios=[3, 3, 4, 4],
        height_ratios=[1, 1.2],
    )
    draw_whole(event, peaks, axes["whole"])
    for prefix, kind in (("s1", 1), ("s2", 2)):
        data, length, dt = (event[f"{prefix}_{name}"] for name in ("data", "length", "dt"))
        plot_waveform(data, int(length), int(dt), axes[prefix], TYPE_COLORS[kind])
        axes[prefix].set_title(prefix.upper(), loc="left", color=TYPE_COLORS[kind], weight="bold")
        axes[prefix].set_ylim(bottom=0)
    axes["s2"].set_ylabel("")
    draw_channels(event, records, axes["channels"])
    draw_hit_pattern(event, (1, 2, 3, 4), 31.0, axes["pattern"])
    axes["pattern"].set_title("Light in the top PMTs", loc="left")
    for name in ("whole", "s1", "s2", "channels"):
        axes[name].spines[["top", "right"]].set_visible(False)
    return figure


def draw_whole(event: np.void, peaks: np.ndarray, axes) -> None:
    """Draw the peaks from S1 to S2, with names and the drift time."""
    start = int(event["s1_time"]) - 1_500
    # Later ones may change the unit of time
    peaks = peaks[(peaks["time"] >= start) & (peaks["time"] < event["s2_endtime"])]
    analyses.plot_peaks(peaks, axes=axes, start=start)
    axes.get_legend().remove()
    middle = {prefix: (event[f"{prefix}_center_time"] - start) / 1_000 for prefix in ("s1", "s2")}
    top = axes.get_ylim()[1]
    axes.set(ylim=(0, 1.3 * top), xlim=(0, (event["s2_endtime"] - start) / 1_000 + 1.5))
    for prefix, kind in (("s1", 1), ("s2", 2)):
        height = float((event[f"{prefix}_data"] / event[f"{prefix}_dt"]).max())
        axes.text(
            middle[prefix] + (0.35 if prefix == "s1" else 0),
            height * (0.85 if prefix == "s1" else 1) + (0.06 * top if prefix == "s2" else 0),
            f"{prefix.upper()}  {event[f'{prefix}_area']:,.0f} PE",
            color=TYPE_COLORS[kind],
            ha="left" if prefix == "s1" else "center",
            weight="bold",
        )
    axes.annotate(
        "",
        (middle["s1"], 1.18 * top),
        (middle["s2"], 1.18 * top),
        arrowprops={"arrowstyle": "<->", "color": BLACK, "shrinkA": 0, "shrinkB": 0},
    )
    axes.text(
        (middle["s1"] + middle["s2"]) / 2,
        1.12 * top,
        f"drift time {event['drift_time'] / 1000:.1f} µs:  z = {event['z']:.1f} mm",
        ha="center",
        va="top",
    )
    axes.set_title(f"A simulated event of XAMS ({SOURCE[:2].title()}-{SOURCE[2:]})", loc="left")


def draw_channels(event: np.void, records: np.ndarray, axes) -> None:
    """Draw the records of the S2, a line a channel, over each other with a distance."""
    step = 0.8 * float(records["data"].max())
    for channel in range(5):
        for record in records[records["channel"] == channel]:
            times, heights = record_waveform(record, event["s2_time"])
            axes.plot(times / 1_000, heights / step + channel, color=channel_color(channel), lw=0.8)
    axes.set(
        xlabel="Time [µs]",
        ylabel="Channel",
        yticks=range(5),
        xlim=(0, (event["s2_endtime"] - event["s2_time"]) / 1_000),
    )
    axes.set_title("Records of the S2", loc="left")


if __name__ == "__main__":
    here = Path(__file__).resolve().parent
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else here / "_static/event.png")

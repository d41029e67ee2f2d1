#!/usr/bin/env python
"""Draw the pictures of the page "From pulse to event", and write the numbers in its text.

Writes _static/pulse_STEP.png for each step, and pulse_numbers.inc, which defines a substitution for
each number. The simulated run is made of light that this script places, so that each photoelectron
is known. The real run, 999999 of XAMSL, is shown where ../shared/data holds it.
"""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import strax
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from amstrax import contexts, hitfinder_thresholds, redax
from amstrax.analyses import plot_peaks, plot_records
from amstrax.analyses.quantities import record_waveform
from amstrax.analyses.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    TYPE_COLORS,
    TYPE_NAMES,
    VERMILLION,
    channel_color,
)
from amstrax.analyses.waveform_plots import plot_waveform
from amstrax.exceptions import LiveDataNotFound
from amstrax.processing.peaks import RANGE_50P, RANGE_90P
from amstrax.simulation import digitizer, light, optics, sensors, sources
from amstrax.simulation.blocks import Settings
from amstrax.simulation.detector import XAMS
from amstrax.simulation.run import START, run_document

SOURCE = Path(__file__).resolve().parent
#: Live data and document of the real run; not part of the repository
REAL = SOURCE.parents[2] / "shared/data"
REAL_ID, RUN_ID = "999999", "100997"
SEED = 4
#: Peaks are kept from this area on [PE]; the default is 10
MIN_AREA = 2
#: Time between deposits, more than the longest event [ns]
STEP = 250_000
CHAINS = ("lab", "improved")
CHAIN_COLORS = {"lab": ORANGE, "improved": GREEN}
#: Photoelectrons that are alone in a pulse, and small signals for types
N_ALONE, N_SMALL = 1000, 200
#: Samples of the baseline, defaults of XAMS and XAMSL
BASELINE_SAMPLES, XAMSL_BASELINE_SAMPLES = 20, 40
#: Delay of the second S1 of Kr-83m [ns]
KR83M_DELAY = 200.0


class Case(NamedTuple):
    """A deposit: photons, electrons in the liquid, place [mm], time since the one before [ns]."""

    photons: int
    electrons: int
    x: float
    y: float
    z: float
    delay: float = STEP


#: Deposits that have a picture. Quanta of 20 keV, the two steps of Kr-83m, and 662 keV, rounded
CASES = {
    "electron": Case(0, 2, 8, -6, -20),
    "event": Case(900, 600, 17, 12, -24),
    "kr83m_first": Case(1_500, 600, -10, 12, -15),
    "kr83m_second": Case(500, 150, -10, 12, -15, KR83M_DELAY),
    "large": Case(20_000, 15_000, -6, 9, -10),
}


class Run(NamedTuple):
    """The simulated run: its truth, and what both reconstructions made of it, by data type."""

    time: np.ndarray  #: of each photoelectron, or group of them, in the PMTs [ns since unix epoch]
    channel: np.ndarray
    charge: np.ndarray  #: in units of the mean photoelectron [PE]
    n_pe: np.ndarray  #: photoelectrons in the group [PE]
    deposit: np.ndarray  #: row of `starts`; -1: photoelectron that is alone
    origin: np.ndarray  #: an `amstrax.simulation.light.Origin`
    starts: np.ndarray  #: time of each deposit, those of CASES first [ns since unix epoch]
    data: dict[str, dict[str, np.ndarray]]
    to_pe: np.ndarray  #: PE per ADC count x sample, by channel

    def of(self, name: str, origin: int | None = None) -> np.ndarray:
        """Return which entries are light of a case, of one origin or all."""
        mine = self.deposit == list(CASES).index(name)
        return mine if origin is None else mine & (self.origin == origin)

    def around(
        self, chain: str, data_type: str, name: str, origin: int | None = None, margin: int = 100
    ) -> np.ndarray:
        """Return rows that touch the light of a case, or begin or end at most `margin` ns off."""
        times = self.time[self.of(name, origin)]
        rows = self.data[chain][data_type]
        near = rows["time"] <= times.max() + margin
        return rows[near & (strax.endtime(rows) >= times.min() - margin)]


def write(folder: Path = SOURCE, real: Path = REAL) -> dict[str, float]:
    """Write pictures and numbers into `folder`, and return the numbers.

    Without live data of the real run in `real`, pictures show the simulated run alone.
    """
    (folder / "_static").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        run = simulated(Path(work))
        measured = real_run(real, Path(work))
    for step, draw in STEPS.items():
        figure = draw(run, measured)
        figure.savefig(folder / f"_static/pulse_{step}.png", dpi=80)
    found = numbers(run)
    text = NOTE if measured is None else ""
    text += "".join(f".. |{name}| replace:: {short(value)}\n" for name, value in found.items())
    (folder / "pulse_numbers.inc").write_text(text, encoding="utf-8")
    return found


NOTE = f"""The live data of run {REAL_ID} was not at hand where these pages were built: pictures
show the simulated run alone.

"""


# The runs


def simulated(folder: Path) -> Run:
    """Simulate the run, process it in both ways, and return it."""
    rng = np.random.default_rng(SEED)
    deposits, photons, electrons = placed(rng)
    every = make_light(rng, deposits, photons, electrons)
    at = np.arange(N_ALONE) * 20_000.0 + 50_000 + deposits.time[-1] + STEP
    channels = np.arange(N_ALONE) % len(XAMS.tpc_channels)
    every = light.join(every, light.Light.of(light.Origin.DARK_COUNT, at, channels))
    in_pmts = np.flatnonzero(light.is_pmt(XAMS)[every.channel])
    every = light.Light(*(column[in_pmts] for column in every))
    signals = sensors.charges(rng, every, XAMS)
    end = int(at[-1]) + STEP
    write_run(folder, signals, rng, end)
    t0 = int(START.timestamp()) * 1_000_000_000
    return Run(
        # Whole ns: floats since the epoch are not exact
        np.rint(signals.time).astype(np.int64) + t0,
        every.channel,
        signals.charge,
        every.n_pe,
        every.deposit,
        every.origin,
        np.rint(deposits.time).astype(np.int64) + t0,
        {chain: processed(folder, chain) for chain in CHAINS},
        np.asarray(XAMS.options()["gain_to_pe_array"], dtype=np.float64),
    )


def placed(rng: np.random.Generator) -> tuple[sources.Deposits, np.ndarray, np.ndarray]:
    """Return the deposits, `CASES` and then small signals, and their photons and electrons."""
    small = []
    for i in range(N_SMALL):
        r, phi = 30 * np.sqrt(rng.random()), 2 * np.pi * rng.random()
        x, y = r * np.cos(phi), r * np.sin(phi)
        quanta = int(10 ** rng.uniform(0, 2.5))
        kinds = (30 * quanta, 0) if i % 2 else (0, quanta)
        small.append(Case(*kinds, x, y, -rng.uniform(5, 45)))
    cases = [*CASES.values(), *small]
    n = len(cases)
    photons, electrons, x, y, z, delay = np.array(cases, dtype=np.float64).T
    zero, kind = np.zeros(n), np.full(n, sources.Interaction.PHOTOABSORPTION, dtype=np.int8)
    times = np.cumsum(delay)
    deposits = sources.Deposits(np.arange(n), times, zero, kind, zero, x, y, z, np.ones(n))
    return deposits, photons.astype(np.int64), electrons.astype(np.int64)


def make_light(
    rng: np.random.Generator, deposits: sources.Deposits, photons: np.ndarray, electrons: np.ndarray
) -> light.Light:
    """Return the photoelectrons of S1s and S2s, without after-pulses and photoionisation."""
    patterns = optics.model("geometry", XAMS)
    drift = light.drift_times(deposits.z, XAMS)
    in_gas = light.extracted(rng, light.surviving(rng, electrons, drift, XAMS), XAMS)
    x, y = (light.mean_positions(rng, at, drift, in_gas, XAMS) for at in (deposits.x, deposits.y))
    arrivals = light.arrival_times(rng, deposits.time, drift, in_gas, XAMS)
    return light.join(
        light.s1_photoelectrons(rng, deposits, photons, patterns, XAMS),
        light.s2_photoelectrons(rng, arrivals, np.arange(len(drift)), x, y, patterns, XAMS),
    )


def write_run(folder: Path, signals: sensors.Signals, rng: np.random.Generator, end: int) -> None:
    """Write live data of `signals`, until `end` [ns], and the run document."""
    board = digitizer.Digitizer(XAMS, rng)
    board.add(signals)
    records = digitizer.fragments(board.digitize(np.inf), XAMS)
    records = records[records["time"] < end]
    threads, overlap = {"xams-daq_reader_0": 1}, XAMS.chunk_overlap
    run_dir = folder / RUN_ID
    run_dir.mkdir()
    t_chunk = XAMS.chunk_length
    redax.write_chunk(run_dir, 0, records, threads, t_chunk, overlap, "lz4")
    redax.write_end(run_dir, threads)
    document = run_document(Settings(XAMS), RUN_ID, START, folder, threads, "lz4")
    (folder / f"rundoc_{RUN_ID}.json").write_text(json.dumps(document, default=dict))


def processed(folder: Path, chain: str) -> dict[str, np.ndarray]:
    """Return the data types of the simulated run that pictures show."""
    options = XAMS.options() | {"live_data_dir": str(folder), "peak_min_area": MIN_AREA}
    st = contexts.xams(folder / chain, init_rundb=False, reconstruction=chain, config=options)
    document = json.loads((folder / f"rundoc_{RUN_ID}.json").read_text())
    st = contexts.context_for_daq_reader(st, RUN_ID, run_doc=document)
    types: dict[str, str | tuple[str, ...]] = {
        "raw_records": "raw_records",
        "records": "records",
        "hits": "hits",
        "peaks": ("peaks", "peak_basics"),
        "events": ("event_info", "event_area_per_channel"),
    }
    return {
        name: st.get_array(RUN_ID, targets, progress_bar=False) for name, targets in types.items()
    }


def real_run(data: Path, folder: Path) -> dict[str, np.ndarray] | None:
    """Return the data types of the real run; None where its live data is not in `data`."""
    document = data / f"rundoc_{REAL_ID}.json"
    if not document.exists():
        return None
    st = contexts.xams_little(
        folder / "real",
        init_rundb=False,
        reconstruction="classification",
        config={"live_data_dir": str(data / "live_data")},
    )
    try:
        st = contexts.context_for_daq_reader(
            st, REAL_ID, run_doc=json.loads(document.read_text(encoding="utf-8"))
        )
    except LiveDataNotFound:
        return None
    types: dict[str, str | tuple[str, ...]] = {
        "raw_records": "raw_records_v1730",
        "records": "radon_records",
        "hits": "radon_hits",
        "peaks": ("radon_peaks", "radon_peak_basics"),
    }
    made = {name: st.get_array(REAL_ID, of, progress_bar=False) for name, of in types.items()}
    peaks = made["peaks"]
    # One in the middle of the peaks of many samples in both channels
    good = np.flatnonzero((peaks["n_channels"] == 2) & (peaks["area"] > 3_000))
    made["peak"] = peaks[good[np.argsort(peaks["area"][good])[len(good) // 2]]]
    return made


def within(rows: np.ndarray, start: int, end: int) -> np.ndarray:
    """Return rows that touch the time from `start` to `end` [ns]."""
    return rows[(rows["time"] < end) & (strax.endtime(rows) > start)]


# The pictures


def panels(n: int, real: Any, height: float = 3.2) -> tuple[Figure, list[Axes], Axes | None]:
    """Return a figure with `n` panels, and one more before them if there is a real run."""
    total = n + (real is not None)
    width = min(4.8 * total, 13)
    figure = Figure(figsize=(width, height))
    # A layout engine would take more time than all else
    axes = list(figure.subplots(1, total, squeeze=False)[0])
    figure.subplots_adjust(
        left=0.9 / width, right=1 - 0.15 / width, bottom=0.16, top=0.9, wspace=0.28
    )
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
    return (figure, axes, None) if real is None else (figure, axes[1:], axes[0])


def title(axes: Axes, text: str) -> None:
    """Set the title of a panel."""
    axes.set_title(text, loc="left", fontsize="medium")


def alone(run: Run, channel: int = 2) -> int:
    """Return a photoelectron alone in its pulse, of about mean charge, and of areas as most."""
    rows = np.flatnonzero((run.deposit < 0) & (run.channel == channel))
    off = np.abs(run.charge[rows] - 1)
    for chain in CHAINS:
        kept = hits_of(run, chain, rows)["area"] * run.to_pe[channel] / run.charge[rows]
        off += np.abs(kept - np.median(kept))
    return int(rows[np.argmin(off)])


def draw_raw(axes: Axes, pulse: np.ndarray, n_baseline: int, thresholds: dict[str, float]) -> None:
    """Draw the counts of one pulse, the samples of its baseline, and thresholds below this."""
    start = int(pulse["time"][0])
    for record in pulse:
        times, counts = record_waveform(record, start)
        axes.step(times, counts, where="post", color=BLACK, lw=1)
    quiet = pulse[0]["data"][:n_baseline].astype(np.float64)
    axes.axvspan(0, n_baseline * int(pulse[0]["dt"]), color=GREY, alpha=0.25)
    axes.axhline(quiet.mean(), color=BLUE, lw=1, label="baseline")
    for name, threshold in thresholds.items():
        color = CHAIN_COLORS.get(name, ORANGE)
        axes.axhline(quiet.mean() - threshold, color=color, lw=1, ls="--", label=name)
    axes.set(xlabel="Time [ns]", ylabel="ADC counts")
    axes.ticklabel_format(useOffset=False)
    axes.legend(fontsize="small", loc="lower right")


def one_pulse(raw: np.ndarray, channel: int, time: int) -> np.ndarray:
    """Return the fragments of the pulse of a channel that holds a time [ns]."""
    of = raw[raw["channel"] == channel]
    starts = of["time"] - of["record_i"].astype(np.int64) * of["data"].shape[1] * of["dt"]
    ends = starts + of["pulse_length"].astype(np.int64) * of["dt"]
    return of[(starts <= time) & (time < ends)]


def draw_pulse(run: Run, real: dict[str, np.ndarray] | None) -> Figure:
    """Draw a pulse as the digitizer writes it."""
    figure, (axes,), beside = panels(1, real)
    i = alone(run)
    pulse = one_pulse(run.data["lab"]["raw_records"], run.channel[i], run.time[i])
    draw_raw(axes, pulse, BASELINE_SAMPLES, {"lab": 15, "improved": 8})
    axes.axvline(run.time[i] - pulse["time"][0], color=VERMILLION, lw=1, ls=":")
    title(axes, "Simulated photoelectron (dotted: truth)")
    if real is not None and beside is not None:
        peak = real["peak"]
        pulse = one_pulse(real["raw_records"], 0, int(peak["center_time"]))
        threshold = hitfinder_thresholds.hit_min_amplitude("xamsl_thresholds")
        limits = {"threshold": float(np.max(threshold))}
        draw_raw(beside, pulse, XAMSL_BASELINE_SAMPLES, limits)
        title(beside, f"Run {REAL_ID}, channel 0")
    return figure


def draw_hit(run: Run, real: dict[str, np.ndarray] | None) -> Figure:
    """Draw the samples that a hit sums."""
    figure, simulated_axes, beside = panels(2, real)
    i = alone(run)
    for chain, axes in zip(CHAINS, simulated_axes, strict=True):
        records = one_pulse(run.data[chain]["records"], run.channel[i], run.time[i])
        start = int(records["time"][0])
        plot_records(records, axes, start)
        axes.get_legend().remove()
        hit = hits_of(run, chain, np.array([i]))[0]
        low, high = bounds(hit)
        times, heights = record_waveform(records[0], start)
        summed = (times + start >= low) & (times + start < high)
        axes.bar(
            times[summed], heights[summed], int(hit["dt"]), color=CHAIN_COLORS[chain], alpha=0.5
        )
        middle = run.time[i] - start
        axes.set(xlim=(middle - 120, middle + 160))
        area = hit["area"] * run.to_pe[hit["channel"]]
        title(axes, f"{chain}: {area:.2f} PE of {run.charge[i]:.2f}")
    if real is not None and beside is not None:
        peak = real["peak"]
        near = within(real["records"], peak["time"], strax.endtime(peak))
        start = int(near["time"].min())
        plot_records(near, beside, start)
        for hit in within(real["hits"], peak["time"], strax.endtime(peak)):
            color = channel_color(hit["channel"])
            beside.axvspan(*(np.array(own(hit)) - start), color=color, alpha=0.12, lw=0)
        middle = float(peak["center_time"] - start)
        beside.set_xlim(middle - 100, middle + 250)
        title(beside, f"Run {REAL_ID}: records, hits shaded")
    return figure


def own(hit: np.void) -> tuple[int, int]:
    """Return start and end of the samples above the threshold [ns since unix epoch]."""
    return int(hit["time"]), int(hit["time"]) + int(hit["length"]) * int(hit["dt"])


def bounds(hit: np.void) -> tuple[int, int]:
    """Return start and end of the samples that a hit sums [ns since unix epoch]."""
    start, end = own(hit)
    dt, n = int(hit["dt"]), int(hit["right_integration"]) - int(hit["left_integration"])
    if n <= 0:
        return start, end
    first = start + (int(hit["left_integration"]) - int(hit["left"])) * dt
    return first, first + n * dt


def hits_of(run: Run, chain: str, rows: np.ndarray) -> np.ndarray:
    """Return the hit of each photoelectron that is alone; area 0 where there is none."""
    hits = run.data[chain]["hits"]
    result = np.zeros(len(rows), dtype=hits.dtype)
    for n, i in enumerate(rows):
        low, high = np.searchsorted(hits["time"], (run.time[i] - 100, run.time[i] + 100))
        for hit in hits[low:high]:
            if hit["channel"] == run.channel[i] and hit["area"] > result[n]["area"]:
                result[n] = hit
    return result


def draw_groups(run: Run, real: dict[str, np.ndarray] | None) -> Figure:
    """Draw hits by channel, and the peaks that they are grouped to."""
    figure, simulated_axes, beside = panels(2, real)
    mine = run.of("electron")
    start = run.time[mine].min() - 150
    for chain, axes in zip(CHAINS, simulated_axes, strict=True):
        peaks = run.around(chain, "peaks", "electron")
        draw_hits(axes, run.around(chain, "hits", "electron"), peaks, start)
        axes.plot(run.time[mine] - start, run.channel[mine] + 0.4, "v", color=VERMILLION, ms=4)
        axes.set(yticks=range(5), xlim=(0, np.ptp(run.time[mine]) + 350))
        areas = " + ".join(f"{area:.1f}" for area in peaks["area"])
        title(axes, f"{chain}: {areas or 0} of {run.charge[mine].sum():.1f} PE")
    if real is not None and beside is not None:
        peak = real["peak"]
        near = np.array([peak])
        start = int(peak["time"])
        draw_hits(beside, within(real["hits"], start, strax.endtime(peak)), near, start)
        beside.set(yticks=(0, 1))
        title(beside, f"Run {REAL_ID}: hits and peak")
    return figure


def draw_hits(axes: Axes, hits: np.ndarray, peaks: np.ndarray, start: int) -> None:
    """Draw a bar for each hit, and the time of each peak shaded."""
    for hit in hits:
        low, high = own(hit)
        axes.barh(hit["channel"], high - low, 0.5, low - start, color=channel_color(hit["channel"]))
    for peak in peaks:
        axes.axvspan(peak["time"] - start, strax.endtime(peak) - start, color=BLUE, alpha=0.15)
    axes.set(xlabel="Time [ns]", ylabel="Channel")


def draw_sum(run: Run, real: dict[str, np.ndarray] | None) -> Figure:
    """Draw the sum waveform of an S1 with its widths."""
    figure, simulated_axes, beside = panels(2, real)
    true = run.charge[run.of("event", light.Origin.S1)].sum()
    for chain, axes in zip(CHAINS, simulated_axes, strict=True):
        peak = largest(run.around(chain, "peaks", "event", light.Origin.S1))
        draw_widths(axes, peak, "PE")
        title(axes, f"{chain}: {peak['area']:.1f} of {true:.1f} PE")
    if real is not None and beside is not None:
        draw_widths(beside, real["peak"], "ADC counts x samples")
        title(beside, f"Run {REAL_ID}")
    return figure


def draw_widths(axes: Axes, peak: np.void, unit: str) -> None:
    """Draw a waveform, and the ranges of the central 50 and 90 % of its area."""
    # Peaks of XAMSL have 1000 ns before and behind the hits
    bright = np.flatnonzero(peak["data"] > 0.002 * peak["data"].max())
    low, high = bright[0], bright[-1] + 1
    dt = int(peak["dt"])
    plot_waveform(peak["data"][low:high], int(high - low), dt, axes, GREY, unit)
    top = float(peak["data"].max()) / dt
    edges = (np.arange(len(peak["data"]) + 1) - low) * dt
    fractions = np.append(0, np.cumsum(peak["data"])) / peak["area"]
    for height, share, column, color in (
        (1.06, 50, RANGE_50P, BLUE),
        (1.14, 90, RANGE_90P, VERMILLION),
    ):
        start = np.interp(0.5 - share / 200, fractions, edges)
        end = start + float(peak["width"][column])
        axes.plot([start, end], [height * top] * 2, color=color, lw=3)
        axes.text(end, height * top, f"  {share} %", color=color, va="center")
    axes.set_ylim(0, 1.25 * top)


def largest(peaks: np.ndarray) -> np.void:
    """Return the peak of the largest area."""
    return peaks[np.argmax(peaks["area"])]


def draw_split(run: Run, real: dict[str, np.ndarray] | None) -> Figure:
    """Draw the two S1s of Kr-83m."""
    figure, simulated_axes, _ = panels(2, None)
    s1 = light.Origin.S1
    mine = run.of("kr83m_first", s1) | run.of("kr83m_second", s1)
    start = int(run.time[mine].min()) - 60
    for chain, axes in zip(CHAINS, simulated_axes, strict=True):
        peaks = within(run.data[chain]["peaks"], start, start + 600)
        plot_peaks(peaks, axes=axes, start=start)
        for name in ("kr83m_first", "kr83m_second"):
            axes.axvline(run.time[run.of(name, s1)].min() - start, color=BLACK, lw=1, ls=":")
        areas = ", ".join(f"{TYPE_NAMES[peak['type']]} {peak['area']:.0f} PE" for peak in peaks)
        title(axes, f"{chain}: {areas}")
    return figure


def draw_saturated(run: Run, real: dict[str, np.ndarray] | None) -> Figure:
    """Draw an S2 that reaches the end of the ADC: counts, and sum waveforms."""
    figure, axes, beside = panels(2, real)
    s2 = light.Origin.S2
    records = run.around("lab", "records", "large", s2)
    peaks = {chain: largest(run.around(chain, "peaks", "large", s2)) for chain in CHAINS}
    start = int(peaks["lab"]["time"])
    plot_records(records, axes[0], start)
    axes[0].set_xlim(0, 4)
    axes[0].legend(fontsize="x-small", loc="upper right")
    title(axes[0], "Simulated S2: records")
    mine = run.of("large", s2)
    counts, edges = np.histogram(
        (run.time[mine] - start) / 1e3, np.arange(0, 4, 0.05), weights=run.n_pe[mine]
    )
    axes[1].stairs(counts / 50, edges, color=VERMILLION, label="truth", ls=":")
    for chain, peak in peaks.items():
        n = int(peak["length"])
        times = (peak["time"] - start + np.arange(n + 1) * peak["dt"]) / 1e3
        color = CHAIN_COLORS[chain]
        axes[1].stairs(peak["data"][:n] / peak["dt"], times, color=color, label=chain)
    axes[1].set(xlabel="Time [µs]", ylabel="Light [PE/ns]", xlim=(0, 4))
    axes[1].legend(fontsize="small")
    title(axes[1], "Sum waveform")
    if real is not None and beside is not None:
        peak = largest(real["peaks"])
        start = int(peak["time"])
        plot_records(within(real["records"], start, strax.endtime(peak)), beside, start)
        title(beside, f"Run {REAL_ID}: largest peak")
    return figure


def draw_types(run: Run, real: dict[str, np.ndarray] | None) -> Figure:
    """Draw types of peaks against area and width."""
    figure, simulated_axes, beside = panels(2, real)
    for chain, axes in zip(CHAINS, simulated_axes, strict=True):
        draw_area_width(axes, run.data[chain]["peaks"], "PE")
        title(axes, chain)
    options = XAMS.options()
    simulated_axes[0].axhline(options["s1_max_width"], color=BLUE, lw=1, ls=":")
    simulated_axes[0].axhline(options["s2_min_width"], color=VERMILLION, lw=1, ls=":")
    simulated_axes[0].axvline(options["s2_min_area"], color=VERMILLION, lw=1, ls=":")
    if real is not None and beside is not None:
        draw_area_width(beside, real["peaks"], "ADC counts x samples")
        title(beside, f"Run {REAL_ID}, part classification")
    return figure


def draw_area_width(axes: Axes, peaks: np.ndarray, unit: str) -> None:
    """Draw the width of peaks against their area, coloured by type."""
    for kind, name in enumerate(TYPE_NAMES):
        own_type = peaks[peaks["type"] == kind]
        axes.plot(
            own_type["area"],
            np.maximum(own_type["range_50p_area"], 1),
            ".",
            ms=3,
            color=TYPE_COLORS[kind],
            label=name,
        )
    axes.set(
        xscale="log",
        yscale="log",
        xlabel=f"Area [{unit}]",
        ylabel="Width of the central 50 % [ns]",
    )
    axes.legend(fontsize="small", loc="lower right")


def event_of(run: Run, chain: str, name: str = "event") -> np.void:
    """Return the event of a case."""
    return largest_s2(run.around(chain, "events", name))


def largest_s2(events: np.ndarray) -> np.void:
    """Return the event of the largest main S2."""
    return events[np.nanargmax(events["s2_area"])]


def draw_position(run: Run, real: dict[str, np.ndarray] | None) -> Figure:
    """Draw the light of the top PMTs, and true and reconstructed position."""
    from amstrax.analyses.event_plots import draw_hit_pattern

    figure, simulated_axes, _ = panels(2, None, height=4)
    case = CASES["event"]
    for chain, axes in zip(CHAINS, simulated_axes, strict=True):
        event = event_of(run, chain)
        draw_hit_pattern(event, XAMS.top_channels, XAMS.radius, axes)
        axes.plot(case.x, case.y, "o", mfc="none", mec=BLACK, ms=14)
        if chain == "improved":
            error = float(np.hypot(event["x_error"], event["y_error"]))
            axes.add_patch(Circle((event["x"], event["y"]), error, fill=False, ec=VERMILLION))
        off = np.hypot(event["x"] - case.x, event["y"] - case.y)
        title(axes, f"{chain}: {off:.1f} mm off (circle: truth)")
    return figure


def draw_event(run: Run, real: dict[str, np.ndarray] | None) -> Figure:
    """Draw the peaks of an event, with drift time and depth."""
    figure, simulated_axes, _ = panels(2, None)
    for chain, axes in zip(CHAINS, simulated_axes, strict=True):
        event = event_of(run, chain)
        peaks = within(run.data[chain]["peaks"], event["s1_time"] - 500, event["s2_endtime"])
        plot_peaks(peaks, axes=axes, start=int(event["s1_time"]) - 1_000)
        axes.set_yscale("symlog", linthresh=0.05)
        axes.set_ylim(bottom=0)
        title(axes, f"{chain}: {event['drift_time'] / 1e3:.2f} µs, z = {event['z']:.1f} mm")
    return figure


STEPS: dict[str, Callable[[Run, Any], Figure]] = {
    "raw": draw_pulse,
    "hit": draw_hit,
    "groups": draw_groups,
    "sum": draw_sum,
    "split": draw_split,
    "saturated": draw_saturated,
    "types": draw_types,
    "position": draw_position,
    "event": draw_event,
}


# The numbers


def numbers(run: Run) -> dict[str, float]:
    """Return the numbers of the page, by the name of their substitution."""
    found: dict[str, float] = {"min_area": MIN_AREA, "n_alone": N_ALONE}
    found["kr83m_delay"] = KR83M_DELAY
    rows = np.flatnonzero(run.deposit < 0)
    case = CASES["event"]
    s1, s2 = (run.of("event", origin) for origin in (light.Origin.S1, light.Origin.S2))
    found |= {"x_true": case.x, "y_true": case.y, "z_true": case.z}
    found |= {"s1_true": run.n_pe[s1].sum(), "s2_true": run.n_pe[s2].sum()}
    found["drift_true"] = (
        np.average(run.time[s2] - run.starts[0], weights=run.n_pe[s2])
        - np.average(run.time[s1] - run.starts[0], weights=run.n_pe[s1])
    ) / 1e3
    found |= {"s1_charge": run.charge[s1].sum(), "s2_charge": run.charge[s2].sum()}
    found["electron_true"] = run.charge[run.of("electron")].sum()
    found["electron_n_pe"] = run.n_pe[run.of("electron")].sum()
    for chain in CHAINS:
        hits = hits_of(run, chain, rows)
        seen = hits["area"] > 0
        found[f"seen_{chain}"] = seen.mean()
        area = hits["area"] * run.to_pe[run.channel[rows]]
        found[f"pe_{chain}"] = area[seen].sum() / run.charge[rows][seen].sum()
        pieces = run.around(chain, "peaks", "electron")
        found[f"electron_{chain}"] = pieces["area"].sum()
        found[f"pieces_{chain}"] = len(pieces)
        found |= of_event(run, chain) | of_large(run, chain) | of_small(run, chain)
    return found


def of_small(run: Run, chain: str) -> dict[str, float]:
    """Return how many of the small signals have which type."""
    found = {"n_small": N_SMALL // 2}
    peaks = run.data[chain]["peaks"]
    for sx, origin, kind in (("s1", light.Origin.S1, 1), ("s2", light.Origin.S2, 2)):
        mine = (run.origin == origin) & (run.deposit >= len(CASES))
        first, inverse = np.unique(run.deposit[mine], return_inverse=True)
        center = np.bincount(inverse, (run.time[mine] - run.starts[0]) * run.n_pe[mine])
        center = center / np.bincount(inverse, run.n_pe[mine])
        typed = peaks[peaks["type"] == kind]
        found[f"small_{sx}_{chain}"] = sum(
            len(within(typed, time - 500, time + 500)) > 0
            for time in center.astype(np.int64) + run.starts[0]
        )
        found[f"small_{sx}_true"] = len(first)
    return found


def of_event(run: Run, chain: str) -> dict[str, float]:
    """Return areas, place and corrections of the event."""
    event, case = event_of(run, chain), CASES["event"]
    found = {
        "drift": event["drift_time"] / 1e3,
        "off": np.hypot(event["x"] - case.x, event["y"] - case.y),
        "peaks": event["n_peaks"],
    }
    names = ("s1_area", "s2_area", "cs1", "cs2", "x", "y", "z")
    found |= {name: event[name] for name in names}
    peak = largest(run.around(chain, "peaks", "event", light.Origin.S1))
    found |= {"s1_width": peak["range_50p_area"], "s1_width_90": peak["range_90p_area"]}
    if chain == "improved":
        found |= {name: event[name] for name in ("cs1_error", "cs2_error", "x_error", "y_error")}
        statistical = ("cs1_statistical_error", "cs2_statistical_error")
        found |= {name: event[name] for name in statistical}
    return {f"{name}_{chain}": value for name, value in found.items()}


def of_large(run: Run, chain: str) -> dict[str, float]:
    """Return the areas of the large signals over the truth."""
    found = {}
    for sx, origin in (("s1", light.Origin.S1), ("s2", light.Origin.S2)):
        peak = largest(run.around(chain, "peaks", "large", origin))
        true = run.n_pe[run.of("large", origin)].sum()
        found[f"large_{sx}_{chain}"] = peak["area"] / true
        found[f"large_{sx}_channels"] = peak["n_saturated_channels"]
    return found


def short(value: float) -> str:
    """Return a number with three digits, or all whole ones."""
    return f"{value:.3g}" if abs(value) < 1_000 else f"{value:,.0f}"


if __name__ == "__main__":
    write()

"""Tables of runs as methods of the context: ``st.livetime``, ``st.cut_flow``, ``st.trends``."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import strax

from amstrax.analyses import quantities, run_plots
from amstrax.analyses.loading import end_of_run, planned_end, types_with_dead_time
from amstrax.calibration.trends import CHANNEL_QUANTITIES, QUANTITIES, check_names, quantity_of
from amstrax.exceptions import InvalidOption, NoSuchDataType, did_you_mean
from amstrax.processing import live_data as algorithms
from amstrax.processing.live_data import LIVETIME_DTYPE, MISSING, SILENT
from amstrax.rundb import connection
from amstrax.rundoc import DEAD_TIME, MISSING_LIVE_DATA
from amstrax.simulation.matching import match_truth
from amstrax.simulation.writer import TRUTH_DTYPE

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["cut_flow", "livetime", "plot_trends", "trends", "trends_table"]

#: Accuracy of start and end of a run in its document [ns]
_CLOCK_ACCURACY = 1_000_000_000
_warned: set[str] = set()


def livetime(
    context: strax.Context, run_id: str | Sequence[str], silence: float | None = None
) -> np.ndarray:
    """Return start, end, live and dead time [ns] of runs, a row for each group of channels.

    Rows are those of `amstrax.processing.live_data.LIVETIME_DTYPE`, ordered by run and data type.
    Dead time is what the metadata of raw data says: dead time of the digitizers that redax marked,
    regions dropped between chunks, and missing live data, which counts for all channels, since
    which channels a file has is not known. The run ends as its document says; data that ends more
    than 1 s before that is missing. Data made by earlier releases does not say what was dead:
    ``is_known`` is False then, with one warning.

    Raises InvalidOption (a ValueError) unless `silence` is above 0, and DataNotAvailable (strax's)
    without stored raw data, or data made from it.

    Parameters
    ----------
    run_id
        Name of the run, or several.
    silence
        Gaps between the records of two chunks, before the first and after the last, count as dead
        if they are longer than this [s], as of a digitizer that began late; None: they do not.
    """
    if silence is not None and not silence > 0:
        raise InvalidOption(f"silence={silence!r}: give a number of seconds above 0, or None")
    rows = [_rows(context, run, silence) for run in strax.to_str_tuple(run_id)]
    return np.concatenate(rows) if rows else np.zeros(0, dtype=LIVETIME_DTYPE)


def _rows(context: strax.Context, run_id: str, silence: float | None) -> np.ndarray:
    types = types_with_dead_time(context, run_id)
    if not types:
        # Raises the error that names run and remedy
        context.get_metadata(run_id, next(iter(context._plugin_class_registry)))
    planned = planned_end(context, run_id)
    rows = []
    for data_type in types:
        metadata = context.get_metadata(run_id, data_type)
        chunks = metadata["chunks"]
        if not chunks:
            continue
        start, end = chunks[0]["start"], chunks[-1]["end"]
        filled = [chunk for chunk in chunks if chunk["n"]]
        first = np.array([chunk["first_time"] for chunk in filled], dtype=np.int64)
        last = np.array([chunk["last_endtime"] for chunk in filled], dtype=np.int64)
        # Chunks cover more than the run
        dead = [tuple(interval) for interval in metadata.get(DEAD_TIME) or ()]
        if planned is None:
            stop = end_of_run(context, run_id, end, int(last.max(initial=0)))
        elif planned > end + _CLOCK_ACCURACY:
            dead.append((end, planned, MISSING))
            stop = planned
        else:
            stop = min(end, planned)
        if silence is not None:
            gaps = algorithms.silences(first, last, start, stop, silence * 1e9)
            dead += [(int(a), int(b), SILENT) for a, b in gaps]
        is_known = DEAD_TIME in metadata
        if not is_known and run_id not in _warned:
            _warned.add(run_id)
            log.warning(
                "run %s: its %s is of a release that did not record dead time%s: make it again "
                "from live data to have it counted",
                run_id,
                data_type,
                ", and lacks live data" if metadata.get(MISSING_LIVE_DATA) else "",
            )
        bounds = (int(first[0]), int(last[-1])) if len(first) else (-1, -1)
        rows.append(algorithms.livetime_row(data_type, start, stop, dead, *bounds, is_known))
    return np.concatenate(rows) if rows else np.zeros(0, dtype=LIVETIME_DTYPE)


def cut_flow(
    context: strax.Context,
    run_id: str | Sequence[str],
    cuts: Sequence[str] | None = None,
    truth: bool = False,
) -> pd.DataFrame:
    """Return how many events of one run, or several together, cuts leave: a row for each cut.

    Columns are those of `amstrax.analyses.quantities.CUT_FLOW_DTYPE`: events that a cut keeps alone
    and after those before it, and shares of all events. Shares are NaN without events.

    Parameters
    ----------
    run_id
        Name of the run, or several.
    cuts
        Columns of ``event_cuts``, or data types of own cuts, in the order of the flow; None: those
        of ``event_cuts``.
    truth
        Count only events that hold one simulated event whose S1 and S2 are the main ones: shares
        are acceptances then. The context needs the truth (``simulation_truth``) of each run.

    Raises
    ------
    NoSuchDataType
        (a KeyError) for unknown cuts, or without ``truth_events`` in the context.
    InvalidOption
        (a ValueError) for a run that is given twice.
    DataNotAvailable
        (strax's) without data, nor data to make it from.
    """
    registry = context._plugin_class_registry
    if "event_cuts" not in registry or (truth and "truth_events" not in registry):
        missing = "truth_events: give it simulation_truth" if truth else "event_cuts"
        raise NoSuchDataType(f"this context does not make {missing}")
    usual = [cut.cut_name for cut in registry["event_cuts"].cuts]
    names = list(usual if cuts is None else strax.to_str_tuple(cuts))
    own = tuple(name for name in names if name not in usual)
    for name in own:
        if name not in registry:
            raise NoSuchDataType(f"no cut {name!r}{did_you_mean(name, [*usual, *registry])}")
    runs = strax.to_str_tuple(run_id)
    if len(set(runs)) < len(runs):
        raise InvalidOption(f"runs {', '.join(runs)}: a run is given twice, and would count twice")
    chosen = []
    columns: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for run in runs:
        targets = ("event_basics", "event_cuts", *own)
        events = context.get_array(run, targets, progress_bar=False)
        for name in names:
            columns[name].append(events[getattr(registry.get(name), "cut_name", name)])
        chosen.append(_is_true_event(context, run, events) if truth else events["time"] > 0)
    masks = {name: np.concatenate([*found, np.zeros(0, bool)]) for name, found in columns.items()}
    flow = quantities.cut_flow(masks, np.concatenate([*chosen, np.zeros(0, bool)]))
    return pd.DataFrame.from_records(flow, index="cut")


def _is_true_event(context: strax.Context, run_id: str, events: np.ndarray) -> np.ndarray:
    """Return which events hold one simulated event, with its S1 and S2 as main ones."""
    stored = context.get_array(run_id, "truth_events", progress_bar=False)
    truth = np.zeros(len(stored), dtype=TRUTH_DTYPE)
    for field in TRUTH_DTYPE.names or ():
        truth[field] = stored["light_endtime" if field == "endtime" else field]
    found = match_truth(truth, events)
    is_good = (found["n_truth"] == 1) & found["s1_is_main"] & found["s2_is_main"]
    result = np.zeros(len(events), dtype=np.bool_)
    result[found["event"][is_good]] = True
    return result


def trends(
    context: strax.Context, run_ids: str | Sequence[str] | None = None, detector: str | None = None
) -> pd.DataFrame:
    """Return the rows of `amstrax trends` that the run database has, as of `trends_table`.

    Raises RunDatabaseError if the run database cannot be read.

    Parameters
    ----------
    run_ids
        Names of runs; None: all.
    detector
        Detector of the runs; None: that of the context.
    """
    return trends_table(_rows_of_trends(context, run_ids, detector))


def _rows_of_trends(
    context: strax.Context, run_ids: str | Sequence[str] | None, detector: str | None
) -> list[dict[str, Any]]:
    if detector is None:
        detector = "xamsl" if "radon_peaks" in context._plugin_class_registry else "xams"
    names = None if run_ids is None else strax.to_str_tuple(run_ids)
    return connection.read_trends(connection.get_trends_collection(detector), names)


def trends_table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return rows of trends as a table, by run and time: a column a number, NaN where absent.

    Columns: ``run_id``, ``start`` and ``time`` of the row [UTC], the quantities of
    `amstrax.calibration.trends.QUANTITIES`, those of channels that a row has as ``baseline_0``, and
    ``flags``, ``error``, ``reasons`` of absent values, ``context``, ``lineage``.
    """
    rows = list(rows)
    order = list(CHANNEL_QUANTITIES)
    of_channels = {
        name for row in rows for name in row["values"] if quantity_of(name)[1] is not None
    }
    names = [*QUANTITIES, *sorted(of_channels, key=lambda n: (order.index(quantity_of(n)[0]), n))]
    table: dict[str, Any] = {"run_id": [row["name"] for row in rows]}
    for name in ("start", "time"):
        table[name] = pd.to_datetime([row[name] for row in rows], utc=True)
    for name in names:
        table[name] = np.array([row["values"].get(name, np.nan) for row in rows], dtype=np.float64)
    table["flags"] = ["; ".join(row["flags"]) for row in rows]
    table["error"] = [row["error"] or "" for row in rows]
    table["reasons"] = ["; ".join(f"{k}: {v}" for k, v in row["reasons"].items()) for row in rows]
    for name in ("context", "lineage"):
        table[name] = [row[name] for row in rows]
    return pd.DataFrame(table)


def trends_limits(rows: Iterable[Mapping[str, Any]]) -> dict[str, Sequence[float | None]]:
    """Return the limits of rows of `amstrax trends`, by quantity; of two, that of the later row."""
    return {name: pair for row in rows for name, pair in (row.get("limits") or {}).items()}


def plot_trends(
    context: strax.Context,
    run_ids: str | Sequence[str] | None = None,
    quantities: str | Sequence[str] | None = None,
    detector: str | None = None,
    figure: "Figure | None" = None,
) -> "Figure":
    """Draw rows of `amstrax trends` that the run database has against the start of the runs.

    Raises InvalidOption (a ValueError) for an unknown quantity, and RunDatabaseError if the run
    database cannot be read.

    Parameters
    ----------
    run_ids, detector
        As of ``st.trends``.
    quantities
        As ``"s1_rate"``, ``"baseline"`` (all channels) or ``"baseline_0"``; None: all that exist.
    figure
        Draw into this figure; None: into a new one.
    """
    wanted = None if quantities is None else strax.to_str_tuple(quantities)
    check_names(wanted or ())
    rows = _rows_of_trends(context, run_ids, detector)
    return run_plots.plot_trends(trends_table(rows), wanted, trends_limits(rows), figure)

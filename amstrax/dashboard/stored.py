"""Stored data of a run for plots: so few columns as they need, and nothing is made."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from amstrax.analyses.loading import SORTS, end_of_run
from amstrax.exceptions import NotAvailable

if TYPE_CHECKING:
    import strax

#: Columns that the plots show, of those that there are
EVENT_COLUMNS = (
    *("time", "endtime", "event_number", "s1_area", "s2_area", "cs1", "cs2", "drift_time"),
    *("x", "y", "z", "r", "s1_range_50p_area", "s2_range_50p_area", "s1_area_fraction_top"),
    *("s2_area_fraction_top", "n_peaks"),
)
PEAK_COLUMNS = (
    *("time", "area", "range_50p_area", "area_fraction_top", "rise_time", "n_channels", "type"),
)
LED_COLUMNS = ("time", "channel", "area", "amplitude_led")


class Span(NamedTuple):
    """From when to when data goes [ns since unix epoch]."""

    start: int
    end: int


def name_of(st: "strax.Context", sort: str) -> str | None:
    """Return what a sort of data, as ``peak_basics``, is called in a context; None without it."""
    return next((name for name in SORTS[sort] if name in st._plugin_class_registry), None)


def is_stored(st: "strax.Context", run_id: str, *sorts: str) -> bool:
    """Return whether there is data of these sorts that the context can load."""
    names = [name_of(st, sort) if sort in SORTS else sort for sort in sorts]
    return all(
        name is not None and name in st._plugin_class_registry and st.is_stored(run_id, name)
        for name in names
    )


def span(st: "strax.Context", run_id: str, sort: str) -> Span:
    """Return from when to when stored data goes, at most to the end of the run."""
    chunks = st.get_metadata(run_id, _stored_name(st, run_id, sort))["chunks"]
    if not chunks:
        raise NotAvailable(f"{sort} of run {run_id} has no chunks yet")
    start, end = chunks[0]["start"], chunks[-1]["end"]
    return Span(start, max(end_of_run(st, run_id, end), start + 1))


def load(
    st: "strax.Context",
    run_id: str,
    sort: str | Sequence[str],
    columns: Sequence[str] | None = None,
    within: tuple[int, int] | None = None,
) -> np.ndarray:
    """Return stored data.

    Parameters
    ----------
    st
        Context.
    run_id
        Run.
    sort
        Sort of data as of `amstrax.analyses.loading.SORTS`, or a data type; or several of one kind.
    columns
        Columns to have, of those that there are; None for all.
    within
        Range of time [ns since unix epoch]; None for all of the run.

    Raises
    ------
    NotAvailable
        When it is not stored.
    """
    sorts = (sort,) if isinstance(sort, str) else tuple(sort)
    names = tuple(_stored_name(st, run_id, each) for each in sorts)
    options: dict[str, Any] = {"progress_bar": False}
    if within is not None:
        options["time_range"] = within
    if columns is not None:
        there = {name for each in names for name in _fields(st, run_id, each)}
        options["keep_columns"] = tuple(name for name in columns if name in there)
    return st.get_array(run_id, names if len(names) > 1 else names[0], **options)


def _fields(st: "strax.Context", run_id: str, name: str) -> tuple[str, ...]:
    return st.get_single_plugin(run_id, name).dtype_for(name).names


def _stored_name(st: "strax.Context", run_id: str, sort: str) -> str:
    name = name_of(st, sort) if sort in SORTS else sort
    if name is None or name not in st._plugin_class_registry:
        raise NotAvailable(f"this context has no {sort}: choose another one")
    if not st.is_stored(run_id, name):
        raise NotAvailable(
            f"{name} of run {run_id}, as this context would make it, is not stored here: the "
            "overview of the run says what is, and there it can be submitted"
        )
    return name

"""The part of a run that an analysis is of: its range, data, channels and unit of areas."""

import functools
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import strax

from amstrax import rundoc
from amstrax.analyses.quantities import ADC_COUNTS, PE
from amstrax.exceptions import (
    AmstraxError,
    InvalidOption,
    InvalidRunDocument,
    NoSuchDataType,
    did_you_mean,
)
from amstrax.processing import live_data
from amstrax.processing.compiled import sort_by_time
from amstrax.rundoc import DEAD_TIME
from amstrax.strax_ext.checks import check_selection, joined_dtype
from amstrax.strax_ext.plugin import Plugin

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Sort of data -> its data types in the contexts of the detectors
SORTS: Mapping[str, tuple[str, ...]] = {
    "raw_records": ("raw_records", "raw_records_v1730", "raw_records_v1724"),
    "records": ("records", "radon_records", "records_led"),
    "peaks": ("peaks", "radon_peaks"),
    "peak_basics": ("peak_basics", "radon_peak_basics"),
    "event_info": ("event_info",),
    "event_kr83m": ("event_kr83m",),
    "records_led": ("records_led",),
    "led_calibration": ("led_calibration",),
}

#: Ending of data types -> group of the channel map, for sensors other than the PMTs of the TPC
_ENDINGS = {"_ext": "external", "_sipm": "sipm"}


class Part:
    """Part of a run and its data, as the arguments of an analysis say.

    Attributes
    ----------
    time_range
        First and last time [ns since unix epoch], or None for all of the run.
    main
        Sort of data that the selection is of.
    start, end
        Range of the loaded data [ns since unix epoch]: the chunks, cut to `time_range`.
    """

    def __init__(
        self,
        context: strax.Context,
        run_id: str,
        sorts: tuple[str, ...],
        time_range: tuple[int, int] | None = None,
        seconds_range: tuple[float, float] | None = None,
        time_within: np.void | None = None,
        time_selection: str = "touching",
        selection: Any = None,
        selection_str: Any = None,
        config: Mapping[str, Any] | None = None,
        data_type: str | None = None,
        progress_bar: bool | None = None,
        given: Mapping[str, np.ndarray] | None = None,
        any_of: bool = False,
    ):
        self.context = context.new_context(config=dict(config)) if config else context
        if not isinstance(run_id, str):
            raise InvalidOption(f"run_id is {run_id!r}: give the name of one run, as '999999'")
        self.run_id = run_id
        self._given = dict(given or {})
        self._data_type = data_type
        self.main = sorts[0]
        if any_of and data_type is None:
            self.main = next((sort for sort in sorts if self.has(sort)), sorts[0])
        self._progress_bar = sys.stderr.isatty() if progress_bar is None else progress_bar
        self._time_selection = time_selection
        if selection is not None and selection_str is not None:
            raise InvalidOption("selection and selection_str are the same: give one of them")
        self._selection = selection if selection is not None else selection_str
        self.has_data_type = data_type is not None
        self._targets = self.names(self.main)
        if not self.has_given(argument_of(self.main)):
            self._check_available()
        if sum(given is not None for given in (time_range, seconds_range, time_within)) > 1:
            raise InvalidOption(
                "time_range, seconds_range and time_within each say which part of the run is "
                "meant: give one of them"
            )
        self.time_range = self.context.to_absolute_time_range(
            run_id, self._targets, time_range, seconds_range, time_within
        )
        if self.time_range is not None and not self.time_range[0] < self.time_range[1]:
            raise InvalidOption(
                f"the range from {self.time_range[0]} to {self.time_range[1]} ns is empty: give "
                "the earlier time first"
            )
        self.start: int
        self.end: int
        self.start, self.end = self.time_range or (0, 0)

    def names(self, sort: str) -> tuple[str, ...]:
        """Return the data types of a sort in the context; raises NoSuchDataType without any."""
        known = self.context._plugin_class_registry
        if self._data_type is not None and sort == self.main:
            names = [self._data_type]
        else:
            ending = next((e for e in _ENDINGS if (self._data_type or "").endswith(e)), "")
            names = [f"{name}{ending}" for name in SORTS.get(sort, (sort,))]
        found = tuple(name for name in names if name in known)
        if not found:
            if self._data_type is not None:
                hint = did_you_mean(self._data_type, known)
            else:
                hint = f"; it has {', '.join(known)}"
            raise NoSuchDataType(f"this context has no data type {' or '.join(names)}{hint}")
        return found

    def has(self, sort: str) -> bool:
        """Return whether the context has data of a sort."""
        try:
            return bool(self.names(sort))
        except NoSuchDataType:
            return False

    def has_given(self, argument: str) -> bool:
        """Return whether the caller gave data by this argument."""
        return self._given.get(argument) is not None

    def _groups(self) -> Mapping[str, tuple[int, int]]:
        """Return first and last channel of each group of the channel map."""
        channel_map = self.context.config.get("channel_map", {})
        return self.context.run_values.resolve(channel_map, self.run_id)

    def channels(self, data_type: str) -> list[int]:
        """Return the channels of a data type, by the channel map and n_tpc_pmts."""
        groups = self._groups()
        for group in (
            *(group for ending, group in _ENDINGS.items() if data_type.endswith(ending)),
            data_type.removeprefix("raw_records_"),
        ):
            if group in groups:
                first, last = groups[group]
                return list(range(first, last + 1))
        return list(range(int(self.context.config["n_tpc_pmts"])))

    def top_channels(self) -> list[int]:
        """Return the channels of the top PMTs; none where the channel map has no such group."""
        first, last = self._groups().get("top", (0, -1))
        return list(range(first, last + 1))

    @functools.cached_property
    def run_start(self) -> int:
        """Start of the run [ns since unix epoch]: the whole second, as in strax."""
        start, end = self._start_and_end()
        if end == float("inf"):
            return int(self.start // 1_000_000_000 * 1_000_000_000)
        return int(start)

    def _start_and_end(self) -> tuple[float, float]:
        return self.context.estimate_run_start_and_end(self.run_id, self._targets)

    def refuse_beyond(self, limit: float, name: str) -> None:
        """Raise InvalidOption when the part is longer than `limit` [s]."""
        start, end = self.time_range or self._start_and_end()
        if end - start > limit * 1e9:
            whole = "" if self.time_range else "the whole run, "
            raise InvalidOption(
                f"{name} is meant for at most {limit:g} s of a run, and is asked for {whole}"
                f"{(end - start) / 1e9:.4g} s: give a shorter one, as seconds_range="
                f"(0, {min(limit, 1):g}), or ignore_time_warning=True, which may take long and "
                "show little"
            )

    @property
    def title(self) -> str:
        """Run and start of the part."""
        if not self.start:
            return f"Run {self.run_id}"
        text = np.datetime_as_string(np.datetime64(self.start, "ns"), "s").replace("T", " ")
        return f"Run {self.run_id}, {text} UTC"

    def nothing(self, what: str) -> str:
        """Return a note that the part has no `what`."""
        text = f"no {what}"
        if self.time_range is not None:
            first, last = ((t - self.run_start) / 1e9 for t in self.time_range)
            text += f" between {first:.6g} and {last:.6g} s"
        return text + (f"\nwith {self._selection}" if isinstance(self._selection, str) else "")

    def load(
        self, *sorts: str, columns: tuple[str, ...] | None = None, margin: int = 0
    ) -> np.ndarray:
        """Return the data of the part: given by the caller, or loaded.

        The sorts are of one data kind: their columns are joined, and only `columns` are kept, of
        those that exist. The selection, of `main`, is left out with a `margin`: data then begins
        this long before the range [ns].

        Raises NoSuchDataType without such data in the context, InvalidOption for a wrong selection,
        and strax.DataNotAvailable without data of the run.
        """
        is_main = self.main in sorts or self.has_given(argument_of(sorts[0]))
        selection = self._selection if is_main and not margin else None
        time_range = self.time_range
        if time_range is not None and margin:
            time_range = (time_range[0] - margin, time_range[1])
        given = self._given.get(argument_of(sorts[0]))
        if given is not None:
            check_selection(selection, given.dtype)
            if self.time_range is None and len(given):
                self.start, self.end = int(given["time"].min()), int(strax.endtime(given).max())
            return strax.apply_selection(
                given, selection, time_range=time_range, time_selection=self._time_selection
            )
        names = [self.names(sort) for sort in sorts]
        if len(names) == 1:
            # Data types of one sort are of several digitizers
            parts = [self._load_one((name,), time_range, selection, columns) for name in names[0]]
            parts = [part for part in parts if len(part)] or parts[:1]
            return parts[0] if len(parts) == 1 else sort_by_time(np.concatenate(parts))
        return self._load_one(tuple(name[0] for name in names), time_range, selection, columns)

    def _load_one(
        self,
        names: tuple[str, ...],
        time_range: tuple[int, int] | None,
        selection: Any,
        columns: tuple[str, ...] | None,
    ) -> np.ndarray:
        dtype = self.dtype(*names)
        if columns is not None:
            columns = tuple(column for column in columns if column in (dtype.names or ()))
        chunks, starts, ends = [], [], []
        for chunk in self.context.get_iter(
            self.run_id,
            names,
            time_range=time_range,
            time_selection=self._time_selection,
            selection=selection,
            keep_columns=columns,
            progress_bar=self._progress_bar,
        ):
            chunks.append(chunk.data)
            starts.append(chunk.start)
            ends.append(chunk.end)
        if starts:
            self.start, self.end = min(starts), max(ends)
            if self.time_range is not None:
                self.start = max(self.time_range[0], self.start)
                self.end = max(min(self.time_range[1], self.end), self.start + 1)
        return np.concatenate(chunks) if chunks else np.zeros(0, dtype)

    def area_unit(self, sort: str) -> str:
        """Return the unit of areas in data of a sort; see `area_unit`."""
        if not self.has(sort):
            return ADC_COUNTS
        return area_unit(self.context, self.run_id, self.names(sort)[0])

    def gains(self, channels: np.ndarray) -> np.ndarray | None:
        """Return photoelectrons per ADC count x sample by channel; None without peaks."""
        if not self.has("peaks"):
            return None
        name = self.names("peaks")[0]
        plugin = self.context._get_plugins((name,), self.run_id)[name]
        gains = getattr(plugin, _gains_option(plugin), None)
        gains = np.asarray(1.0 if gains is None else gains, dtype=np.float64)
        n = int(np.max(channels, initial=0)) + 1
        return np.full(n, float(gains)) if gains.ndim == 0 else gains

    def taken_until(self, data: np.ndarray) -> int:
        """Return the end of the part or, if that is earlier, of the run [ns since unix epoch]."""
        last = int(data["time"].max()) if len(data) else 0
        return max(end_of_run(self.context, self.run_id, self.end, last), self.start + 1)

    def with_title(self, figure: "Figure") -> "Figure":
        """Return the figure with the run as its title."""
        figure.suptitle(f"Run {self.run_id}", x=0.01, ha="left", fontsize="large")
        return figure

    def live_seconds(self, data: np.ndarray) -> float:
        """Return the live time of the part [s], which ends at `taken_until`."""
        edges = np.array([self.start, self.taken_until(data)])
        dead = live_data.covered(dead_intervals(self.context, self.run_id), edges)
        return float(np.diff(edges)[0] - dead[0]) / 1e9

    def dtype(self, *names: str) -> np.dtype:
        """Return the dtype of joined data types."""
        # Not get_single_plugin, which also needs the reader's options of live data
        plugins = self.context._get_plugins(names, self.run_id)
        return joined_dtype(plugins, names)

    def _check_available(self) -> None:
        """Raise strax.DataNotAvailable when the main data is not stored and cannot be made."""
        if "daq_input_dir" in self.context.config:  # It makes raw data, from live data
            return
        try:
            for name in self._targets:
                self.context.stored_dependencies(self.run_id, name)
        except strax.DataNotAvailable as error:
            reason = str(error).rstrip(".") or "none is stored"
            raise strax.DataNotAvailable(
                f"no {', '.join(self._targets)} of run {self.run_id}, nor data to make it from "
                f"({reason}): check the run and the context's output_folder, or make it from live "
                f"data, `amstraxer {self.run_id} --target {self._targets[-1]}`"
            ) from None


def types_with_dead_time(context: strax.Context, run_id: str) -> list[str]:
    """Return the stored data types that tell of raw data: raw data or, without any, others."""
    types = list(context._plugin_class_registry)
    raw = [d for d in types if d.startswith("raw_records") and not d.endswith("aqmon")]
    others = [d for d in ("peaks", "peak_basics", "events", "event_info") if d in types]
    stored = [d for d in sorted(raw) if context.is_stored(run_id, d)]
    return stored or [d for d in others if context.is_stored(run_id, d)][:1]


def dead_intervals(context: strax.Context, run_id: str) -> np.ndarray:
    """Return the dead time of a run, disjoint and sorted intervals [ns], shape (n, 2).

    It is empty for a run of which no data says what was dead.
    """
    for data_type in types_with_dead_time(context, run_id):
        dead = context.get_metadata(run_id, data_type).get(DEAD_TIME) or ()
        return live_data.merge_intervals([interval[:2] for interval in dead])
    return live_data.merge_intervals([])


def end_of_run(context: strax.Context, run_id: str, end: int, last: int = 0) -> int:
    """Return the end of a run [ns since unix epoch], since chunks cover more than the run.

    It is that of the run document or, without that, of the last stored data. It is at most `end`,
    that of the last chunk, and after `last`, the last time in the data.
    """
    ended = planned_end(context, run_id)
    if ended is None:
        ended = max(_last_times(context, run_id), default=end)
    return min(end, max(ended, last + 1))


def planned_end(context: strax.Context, run_id: str) -> int | None:
    """Return the end of a run by its document [ns since unix epoch]; None if it is not known."""
    document = getattr(context, "run_documents", {}).get(run_id)
    try:
        if document is None:
            document = context.run_metadata(run_id)
        start, stop = rundoc.start_time(document), rundoc.end_time(document)
    except (strax.RunMetadataNotAvailable, InvalidRunDocument):
        return None
    if stop is None:
        return None
    # Times of data count from the whole second in which the run began
    return int(start.timestamp()) * 1_000_000_000 + round((stop - start).total_seconds() * 1e9)


def _last_times(context: strax.Context, run_id: str) -> Iterator[int]:
    for name in dict.fromkeys(name for names in SORTS.values() for name in names):
        if name in context._plugin_class_registry and context.is_stored(run_id, name):
            chunks = context.get_metadata(run_id, name)["chunks"]
            yield from (chunk["last_endtime"] for chunk in chunks if chunk.get("last_endtime"))


def area_unit(context: strax.Context, run_id: str, data_type: str) -> str:
    """Return the unit of areas: PE, or ADC counts x samples where gains are 1 or not used."""
    plugin = _plugin_with_gains(context._get_plugins((data_type,), run_id)[data_type])
    if plugin is None:
        return ADC_COUNTS
    try:
        gains = getattr(plugin, _gains_option(plugin))
    except (AmstraxError, OSError):
        return PE  # Gains of a correction file, which stored data does not need
    return ADC_COUNTS if gains is None or (np.asarray(gains) == 1).all() else PE


def _plugin_with_gains(plugin: strax.Plugin) -> strax.Plugin | None:
    """Return the plugin that has applied gains: `plugin`, or one that it depends on."""
    if _gains_option(plugin):
        return plugin
    return next(filter(None, map(_plugin_with_gains, plugin.deps.values())), None)


def _gains_option(plugin: strax.Plugin) -> str:
    """Return the option with the gains that a plugin applies; empty without one."""
    name = getattr(plugin, "gains_option", Plugin.gains_option)  # Plugins of users may lack it
    return name if name in plugin.takes_config else ""


def argument_of(sort: str) -> str:
    """Return the argument by which callers give data of a sort."""
    return {"event_info": "events", "led_calibration": "pulses", "records_led": "records"}.get(
        sort, "peaks" if sort.startswith("peak") else sort
    )

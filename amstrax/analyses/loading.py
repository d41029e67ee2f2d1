"""Which part of a run an analysis is of, which data the context has for it, and its loading."""

import datetime
import functools
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import strax

from amstrax.analyses.quantities import ADC_COUNTS, PE
from amstrax.exceptions import AmstraxError, InvalidOption, NoSuchDataType, did_you_mean

#: What data types of a sort are called, in the context of one detector or another
SORTS: Mapping[str, tuple[str, ...]] = {
    "raw_records": ("raw_records", "raw_records_v1730", "raw_records_v1724"),
    "records": ("records", "radon_records", "records_led"),
    "peaks": ("peaks", "radon_peaks"),
    "peak_basics": ("peak_basics", "radon_peak_basics"),
    "event_info": ("event_info",),
    "records_led": ("records_led",),
    "led_calibration": ("led_calibration",),
}

#: By which data types of parts of the detector other than the TPC are known
_ENDINGS = ("_ext", "_sipm")


class Part:
    """Part of a run, as the arguments of an analysis say, and the data of it.

    Attributes
    ----------
    context, run_id
        Of the run.
    time_range
        First and last time [ns since unix epoch], or None for all of the run.
    main
        Sort of data that the selection is of.
    start, end
        Of what has been loaded [ns since unix epoch]: the chunks, cut to `time_range`.
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
        targets = self.names(self.main)
        self._targets = targets
        if not self.has_given(argument_of(self.main)):
            self.refuse_missing(targets)
        if sum(given is not None for given in (time_range, seconds_range, time_within)) > 1:
            raise InvalidOption(
                "time_range, seconds_range and time_within each say which part of the run is "
                "meant: give one of them"
            )
        self.time_range = self.context.to_absolute_time_range(
            run_id, targets, time_range, seconds_range, time_within
        )
        if self.time_range is not None and not self.time_range[0] < self.time_range[1]:
            raise InvalidOption(
                f"the range from {self.time_range[0]} to {self.time_range[1]} ns is empty: give "
                "the earlier time first"
            )
        self.start: int
        self.end: int
        self.start, self.end = self.time_range or (0, 0)

    # --- which data

    def names(self, sort: str) -> tuple[str, ...]:
        """Return the data types of a sort that the context has.

        Raises NoSuchDataType when it has none.
        """
        known = self.context._plugin_class_registry
        names: tuple[str, ...]
        if self._data_type is not None and sort == self.main:
            names = (self._data_type,)
        else:
            names = tuple(f"{name}{self._ending()}" for name in SORTS.get(sort, (sort,)))
        there = tuple(name for name in names if name in known)
        if not there:
            if self._data_type is not None:
                hint = did_you_mean(self._data_type, known)
            else:
                hint = f"; it has {', '.join(known)}"
            raise NoSuchDataType(f"this context has no data type {' or '.join(names)}{hint}")
        return there

    def _ending(self) -> str:
        """Return the end of the names of what belongs to the data type that was asked for."""
        endings = [e for e in _ENDINGS if self._data_type and self._data_type.endswith(e)]
        return endings[0] if endings else ""

    def has(self, sort: str) -> bool:
        """Return whether the context has data of a sort."""
        try:
            return bool(self.names(sort))
        except NoSuchDataType:
            return False

    def has_given(self, argument: str) -> bool:
        """Return whether data was handed over by this argument."""
        return self._given.get(argument) is not None

    # --- times

    @functools.cached_property
    def run_start(self) -> int:
        """When the run began [ns since unix epoch]: the whole second, as in strax."""
        start, end = self._start_and_end()
        if end == float("inf"):
            return int(self.start // 1_000_000_000 * 1_000_000_000)
        return int(start)

    def _start_and_end(self) -> tuple[float, float]:
        return self.context.estimate_run_start_and_end(self.run_id, self._targets)

    def refuse_beyond(self, limit: float, name: str) -> None:
        """Raise InvalidOption when the part is longer than `limit` [s]."""
        if self.time_range is None:
            start, end = self._start_and_end()
            text = f"the whole run, {(end - start) / 1e9:.4g} s"
        else:
            start, end = self.time_range
            text = f"{(end - start) / 1e9:.4g} s"
        if end - start > limit * 1e9:
            raise InvalidOption(
                f"{name} is meant for at most {limit:g} s of a run, and is asked for {text}: give "
                f"a shorter one, as seconds_range=(0, {min(limit, 1):g}), or ignore_time_warning="
                "True, which may take long and show little"
            )

    @property
    def title(self) -> str:
        """The run, and when the part begins."""
        time = np.datetime64(self.start, "ns")
        if not self.start:
            return f"Run {self.run_id}"
        text = np.datetime_as_string(time, "s").replace("T", " ")
        return f"Run {self.run_id}, {text} UTC"

    def nothing(self, what: str) -> str:
        """Return a note that there is none of `what`."""
        text = f"no {what}"
        if self.time_range is not None:
            first, last = ((t - self.run_start) / 1e9 for t in self.time_range)
            text += f" between {first:.6g} and {last:.6g} s"
        return text + (f"\nwith {self._selection}" if isinstance(self._selection, str) else "")

    # --- the data

    def load(
        self, *sorts: str, columns: tuple[str, ...] | None = None, margin: int = 0
    ) -> np.ndarray:
        """Return data, or what was handed over.

        Parameters
        ----------
        sorts
            Of one data kind: their columns are joined. The selection holds for the first sort
            that the analysis has.
        columns
            Keep these alone, those that are there.
        margin
            Begin this long before the range [ns], and leave out the selection.

        Raises
        ------
        NoSuchDataType
            When the context has no such data.
        InvalidOption
            When the selection is wrong.
        strax.DataNotAvailable
            When there is no data of the run.
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
            return parts[0] if len(parts) == 1 else strax.sort_by_time(np.concatenate(parts))
        return self._load_one(tuple(name[0] for name in names), time_range, selection, columns)

    def _load_one(
        self,
        names: tuple[str, ...],
        time_range: tuple[int, int] | None,
        selection: Any,
        columns: tuple[str, ...] | None,
    ) -> np.ndarray:
        dtype = self.dtype(*names)
        check_selection(selection, dtype)
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
        if self.time_range is None and starts:
            self.start, self.end = min(starts), max(ends)
        elif self.time_range is not None and starts:
            # What was not taken has no rate
            self.start = max(self.time_range[0], min(starts))
            self.end = max(min(self.time_range[1], max(ends)), self.start + 1)
        if not chunks:
            return np.zeros(0, dtype)
        return np.concatenate(chunks)

    def area_unit(self, sort: str) -> str:
        """Return the unit of areas in data of a sort; see `area_unit`."""
        if not self.has(sort):
            return ADC_COUNTS
        return area_unit(self.context, self.run_id, self.names(sort)[0])

    def taken_until(self, data: np.ndarray) -> int:
        """Return the end of the run, or of the part, of which `data` is [ns since unix epoch]."""
        last = int(data["time"].max()) if len(data) else 0
        return max(end_of_run(self.context, self.run_id, self.end, last), self.start + 1)

    def dtype(self, *names: str) -> np.dtype:
        """Return the type of rows of data types, whose columns are joined."""
        # Not get_single_plugin, which asks the reader for the options of live data, too
        plugins = self.context._get_plugins(names, self.run_id)
        dtypes = [plugins[name].dtype_for(name) for name in names]
        return dtypes[0] if len(dtypes) == 1 else np.dtype(strax.merged_dtype(dtypes))

    def refuse_missing(self, names: tuple[str, ...]) -> None:
        """Raise strax.DataNotAvailable when data types are not stored and cannot be made."""
        if "daq_input_dir" in self.context.config:  # It makes raw data, from live data
            return
        try:
            for name in names:
                self.context.stored_dependencies(self.run_id, name)
        except strax.DataNotAvailable as error:
            reason = str(error).rstrip(".") or "none is stored"
            raise strax.DataNotAvailable(
                f"there is no {', '.join(names)} of run {self.run_id}, nor what it is made from "
                f"({reason}). Is that the run, and does the context look where its data is "
                f"(output_folder)? `amstraxer {self.run_id} --target {names[-1]}` makes it from "
                "live data"
            ) from None


def end_of_run(context: strax.Context, run_id: str, end: int, last: int = 0) -> int:
    """Return when a run ended [ns since unix epoch].

    Chunks cover more than the run. It ends when its run document says or, without that, with the
    last data that is stored of it; but not before what was found in it.

    Parameters
    ----------
    context, run_id
        Of the run.
    end
        End of the last chunk [ns since unix epoch]: the run ends at the latest there.
    last
        Last time at which something was found [ns since unix epoch].
    """
    ended = _documented_end(context, run_id)
    if ended is None:
        ended = max(_last_times(context, run_id), default=end)
    return min(end, max(ended, last + 1))


def _documented_end(context: strax.Context, run_id: str) -> int | None:
    """Return the end of a run by its document, in the time of its data; None where it has none."""
    try:
        start, end = (context.run_metadata(run_id, field)[field] for field in ("start", "end"))
        # Times of data count from the whole second in which the run began
        whole_second = int(start.replace(tzinfo=datetime.UTC).timestamp()) * 1_000_000_000
        return whole_second + round((end - start).total_seconds() * 1e9)
    except (strax.RunMetadataNotAvailable, LookupError, AttributeError, TypeError):
        return None


def _last_times(context: strax.Context, run_id: str) -> Iterator[int]:
    for name in dict.fromkeys(name for names in SORTS.values() for name in names):
        if name in context._plugin_class_registry and context.is_stored(run_id, name):
            chunks = context.get_metadata(run_id, name)["chunks"]
            yield from (chunk["last_endtime"] for chunk in chunks if chunk.get("last_endtime"))


def area_unit(context: strax.Context, run_id: str, data_type: str) -> str:
    """Return the unit of areas: PE, or ADC counts x samples where gains are 1 or not used."""
    # Not get_single_plugin: nothing is made here
    plugin = _plugin_with_gains(context._get_plugins((data_type,), run_id)[data_type])
    if plugin is None:
        return ADC_COUNTS
    try:
        gains = plugin.gain_to_pe_array
    except (AmstraxError, OSError):
        return PE  # from a correction file, which is not needed to show stored data
    return ADC_COUNTS if gains is None or (np.asarray(gains) == 1).all() else PE


def _plugin_with_gains(plugin: strax.Plugin) -> strax.Plugin | None:
    """Return the plugin that has applied gains: `plugin`, or one that it depends on."""
    if "gain_to_pe_array" in plugin.takes_config:
        return plugin
    found = (_plugin_with_gains(dependency) for dependency in plugin.deps.values())
    return next((with_gains for with_gains in found if with_gains is not None), None)


def check_selection(selection: Any, dtype: np.dtype) -> None:
    """Raise InvalidOption when a selection cannot be made of rows of this type."""
    try:
        strax.apply_selection(np.zeros(1, dtype), selection)
    except Exception as error:
        reason = f"there is no column {error}" if isinstance(error, KeyError) else str(error)
        missing = error.args[0] if isinstance(error, KeyError) and error.args else ""
        raise InvalidOption(
            f"selection {selection!r}: {reason}"
            + did_you_mean(str(missing), [name for name in dtype.names or ()])
        ) from None


def argument_of(sort: str) -> str:
    """Return the argument by which data of a sort is handed over."""
    return {"event_info": "events", "led_calibration": "pulses", "records_led": "records"}.get(
        sort, "peaks" if sort.startswith("peak") else sort
    )

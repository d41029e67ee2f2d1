"""From live data to raw records."""

import functools
import logging
import os
import threading
import time
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numba
import numpy as np
import strax
from immutabledict import immutabledict

from amstrax import redax, rundoc
from amstrax.corrections.config import CorrectedPlugin, XAMSConfig
from amstrax.exceptions import (
    InvalidOption,
    LiveDataCorrupted,
    LiveDataIncomplete,
    LiveDataTimeout,
    Stopped,
)
from amstrax.processing import live_data
from amstrax.processing.compiled import sort_by_time
from amstrax.processing.live_data import DIGITIZER, DROPPED, MISSING
from amstrax.strax_ext.plugin import dependencies

#: Help of the option `channel_map`
CHANNEL_MAP_HELP = (
    "First and last channel of each subdetector; contexts of XAMS take that of the run document, "
    "if it has one"
)

__all__ = ["ArtificialDeadtimeInserted", "DAQReader", "LiveDataReader", "split_channel_ranges"]

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.2
_SECONDS_BETWEEN_LINES = 10
#: Accuracy of the start and end of a run in its document [ns]
_CLOCK_ACCURACY = 1_000_000_000
#: An overlap without data is suspicious if no gap in adjacent data is as long as this share of it
_GAP_SHARE = 0.1
#: Stands for the records of a file of 0 bytes
_NO_BYTES = None

#: Name of the file of a readout thread -> its records, or `_NO_BYTES`
Files = dict[str, np.ndarray | None]


class ArtificialDeadtimeInserted(UserWarning):
    """Data was dropped, since no gap between two chunks was long enough to break them at."""


def _option(name: str, help: str, **kwargs: Any) -> strax.Option:
    """Return an option that is not in the lineage."""
    return strax.Option(name, track=False, help=help, **kwargs)


_GAP = "Least gap between records at which two chunks may be broken [ns]; xams_little sets 3000"
_THREADS = "Number of threads of each readout process (daq_config.processing_threads)"
_RUN_END = "End of the run [s since unix epoch], as its document says; None if unknown"
_OVERLAP = "Duration of the overlap between two chunks of live data [ns]"


@strax.takes_config(
    _option("record_length", "Samples in a fragment", default=110, type=int),
    _option(
        "max_digitizer_sampling_time",
        "Longest sample width of the digitizers [ns]",
        default=10,
        type=int,
    ),
    _option(
        "run_start_time",
        "Start of the run [s since unix epoch]; whole seconds of it count",
        default=0.0,
    ),
    _option(
        "daq_chunk_duration", "Duration of a chunk of live data [ns]", default=int(5e9), type=int
    ),
    _option("daq_overlap_chunk_duration", _OVERLAP, default=int(5e8), type=int),
    _option("run_end_time", _RUN_END, default=None),
    _option(
        "allow_incomplete",
        "Process an ended run without its missing files",
        default=False,
        type=bool,
    ),
    _option("daq_compressor", "Compressor of live data: lz4 or blosc", default="lz4", type=str),
    _option("readout_threads", _THREADS, type=dict),
    _option("daq_input_dir", "Folder of the run's live data", type=str),
    _option("safe_break_in_pulses", _GAP, default=1000, type=int),
)
class LiveDataReader(CorrectedPlugin):
    """Base of the readers of XAMS and XAMSL.

    A subclass sets ``provides`` and ``subdetectors``, the channels of each data type.
    """

    depends_on = ()
    parallel = "process"
    rechunk_on_save: bool | immutabledict = False
    chunk_target_size_mb = 50
    #: Seconds to wait for new live data
    input_timeout = 300
    #: Set to end the wait for live data with an error
    stop_waiting: threading.Event | None = None
    #: Channel of the records that mark artificial dead time; None if no data type has it
    dead_time_channel: int | None = None
    #: Channels of the fragments by which redax marks dead time of the digitizers
    redax_dead_time_channels: tuple[int, ...] = ()

    def infer_dtype(self):
        return dict.fromkeys(self.provides, self.record_dtype)

    @property
    def record_dtype(self) -> np.dtype:
        """Type of raw records, and of the fragments in live data."""
        return np.dtype(strax.raw_record_dtype(self.config["record_length"]))

    def setup(self):
        super().setup()
        self.threads = self.config["readout_threads"]
        # Whole seconds only: times of records count from the start of a second
        self.t0 = int(self.config["run_start_time"]) * 1_000_000_000
        self.dt_max = self.config["max_digitizer_sampling_time"]
        self.missing_live_data = [] if self.config["allow_incomplete"] else None
        #: Dead time: start, end [ns since unix epoch] and cause; the metadata of raw data has it.
        #: An interval may be there twice
        self.dead_time: list[tuple[int, int, str]] = []
        self._process = os.getpid()
        #: Number of chunks, known once the run has ended
        self.n_chunks: int | None = None
        self._logged: set[str] = set()
        overlap = self.config["daq_overlap_chunk_duration"]
        safe_break = self.config["safe_break_in_pulses"]
        longest = self.config["record_length"] * self.dt_max
        if overlap <= safe_break + longest:
            raise InvalidOption(
                f"an overlap of {overlap} ns between chunks has no room for safe_break_in_pulses="
                f"{safe_break} and a record of {longest} ns: set a smaller safe_break_in_pulses"
            )

    @functools.cached_property
    def run_dir(self) -> Path:
        """Folder of the run's live data, checked at its first use.

        `setup` also runs where a plugin is only inspected.
        """
        run_dir = Path(self.config["daq_input_dir"]).absolute()
        if run_dir.name != self.run_id:
            raise InvalidOption(
                f"daq_input_dir is {run_dir}, which is not the live data of run {self.run_id}: "
                "make a new context for this run, and set it up with context_for_daq_reader"
            )
        redax.require_run_dir(run_dir)
        return run_dir

    def subdetectors(self) -> dict[str, tuple[int, int]]:
        """Return the first and last channel of the data types that the run has."""
        raise NotImplementedError

    def intervals(self, chunk_i: int) -> redax.ChunkIntervals:
        """Return the directories and times of a chunk and its overlaps."""
        names = "daq_chunk_duration", "daq_overlap_chunk_duration"
        return redax.chunk_intervals(self.run_dir, chunk_i, *(self.config[name] for name in names))

    def is_ready(self, chunk_i):
        """Wait until a chunk is complete; return False if the run has ended before it.

        A last chunk exists only if the last overlap has records after its cut. Raises
        LiveDataTimeout when the DAQ writes nothing for ``input_timeout`` seconds, and
        LiveDataIncomplete when the run has ended with missing files.
        """
        ready = self._wait_for(chunk_i)
        if ready and self.config["allow_incomplete"] and chunk_i != self.n_chunks:
            # `compute` may run in another process, whose `missing_live_data` is lost
            folders = [part.path for part in self.intervals(chunk_i) if part is not None]
            folders += [self._copy(chunk_i - 1, "post"), self._copy(chunk_i + 1, "pre")]
            files = (path for folder in folders for path in redax.list_files(folder))
            if not all(path.stat().st_size for path in files):
                self._read_chunk(chunk_i)
        return ready

    def _wait_for(self, chunk_i: int) -> bool:
        """Do the same as `is_ready`, without noting files of 0 bytes."""
        started = said = time.monotonic()
        while True:
            if self.source_finished():
                if self.n_chunks is None:
                    self.n_chunks = self._count_chunks()
                if chunk_i != self.n_chunks:
                    return chunk_i < self.n_chunks
                interval, files = self._last_overlap(chunk_i)
                return len(self._find_break(interval, files, is_post=False).kept) > 0
            if self.is_complete(chunk_i):
                return True
            now = time.monotonic()
            if now - started > self.input_timeout:
                self._give_up(chunk_i)
                continue
            if now - said > _SECONDS_BETWEEN_LINES:
                said = now
                log.info("waiting for chunk %d in %s", chunk_i, self.run_dir)
            if self.stop_waiting is None:
                time.sleep(_POLL_SECONDS)
            elif self.stop_waiting.wait(_POLL_SECONDS):
                raise Stopped(f"stopped while waiting for chunk {chunk_i} in {self.run_dir}")

    def is_complete(self, chunk_i: int) -> bool:
        """Return whether a chunk and the overlaps on both sides are written."""
        parts = self.intervals(chunk_i)
        if not all(
            redax.is_complete(part.path, self.threads) for part in parts if part is not None
        ):
            return False
        # The copy tells whether a file of 0 bytes is correct
        is_filled = all(path.stat().st_size for path in redax.list_files(parts.post.path))
        return is_filled or redax.is_complete(self._copy(chunk_i + 1, "pre"), self.threads)

    def _give_up(self, chunk_i: int) -> None:
        """Treat the run as ended if incomplete runs are allowed, else raise LiveDataTimeout."""
        the_end = self.run_dir / redax.THE_END
        known = {path.name for path in redax.list_files(self.run_dir / "000000")}
        lacks = redax.lacking_files([the_end], self.threads, known)
        if self.config["allow_incomplete"]:
            self._note_missing(f"{the_end} lacks {lacks}")
            self.n_chunks = self._count_chunks()
        elif the_end.is_dir():
            raise LiveDataTimeout(
                f"{the_end} still lacks {lacks} after {self.input_timeout} s: has the DAQ crashed? "
                "Copy it again, or set --allow_incomplete"
            )
        else:
            raise LiveDataTimeout(
                f"no complete chunk {chunk_i} in {self.run_dir} after {self.input_timeout} s, "
                "and the run has not ended there: has the DAQ stopped, or the copying? "
                "Start again when it goes on, or set a longer --timeout"
            )

    def _count_chunks(self) -> int:
        """Return the number of chunks of an ended run, after a check of all folders."""
        n_chunks = redax.last_begun_chunk(self.run_dir) + 1
        if not n_chunks:
            raise LiveDataIncomplete(
                f"the run in {self.run_dir} has ended without a single chunk: there is nothing "
                "to process"
            )
        missing = []
        period = self.config["daq_chunk_duration"] + self.config["daq_overlap_chunk_duration"]
        end = self.config["run_end_time"]
        duration = 0 if end is None else (end - self.config["run_start_time"]) * 1e9
        if duration > (n_chunks + 1) * period + _CLOCK_ACCURACY:
            if self._copy(n_chunks, "pre").is_dir():
                n_chunks += 1
            else:
                text = (
                    f"{self.run_dir} ends {n_chunks * period / 1e9:.1f} s after the run's start, "
                    f"but the run document says {duration / 1e9:.1f} s"
                )
                if self.config["allow_incomplete"]:
                    missing.append(text)
                else:
                    log.warning("%s: are later chunks missing?", text)
        missing += redax.find_missing(self.run_dir, n_chunks, self.threads)
        if missing and not self.config["allow_incomplete"]:
            raise _incomplete(missing[0], len(missing) - 1)
        for text in missing:
            self._note_missing(text)
        return n_chunks

    def _note_missing(self, text: str) -> None:
        """Log and keep what the run lacks; raise LiveDataIncomplete unless that is allowed."""
        if self.missing_live_data is None:
            raise _incomplete(text)
        if text not in self.missing_live_data:
            self.missing_live_data.append(text)
            log.warning("incomplete live data: %s", text)

    def source_finished(self):
        return self.n_chunks is not None or redax.run_has_ended(self.run_dir, self.threads)

    def compute(self, chunk_i):
        records = self._end_of_run if chunk_i == self.n_chunks else self._between_cuts
        start, end, parts = records(chunk_i)
        by_type = live_data.split_by_subdetector(
            parts, self.subdetectors(), self.t0, self.polarity()
        )
        nothing = np.zeros(0, self.record_dtype)
        start, end = self.t0 + start, self.t0 + end
        return {
            d: self.chunk(start=start, end=end, data=by_type.get(d, nothing), data_type=d)
            for d in self.provides
        }

    def _between_cuts(self, chunk_i: int) -> tuple[int, int, list[np.ndarray]]:
        """Return start and end [ns since start of run] and records of a chunk."""
        pre, central, post = self.intervals(chunk_i)
        left, files, right = self._read_chunk(chunk_i)
        parts = self._records(files)
        start, end = central.start, central.end
        if pre is not None:
            cut = self._break(pre, left, is_post=False)
            parts = [*self._dead_time(cut), cut.kept, *parts]
            start = cut.time
        elif self._copy(0, "pre").exists():
            log.warning("%s is ignored: nothing comes before the first chunk", self._copy(0, "pre"))
        if right or self.n_chunks != chunk_i + 1:
            cut = self._break(post, right, is_post=True)
            return start, cut.time, [*parts, cut.kept, *self._dead_time(cut)]
        return start, _last_end(parts, end), parts

    def _read_chunk(self, chunk_i: int) -> tuple[Files, Files, Files]:
        """Return the files of the overlap before a chunk, the chunk, and the overlap after it."""
        pre, central, post = self.intervals(chunk_i)
        files = self._read(central)
        left = self._read_overlap(pre, self._copy(chunk_i - 1, "post")) if pre else {}
        right = self._read_overlap(post, self._copy(chunk_i + 1, "pre"))
        self._check_empty_files(chunk_i, left, files, right)
        return left, files, right

    def _end_of_run(self, chunk_i: int) -> tuple[int, int, list[np.ndarray]]:
        """Return start, end and records of the last overlap after its cut.

        In a live run the previous chunk is delivered before it is known to be the last.
        """
        interval, files = self._last_overlap(chunk_i)
        cut = self._break(interval, files, is_post=False)
        # The end keeps the distance of cuts, since peaks extend beyond records
        margin = live_data.margin(self.config["safe_break_in_pulses"])
        end = _last_end([cut.kept], interval.end - margin) + margin
        return cut.time, end, [*self._dead_time(cut), cut.kept]

    def _last_overlap(self, n_chunks: int) -> tuple[redax.Interval, Files]:
        """Return the interval and the files of the overlap after the last chunk."""
        interval = self.intervals(n_chunks - 1).post
        return interval, self._read_overlap(interval, self._copy(n_chunks, "pre"))

    def polarity(self) -> dict[int, int]:
        """Return +1 or -1 for channels whose pulses are known to be positive or negative."""
        return {}

    def _copy(self, chunk_i: int, kind: str) -> Path:
        """Return the directory of a copy of an overlap; `kind` is ``pre`` or ``post``."""
        return self.run_dir / f"{chunk_i:06d}_{kind}"

    def _read(self, interval: redax.Interval) -> Files:
        """Return the records of each file in a directory."""
        files = redax.list_files(interval.path)
        redax.check_threads(files, self.threads)
        blobs: dict[Path, bytes] = {}
        found: Files = {}
        for path in files:
            blob = path.read_bytes()
            records = found[path.name] = self._load(path, blob, interval)
            same = next((other for other, its in blobs.items() if its == blob), None)
            blobs[path] = blob
            if same and records is not None and len(records):
                raise LiveDataCorrupted(
                    f"{path} is the same as {same.name}, a file of another thread: copy both again "
                    "from the DAQ"
                )
        return found

    def _read_overlap(self, interval: redax.Interval, copy: Path) -> Files:
        """Return the records of each file of an overlap, from either copy.

        Raises LiveDataCorrupted when no copy of a file can be read, or both can and differ.
        """
        names = {path.name for folder in (interval.path, copy) for path in redax.list_files(folder)}
        redax.check_threads([interval.path / name for name in sorted(names)], self.threads)
        return {
            name: self._read_copies(interval.path / name, copy / name, interval)
            for name in sorted(names)
        }

    def _read_copies(self, path: Path, copy: Path, interval: redax.Interval) -> np.ndarray | None:
        """Return the records of a file of an overlap from the copies in two directories."""
        blobs = {p: p.read_bytes() for p in (path, copy) if p.exists()}
        used, blob = next(iter(blobs.items()))
        if all(each == blob for each in blobs.values()):
            # A missing `copy` is logged by the chunk on its side of the overlap
            if used == copy:
                self._log_copy(used, f"{path} is missing")
            return self._load(used, blob, interval)
        found: dict[Path, np.ndarray] = {}
        faults: list[LiveDataCorrupted] = []
        for each, blob in blobs.items():
            try:
                records = self._load(each, blob, interval)
                if records is _NO_BYTES:
                    raise LiveDataCorrupted(f"{each} has 0 bytes")
                found[each] = records
            except LiveDataCorrupted as error:
                faults.append(error)
        if not found:
            raise faults[0]
        if len(found) == 2 and not _same_records(*found.values()):
            raise LiveDataCorrupted(
                f"{path} and its copy in {copy.parent.name} differ: move the wrong one away, or "
                "copy both again from the DAQ"
            )
        used, records = next(iter(found.items()))
        if faults:
            self._log_copy(used, str(faults[0]))
        return records

    def _log_copy(self, used: Path, why: str) -> None:
        text = f"the copy {used} is used: {why}"
        if text not in self._logged:
            self._logged.add(text)
            log.warning("%s", text)

    def _load(self, path: Path, blob: bytes, interval: redax.Interval) -> np.ndarray | None:
        if not blob:
            return _NO_BYTES
        records = redax.decode(blob, path, self.config["daq_compressor"], self.record_dtype)
        self._check(records, path, interval)
        return self._without_dead_time(records)

    def _without_dead_time(self, records: np.ndarray) -> np.ndarray:
        """Return records without those of dead time, which are noted, unless a data type has them.

        A fragment of redax in one of `redax_dead_time_channels` lasts as long as the dead time, or
        is one of several in a row. In some of its versions it has a fixed length: see /runs.
        """
        channels = self.redax_dead_time_channels
        if not len(records) or records["channel"].max() < min(channels, default=1 << 15):
            return records
        is_dead = np.isin(records["channel"], channels)
        dead = records[is_dead]
        intervals = np.stack([dead["time"], strax.endtime(dead)], axis=1)
        self._add_dead_time(live_data.merge_intervals(intervals), DIGITIZER)
        return records if self.dead_time_channel in channels else records[~is_dead]

    def _add_dead_time(self, intervals: Iterable[Sequence[int]], cause: str) -> None:
        """Note dead time between times since the start of the run [ns]."""
        if os.getpid() != self._process and "process" not in self._logged:
            self._logged.add("process")
            log.warning(
                "run %s: dead time is not recorded, since live data is read in another process: "
                "leave allow_multiprocess out",
                self.run_id,
            )
        self.dead_time += [
            (self.t0 + int(start), self.t0 + int(end), cause) for start, end in intervals
        ]

    def _records(self, files: Files) -> list[np.ndarray]:
        """Return the records of each file; at least one array."""
        parts = [records for records in files.values() if records is not None]
        return parts or [np.zeros(0, dtype=self.record_dtype)]

    def _check_empty_files(self, chunk_i: int, left: Files, files: Files, right: Files) -> None:
        """Check that files of 0 bytes are those of threads without data.

        redax creates such files for a thread without data, but crashes and full disks leave them
        as well. The same thread's other files of the chunk, and other threads, tell the difference.
        """
        pre, central, post = self.intervals(chunk_i)
        overlaps = ("pre", pre, left), ("post", post, right)
        for part, found in ((pre, left), (central, files), (post, right)):
            is_due = part is not None and (part != post or self.n_chunks != chunk_i + 1 or found)
            if is_due and len(found) < sum(self.threads.values()):
                self._add_dead_time([part[1:]], MISSING)  # type: ignore[index]  # is_due
        nothing = all(records is _NO_BYTES for records in files.values())
        for name, records in files.items():
            sides = [(kind, part, side[name]) for kind, part, side in overlaps if name in side]
            if records is _NO_BYTES:
                if nothing or any(side is not _NO_BYTES for *_, side in sides):
                    self._note_missing(f"{central.path / name} has 0 bytes")
                    self._add_dead_time([central[1:]], MISSING)
            elif len(records):
                silence = (post.end - post.start) * _GAP_SHARE
                for kind, part, side in sides:
                    if side is _NO_BYTES and live_data.longest_gap(records, *central[1:]) < silence:
                        self._note_missing(f"{self._copy(chunk_i, kind) / name} has 0 bytes")
                        self._add_dead_time([part[1:]], MISSING)  # type: ignore[index]

    def _check(self, records: np.ndarray, path: Path, interval: redax.Interval) -> None:
        record_length = self.config["record_length"]
        bad = live_data.first_damaged(records, interval.start, interval.end, record_length)
        if bad is None:
            return
        if interval.start <= bad["time"] < interval.end:
            raise LiveDataCorrupted(
                f"{path}: the fragment at {bad['time']} ns has "
                f"{live_data.impossible_field(bad, record_length)}, which is impossible: copy the "
                "file again from the DAQ"
            )
        first, last = records["time"].min(), records["time"].max()
        raise LiveDataCorrupted(
            f"{path} has fragments that start at {first} to {last} ns, outside its interval "
            f"of {interval.start} to {interval.end} ns: do strax_chunk_length and "
            "strax_chunk_overlap in daq_config belong to this run?"
        )

    def _find_break(self, interval: redax.Interval, files: Files, is_post: bool) -> live_data.Break:
        parts = self._records(files)
        return live_data.find_break(
            sort_by_time(parts[0] if len(parts) == 1 else np.concatenate(parts)),
            interval.start,
            interval.end,
            self.config["safe_break_in_pulses"],
            self.config["record_length"] * self.dt_max,
            is_post,
        )

    def _break(self, interval: redax.Interval, files: Files, is_post: bool) -> live_data.Break:
        """Return where to cut an overlap; warn if records are dropped."""
        cut = self._find_break(interval, files, is_post)
        if cut.is_artificial:
            message = (
                f"no gap of {self.config['safe_break_in_pulses']} ns in {interval.path}: records "
                f"at {self.t0 + cut.dead_start} to {self.t0 + cut.dead_end} ns are dropped"
            )
            self._add_dead_time([(cut.dead_start, cut.dead_end)], DROPPED)
            warnings.warn(message, ArtificialDeadtimeInserted, stacklevel=2)
            log.warning(message)
        return cut

    def _dead_time(self, cut: live_data.Break) -> list[np.ndarray]:
        """Return the record that marks a region of dead time, if it is stored."""
        channel = self.dead_time_channel
        if not cut.is_artificial or channel is None:
            return []
        start, end = cut.dead_start, cut.dead_end
        return [live_data.dead_time_record(start, end, self.dt_max, channel, self.record_dtype)]


def _incomplete(text: str, n_more: int = 0) -> LiveDataIncomplete:
    more = f" (and {n_more} more)" if n_more else ""
    return LiveDataIncomplete(
        f"{text}{more}: copy it again from the DAQ, or process the rest with --allow_incomplete"
    )


def _last_end(parts: list[np.ndarray], end: int) -> int:
    """Return the last end of fragments, or `end`, the end of their interval, if that is later."""
    return max([end, *(int(strax.endtime(part).max()) for part in parts if len(part))])


def _same_records(one: np.ndarray, other: np.ndarray) -> bool:
    """Return whether two arrays hold the same records in any order."""
    return len(one) == len(other) and sorted(map(bytes, one)) == sorted(map(bytes, other))


def check_safe_break(plugin: strax.Plugin, **needed: int) -> None:
    """Raise InvalidOption if chunks may be cut in gaps too short for what a plugin joins.

    Results would then depend on where chunks end. `needed` maps options of the plugin to the
    `safe_break_in_pulses` [ns] that their values need.
    """
    option = max(needed, key=lambda name: needed[name])
    for reader in dependencies(plugin):
        if not isinstance(reader, LiveDataReader):
            continue
        safe_break = reader.config["safe_break_in_pulses"]
        if safe_break < needed[option]:
            raise InvalidOption(
                f"{option}={getattr(plugin, option)} ns of {plugin.provides[0]} is too long for "
                f"chunks that are cut in gaps of {safe_break} ns: set safe_break_in_pulses="
                f"{needed[option]}, and make raw data with it"
            )


class XAMSReader(LiveDataReader):
    """Base of the readers of XAMS, which sort raw records by subdetector.

    - raw_records: the TPC's PMTs (bottom and top)
    - raw_records_ext: the external (NaI) detector
    - raw_records_sipm: the SiPMs
    """

    # `register_all` of this module must find `provides` in the readers alone
    raw_types = ("raw_records_sipm", "raw_records_ext", "raw_records")
    data_kind = immutabledict(zip(raw_types, raw_types, strict=True))
    rechunk_on_save = immutabledict.fromkeys(raw_types, False)
    compressor = "lz4"
    redax_dead_time_channels = redax.DEAD_TIME_CHANNELS

    def subdetectors(self):
        tpc = [rundoc.channel_range(self.channel_map, group) for group in ("bottom", "top")]
        ranges = {"raw_records": (min(first for first, _ in tpc), max(last for _, last in tpc))}
        for data_type, group in (("raw_records_sipm", "sipm"), ("raw_records_ext", "external")):
            if group in self.channel_map:
                ranges[data_type] = rundoc.channel_range(self.channel_map, group)
        return ranges


@strax.takes_config(
    _option(
        "channels_polarity",
        "+1 or -1 for channels with positive or negative pulses, from daq_config.registers",
        default={},
        type=dict,
    ),
)
class DAQReader(XAMSReader):
    """Read the live data of XAMS; provides raw records of the TPC, the NaI and the SiPMs.

    Waveforms are as digitised, except that positive pulses are inverted.
    """

    channel_map = XAMSConfig(track=False, type=immutabledict, help=CHANNEL_MAP_HELP)

    __version__ = "0.0.0"
    provides = XAMSReader.raw_types

    def polarity(self):
        return self.config["channels_polarity"]


def split_channel_ranges(
    records: np.ndarray, channel_ranges: list[tuple[int, int]]
) -> "numba.typed.List":
    """Return a numba list with the records of each range of channels.

    `channel_ranges` are the first and last channel of each range, without overlaps. Raises
    UnknownChannel (a ValueError) for channels in none of them.
    """
    split = live_data.split_by_channel(records, dict(enumerate(channel_ranges)))
    result = numba.typed.List()
    for part in split.values():
        result.append(part)
    return result

"""From live data to raw records."""

import logging
import threading
import time
import warnings
from pathlib import Path

import numba
import numpy as np
import strax
from immutabledict import immutabledict

from amstrax import redax
from amstrax.exceptions import InvalidOption, LiveDataCorrupted, LiveDataTimeout, Stopped
from amstrax.processing import live_data
from amstrax.processing.hits import sort_by_time
from amstrax.strax_ext.plugin import Plugin

__all__ = ["ArtificialDeadtimeInserted", "DAQReader", "LiveDataReader", "split_channel_ranges"]

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.2
_SECONDS_BETWEEN_LINES = 10


class ArtificialDeadtimeInserted(UserWarning):
    """Data had to be dropped, since there was no gap between two chunks to break them at."""


@strax.takes_config(
    strax.Option(
        "record_length",
        default=110,
        track=False,
        type=int,
        help="Samples in a fragment",
    ),
    strax.Option(
        "max_digitizer_sampling_time",
        default=10,
        track=False,
        type=int,
        help="Longest sample width of the digitizers [ns]",
    ),
    strax.Option(
        "run_start_time",
        default=0.0,
        track=False,
        help="Start of the run [s since unix epoch]; whole seconds of it count",
    ),
    strax.Option(
        "daq_chunk_duration",
        default=int(5e9),
        track=False,
        type=int,
        help="Duration of a chunk of live data [ns]",
    ),
    strax.Option(
        "daq_overlap_chunk_duration",
        default=int(5e8),
        track=False,
        type=int,
        help="Duration of the overlap between two chunks of live data [ns]",
    ),
    strax.Option(
        "daq_compressor",
        default="lz4",
        track=False,
        type=str,
        help="Compressor of live data: lz4 or blosc",
    ),
    strax.Option(
        "readout_threads",
        track=False,
        type=dict,
        help="Number of threads of each readout process (daq_config.processing_threads)",
    ),
    strax.Option(
        "daq_input_dir",
        track=False,
        type=str,
        help="Folder of the run's live data",
    ),
    strax.Option(
        "safe_break_in_pulses",
        default=1000,
        track=False,
        type=int,
        help="Least gap between records at which two chunks may be broken [ns]",
    ),
    strax.Option(
        "channel_map",
        track=False,
        type=immutabledict,
        help="First and last channel of each subdetector",
    ),
)
class LiveDataReader(Plugin):
    """Base of the readers of XAMS and XAMSL, which differ in what they provide.

    A subclass sets ``provides`` and ``subdetectors``, the channels of each data type.
    """

    depends_on = ()
    parallel = "process"
    rechunk_on_save: bool | immutabledict = False
    chunk_target_size_mb = 50
    #: Seconds to wait for new live data
    input_timeout = 300
    #: Set to end the wait for live data early, with an error
    stop_waiting: threading.Event | None = None
    #: Channel of the records that mark artificial dead time; None where no data type holds it
    dead_time_channel: int | None = None

    def infer_dtype(self):
        return dict.fromkeys(self.provides, self.record_dtype)

    @property
    def record_dtype(self) -> np.dtype:
        """Type of raw records, and of the fragments in live data."""
        return np.dtype(strax.raw_record_dtype(self.config["record_length"]))

    def setup(self):
        self.run_dir = Path(self.config["daq_input_dir"])
        self.threads = self.config["readout_threads"]
        # Whole seconds only: times of records count from the start of a second
        self.t0 = int(self.config["run_start_time"]) * 1_000_000_000
        self.dt_max = self.config["max_digitizer_sampling_time"]
        redax.require_run_dir(self.run_dir)
        if self.run_dir.name != self.run_id:
            raise InvalidOption(
                f"this context was set up for the live data of run {self.run_dir.name}, not of run "
                f"{self.run_id}: make a new context for it"
            )

    def subdetectors(self) -> dict[str, tuple[int, int]]:
        """Return first and last channel of each data type in ``provides``."""
        raise NotImplementedError

    def intervals(self, chunk_i: int) -> redax.ChunkIntervals:
        """Return where the live data of a chunk is."""
        return redax.chunk_intervals(
            self.run_dir,
            chunk_i,
            self.config["daq_chunk_duration"],
            self.config["daq_overlap_chunk_duration"],
        )

    def is_ready(self, chunk_i):
        """Wait until a chunk is complete; return False if the run has ended before it.

        Raises
        ------
        LiveDataTimeout
            When the DAQ writes nothing for ``input_timeout`` seconds.
        LiveDataCorrupted
            When the run has ended, and there are later chunks but not this one.
        """
        started = said = time.monotonic()
        while True:
            # In this order: what is there when the run has ended is all there will be
            ended = redax.run_has_ended(self.run_dir, self.threads)
            if self.is_complete(chunk_i):
                return True
            if ended:
                return self._is_there_after_end(chunk_i, self.intervals(chunk_i).central.path)
            now = time.monotonic()
            if now - started > self.input_timeout:
                raise LiveDataTimeout(
                    f"no complete chunk {chunk_i} in {self.run_dir} after {self.input_timeout} s, "
                    "and the run has not ended there: has the DAQ stopped, or the copying? "
                    "Start again when it goes on, or set a longer --timeout"
                )
            if now - said > _SECONDS_BETWEEN_LINES:
                said = now
                log.info("waiting for chunk %d in %s", chunk_i, self.run_dir)
            if self.stop_waiting is None:
                time.sleep(_POLL_SECONDS)
            elif self.stop_waiting.wait(_POLL_SECONDS):
                raise Stopped(f"stopped while waiting for chunk {chunk_i} in {self.run_dir}")

    def is_complete(self, chunk_i: int) -> bool:
        """Return whether all of a chunk has been written, with the overlaps at both sides."""
        parts = (part for part in self.intervals(chunk_i) if part is not None)
        return all(redax.is_complete(part.path, self.threads) for part in parts)

    def _is_there_after_end(self, chunk_i: int, path: Path) -> bool:
        if path.is_dir():
            return True
        last = redax.last_chunk(self.run_dir)
        if last > chunk_i:
            raise LiveDataCorrupted(
                f"chunk {chunk_i} is missing: there is no {path}, but there is chunk {last}. "
                "Copy the run again from the DAQ"
            )
        if last < 0:
            raise LiveDataCorrupted(
                f"the run in {self.run_dir} has ended without a single chunk: there is nothing "
                "to process"
            )
        return False

    def source_finished(self):
        return redax.run_has_ended(self.run_dir, self.threads)

    def compute(self, chunk_i):
        pre, central, post = self.intervals(chunk_i)
        parts = central_parts = self._read(central)
        start, end = central.start, central.end
        left = self._overlap(pre, chunk_i - 1, "post")
        if left is not None:
            cut = self._break(left, is_post=False)
            parts = [*self._dead_time(cut), cut.kept, *parts]
            start = cut.time
        right = self._overlap(post, chunk_i + 1, "pre")
        if right is not None:
            cut = self._break(right, is_post=True)
            parts = [*parts, cut.kept, *self._dead_time(cut)]
            end = cut.time
        else:
            # Nothing follows: the last fragments may end beyond the interval they start in
            end = max([end, *(int(strax.endtime(p).max()) for p in central_parts if len(p))])
        by_type = live_data.split_by_subdetector(
            parts, self.subdetectors(), self.t0, self.polarity()
        )
        return {
            d: self.chunk(start=self.t0 + start, end=self.t0 + end, data=by_type[d], data_type=d)
            for d in self.provides
        }

    def polarity(self) -> dict[int, int]:
        """Return +1 or -1 for channels whose pulses are known to go up or down."""
        return {}

    def _overlap(self, interval, neighbour: int, kind: str):
        """Return where to read an overlap: the neighbour's copy will do as well."""
        if interval is None:
            unexpected = self.run_dir / "000000_pre"
            if unexpected.exists():
                log.warning("%s is ignored: nothing comes before the first chunk", unexpected)
            return None
        copy = self.run_dir / f"{neighbour:06d}_{kind}"
        for path in (interval.path, copy):
            if path.is_dir():
                return interval._replace(path=path)
        if (self.run_dir / f"{neighbour:06d}").is_dir():
            raise LiveDataCorrupted(
                f"neither {interval.path} nor {copy} is there, so the data between two chunks is "
                "missing. Copy the run again from the DAQ"
            )
        return None

    def _read(self, interval: redax.Interval) -> list[np.ndarray]:
        """Return the records of each file in a directory; at least one array."""
        files = redax.list_files(interval.path)
        redax.check_threads(files, self.threads)
        parts = []
        for path in files:
            records = redax.read_file(path, self.config["daq_compressor"], self.record_dtype)
            self._check(records, path, interval)
            parts.append(records)
        return parts or [np.zeros(0, dtype=self.record_dtype)]

    def _check(self, records: np.ndarray, path: Path, interval: redax.Interval) -> None:
        bad = live_data.first_damaged(
            records, interval.start, interval.end, self.config["record_length"]
        )
        if bad is None:
            return
        if interval.start <= bad["time"] < interval.end:
            raise LiveDataCorrupted(
                f"{path}: the fragment at {bad['time']} ns has length {bad['length']} and dt "
                f"{bad['dt']} ns, which cannot be. The file is damaged: copy it again from the DAQ"
            )
        first, last = records["time"].min(), records["time"].max()
        raise LiveDataCorrupted(
            f"{path} has fragments that start at {first} to {last} ns, outside its interval "
            f"of {interval.start} to {interval.end} ns: do strax_chunk_length and "
            "strax_chunk_overlap in daq_config belong to this run?"
        )

    def _break(self, interval: redax.Interval, is_post: bool) -> live_data.Break:
        parts = self._read(interval)
        cut = live_data.find_break(
            sort_by_time(parts[0] if len(parts) == 1 else np.concatenate(parts)),
            interval.start,
            interval.end,
            self.config["safe_break_in_pulses"],
            self.config["record_length"] * self.dt_max,
            is_post,
        )
        if cut.is_artificial:
            message = (
                f"no gap of {self.config['safe_break_in_pulses']} ns in {interval.path}: records "
                f"at {self.t0 + cut.dead_start} to {self.t0 + cut.dead_end} ns are dropped"
            )
            warnings.warn(message, ArtificialDeadtimeInserted, stacklevel=2)
            log.warning(message)
        return cut

    def _dead_time(self, cut: live_data.Break) -> list[np.ndarray]:
        """Return the record that marks a region of dead time, if it is to be stored."""
        channel = self.dead_time_channel
        if not cut.is_artificial or channel is None:
            return []
        start, end = cut.dead_start, cut.dead_end
        return [live_data.dead_time_record(start, end, self.dt_max, channel, self.record_dtype)]


@strax.takes_config(
    strax.Option(
        "channels_polarity",
        default={},
        track=False,
        type=dict,
        help="+1 or -1 for channels whose pulses go up or down, from daq_config.registers",
    ),
)
class DAQReader(LiveDataReader):
    """Read the live data of XAMS and sort it into raw records by subdetector.

    Nothing is done to the waveforms, except that those of channels with positive pulses are
    turned over. Provides:

    - raw_records: the TPC's PMTs (bottom and top)
    - raw_records_ext: the external (NaI) detector
    - raw_records_sipm: the SiPM
    """

    __version__ = "0.0.0"
    provides = ("raw_records_sipm", "raw_records_ext", "raw_records")
    data_kind = immutabledict(zip(provides, provides, strict=True))
    rechunk_on_save = immutabledict.fromkeys(provides, False)
    compressor = "lz4"

    def subdetectors(self):
        channels = self.config["channel_map"]
        tpc = (*channels["bottom"], *channels["top"])
        return {
            "raw_records_sipm": tuple(channels["sipm"]),
            "raw_records_ext": tuple(channels["external"]),
            "raw_records": (min(tpc), max(tpc)),
        }

    def polarity(self):
        return self.config["channels_polarity"]


def split_channel_ranges(
    records: np.ndarray, channel_ranges: list[tuple[int, int]]
) -> "numba.typed.List":
    """Return a numba list with the records of each range of channels.

    Parameters
    ----------
    records
        Array with a field ``channel``, shape (n,).
    channel_ranges
        First and last channel of each range; they do not overlap.

    Raises
    ------
    UnknownChannel
        (a ValueError) naming channels in none of the ranges.
    """
    split = live_data.split_by_channel(records, dict(enumerate(channel_ranges)))
    result = numba.typed.List()
    for part in split.values():
        result.append(part)
    return result

"""Raw records from events of pax, the processor before strax.

pax itself is needed only to read its files. Any object with the same interface works: an event has
``start_time``, ``stop_time`` [ns since unix epoch], ``sample_duration`` [ns] and ``pulses``; a
pulse has ``channel``, ``left`` (first sample, relative to the start of the event) and ``raw_data``
[ADC counts].
"""

import logging
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import strax

from amstrax.exceptions import InvalidOption, LiveDataCorrupted, LiveDataNotFound, NotAvailable
from amstrax.processing.compiled import sort_by_time
from amstrax.strax_ext.plugin import Plugin

__all__ = ["RecordsFromPax", "pax_to_records"]

log = logging.getLogger(__name__)


class Chunk(NamedTuple):
    """Raw records of some events, and start and end of these [ns since unix epoch]."""

    start: int
    end: int
    records: np.ndarray


_EVENT = ("start_time", "pulses")
_PULSE = ("channel", "left", "raw_data")


def pax_to_records(
    source: str | Path | Iterable[Any],
    samples_per_record: int = strax.DEFAULT_RECORD_LENGTH,
    events_per_chunk: int = 10,
    dt: int = 10,
    pax_config: str = "XAMS",
) -> Iterator[np.ndarray]:
    """Yield raw records (`strax.raw_record_dtype`) of pax's events, sorted by time.

    Parameters
    ----------
    source
        File or folder for pax, or an iterable of events.
    samples_per_record
        Samples in a fragment.
    events_per_chunk
        Number of events in each yielded array; the last may have fewer.
    dt
        Sample width [ns] of events without ``sample_duration``.
    pax_config
        Name of pax's configuration for reading files.

    Raises NotAvailable for a file, without pax, LiveDataNotFound (a FileNotFoundError) when the
    file does not exist, and, as ValueErrors, LiveDataCorrupted for an event without a needed
    attribute or with values outside of records, and InvalidOption for less than one sample, event
    or ns.
    """
    for chunk in _chunks(source, samples_per_record, events_per_chunk, dt, pax_config):
        yield chunk.records


def _chunks(
    source: str | Path | Iterable[Any],
    samples_per_record: int,
    events_per_chunk: int,
    dt: int,
    pax_config: str,
) -> Iterator[Chunk]:
    sizes = dict(samples_per_record=samples_per_record, events_per_chunk=events_per_chunk, dt=dt)
    for name, value in sizes.items():
        if value < 1:
            raise InvalidOption(f"{name} cannot be {value}: take 1 or more")
    events = pax_events(source, pax_config) if isinstance(source, (str, Path)) else iter(source)
    while batch := list(islice(events, events_per_chunk)):
        parts = [event_to_records(event, samples_per_record, dt) for event in batch]
        records = sort_by_time(np.concatenate(parts))
        starts = [int(event.start_time) for event in batch] + records["time"][:1].tolist()
        ends = [int(getattr(event, "stop_time", None) or event.start_time) for event in batch]
        yield Chunk(min(starts), max([*ends, *strax.endtime(records).tolist()]), records)


def event_to_records(event: Any, samples_per_record: int, dt: int = 10) -> np.ndarray:
    """Return the raw records of one event, pulse by pulse; parameters as of `pax_to_records`."""
    for name in _EVENT:
        if not hasattr(event, name):
            raise LiveDataCorrupted(f"{event!r} is no event as pax has them: it has no {name}")
    dt = int(getattr(event, "sample_duration", None) or dt)
    dtype = strax.raw_record_dtype(samples_per_record)
    parts = [_pulse_to_records(event, pulse, dt, dtype) for pulse in event.pulses]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=dtype)


def _pulse_to_records(event: Any, pulse: Any, dt: int, dtype: Any) -> np.ndarray:
    where = f"a pulse of the event at {event.start_time} ns"
    for name in _PULSE:
        if not hasattr(pulse, name):
            raise LiveDataCorrupted(f"{where} has no {name}: this is not what pax has")
    data = np.asarray(pulse.raw_data)
    limits = np.iinfo(np.int16)
    if len(data) and not limits.min <= data.min() <= data.max() <= limits.max:
        raise LiveDataCorrupted(
            f"{where} in channel {pulse.channel} has samples from {data.min()} to {data.max()}: "
            "records hold 16-bit integers, as digitizers give them; is this the sum waveform?"
        )
    samples = np.zeros(0, dtype=dtype)["data"].shape[1]
    n = -(-len(data) // samples)
    result = np.zeros(n, dtype=dtype)
    fragment = np.arange(n)
    result["record_i"] = fragment
    result["time"] = int(event.start_time) + (int(pulse.left) + fragment * samples) * dt
    result["length"] = np.minimum(samples, len(data) - fragment * samples)
    result["pulse_length"] = len(data)
    result["channel"] = pulse.channel
    result["dt"] = dt
    padded = np.zeros(n * samples, dtype=np.int16)
    padded[: len(data)] = data
    result["data"] = padded.reshape(n, samples)
    return result


def pax_events(path: str | Path, pax_config: str = "XAMS") -> Iterator[Any]:
    """Yield the events that pax reads from a file or folder.

    Raises LiveDataNotFound (a FileNotFoundError) for a missing one, and NotAvailable without pax.
    """
    if not Path(path).exists():
        raise LiveDataNotFound(
            f"there is no data of pax at {path}: check the folder (pax_raw_dir) and the run"
        )
    try:
        from pax import core
    except ImportError as error:
        raise NotAvailable(
            f"reading {path} needs pax, which is not installed ({error}). It runs on old versions "
            "of Python only: convert the file where it is installed, or hand over the events "
            "themselves (to pax_to_records, or by a subclass of RecordsFromPax)"
        ) from None
    config = {
        "look_for_config_in_runs_db": False,
        "plugin_group_names": ["input"],
        "encoder_plugin": None,
        "input_name": str(path),
    }
    yield from core.Processor(config_names=pax_config, config_dict={"pax": config}).get_events()


@strax.takes_config(
    strax.Option(
        "pax_raw_dir",
        default="./pax_raw",
        track=False,
        help="Folder with a file or folder of pax's raw data for each run, named by run",
    ),
    strax.Option(
        "pax_config",
        default="XAMS",
        track=False,
        help="Name of pax's configuration, for reading files",
    ),
    strax.Option(
        "pax_sample_duration",
        default=10,
        help="Sample width [ns] of events without one",
    ),
    strax.Option("events_per_chunk", default=50, track=False, help="Events of pax in a chunk"),
    strax.Option(
        "samples_per_record", default=strax.DEFAULT_RECORD_LENGTH, help="Samples in a fragment"
    ),
)
class RecordsFromPax(Plugin):
    """Make raw records from events of pax, instead of the DAQ's live data.

    Register it in a context that may make raw records (``forbid_creation_of=()``), where it
    replaces the DAQ's reader. Events must be sorted and must not overlap in time. A subclass can
    override `events` for another source.
    """

    __version__ = "0.1.0"
    depends_on: tuple = ()
    provides = "raw_records"
    data_kind = "raw_records"
    compressor = "lz4"
    parallel = False
    rechunk_on_save = False

    def infer_dtype(self):
        return strax.raw_record_dtype(self.config["samples_per_record"])

    def setup(self):
        # Opened at the first chunk: plugins are also made for inspection
        self._chunks: Iterator[Chunk] | None = None
        self._next: Chunk | None = None
        self._end = 0

    def events(self, run_id: str) -> Iterable[Any] | str | Path:
        """Return the events of a run, or the file or folder for pax."""
        return Path(self.config["pax_raw_dir"]) / run_id

    def _open(self) -> None:
        self._chunks = _chunks(
            self.events(self.run_id),
            self.config["samples_per_record"],
            self.config["events_per_chunk"],
            self.config["pax_sample_duration"],
            self.config["pax_config"],
        )
        self._next = next(self._chunks, None)
        if self._next is None:
            raise LiveDataNotFound(f"run {self.run_id} has no events of pax")
        self._end = self._next.start

    def is_ready(self, chunk_i):
        """Return whether the chunk exists."""
        if self._chunks is None or (chunk_i == 0 and self._next is None):
            self._open()
        return self._next is not None

    def source_finished(self):
        """Return whether all events have been read."""
        return self._chunks is not None and self._next is None

    def compute(self, chunk_i):
        chunk = self._next
        assert chunk is not None and self._chunks is not None, "compute comes after is_ready"
        if chunk.start < self._end:
            raise LiveDataCorrupted(
                f"an event of run {self.run_id} starts at {chunk.start} ns, before {self._end} ns, "
                "where the one before it has ended: sort the events, and leave out those that "
                "overlap"
            )
        # Chunks follow each other without gaps
        start, self._end = self._end, chunk.end
        self._next = next(self._chunks, None)
        log.debug("%d records of pax, to %d ns", len(chunk.records), chunk.end)
        return self.chunk(start=start, end=chunk.end, data=chunk.records, data_type="raw_records")

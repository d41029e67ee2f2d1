"""Live data on disk, as redax, the DAQ's readout program, writes it.

A run is a folder with a directory for each chunk: ``000000``, ``000000_post``, ``000001_pre``,
``000001``, ... and ``THE_END`` when the run has ended. ``_post`` of a chunk and ``_pre`` of the
next are copies of the same data, from the interval between the two. redax writes a file into a
directory whose name ends in ``_TEMP`` and then moves it; ``_TEMP`` directories are not read.

Each directory has one file of every readout thread, ``HOST_reader_N_THREADID``: one compressed
blob of fragments of `strax.raw_record_dtype`, in any order. For a thread without data in the
interval redax creates a file of 0 bytes; the simulation writes an empty LZ4 or blosc blob.
"""

import contextlib
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import blosc
import lz4.frame
import numpy as np

from amstrax.exceptions import InvalidOption, LiveDataCorrupted, LiveDataNotFound
from amstrax.strict_json import short

THE_END = "THE_END"

#: Channels of the fragments that mark dead time of a digitizer, by versions of redax
#: (StraxFormatter::GenerateArtificialDeadtime): 790 and 799 for the TPC
DEAD_TIME_CHANNELS = (790, 799)

_CHUNK_NAME = re.compile(r"(\d{6})(_pre|_post)?")
_TEMP_NAME = re.compile("_temp", re.IGNORECASE)
_BLOSC_HEADER_BYTES = 16


class Interval(NamedTuple):
    """A directory of live data, and the range of start times of its data [ns since run start]."""

    path: Path
    start: int
    end: int


class ChunkIntervals(NamedTuple):
    """The directories of one chunk; ``pre`` is None for chunk 0."""

    pre: Interval | None
    central: Interval
    post: Interval


def chunk_intervals(run_dir: Path, chunk_i: int, length: int, overlap: int) -> ChunkIntervals:
    """Return the directories of a chunk, for chunks of `length` and `overlap` ns."""
    start = chunk_i * (length + overlap)
    end = start + length
    name = f"{chunk_i:06d}"
    pre = Interval(run_dir / f"{name}_pre", start - overlap, start) if chunk_i else None
    return ChunkIntervals(
        pre,
        Interval(run_dir / name, start, end),
        Interval(run_dir / f"{name}_post", end, end + overlap),
    )


def require_run_dir(run_dir: Path) -> None:
    """Raise LiveDataNotFound (a FileNotFoundError) unless `run_dir` is a directory."""
    if not run_dir.is_dir():
        raise LiveDataNotFound(
            f"no live data at {run_dir}: check the run's number and the folder of live data "
            "(setting XAMS_LIVE_DATA or XAMSL_LIVE_DATA, or --live_data_dir)"
        )


def list_files(directory: Path) -> list[Path]:
    """Return the files in a directory of live data, sorted by name; none if it does not exist.

    Broken links and directories are left out.
    """
    try:
        paths = sorted(directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [path for path in paths if not path.name.startswith(".") and path.is_file()]


def last_chunk(run_dir: Path) -> int:
    """Return the highest number of an existing chunk, or -1."""
    try:
        names = [path.name for path in run_dir.iterdir()]
    except FileNotFoundError:
        return -1
    matches = (_CHUNK_NAME.fullmatch(name) for name in names)
    return max((int(match[1]) for match in matches if match and not match[2]), default=-1)


def last_begun_chunk(run_dir: Path) -> int:
    """Return the number of the last chunk of which redax has written anything, or -1.

    redax writes the ``_pre`` of a chunk with the ``_post`` of the chunk before, so it counts for
    the latter. ``_TEMP`` directories count if they have a file.
    """
    last = -1
    for path in run_dir.iterdir():
        name, *temporary = _TEMP_NAME.split(path.name)
        match = _CHUNK_NAME.fullmatch(name)
        if match and (not temporary or list_files(path)):
            last = max(last, int(match[1]) - (match[2] == "_pre"))
    return last


def find_missing(run_dir: Path, n_chunks: int, threads: Mapping[str, int]) -> list[str]:
    """Return the missing files of an ended run, a text for each folder; empty for a complete run.

    `threads` has the number of threads of each readout process. A file of an overlap is missing
    only if both copies are. Sizes and content are not checked.
    """
    known = {path.name for path in list_files(run_dir / THE_END)}
    missing = []
    for chunk_i in range(n_chunks):
        central = run_dir / f"{chunk_i:06d}"
        post, pre = (run_dir / f"{chunk_i:06d}_post", run_dir / f"{chunk_i + 1:06d}_pre")
        if not central.is_dir():
            missing.append(f"chunk {chunk_i} is missing: there is no {central}")
        elif lacks := lacking_files([central], threads, known):
            missing.append(f"{central} lacks {lacks}")
        if not post.is_dir() and not pre.is_dir():
            missing.append(f"there is neither {post} nor {pre.name}")
        elif lacks := lacking_files([post, pre], threads, known):
            missing.append(f"neither {post} nor {pre.name} has {lacks}")
    return missing


def lacking_files(
    directories: Iterable[Path], threads: Mapping[str, int], known: Collection[str]
) -> str:
    """Return the files of readout threads that all copies of a directory lack, as a text.

    It is empty if no file is missing. Missing files are named if `known`, names of files of the
    run, determines them, and counted otherwise.
    """
    names = {path.name for directory in directories for path in list_files(directory)}
    lacking = []
    for process, n_threads in threads.items():
        n_lacking = n_threads - sum(_process_of(name) == process for name in names)
        if n_lacking > 0:
            gone = sorted(
                name for name in known if _process_of(name) == process and name not in names
            )
            count = f"{n_lacking} of {n_threads} file(s) of {process}"
            lacking += gone if len(gone) == n_lacking else [count]
    more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
    return f"{lacking[0]}{more}" if lacking else ""


def _process_of(name: str) -> str:
    """Return the readout process ``HOST_reader_N`` that wrote a file."""
    return name.rpartition("_")[0]


def is_complete(directory: Path, threads: Mapping[str, int]) -> bool:
    """Return whether every readout thread has written its file into `directory`."""
    return len(list_files(directory)) >= sum(threads.values())


def run_has_ended(run_dir: Path, threads: Mapping[str, int]) -> bool:
    """Return whether all readout threads have ended the run."""
    return is_complete(run_dir / THE_END, threads)


def check_threads(files: Iterable[Path], threads: Mapping[str, int]) -> None:
    """Check that files of one directory come from the readout threads of the run.

    `threads` has the number of threads of each process (``daq_config.processing_threads``). A file
    of another process, or more files of a process than threads, raise LiveDataCorrupted (a
    ValueError).
    """
    counts: Counter[str] = Counter()
    for path in files:
        process = _process_of(path.name)
        if process not in threads:
            raise LiveDataCorrupted(
                f"{path} is of a readout thread that this run does not have: daq_config."
                f"processing_threads names {', '.join(threads) or 'none'}. Move the file away, or "
                "correct the run document"
            )
        counts[process] += 1
        if counts[process] > threads[process]:
            raise LiveDataCorrupted(
                f"{path} is one file too many: {process} has {threads[process]} thread(s) in "
                "daq_config.processing_threads. Was the run started twice? Move away the files "
                "of one start"
            )


def read_file(path: Path, compressor: str, dtype: np.dtype) -> np.ndarray:
    """Read the fragments in a live file into a new array of `dtype`, see `decode`."""
    return decode(path.read_bytes(), path, compressor, dtype)


def decode(blob: bytes, path: Path, compressor: str, dtype: np.dtype) -> np.ndarray:
    """Return the fragments in the content of a live file, as an array of `dtype`, shape (n,).

    A file of 0 bytes gives an empty array. Raises InvalidOption for a `compressor` that is neither
    ``lz4`` nor ``blosc``, LiveDataCorrupted (a ValueError) when the file is truncated or is not
    such a blob.
    """
    decompress = _codec(compressor).decompress
    try:
        data = decompress(blob) if blob else b""
    except _DECOMPRESSION_ERRORS as error:
        raise LiveDataCorrupted(
            f"{path} ({len(blob)} bytes) cannot be decompressed as {compressor}: {error}. It is "
            "truncated or damaged: copy it again from the DAQ"
        ) from error
    itemsize = np.dtype(dtype).itemsize
    if len(data) % itemsize:
        raise LiveDataCorrupted(
            f"{path} holds {len(data)} bytes, which is not a whole number of fragments of "
            f"{itemsize} bytes: it is damaged, or strax_fragment_payload_bytes in daq_config is "
            f"not {np.dtype(dtype)['data'].itemsize}"
        )
    return np.frombuffer(data, dtype=dtype)


def check_compressor(compressor: str) -> None:
    """Raise InvalidOption for a `compressor` that is neither ``lz4`` nor ``blosc``."""
    _codec(compressor)


def write_file(path: Path, records: np.ndarray, compressor: str) -> None:
    """Write fragments to one live file; `compressor` is as in `read_file`."""
    path.write_bytes(_codec(compressor).compress(np.ascontiguousarray(records).tobytes()))


def write_chunk(
    run_dir: Path,
    chunk_i: int,
    records: np.ndarray,
    threads: Mapping[str, int],
    length: int,
    overlap: int,
    compressor: str = "lz4",
) -> None:
    """Write the directories of one chunk, and those of the overlaps before and after it.

    `records` are fragments of `strax.raw_record_dtype`, shape (n,), with times in ns since the
    start of the run; those outside the chunk are left out. Channels are assigned in turn to the
    threads, of which `threads` has the number for each readout process. `length` and `overlap` are
    the durations of chunk and overlap [ns]; `compressor` is ``lz4`` or ``blosc``.
    """
    for part in chunk_intervals(run_dir, chunk_i, length, overlap):
        if part is None:
            continue
        inside = (records["time"] >= part.start) & (records["time"] < part.end)
        write_directory(part.path, records[inside], threads, compressor)


def write_directory(
    directory: Path, records: np.ndarray, threads: Mapping[str, int], compressor: str
) -> None:
    """Write a directory with all `records`; other parameters are as in `write_chunk`."""
    names = _file_names(threads)
    with _written_whole(directory) as temporary:
        for i, name in enumerate(names):
            own = records if len(names) == 1 else records[records["channel"] % len(names) == i]
            write_file(temporary / name, own, compressor)


def write_end(run_dir: Path, threads: Mapping[str, int]) -> None:
    """Write the directory that marks the end of the run."""
    with _written_whole(run_dir / THE_END) as temporary:
        for name in _file_names(threads):
            (temporary / name).write_text("the run has ended\n", encoding="utf-8")


@contextlib.contextmanager
def _written_whole(directory: Path) -> Iterator[Path]:
    """Provide a ``_TEMP`` directory, which is renamed at the end, as redax does."""
    temporary = directory.with_name(f"{directory.name}_TEMP")
    temporary.mkdir(parents=True)
    yield temporary
    temporary.rename(directory)


def _file_names(threads: Mapping[str, int]) -> list[str]:
    first_id = 139811453138688
    return [f"{process}_{first_id + 8192 * i}" for process, n in threads.items() for i in range(n)]


def _blosc_decompress(blob: bytes) -> bytearray:
    # The library trusts the header, so check that the blob is complete
    if len(blob) < _BLOSC_HEADER_BYTES:
        raise ValueError("too short for a header")
    compressed_bytes = int.from_bytes(blob[12:16], "little")
    if compressed_bytes != len(blob):
        raise ValueError(f"its header says {compressed_bytes} bytes")
    return blosc.decompress(blob, as_bytearray=True)


def _lz4_decompress(blob: bytes) -> bytearray:
    decompressor = lz4.frame.LZ4FrameDecompressor(return_bytearray=True)
    data = decompressor.decompress(blob)
    if not decompressor.eof:
        raise ValueError("the end is missing")
    if decompressor.unused_data:
        raise ValueError(f"{len(decompressor.unused_data)} bytes follow its end")
    return data


class _Codec(NamedTuple):
    compress: Callable[[bytes], bytes]
    decompress: Callable[[bytes], bytearray]


_CODECS = {
    "lz4": _Codec(lz4.frame.compress, _lz4_decompress),
    "blosc": _Codec(partial(blosc.compress, shuffle=blosc.NOSHUFFLE), _blosc_decompress),
}

#: Exceptions of the libraries for a blob of another format
_DECOMPRESSION_ERRORS = (
    RuntimeError,
    ValueError,
    MemoryError,
    SystemError,
    blosc.blosc_extension.error,
)


def _codec(compressor: str) -> _Codec:
    if compressor not in _CODECS:
        raise InvalidOption(
            f"live data cannot be compressed with {short(compressor)}: the compressor in "
            f"daq_config is one of {', '.join(_CODECS)}"
        )
    return _CODECS[compressor]

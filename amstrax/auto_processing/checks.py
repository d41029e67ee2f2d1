"""Whether data that has been written is what it should be: it loads, and covers its run."""

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import strax

from amstrax import rundoc
from amstrax.exceptions import AmstraxError, InvalidRunDocument
from amstrax.rundb import documents
from amstrax.rundb.frontend import identity
from amstrax.strax_ext.storage import CheckedBackend

log = logging.getLogger(__name__)

#: Start and end of a run are known to the DAQ no better than this [ns]
_CLOCKS = 1_000_000_000


class DataIncomplete(AmstraxError):
    """Data that has been written is not what it should be."""


def check_data(
    path: Path,
    raw_range: tuple[int, int],
    watch: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Load all of some data, compare it with what its metadata says, and return that.

    Parameters
    ----------
    path
        Folder of the data.
    raw_range
        Start and end of the run's raw data [ns since unix epoch], which it must have too.
    watch
        Called before each chunk; may raise.

    Raises
    ------
    DataIncomplete
        When it cannot be loaded, or is not what it should be.
    """
    backend = CheckedBackend()
    try:
        metadata = backend.get_metadata(str(path))
        chunks = list(_chunks(backend, path, metadata, watch))
    except (
        OSError,
        ValueError,
        RuntimeError,
        strax.DataCorrupted,
        strax.DataNotAvailable,
    ) as error:
        raise DataIncomplete(f"{path} cannot be loaded: {' '.join(str(error).split())}") from error
    for (_, before), (after, _) in zip(chunks, chunks[1:], strict=False):
        if before != after:
            raise DataIncomplete(f"{path} has a gap, from {before} to {after} ns since 1970")
    if (chunks[0][0], chunks[-1][1]) != tuple(raw_range):
        raise DataIncomplete(
            f"{path} is from {chunks[0][0]} to {chunks[-1][1]} ns since 1970, but the raw data of "
            f"the run from {raw_range[0]} to {raw_range[1]}"
        )
    return metadata


def _chunks(
    backend: CheckedBackend, path: Path, metadata: Mapping[str, Any], watch: Callable[[], None]
) -> Iterator[tuple[int, int]]:
    """Load chunk by chunk, and yield start and end of each."""
    n_rows = [chunk["n"] for chunk in metadata["chunks"]]
    found = 0
    for chunk in backend.loader(str(path)):
        watch()
        if len(chunk) != n_rows[found]:
            raise DataIncomplete(
                f"chunk {found} of {path} has {len(chunk)} rows, its metadata says {n_rows[found]}"
            )
        found += 1
        yield chunk.start, chunk.end
    if found != len(n_rows):
        raise DataIncomplete(f"{path} has {found} chunks, its metadata says {len(n_rows)}")


def check_covers_run(raw_range: tuple[int, int], document: Mapping[str, Any], what: str) -> None:
    """Check that raw data begins and ends where its run does.

    The DAQ writes live data in chunks, so that may differ by one, with its overlap.

    Parameters
    ----------
    raw_range
        Start and end of the raw data [ns since unix epoch].
    document
        Document of the run.
    what
        What to call the data.

    Raises
    ------
    DataIncomplete
        When it does not.
    """
    start, end = rundoc.start_time(document), rundoc.end_time(document)
    assert end is not None
    tolerance = _CLOCKS + _chunk_length(document)
    begins = raw_range[0] - start.timestamp() * 1e9
    ends = raw_range[1] - end.timestamp() * 1e9
    for word, difference in (("begins", begins), ("ends", ends)):
        if abs(difference) > tolerance:
            when = "after" if difference > 0 else "before"
            raise DataIncomplete(
                f"{what} {word} {abs(difference) / 1e9:.1f} s {when} the run does, as its document "
                "says: is all of its live data there? --any_length takes it as it is"
            )


def _chunk_length(document: Mapping[str, Any]) -> int:
    """Return the length of a chunk of live data with its overlap [ns]."""
    try:
        config = rundoc.reader_config(document)
    except InvalidRunDocument:
        # Raw data that is there already needs no settings of the DAQ
        return round((rundoc.CHUNK_LENGTH_S + rundoc.CHUNK_OVERLAP_S) * 1e9)
    return config["daq_chunk_duration"] + config["daq_overlap_chunk_duration"]


def set_aside(path: Path) -> Path:
    """Rename the folder of data that is not what it should be, so that it is made again.

    Return its new name, which has taken the place of an older such one.
    """
    aside = path.with_name(f".broken_{path.name}")
    shutil.rmtree(aside, ignore_errors=True)
    path.rename(aside)
    return aside


class Written:
    """What is stored of a run in the folders that it was written to.

    Parameters
    ----------
    st
        Context, which finds what is stored there.
    run_id
        Run.
    raw_types
        Data types that are raw data.
    document
        Document of the run, which says what is registered.
    places
        Folder for raw data, and folder for the rest.
    """

    def __init__(
        self,
        st: strax.Context,
        run_id: str,
        raw_types: Sequence[str],
        document: Mapping[str, Any],
        places: tuple[Path, Path],
    ):
        self._st, self._run_id, self._raw_types = st, run_id, raw_types
        self._document, self._places = document, places

    def unregistered(self) -> list[tuple[strax.DataKey, Path]]:
        """Return key and place of what the run document does not have yet."""
        found = []
        for data_type in self._st._plugin_class_registry:
            key = self._st.key_for(self._run_id, data_type)
            place = self._places[data_type not in self._raw_types]
            is_known = documents.data_of(self._document, **identity(key, place))
            if (place / str(key)).is_dir() and not is_known:
                found.append((key, place))
        return found

    def raw_range(self, any_length: bool = False) -> tuple[int, int]:
        """Return start and end of the raw data [ns since unix epoch].

        Parameters
        ----------
        any_length
            Take it as it is.

        Raises
        ------
        DataIncomplete
            When there is none. Without `any_length`, also when raw data that is not registered yet
            does not cover the run; all that is not registered has been set aside then.
        """
        stored = [d for d in self._raw_types if self._st.is_stored(self._run_id, d)]
        if not stored:
            raise DataIncomplete(
                f"there is no raw data of run {self._run_id}, with which to compare what was made"
            )
        chunks = self._st.get_metadata(self._run_id, stored[0])["chunks"]
        found = (int(chunks[0]["start"]), int(chunks[-1]["end"]))
        new = self.unregistered()
        if not any_length and stored[0] in {key.data_type for key, _ in new}:
            try:
                check_covers_run(found, self._document, f"{stored[0]} of run {self._run_id}")
            except DataIncomplete:
                for key, place in new:
                    set_aside(place / str(key))
                raise
        return found

    def check(
        self, path: Path, raw_range: tuple[int, int], watch: Callable[[], None]
    ) -> dict[str, Any]:
        """Check data as `check_data` does; what is not what it should be is set aside."""
        try:
            return check_data(path, raw_range, watch)
        except DataIncomplete as error:
            aside = set_aside(path)
            raise DataIncomplete(
                f"{error}. It is now {aside.name}, and is made again when the run is processed "
                "again"
            ) from error

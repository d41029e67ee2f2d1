"""Progress of a run while it is taken and processed, chunk by chunk; log of its last job.

Functions that read files, and the parts of pages that show the result.
"""

import contextlib
import json
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bokeh.models import Column, ColumnDataSource
from bokeh.plotting import figure

from amstrax import redax, rundoc, settings
from amstrax.auto_processing import copying, rsync
from amstrax.dashboard import render, run_overview
from amstrax.dashboard.page import Page, set_text
from amstrax.exceptions import (
    AmstraxError,
    InvalidRunDocument,
    LiveDataCorrupted,
    LiveDataNotFound,
    NotAvailable,
)
from amstrax.rundb import documents
from amstrax.strax_ext.context import Context

#: Interval at which a growing run and a log are read [s]
INTERVAL = 2.0
#: Length of the end of a log that is read [bytes]
TAIL = 64_000
#: Colours that colour-blind readers can tell apart, and dashes for readers who see none
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
_DASHES = ("solid", "dashed", "dotted", "dotdash")


class Live(NamedTuple):
    """Live data of a run on this machine: folder, chunks, size [bytes], and whether complete."""

    folder: Path
    chunks: int
    n_bytes: int
    is_closed: bool


class Chunk(NamedTuple):
    """A stored chunk: start and end [ns since unix epoch], and number of rows."""

    start: int
    end: int
    rows: int


class Growing(NamedTuple):
    """Chunks of a data type that is stored or being made."""

    data_type: str
    is_complete: bool
    chunks: list[Chunk]

    @property
    def rows(self) -> int:
        """Number of rows so far."""
        return sum(chunk.rows for chunk in self.chunks)


class Log(NamedTuple):
    """The end of a log file, after the first `skipped` bytes."""

    path: Path
    text: str
    skipped: int


def find_live(
    document: Mapping[str, Any], detector: str, live_data_dir: Path | None = None
) -> Live | None:
    """Find the live data of a run; return None if it is not on this machine.

    `live_data_dir` is searched instead of the detector's folder in the settings.
    """
    try:
        name = copying.run_name(document)
    except AmstraxError:
        return None
    usual = live_data_dir or settings.live_data(detector)
    entries = documents.data_of(document, type="live", host=documents.this_host())
    here = [entry.get("location") for entry in entries]
    folders = [Path(usual)] if usual else []
    for location in (*here, *rundoc.live_folders(document)):
        with contextlib.suppress(InvalidRunDocument):
            folders.append(rundoc.check_location(location))
    for folder in folders:
        run_dir = folder / name
        if not run_dir.is_dir():
            continue
        with contextlib.suppress(OSError, LiveDataNotFound, LiveDataCorrupted):
            chunks = redax.last_chunk(run_dir) + 1
            _, n_bytes = rsync.count(rsync.inventory(run_dir))
            return Live(run_dir, chunks, n_bytes, copying.is_closed(run_dir))
    return None


def find_stored(st: Context, run_id: str) -> list[Growing]:
    """Find the data types of a context that are stored or being made; only read metadata."""
    result = []
    st = st._of_run(run_id)
    for data_type in st._plugin_class_registry:
        key = st.key_for(run_id, data_type)
        found = run_overview.find(st, key)
        folder = found or run_overview.being_made(st, key)
        chunks = None if folder is None else _chunks(folder)
        if chunks is not None:
            is_complete = found is not None and not found.name.endswith("_temp")
            result.append(Growing(data_type, is_complete, chunks))
    return result


def _chunks(folder: Path) -> list[Chunk] | None:
    """Return the chunks in a folder's metadata; None while it is written, or if it is gone."""
    found: dict[int, Mapping[str, Any]] = {}
    try:
        for name in sorted(os.listdir(folder)):
            # strax writes one file for all chunks, or one for each chunk from forked processes
            if name.endswith("-metadata.json"):
                of_all = json.loads((folder / name).read_text(encoding="utf-8")).get("chunks") or ()
                found |= {chunk["chunk_i"]: chunk for chunk in of_all}
            elif name.startswith("metadata_") and name.endswith(".json"):
                chunk = json.loads((folder / name).read_text(encoding="utf-8"))
                found[chunk["chunk_i"]] = chunk
        return [
            Chunk(chunk["start"], chunk["end"], chunk["n"]) for _, chunk in sorted(found.items())
        ]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def read_log(document: Mapping[str, Any], log_folder: Path, most: int = TAIL) -> Log:
    """Return the last `most` bytes of the log of a run's last job, in whole lines.

    The run document names the file. As writers of documents could name any file, it
    must be a regular file inside `log_folder`, without links that lead out of it.

    Raises
    ------
    NotAvailable
        If the log does not exist, or is elsewhere.
    OSError
        If it cannot be read.
    """
    job = documents.job_of(document)
    name = job.get("log")
    if not isinstance(name, str) or not name:
        raise NotAvailable(
            "no log is known of this run: it was not submitted as a job, or its job was found later"
        )
    path, folder = Path(name), log_folder.absolute()
    if job.get("host") not in (None, documents.this_host()) and not path.exists():
        raise NotAvailable(f"the log is on {job['host']}: {name}")
    real = path.resolve()
    if not real.is_relative_to(folder.resolve()) or real.suffix != ".log":
        raise NotAvailable(
            f"the log {name} is not in the log folder {folder}: start the dashboard with its "
            "--log_folder to see it"
        )
    try:
        descriptor = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise NotAvailable(f"the log does not exist yet: {name}") from None
    with open(descriptor, "rb") as file:
        state = os.fstat(file.fileno())
        if not stat.S_ISREG(state.st_mode):
            raise NotAvailable(f"{name} is no file")
        skipped = max(state.st_size - most, 0)
        file.seek(skipped)
        data = file.read(most)
    if skipped:
        start = data.find(b"\n") + 1
        skipped, data = skipped + start, data[start:]
    return Log(path, data.decode("utf-8", "replace"), skipped)


#: Whether a run is growing, its live data, its data types, and its start [ns since unix epoch]
_Found = tuple[bool, Live | None, list[Growing], int]


class LivePart:
    """Part of a page with the progress of a run: table, and rows per second of each chunk.

    `grows` is called when a run that is being taken or processed has been looked at.
    """

    def __init__(self, page: Page, run_id: str, grows: Callable[[], None]):
        self._page, self._run_id, self._grows = page, run_id, grows
        self._text = page.html("", name="live_progress")
        self._figure: Any = None
        #: Whether the run is being taken or processed
        self.is_growing = False
        self._sources: dict[str, ColumnDataSource] = {}
        self.model = Column(self._text, sizing_mode="stretch_width")

    def refresh(self, again: bool = False) -> None:
        """Show the progress."""
        self._page.load("the progress of the run", self._find, self._take, again)

    def _find(self) -> _Found:
        site = self._page.site
        document = documents.find_run(site.collection(), self._run_id)
        with site.few:
            types = find_stored(site.context(site.context_for(document)), self._run_id)
        is_growing = (
            documents.is_being_taken(document)
            or documents.state_of(document).status in ("submitted", "running")
            or any(not each.is_complete for each in types)
        )
        live = find_live(document, site.detector, site.live_data_dir)
        begun = documents.utc_time_of(document, "start")
        if begun is None:
            start = min((each.chunks[0].start for each in types if each.chunks), default=0)
        else:
            start = int(begun.timestamp()) * 10**9
        return is_growing, live, types, start

    def _take(self, found: _Found) -> None:
        self.is_growing, live, types, start = found
        text = render.html("live_progress.html", growing=self.is_growing, live=live, types=types)
        set_text(self._text, text)
        if self.is_growing:
            self._grows()
        if self._figure is not None:
            self._figure.visible = self.is_growing
        elif not self.is_growing:
            return
        for each in types:
            if not each.chunks:
                continue
            data = _steps(each, start)
            source = self._sources.get(each.data_type)
            if source is None:
                self._add(each.data_type, data)
            elif len(source.data["time"]) != len(data["time"]):
                source.data = data

    def _add(self, data_type: str, data: dict[str, Any]) -> None:
        is_first = self._figure is None
        if is_first:
            self._figure = figure(
                height=280,
                sizing_mode="stretch_width",
                x_axis_label="Time since the start of the run [s]",
                y_axis_label="Rows per second",
                y_axis_type="log",
                tools="pan,box_zoom,reset,save",
                name="live_progress_figure",
            )
            self._figure.toolbar.logo = None
        number = len(self._sources)
        source = self._sources[data_type] = ColumnDataSource(data)
        self._figure.step(
            "time",
            "rate",
            source=source,
            mode="after",
            line_width=2,
            color=_COLORS[number % len(_COLORS)],
            line_dash=_DASHES[number // len(_COLORS) % len(_DASHES)],
            legend_label=data_type,
        )
        if is_first:
            [legend] = self._figure.legend
            legend.click_policy = "hide"
            legend.label_text_font_size = "11px"
            self._figure.add_layout(legend, "right")
            self.model.children = [self._text, self._figure]


def _steps(growing: Growing, start: int) -> dict[str, list[float]]:
    """Return the corners of the rate of rows in each chunk [Hz], by time since `start` [s]."""
    times = [(chunk.start - start) / 1e9 for chunk in growing.chunks]
    rates = [
        max(chunk.rows, 0.5) / max((chunk.end - chunk.start) / 1e9, 1e-9)
        for chunk in growing.chunks
    ]
    last = (growing.chunks[-1].end - start) / 1e9
    return {"time": [*times, last], "rate": [*rates, rates[-1]]}


class LogPart:
    """Part of a page with the log of the run that `run_id` returns; empty for no run."""

    def __init__(self, page: Page, run_id: Callable[[], str]):
        self._page, self._run_id = page, run_id
        self._text = page.html("", name="log")
        self.model = Column(
            page.html("<h2>Log of the last job</h2>"), self._text, sizing_mode="stretch_width"
        )

    def start(self) -> None:
        """Show the log from now on."""
        self._page.repeat(self.refresh, min(INTERVAL, self._page.site.refresh))

    def refresh(self, again: bool = False) -> None:
        """Read the log."""
        run_id, site = self._run_id(), self._page.site
        if not run_id:
            set_text(self._text, "<p>Name a run to see the log of its job.</p>")
            return

        def work() -> str:
            document = documents.find_run(
                site.collection(), run_id, projection=["processing_job", "name", "number"]
            )
            log, why = None, ""
            try:
                log = read_log(document, site.log_folder)
            except NotAvailable as error:
                why = str(error)
            return render.html("log.html", run_id=run_id, log=log, why=why)

        self._page.load("the log", work, self._text, again)

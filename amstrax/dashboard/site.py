"""What all pages of one dashboard share: where runs, data and jobs are, and who may do what."""

import contextlib
import logging
import socket
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from tornado.ioloop import IOLoop

from amstrax import settings
from amstrax.auto_processing import engines, submitting
from amstrax.auto_processing.amstraxer import to_dict_tuple
from amstrax.auto_processing.engines.base import Engine
from amstrax.dashboard.logins import Logins
from amstrax.rundb import connection, get_mongo_collection
from amstrax.rundb.connection import get_collection
from amstrax.strax_ext import memory

if TYPE_CHECKING:
    import strax

log = logging.getLogger(__name__)

#: So many things at once are asked of run database, engine and disks
THREADS = 8
#: Memory is given back so often at most [s]
TIDY_EVERY = 20.0


@dataclass
class Site:
    """A dashboard, as it was started.

    Attributes
    ----------
    detector
        Whose runs it shows.
    engine_name
        Where jobs run.
    actions
        Whether anything can be changed by anybody.
    actors
        Names of those who may do so, where there is a log-in; without one it is who has started it.
    logins
        Who is logged in; None where nobody need to.
    job_folder, log_folder
        Folders for scripts and logs of jobs.
    output_folder, live_data_dir
        Folders for data, if not those of the settings.
    config_kwargs
        Options for the plugins.
    corrections_version
        Version of the corrections, where none is asked for.
    refresh
        Time between two looks at what may have changed [s].
    """

    detector: str
    engine_name: str
    actions: bool = False
    actors: frozenset[str] = frozenset()
    logins: Logins | None = None
    job_folder: Path = Path("jobs")
    log_folder: Path = Path("logs")
    output_folder: Path | None = None
    live_data_dir: Path | None = None
    config_kwargs: Mapping[str, Any] = field(default_factory=dict)
    corrections_version: str | None = None
    refresh: float = 5.0

    def __post_init__(self) -> None:
        self.pool = ThreadPoolExecutor(THREADS, thread_name_prefix="dashboard")
        self.host = socket.gethostname()
        self._tidied_at, self._is_tidy_due = -TIDY_EVERY, False
        self._embedded: Any = None
        self._empty = TemporaryDirectory(prefix="amstrax_dashboard_")
        self.local_user = settings.login_name() or "?"

    def collection(self) -> Any:
        """Return the collection of run documents."""
        from amstrax.rundb.embedded import LocalCollection

        if self._embedded is not None:
            return self._embedded
        found = get_mongo_collection(self.detector)
        if isinstance(found, LocalCollection):
            # One connection in each thread, where each of its clients has one
            self._embedded = found
        return found

    def switches(self) -> Any:
        """Return the collection with the switch of automatic processing."""
        if self._embedded is not None:
            return self._embedded.database.client["daq"]["processing"]
        return get_collection("daq", "processing")

    def engine(self) -> "Engine":
        """Return the engine."""
        return engines.get(self.engine_name)

    def context(
        self, name: str, corrections_version: str | None = None, incomplete: bool = False
    ) -> "strax.Context":
        """Return a new context that loads what is stored, and makes nothing.

        Parameters
        ----------
        name
            One of `amstrax.settings.CONTEXT_DETECTORS`.
        corrections_version
            Version of the corrections; None for that of the dashboard, if it has one.
        incomplete
            Load data too that is being made.

        Raises
        ------
        AmstraxError
            When there is no such version, or an option of the dashboard is wrong.
        """
        from amstrax import contexts

        st = getattr(contexts, name)(
            output_folder=self._data_folder(),
            corrections_version=corrections_version or self.corrections_version,
        )
        known = {o for p in st._plugin_class_registry.values() for o in p.takes_config}
        config = to_dict_tuple(dict(self.config_kwargs))
        st.set_config({key: value for key, value in config.items() if key in known})
        st.set_context_config(
            {
                "forbid_creation_of": tuple(st._plugin_class_registry),
                "allow_incomplete": incomplete,
            }
        )
        for frontend in st.storage:
            frontend.readonly = True
        return st

    def _data_folder(self) -> str:
        """Return the folder that jobs leave data in, see `process_run.folders`; it is not made."""
        default = "amstrax_data" if self.detector == "xamsl" else "strax_data"
        folder = self.output_folder or settings.processed_data(self.detector) or Path(default)
        # The context would make one that is not there
        return str(folder.absolute()) if folder.is_dir() else self._empty.name

    def contexts(self) -> list[str]:
        """Return the names of the contexts of the detector, the usual one first."""
        return [name for name, its in settings.CONTEXT_DETECTORS.items() if its == self.detector]

    def context_for(self, document: Mapping[str, Any]) -> str:
        """Return the name of the context that a run is processed with."""
        usual = submitting.Plan((), self.contexts()[0], self.detector, ())
        return submitting.plan_of_run(usual, document).context

    def warm_up(self, draw: Callable[[], None]) -> None:
        """Import slow packages and draw once, in a thread, before a page needs it.

        Parameters
        ----------
        draw
            Draws all kinds of figures, see `amstrax.dashboard.figures.warm_up`.
        """

        def work() -> None:
            import matplotlib.figure  # noqa: F401

            from amstrax import contexts

            for name in self.contexts():
                getattr(contexts, name)(init_rundb=False, storage=[])
            draw()
            # Else it is looked through whenever a page is closed, while all other pages wait
            memory.freeze_existing_objects()

        memory.return_large_arrays()
        self.pool.submit(work)

    def tidy(self) -> None:
        """Give memory of pages that are closed back, in a thread: now, or soon after the last time.

        To be called where the server's loop runs.
        """
        if self._is_tidy_due:
            return
        self._is_tidy_due = True
        wait = self._tidied_at + TIDY_EVERY - time.monotonic()
        IOLoop.current().call_later(max(wait, 0.0), self._tidy)

    def _tidy(self) -> None:
        self._is_tidy_due, self._tidied_at = False, time.monotonic()
        with contextlib.suppress(RuntimeError):  # The dashboard is about to end
            self.pool.submit(memory.trim_heap)

    def close(self) -> None:
        """Let go of threads and connections."""
        self.pool.shutdown(wait=False, cancel_futures=True)
        if self.logins is not None:
            self.logins.close()
        connection.close()
        self._empty.cleanup()

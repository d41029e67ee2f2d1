"""What all pages of one dashboard share: where runs, data and jobs are, and who may do what."""

import logging
import socket
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amstrax import settings
from amstrax.dashboard.logins import Logins

if TYPE_CHECKING:
    from amstrax.auto_processing.engines.base import Engine

log = logging.getLogger(__name__)

#: So many things at once are asked of run database, engine and disks
THREADS = 8


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
        self.local_user = settings.login_name() or "?"

    def collection(self) -> Any:
        """Return the collection of run documents."""
        from amstrax.rundb import get_mongo_collection

        return get_mongo_collection(self.detector)

    def switches(self) -> Any:
        """Return the collection with the switch of automatic processing."""
        from amstrax.rundb.connection import get_collection

        return get_collection("daq", "processing")

    def engine(self) -> "Engine":
        """Return the engine."""
        from amstrax.auto_processing import engines

        return engines.get(self.engine_name)

    def close(self) -> None:
        """Let go of threads and connections."""
        from amstrax.rundb import connection

        self.pool.shutdown(wait=False, cancel_futures=True)
        connection.close()

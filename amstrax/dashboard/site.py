"""State that all pages share: run database, engine, folders, contexts, threads, and rights."""

import asyncio
import contextlib
import functools
import gc
import logging
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from tornado.ioloop import IOLoop, PeriodicCallback

from amstrax import settings
from amstrax.auto_processing import alarms, engines, process_run
from amstrax.auto_processing.amstraxer import to_dict_tuple
from amstrax.auto_processing.engines.base import DONE, FAILED, GONE, Engine, KnownJob
from amstrax.commands import base
from amstrax.dashboard.logins import Logins, ProxyUsers
from amstrax.exceptions import EngineUnreachable, NotAvailable, UnknownEngine
from amstrax.rundb import connection, documents, get_mongo_collection, leases
from amstrax.rundb.connection import get_collection
from amstrax.rundb.embedded import LocalCollection
from amstrax.rundb.stored import Storage, find_storage

if TYPE_CHECKING:
    import strax

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Threads that read from run database, engine and disks
THREADS = 8
#: Threads among these that may compute at once
FEW = 2
#: A shared result counts for at least these multiples of its duration, and of its time of the
#: processor: so pages that are open take less than 2 % of a core
_SHARE, _BUSY_SHARE = 5, 50
#: Likewise for searches for alarms: no page waits for them
_ALARM_SHARE = 300
#: Shortest interval between two clean-ups of memory [s]
TIDY_EVERY = 20.0


#: Size from which arrays are returned to the system when they are freed; glibc may keep them
#: otherwise [bytes]
_LARGE = 1 << 20
#: Number of heaps, shared by threads; each keeps the most it has had
_HEAPS = 2


def trim_heap() -> None:
    """Collect garbage, such as pages with reference cycles, and return free memory."""
    gc.collect()
    base.libc("malloc_trim", 0)


class Background(Generic[T]):
    """Result of slow work, which runs in a thread when the last result is old.

    It runs again, when it is asked for, after some `seconds`.
    """

    def __init__(self, site: "Site", work: Callable[[], T], seconds: float):
        self._site, self._work, self._seconds = site, work, seconds
        self._last: T | None = None
        self._error: Exception | None = None
        self._not_before = 0.0
        self._future: Future | None = None

    def get(self) -> T | None:
        """Return the last result at once, None before the first; raise the error of the work."""
        is_at_work = self._future is not None and not self._future.done()
        if not is_at_work and time.monotonic() >= self._not_before:
            self._future = self._site.pool.submit(self._do)
        if self._error is not None:
            raise self._error
        return self._last

    def _do(self) -> None:
        began = time.monotonic()
        try:
            with self._site.few:
                self._last, self._error = self._work(), None
        except Exception as error:
            self._error = error
        now = time.monotonic()
        wait = self._seconds if self._error is None else 5 * self._site.refresh
        self._not_before = now + max(wait, _SHARE * (now - began))


class Remembered:
    """Collection of the embedded store that is searched again only after a change of its file.

    Then, too, searches take a small part of a core: they read all documents.
    """

    def __init__(self, collection: LocalCollection):
        self._collection = collection
        #: Search -> state of the file, time until which the documents count in any case, documents
        self._found: dict[str, tuple[Any, float, list[Any]]] = {}

    def _state(self) -> list[Any]:
        found: list[Any] = []
        for suffix in ("", "-wal"):
            with contextlib.suppress(FileNotFoundError):
                state = os.stat(f"{self._collection.database.client.path}{suffix}")
                found.append((state.st_ino, state.st_size, state.st_mtime_ns))
        return found

    def find_one(self, *args: Any) -> Any:
        return self._collection.find_one(*args)

    def find(self, *args: Any, **options: Any) -> list[Any]:
        state = self._state()
        last, until, found = self._found.get(key := repr((args, options)), (None, 0.0, []))
        if state != last and time.monotonic() >= until:
            began = time.thread_time()
            found = list(self._collection.find(*args, **options))
            until = time.monotonic() + _ALARM_SHARE * (time.thread_time() - began)
            self._found[key] = state, until, found
        return found


class Watcher:
    """Looks for changes of runs, once for all pages that show them.

    A change is one of the run document, of its folders of data, or of the log of its job. A run
    that is being taken or processed counts as changed each time. The interval is `Site.refresh`.
    """

    def __init__(self, site: "Site"):
        self._site = site
        self._calls: dict[str, list[Callable[[], None]]] = {}
        self._seen: dict[str, Any] = {}
        self._timer = PeriodicCallback(self._look, 1000 * site.refresh)
        self._is_looking = False

    def add(self, run_id: str, changed: Callable[[], None]) -> None:
        """Call a function, in the server's thread, when a run has changed, and once at first."""
        self._calls.setdefault(run_id, []).append(changed)
        if not self._timer.is_running():
            self._timer.start()

    def remove(self, run_id: str, changed: Callable[[], None]) -> None:
        """Undo `add`."""
        self._calls[run_id].remove(changed)
        if not self._calls[run_id]:
            del self._calls[run_id]
            self._seen.pop(run_id, None)
        if not self._calls:
            self._timer.stop()

    def _look(self) -> None:
        if self._is_looking:
            return
        self._is_looking = True
        run_ids, loop = list(self._calls), IOLoop.current()

        def done(future: Future) -> None:
            with contextlib.suppress(RuntimeError):  # The server has ended
                loop.add_callback(self._take, future)

        self._site.pool.submit(self._find, run_ids).add_done_callback(done)

    def _find(self, run_ids: list[str]) -> dict[str, Any]:
        """Return what tells whether runs have changed; a new object for those at work."""
        site, folders = self._site, dict[str, list[Any]]()
        followed = site.followed()
        with contextlib.suppress(OSError), os.scandir(site.folder()) as entries:
            for entry in entries:
                run_id = entry.name.partition("-")[0]
                if run_id in self._calls:
                    folders.setdefault(run_id, []).append((entry.name, entry.stat().st_mtime_ns))
        found: dict[str, Any] = {}
        for run_id in run_ids:
            try:
                document = documents.find_run(site.collection(), run_id)
            except Exception as error:
                # The pages fail in the same way, and tell it
                found[run_id] = str(error)
                continue
            state = documents.state_of(document, followed).status
            log_file = str(documents.job_of(document).get("log") or "")
            with contextlib.suppress(OSError, ValueError):
                log_file += str(os.stat(log_file).st_mtime_ns)
            is_at_work = state in ("taking", "submitted", "running")
            now = time.monotonic() if is_at_work else 0.0
            found[run_id] = (document, state, log_file, sorted(folders.get(run_id, ())), now)
        return found

    def _take(self, future: Future) -> None:
        self._is_looking = False
        if future.cancelled():
            return
        for run_id, new in future.result().items():
            if run_id not in self._calls or self._seen.get(run_id) == new:
                continue
            self._seen[run_id] = new
            for changed in list(self._calls[run_id]):
                changed()


@dataclass
class Site:
    """Options of a dashboard, and access to what it shows."""

    detector: str  #: whose runs it shows
    engine_name: str
    actions: bool = False  #: whether it can change anything
    #: Users who may do so; without log-in, everybody who reaches the dashboard
    actors: frozenset[str] = frozenset()
    logins: Logins | None = None
    proxy_users: ProxyUsers | None = None
    job_folder: Path = Path("jobs")
    log_folder: Path = Path("logs")
    #: Folders of data; None for those of the settings
    output_folder: Path | None = None
    live_data_dir: Path | None = None
    config_kwargs: Mapping[str, Any] = field(default_factory=dict)
    corrections_version: str | None = None  #: unless a page asks for another one
    #: Parts of the improved reconstruction of XAMS that pages show and jobs make
    reconstruction: tuple[str, ...] = ()
    refresh: float = 5.0  #: interval between two refreshes of a page [s]

    def __post_init__(self) -> None:
        self.pool = ThreadPoolExecutor(THREADS, thread_name_prefix="dashboard")
        #: Held by work that computes; with more at once, requests would wait for the interpreter
        self.few = threading.BoundedSemaphore(FEW)
        #: Held by the page whose document is made next
        self.turn = asyncio.Lock()
        self.watcher = Watcher(self)
        #: Key -> lock, result, and time until which it counts
        self._shared: dict[Any, tuple[threading.Lock, list[Any]]] = {}
        #: Alarms to show
        self.alarms: list[alarms.Alarm] = []
        self._alarms_error = ""
        self._looking: Future | None = None
        self._look_timer: PeriodicCallback | None = None
        #: All stored data
        self.storage = Background(self, self._find_storage, 120 * self.refresh)
        self._tidied_at, self._is_tidy_due = -TIDY_EVERY, False
        self._embedded: Any = None
        self._empty = TemporaryDirectory(prefix="amstrax_dashboard_")
        #: Number of this start of the dashboard
        self.start = secrets.token_hex(8)
        self.local_user = settings.login_name() or "?"

    def may_act(self, user: str, login: str) -> bool:
        """Return whether a user, with the number of a log-in, may change anything."""
        if not self.actions or not self.has_users:
            return self.actions
        return user in self.actors and self.is_logged_in(login)

    @property
    def has_users(self) -> bool:
        """Whether everybody logs in, here or at a proxy."""
        return self.logins is not None or self.proxy_users is not None

    def is_logged_in(self, login: str) -> bool:
        """Return whether the log-in of this number is valid."""
        its = (self.logins, self.proxy_users)
        return any(users.is_valid(login) for users in its if users is not None)

    def collection(self) -> Any:
        """Return the collection of run documents."""
        if self._embedded is not None:
            return self._embedded
        found = get_mongo_collection(self.detector)
        if isinstance(found, LocalCollection):
            # Each client has a connection in each thread: keep one
            self._embedded = found
        return found

    def switches(self) -> Any:
        """Return the collection with the switch of automatic processing."""
        if self._embedded is not None:
            return self._embedded.database.client["daq"]["processing"]
        return get_collection("daq", "processing")

    def trends(self) -> Any:
        """Return the collection of trends."""
        if self._embedded is not None:
            runs = self._embedded
            return runs.database[runs.name.replace("runs", "trends", 1)]
        return connection.get_trends_collection(self.detector)

    def engine(self) -> Engine:
        """Return the engine."""
        return engines.get(self.engine_name)

    def jobs(self, fresh: bool = False) -> list[KnownJob]:
        """Return the jobs that the engine knows, see `Engine.jobs`, asked for once by all pages."""
        return self.shared(("jobs",), lambda: self.engine().jobs(), fresh=fresh)

    def lost_jobs(self, runs: Iterable[Mapping[str, Any]]) -> dict[str, str]:
        """Return what became of jobs that the run database calls alive, and their engine does not.

        `runs` are documents with the fields of `documents.STATE_FIELDS` and the job. Runs that are
        claimed are left out, since a job renews the claim while it lives; so are jobs of engines
        that are not installed, or do not answer, and of other machines.
        """
        asked: dict[str, dict[str, str]] = {}
        for run in runs:
            job = documents.job_of(run)
            is_alive = documents.status_of(run).status in ("submitted", "running")
            if is_alive and job.get("job_id") and not documents.is_claimed(run):
                of_engine = asked.setdefault(str(job.get("engine")), {})
                of_engine[documents.name_of(run) or "?"] = str(job["job_id"])
        result = {}
        for name, job_ids in asked.items():
            with contextlib.suppress(EngineUnreachable, NotAvailable, UnknownEngine):
                if name == self.engine_name:
                    known = {job.job_id for job in self.jobs()}
                    job_ids = {run: job for run, job in job_ids.items() if job not in known}
                states = engines.get(name).states(set(job_ids.values())) if job_ids else {}
                for run_id, job_id in job_ids.items():
                    state = states[job_id]
                    if state.state == GONE:
                        result[run_id] = "not known to the engine"
                    elif state.state in (DONE, FAILED):
                        result[run_id] = f"has ended: {state.reason or state.state}"
        return result

    def folder(self) -> Path:
        """Return the folder of data that jobs use, see `process_run.folders`."""
        default = "amstrax_data" if self.detector == "xamsl" else "strax_data"
        return self.output_folder or settings.processed_data(self.detector) or Path(default)

    def shared(
        self, key: Hashable, work: Callable[[], T], seconds: float = 0.0, fresh: bool = False
    ) -> T:
        """Return the result of `work`, from one call for all pages that ask at about this time.

        Call it in a thread. A result counts for the interval of refreshes, for `seconds`, or for a
        multiple of the time that it took, whichever is longest, unless a `fresh` one is asked for.
        An error is not kept.
        """
        lock, kept = self._shared.setdefault(key, (threading.Lock(), []))
        with lock:
            if kept and not fresh and time.monotonic() < kept[1]:
                return kept[0]
            began, busy = time.monotonic(), time.thread_time()
            result = work()
            now, busy = time.monotonic(), time.thread_time() - busy
            lasts = max(self.refresh, seconds, _SHARE * (now - began), _BUSY_SHARE * busy)
            kept[:] = result, now + lasts
        for other, (_, its) in list(self._shared.items()):
            if its and its[1] < now:
                self._shared.pop(other, None)
        return result

    def look_for_alarms(self) -> None:
        """Look for alarms now and about once a minute, in a thread; pages show `alarms`."""

        kept: dict[str, Remembered] = {}

        def remembered(collection: Any) -> Any:
            if not isinstance(collection, LocalCollection):
                return collection
            return kept.setdefault(collection.full_name, Remembered(collection))

        def work() -> list[alarms.Alarm]:
            found = alarms.find_causes(
                self.detector,
                lambda: remembered(self.collection()),
                lambda: remembered(self.trends()),
                self._all_folders,
                {d: self.log_folder / f"auto_processing_{d}.json" for d in settings.DETECTORS},
            )
            return alarms.Alarms().update(found, self.detector)

        def done(future: Future) -> None:
            if future.cancelled():
                return
            error = future.exception()
            if error is None:
                self.alarms, self._alarms_error = future.result(), ""
            elif self._alarms_error != (text := base.describe_error(error)):
                self._alarms_error = text
                log.warning("alarms are not looked for: %s", text)
                why = alarms.Alarm("", f"alarms are not looked for: {text}", datetime.now(UTC))
                self.alarms = [*self.alarms, why]

        def look() -> None:
            if self._looking is None or self._looking.done():
                self._looking = self.pool.submit(work)
                self._looking.add_done_callback(done)

        look()
        self._look_timer = PeriodicCallback(look, 12_000 * self.refresh)
        self._look_timer.start()

    def _all_folders(self) -> tuple[Path, ...]:
        return process_run.all_folders(self._plan(), self.output_folder, self.live_data_dir)

    def _plan(self) -> process_run.Plan:
        """Return the plan for a run of which nothing is known."""
        return process_run.Plan((), self.contexts()[0], self.detector, ())

    def _find_storage(self) -> Storage:
        contexts = {name: self.context(name) for name in self.contexts()}
        return find_storage(
            self.collection(),
            lambda document: contexts[self.context_for(document)],
            self._all_folders(),
        )

    def acknowledge(self, name: str, user: str) -> None:
        """Stop to show an alarm."""
        known = alarms.Alarms()
        known.acknowledge(name, user)
        self.alarms = known.shown(self.detector)

    def forget(self, kind: str) -> None:
        """Forget shared results whose key begins with a word, since an action has changed them."""
        for key in list(self._shared):
            if isinstance(key, tuple) and key[0] == kind:
                self._shared.pop(key, None)

    def followed(self) -> frozenset[str]:
        """Return the runs that processes write into the folder of data now."""
        return frozenset(leases.runs_at_work(self.folder()))

    def context(self, name: str, corrections_version: str | None = None) -> "strax.Context":
        """Return a new context that loads stored data, and makes none.

        `corrections_version` None is that of the dashboard, if it has one. Raises AmstraxError for
        an unknown version, or an invalid option of the dashboard.
        """
        from amstrax import contexts

        folder = self.folder()
        # A context makes its folder, so give it one that exists
        output_folder = str(folder.absolute()) if folder.is_dir() else self._empty.name
        st = getattr(contexts, name)(
            output_folder=output_folder,
            corrections_version=corrections_version or self.corrections_version,
            **({"reconstruction": self.reconstruction} if name == "xams" else {}),
        )
        known = {o for p in st._plugin_class_registry.values() for o in p.takes_config}
        config = to_dict_tuple(dict(self.config_kwargs))
        st.set_config({key: value for key, value in config.items() if key in known})
        st.set_context_config({"forbid_creation_of": tuple(st._plugin_class_registry)})
        for frontend in st.storage:
            frontend.readonly = True
        return st

    def contexts(self) -> list[str]:
        """Return the names of the contexts of the detector, the default first."""
        return [name for name, its in settings.CONTEXT_DETECTORS.items() if its == self.detector]

    @functools.cached_property
    def data_types(self) -> list[str]:
        """Names of all data types of the contexts of the detector."""
        found = (self.context(name)._plugin_class_registry for name in self.contexts())
        return sorted(set().union(*found))

    def context_for(self, document: Mapping[str, Any]) -> str:
        """Return the name of the context that processes a run."""
        return process_run.plan_of_run(self._plan(), document).context

    def warm_up(self, draw: Callable[[], None]) -> None:
        """Import slow packages, and call `draw` (`figures.warm_up`), in a thread."""

        def work() -> None:
            import matplotlib.figure  # noqa: F401

            from amstrax import contexts

            for name in self.contexts():
                getattr(contexts, name)(init_rundb=False, storage=[])
            draw()
            # Otherwise the full garbage collection of `trim_heap` blocks all pages
            gc.collect()
            gc.freeze()

        sys.setswitchinterval(0.001)
        base.libc("mallopt", base.M_MMAP_THRESHOLD, _LARGE)
        base.libc("mallopt", base.M_ARENA_MAX, _HEAPS)
        self.pool.submit(work)

    def tidy(self) -> None:
        """Return freed memory to the system soon, in a thread; call it in the server's thread."""
        if self._is_tidy_due:
            return
        self._is_tidy_due = True
        wait = self._tidied_at + TIDY_EVERY - time.monotonic()
        IOLoop.current().call_later(max(wait, 0.0), self._tidy)

    def _tidy(self) -> None:
        self._is_tidy_due, self._tidied_at = False, time.monotonic()
        with contextlib.suppress(RuntimeError):  # The dashboard is about to end
            self.pool.submit(trim_heap)

    def close(self) -> None:
        """Close threads, log-ins and connections."""
        if self._look_timer is not None:
            self._look_timer.stop()
        self.pool.shutdown(wait=False, cancel_futures=True)
        if self.logins is not None:
            self.logins.close()
        connection.close()
        self._empty.cleanup()

"""Copies runs to where they lack a copy, several at once, and registers what is verified."""

import argparse
import concurrent.futures
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from tqdm.auto import tqdm

from amstrax import settings
from amstrax.auto_processing import copy_live, copy_marker, live_folder, rsync
from amstrax.auto_processing.destinations import Destination
from amstrax.auto_processing.rounds import Rests, describe
from amstrax.exceptions import (
    CopyFailed,
    CopyRefused,
    DestinationUnusable,
    InvalidRunDocument,
    RunDatabaseError,
    RunDatabaseUnreachable,
    Stopped,
)
from amstrax.rundb import documents, leases

log = logging.getLogger("amstrax.copy_live")

#: Time between two attempts to register a copy while the run database is away [s]
REGISTER_PAUSE = 5.0
#: Time between two lines on how far a copy has come [s]
LINE_PAUSE = 60.0


@dataclass
class Copies:
    """What came of some runs: numbers of copies.

    Attributes
    ----------
    copies
        Those that were made, or would be.
    runs
        Runs of which they are.
    n_bytes
        Their size [bytes].
    problems
        Those that could not be made.
    """

    copies: int = 0
    n_bytes: int = 0
    problems: int = 0
    runs: set[str] = field(default_factory=set)

    @property
    def all(self) -> int:
        """Number of copies that were tried."""
        return self.copies + self.problems

    def describe(self, production: bool) -> str:
        """Return a line."""
        made = "made" if production else "would be made"
        return (
            f"{self.copies} copies of {len(self.runs)} runs {made}, {self.n_bytes / 1e6:.1f} MB; "
            f"{self.problems} could not be made"
        )


class Copier:
    """Copies runs; between rounds it knows what is to rest for a while.

    Parameters
    ----------
    collection
        Collection of run documents.
    args
        As from `copy_live.parse_args`.
    stopped
        Asked now and then; once it returns True, copying ends.
    """

    def __init__(
        self, collection: Any, args: argparse.Namespace, stopped: Callable[[], bool] = bool
    ):
        self._collection = collection
        self._args = args
        self._stopped = stopped
        self._destinations = copy_live.wanted_destinations(args)
        self._folders = live_folder.allowed_folders(args.detector, args.live_data)
        # Asked now, since a copy that is made must be registered
        self._user = settings.login_name()
        self._lock = threading.Lock()
        self._unusable: set[str] = set()
        self._said: dict[str, str] = {}
        self.rests = Rests()
        show = getattr(args, "progress", None)
        self._show_bar = sys.stderr.isatty() if show is None else show

    def handle(self, rundocs: Sequence[Mapping[str, Any]]) -> Copies:
        """Copy runs, as `copy_live.handle_runs` says."""
        self._unusable.clear()
        tally = Copies()
        with concurrent.futures.ThreadPoolExecutor(self._args.workers, "copy") as pool:
            futures = [pool.submit(self._handle_one, document, tally) for document in rundocs]
            try:
                for future in concurrent.futures.as_completed(futures):
                    future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return tally

    def _missing(self, document: Mapping[str, Any]) -> list[Destination]:
        return copy_live.missing(document, self._destinations, self._args.again)

    def _handle_one(self, document: Mapping[str, Any], tally: Copies) -> None:
        """Copy a run; what is wrong with it or its document is its own failure."""
        try:
            self._handle_run(document, tally)
        except (RunDatabaseError, Stopped):
            raise
        except Exception as error:
            run_id = documents.name_of(document) or "?"
            log.error("run %s is not copied: %s", run_id, describe(error))
            self.rests.note(run_id, failed=True)
            with self._lock:
                tally.problems += max(len(self._missing(document)), 1)

    def _handle_run(self, document: Mapping[str, Any], tally: Copies) -> None:
        to = self._missing(document)
        if self._stopped() or all(destination.name in self._unusable for destination in to):
            with self._lock:
                tally.problems += len(to)
            return
        run_id = live_folder.run_name(document)
        if not self._args.production:
            reason = copy_live.why_not(
                documents.merge_tags(self._collection, document), to, self._folders
            )
            if self._is_refused(run_id, reason):
                return
            self._copy_to_all(document, run_id, to, tally, self._stopped)
            return
        with leases.held(self._collection, document) as claim:
            if claim is None:
                log.info("run %s is being copied, or deleted, by another process", run_id)
                return
            # It may have changed since it was found
            fresh = documents.merge_tags(
                self._collection, documents.find_run(self._collection, run_id)
            )
            if documents.name_of(fresh) != run_id:
                raise InvalidRunDocument(
                    f"run {run_id} is called {documents.name_of(fresh)!r} in the first document of "
                    "its number: correct the documents"
                )
            to = self._missing(fresh)
            reason = copy_live.why_not(fresh, to, self._folders)
            if self._is_refused(run_id, reason):
                return
            self._copy_to_all(
                fresh, run_id, to, tally, lambda: self._stopped() or claim.lost.is_set()
            )

    def _is_refused(self, run_id: str, reason: str | None) -> bool:
        """Return whether a run is left alone; raise CopyFailed if it was asked for by name."""
        if reason is not None and self._args.run_id:
            raise CopyFailed(reason)
        if reason is not None:
            log.info("run %s is not copied: %s", run_id, reason)
        return reason is not None

    def _copy_to_all(
        self,
        document: Mapping[str, Any],
        run_id: str,
        to: Sequence[Destination],
        tally: Copies,
        stopped: Callable[[], bool],
    ) -> None:
        failed = False
        copies = {
            entry["copy_id"]: str(entry.get("host"))
            for entry in documents.data_of(document, type="live")
            if isinstance(entry.get("copy_id"), str)
        }
        for destination in to:
            if destination.name in self._unusable:
                with self._lock:
                    tally.problems += 1
                continue
            try:
                n_bytes = self._copy(document, run_id, destination, stopped, copies)
            except (RunDatabaseError, Stopped):
                # Of which the next destination would fare no better
                with self._lock:
                    tally.problems += 1
                if stopped():
                    return
                raise
            except Exception as error:
                failed = failed or not isinstance(error, DestinationUnusable)
                self._note(run_id, destination, error)
                with self._lock:
                    tally.problems += 1
            else:
                self._note(run_id, destination, None)
                with self._lock:
                    tally.copies += 1
                    tally.n_bytes += n_bytes
                    tally.runs.add(run_id)
        self.rests.note(run_id, failed)

    def _note(self, run_id: str, destination: Destination, error: Exception | None) -> None:
        """Log what went wrong: of a destination when it begins and when it is over."""
        with self._lock:
            if isinstance(error, DestinationUnusable):
                self._unusable.add(destination.name)
                text = describe(error)
                if self._said.get(destination.name) != text:
                    self._said[destination.name] = text
                    log.error("nothing can be copied to %s: %s", destination.name, text)
            elif error is not None:
                log.error(
                    "run %s is not copied to %s: %s", run_id, destination.name, describe(error)
                )
            elif self._said.pop(destination.name, None):
                log.info("copying to %s works again", destination.name)

    def _copy(
        self,
        document: Mapping[str, Any],
        run_id: str,
        destination: Destination,
        stopped: Callable[[], bool],
        copies: dict[str, str],
    ) -> int:
        """Make a copy, verify and register it; return its size [bytes].

        `copies` has the ids of those that are known, with their hosts.
        """
        began = time.monotonic()
        entry: dict[str, Any] = {
            "type": "live",
            "host": destination.name,
            "location": destination.folder,
            "user": self._user,
        }
        with self._progress(run_id, destination) as on_bytes:
            copied = copy_live.copy_data(
                run_id,
                copy_live.source_folder(document, self._folders),
                destination.folder,
                destination.name,
                self._args.production,
                destination.ssh_host,
                self._args.bandwidth,
                stopped,
                on_bytes,
                copy_marker.identity(self._collection, document),
            )
        if copied is None:
            return 0
        same = copies.setdefault(copied.copy_id, destination.name)
        if same != destination.name:
            raise CopyRefused(
                f"the folder {destination.folder} of {destination.name} is that of {same}: two "
                "names of one folder are one copy: correct the settings, or remove a "
                f"{rsync.MARKER} that was copied from there"
            )
        entry |= {
            "n_files": copied.n_files,
            "size_mb": round(copied.n_bytes / 1e6, 3),
            "time": datetime.now(UTC),
            "copy_id": copied.copy_id,
        }
        self._register(run_id, entry, stopped)
        seconds = time.monotonic() - began
        log.info(
            "run %s: copy to %s verified and registered, %.1f MB in %.1f s",
            run_id,
            destination.name,
            copied.n_bytes / 1e6,
            seconds,
        )
        return copied.n_bytes

    def _register(self, run_id: str, entry: Mapping[str, Any], stopped: Callable[[], bool]) -> None:
        """Add an entry of data; while the run database is away, wait for as long as we may."""
        said = False
        while True:
            try:
                documents.add_data(self._collection, run_id, entry)
                return
            except RunDatabaseUnreachable as error:
                if stopped():
                    raise
                if not said:
                    log.warning("run %s is copied; to register it, waiting: %s", run_id, error)
                    said = True
            time.sleep(REGISTER_PAUSE)

    @contextmanager
    def _progress(self, run_id: str, destination: Destination) -> Iterator[Callable[[int], None]]:
        """Show how much of a copy has been made, with a bar, or a line now and then."""
        what = f"run {run_id} to {destination.name}"
        last = time.monotonic()
        with tqdm(
            desc=what, unit="B", unit_scale=True, disable=not self._show_bar, leave=False
        ) as bar:

            def on_bytes(n: int) -> None:
                nonlocal last
                bar.update(max(n - bar.n, 0))
                if bar.disable and time.monotonic() - last > LINE_PAUSE:
                    last = time.monotonic()
                    log.info("%s: %.1f MB copied", what, n / 1e6)

            yield on_bytes

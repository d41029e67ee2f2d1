"""Leases: the exclusive right to submit, process, copy or delete a run.

A lease is a field of the run document, one for each kind of work: owner, host, start and end. Times
are by the clock of the database server, so clocks of hosts do not matter; the embedded store uses
the clock of its machine.

A lease ends `LIFETIME` after its last renewal, and a thread renews it. An owner that has not
renewed its lease for the fraction `STOP_AFTER` of that time stops, within the time left. A lease
may be taken if it has ended, or if its owner was a process of this machine that has ended. After a
request without an answer, the process that sent it may take the lease at once.

With `RunClaim` a job writes to its run document while it holds the lease of the run.
"""

import contextlib
import fcntl
import logging
import math
import os
import socket
import struct
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from amstrax.exceptions import (
    AlreadyAtWork,
    InvalidRunDocument,
    LocalDatabaseError,
    RunDatabaseError,
    RunDatabaseUnreachable,
    RunNotFound,
    Stopped,
)
from amstrax.rundb import connection, documents
from amstrax.rundb.documents import COPY_CLAIM, PROCESSING_CLAIM, Filter

log = logging.getLogger(__name__)

#: How long a lease lasts unless it is renewed [s]
LIFETIME = 900.0
#: Fraction of the lifetime after which an owner that could not renew stops
STOP_AFTER = 2 / 3
#: Attempts to renew within a lifetime
_RENEWALS = 12
_SEPARATOR = "/"
#: Behind the attempt in the name of an owner that is a job
JOB_SUFFIX = ".job"
_TAKEN = "another process has claimed it"
#: Prefix of the owner's name while a job is submitted
OWNER_PREFIX = documents.SUBMITTER_PREFIX
#: While the run database is unreachable: time between two attempts, and between two log lines [s]
PAUSE, SAY_EVERY = 2.0, 60.0
#: Polling interval while another process submits the run [s]
LOOK_EVERY = 0.2
#: File in a folder of data, of which processes that write a run lock a byte, see `lock_place`
LOCK_FILE = ".amstraxer.lock"
#: ``struct flock`` of the system
_FLOCK = "hhqqi4x"
#: Owners of this process whose last request failed: the run database may say that they have a lease
_unanswered: set[str] = set()
T = TypeVar("T")


class Stop:
    """Stop flag of a job; ``reason`` is the signal that set it, if any.

    Signals only set the flag. The work checks it between chunks and while it waits, so no exception
    is raised where strax or a log cannot handle it.
    """

    def __init__(self) -> None:
        self.event = threading.Event()
        self.reason = ""
        #: Reason for which the process is to end, not only the work on a run
        self.ending = ""
        #: Message to the user about remaining files
        self.remark = "incomplete data has been removed; start again to continue"

    def end(self, reason: str) -> None:
        """Set the flag for good, for a reason such as ``SIGTERM``."""
        self.reason = self.ending = reason
        self.event.set()

    def reset(self) -> None:
        """Clear the flag after the work on a run, unless the process is to end."""
        if not self.ending:
            self.reason = ""
            self.event.clear()
        if self.ending:
            # Perhaps set between
            self.reason = self.ending
            self.event.set()

    def check(self) -> None:
        """Raise `Stopped` if the flag is set."""
        if self.event.is_set():
            raise Stopped(self.message())

    def message(self) -> str:
        """Return the message for the user."""
        if not self.reason:
            return "stopped because another part of the job failed"
        return f"stopped by {self.reason}: {self.remark}"


def claim(
    collection: Any,
    run_id: str | int,
    owner: str,
    lifetime: float = LIFETIME,
    field: str = PROCESSING_CLAIM,
    instead_of: Mapping[str, Any] | None = None,
) -> bool:
    """Take or renew the lease of a run; return False if another owner has it.

    Others may take the lease after `lifetime` [s], unless it is renewed. `owner` is a name from
    `new_owner`, `field` the field of the document that the lease is in. If the document matches the
    filter `instead_of`, the lease of another owner is taken. Raises RunNotFound.
    """
    from pymongo import ReturnDocument  # slow to import

    document = documents.find_run(collection, run_id, projection=[field])
    now = documents.server_time(collection)
    lease = {
        "owner": owner,
        "host": documents.this_host(),
        "time": now,
        "expires": now + timedelta(seconds=lifetime),
    }
    may_take: list[Filter] = [documents.is_unclaimed(now, field), {f"{field}.owner": owner}]
    if (dead := _dead_owner(document, field)) is not None:
        may_take.append({f"{field}.owner": dead})
    if instead_of:
        may_take.append(dict(instead_of))
    found = collection.find_one_and_update(
        {"_id": document["_id"], "$or": may_take},
        {"$set": {field: lease}},
        projection=["_id"],
        return_document=ReturnDocument.AFTER,
    )
    return found is not None


def renew(
    collection: Any,
    run_id: str | int,
    owner: str,
    lifetime: float = LIFETIME,
    field: str = PROCESSING_CLAIM,
) -> bool:
    """Renew the lease of an owner, see `claim`; return False if the owner does not hold it."""
    _id = documents.id_of(collection, run_id)
    end = documents.server_time(collection) + timedelta(seconds=lifetime)
    done = collection.update_one(
        {"_id": _id, f"{field}.owner": owner}, {"$set": {f"{field}.expires": end}}
    )
    return done.matched_count == 1


def release(collection: Any, run_id: str | int, owner: str, field: str = PROCESSING_CLAIM) -> bool:
    """Release the lease of an owner; return False if the owner did not hold it."""
    done = collection.update_one(
        {"_id": documents.id_of(collection, run_id), f"{field}.owner": owner},
        {"$unset": {field: ""}},
    )
    return done.matched_count == 1


class Lease:
    """Lease of a run; when the owner must stop, `lost` is set and ``why_lost`` has the reason.

    Parameters are those of `claim`, a prefix of the owner's name (`purpose`), and a function that
    another thread calls when the lease is lost (`on_loss`).
    """

    def __init__(
        self,
        collection: Any,
        run_id: str,
        purpose: str = "",
        field: str = PROCESSING_CLAIM,
        lifetime: float = LIFETIME,
        on_loss: Callable[[], None] = lambda: None,
    ):
        self.owner = new_owner(purpose)
        self.lost = threading.Event()
        self.why_lost = ""
        self._collection, self._run_id, self._field = collection, run_id, field
        self._lifetime, self._on_loss = lifetime, on_loss
        self._stop_at = 0.0
        self._ended = threading.Event()

    def acquire(self, instead_of: Mapping[str, Any] | None = None, renew: bool = True) -> bool:
        """Take the lease; return False if another owner has it.

        With `renew`, two threads renew it until `release`, and mark it as lost in time.
        """
        began = _clock()
        with self._noting_failure():
            is_ours = claim(
                self._collection, self._run_id, self.owner, self._lifetime, self._field, instead_of
            )
        if not is_ours:
            return False
        self._stop_at = began + STOP_AFTER * self._lifetime
        for work in (self._keep_renewing, self._watch) if renew else ():
            threading.Thread(target=work, daemon=True).start()
        return True

    def check(self) -> bool:
        """Renew the lease now, and return whether this owner still holds it."""
        if not self.lost.is_set():
            self._renew()
        return not self.lost.is_set()

    def lose(self, why: str) -> None:
        """Mark the lease as lost, unless the owner has released it."""
        if not (self.lost.is_set() or self._ended.is_set()):
            self.why_lost = why
            self.lost.set()
            log.warning("run %s: %s, so the work on it stops", self._run_id, why)
            self._on_loss()

    def release(self) -> None:
        """Release the lease; do nothing if it is lost."""
        self._ended.set()
        if self.lost.is_set():
            return
        try:
            with self._noting_failure():
                connection.resilient(
                    release, self._collection, self._run_id, self.owner, self._field
                )
        except RunNotFound:
            pass
        except RunDatabaseError as error:
            log.warning(
                "the claim of run %s is not released (%s): for other processes it ends in %.0f s",
                self._run_id,
                error,
                self._lifetime,
            )

    @contextlib.contextmanager
    def _noting_failure(self) -> Iterator[None]:
        """Let this process take the lease anew if the request within the block fails."""
        _unanswered.discard(self.owner)
        try:
            yield
        except BaseException:
            _unanswered.add(self.owner)
            raise

    def _renew(self) -> None:
        # Before the request, so that this process stops before the server's end of the lease
        began = _clock()
        try:
            is_ours = renew(self._collection, self._run_id, self.owner, self._lifetime, self._field)
        except RunNotFound:
            is_ours = False
        if is_ours:
            self._stop_at = began + STOP_AFTER * self._lifetime
        else:
            self.lose(_TAKEN)

    def _keep_renewing(self) -> None:
        said = ""
        while not (self._ended.wait(self._lifetime / _RENEWALS) or self.lost.is_set()):
            try:
                self._renew()
                said = ""
            except Exception as error:
                # `_watch` marks a lease that is not renewed as lost
                if str(error) != said:
                    said = str(error)
                    log.warning("the claim of run %s is not renewed: %s", self._run_id, error)

    def _watch(self) -> None:
        """Mark the lease as lost in time; separate from the renewals, which may hang."""
        while (left := self._stop_at - _clock()) > 0:
            # Waiting does not advance while the machine sleeps
            if self._ended.wait(min(left, self._lifetime / 100)):
                return
        if not self._ended.is_set():
            self.lose(
                f"its claim was not renewed for {STOP_AFTER * self._lifetime:.0f} s, and ends soon"
            )


def lock_place(run_id: str) -> int:
    """Return the byte of `LOCK_FILE` that the process locks that writes a run."""
    return zlib.crc32(run_id.encode())


def runs_at_work(folder: Path | None) -> set[str]:
    """Return the names of the runs that processes write into a folder of data now.

    Only runs with incomplete data are looked at. Nothing is locked, so no process is disturbed. An
    unreadable folder has none.
    """
    if folder is None:
        return set()
    try:
        names = {path.name.partition("-")[0] for path in folder.glob("*-*_temp")}
        if not names:
            return set()
        with (folder / LOCK_FILE).open("rb") as file:

            def is_locked(name: str) -> bool:
                asked = (fcntl.F_WRLCK, os.SEEK_SET, lock_place(name), 1, 0)
                answer = fcntl.fcntl(file, fcntl.F_GETLK, struct.pack(_FLOCK, *asked))
                return struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK

            return {name for name in names if is_locked(name)}
    except OSError:
        return set()


@contextlib.contextmanager
def held(
    collection: Any, document: Mapping[str, Any], lifetime: float = LIFETIME
) -> Iterator[Lease | None]:
    """Hold the lease for copying or deleting a run; yield None if another owner has it.

    Raises InvalidRunDocument when the document has neither number nor name.
    """
    run_id = documents.name_of(document)
    if run_id is None:
        raise InvalidRunDocument(
            f"the document with _id {document.get('_id')!r} has neither number nor name: add the "
            "number of its run"
        )
    lease = Lease(collection, run_id, field=COPY_CLAIM, lifetime=lifetime)
    if not lease.acquire():
        yield None
        return
    try:
        yield lease
    finally:
        lease.release()


def new_owner(purpose: str = "") -> str:
    """Return a unique name for an owner of leases, which `is_dead` can check.

    It begins with `purpose`, by default the name of this machine in run documents.
    """
    pid = os.getpid()
    process = (purpose or documents.this_host(), _machine(), str(pid), str(_start(pid)))
    return _SEPARATOR.join((*process, uuid.uuid4().hex))


def is_dead(owner: str) -> bool:
    """Return whether the owner of a lease was a process of this machine that has ended.

    An owner of this process whose request failed counts as dead: it works no more.
    """
    if owner in _unanswered:
        return True
    parts = owner.rsplit(_SEPARATOR, 4)
    if len(parts) != 5 or parts[1] != _machine() or not parts[2].isdigit():
        return False
    pid = int(parts[2])
    start = _start(pid)
    return start != parts[3] and not (start is None and _is_hidden(pid))


def is_held(document: Mapping[str, Any], now: datetime) -> bool:
    """Return whether a process that may live has the claim of a run, which has not expired.

    `now` is the time of the database server.
    """
    return documents.is_claimed(document, now=now) and not _dead_owner(document, PROCESSING_CLAIM)


def _dead_owner(document: Mapping[str, Any], field: str) -> str | None:
    """Return the owner of a lease if it was a process of this machine that has ended."""
    held = document.get(field)
    owner = held.get("owner") if isinstance(held, Mapping) else None
    return owner if isinstance(owner, str) and is_dead(owner) else None


def _machine() -> str:
    """Return an identifier of this machine, its boot, and this container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        processes = os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:
        # Without it, no owner is known to be dead
        return uuid.uuid4().hex
    return f"{socket.gethostname()}:{boot}:{processes}"


def _start(pid: int) -> str | None:
    """Return the start of a process [ticks since boot]; empty for a zombie, None if hidden."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # After the name in parentheses, which may hold anything: the state first, field 3
    fields = text.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else fields[19]


def _is_hidden(pid: int) -> bool:
    """Return whether a process that /proc does not show is alive, as with the option hidepid."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def _clock() -> float:
    """Return a monotonic time that advances while the machine sleeps [s]."""
    # macOS lacks that clock; its monotonic one advances in sleep
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class ClaimLost(AlreadyAtWork):
    """Another process has taken over the run, or may do so soon."""


class RunClaim:
    """Lease for processing a run, held in a with block, and the writes that need it.

    When the lease is lost, `stop` is set and nothing more is written. Methods raise ClaimLost then,
    and RunDatabaseError when the run database stays unreachable for `patience` [s]. When a signal
    sets `stop`, waiting ends. `attempt` is the name of this attempt, other parameters are those of
    `claim`.

    Raises AlreadyAtWork when another process works on the run, RunNotFound when it does not exist.
    """

    def __init__(
        self,
        collection: Any,
        run_id: str,
        attempt: str,
        stop: Stop,
        lifetime: float = LIFETIME,
        patience: float = 0.0,
    ):
        self.attempt = attempt
        self._collection, self._run_id = collection, run_id
        self._stop, self.patience = stop, patience
        self._lease = Lease(
            collection,
            run_id,
            f"{attempt}{JOB_SUFFIX}",
            lifetime=lifetime,
            on_loss=self._set_stop,
        )
        self.owner = self._lease.owner

    def __enter__(self) -> "RunClaim":
        # Do not wait for the process that submitted this job: it may have been killed
        own_submitter = {
            "processing_job.attempt": self.attempt,
            "processing_claim.owner": {"$regex": f"^{OWNER_PREFIX}"},
        }
        while not self._persist(self._lease.acquire, own_submitter):
            self._stop.check()
            self._wait_for_submitter()
        return self

    def __exit__(self, *_error: Any) -> None:
        self._lease.release()

    def _wait_for_submitter(self) -> None:
        """Wait briefly while another process submits this run; raise if one processes it."""
        document = self.call(documents.find_run, None, ["processing_claim"])
        claim: Any = document.get("processing_claim")
        owner = str(claim.get("owner")) if isinstance(claim, Mapping) else OWNER_PREFIX
        if not owner.startswith(OWNER_PREFIX):
            raise AlreadyAtWork(
                f"run {self._run_id} is processed by {claim.get('host')} already, as {owner} (its "
                f"claim ends at {claim.get('expires')} UTC unless renewed): left to that process"
            )
        self._stop.event.wait(LOOK_EVERY)

    def _set_stop(self) -> None:
        self._stop.reason = self._stop.reason or "the loss of its claim"
        self._stop.event.set()

    def read(self) -> dict[str, Any]:
        """Return the run document, with the tags of all documents of the run."""
        return self._persist(documents.merge_tags, self._collection, self.call(documents.find_run))

    def set_status(self, status: str, reason: str | None = None, **fields: Any) -> None:
        """Set the status of the run, see `amstrax.rundb.documents.set_status`."""
        self._write(documents.set_status, status, reason, owner=self.owner, **fields)

    def record_failure(self, reason: str) -> int:
        """Record that this attempt has failed, and return the number of failures."""
        condition = {"processing_claim.owner": self.owner}
        return self._write(documents.record_failure, reason, self.attempt, condition=condition)

    def set_target(
        self, target: str, status: str, is_online: bool, reason: str | None = None, **fields: Any
    ) -> None:
        """Set the status of a target; unless it is running, add it with `fields` to the history."""
        self.check()
        self._write(
            documents.set_target_status, target, status, is_online, reason, owner=self.owner
        )
        if status != "running":
            more = fields if reason is None else {"reason": reason, **fields}
            self.add_history(f"target_{target}", status, is_online, **more)

    def add_history(self, action: str, status: str, is_online: bool, **fields: Any) -> None:
        """Add to the history of the run, see `amstrax.rundb.documents.history_entry`."""
        self.check()
        entry = documents.history_entry(action, status, is_online, **fields)
        self._write(documents.add_history, entry, self.owner)

    def add_data(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Register data of the run."""
        self.check()
        self.call(documents.add_data, *entries)

    def check(self) -> None:
        """Raise ClaimLost when the claim is lost."""
        if self._lease.lost.is_set():
            raise ClaimLost(f"run {self._run_id}: {self._lease.why_lost}: left to another process")

    def _write(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Return the result of a write; False or None mean that another owner has the lease."""
        result = self.call(function, *args, **kwargs)
        if result is None or result is False:
            self._lease.lose(_TAKEN)
        self.check()
        return result

    def call(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call an idempotent function of `documents` for the run, whether or not it is claimed."""
        return self._persist(function, self._collection, self._run_id, *args, **kwargs)

    def _persist(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call an idempotent function, again while the run database is unreachable."""
        warned = -math.inf

        def on_error(error: Exception, left: float) -> None:
            nonlocal warned
            self.check()
            if self._stop.event.is_set():
                raise error
            if left and time.monotonic() - warned >= SAY_EVERY:
                warned = time.monotonic()
                end = datetime.fromtimestamp(time.time() + left, UTC)
                log.warning("%s; trying again until %s UTC", error, f"{end:%Y-%m-%d %H:%M:%S}")

        return connection.retry(
            lambda: function(*args, **kwargs),
            self.patience,
            (RunDatabaseUnreachable, LocalDatabaseError),
            pause=PAUSE,
            wait=self._stop.event.wait,
            on_error=on_error,
        )

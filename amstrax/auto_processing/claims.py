"""Claims on runs that last as long as the work does, and are free again when its process dies."""

import contextlib
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from amstrax.exceptions import RunDatabaseError
from amstrax.rundb import documents

log = logging.getLogger(__name__)

#: How long claims here last unless they are renewed, as a thread does every third of it [s]
LIFETIME = 300.0

# A process of this machine is known by host name, number and start
_SEPARATOR = "/"


class Claim:
    """The right to work on a run; `lost` is set when it is gone."""

    def __init__(self, collection: Any, run_id: str, field: str, owner: str, lifetime: float):
        self.lost = threading.Event()
        self._released = threading.Event()
        self._collection, self._run_id, self._field = collection, run_id, field
        self._owner, self._lifetime = owner, lifetime
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self._thread.start()

    def _keep(self) -> None:
        last = time.monotonic()
        while not self._released.wait(self._lifetime / 3):
            try:
                now = time.monotonic()
                if documents.renew(
                    self._collection, self._run_id, self._owner, self._lifetime, self._field
                ):
                    last = now
                    continue
                log.warning("run %s was claimed by somebody else: leaving it", self._run_id)
            except RunDatabaseError as error:
                if time.monotonic() - last < self._lifetime:
                    log.warning("the claim of run %s is not renewed: %s", self._run_id, error)
                    continue
                log.warning("the claim of run %s has expired: leaving it", self._run_id)
            except Exception:
                log.exception("the claim of run %s cannot be renewed: leaving it", self._run_id)
            self.lost.set()
            return

    def check(self) -> bool:
        """Return whether it is ours still, as the run database says now."""
        return not self.lost.is_set() and documents.renew(
            self._collection, self._run_id, self._owner, self._lifetime, self._field
        )

    def release(self) -> None:
        """Give it up."""
        self._released.set()
        self._thread.join()
        try:
            documents.release(self._collection, self._run_id, self._owner, self._field)
        except RunDatabaseError as error:
            log.warning(
                "the claim of run %s cannot be released (%s): it expires after %.0f s",
                self._run_id,
                error,
                self._lifetime,
            )


@contextlib.contextmanager
def claimed(
    collection: Any,
    document: Mapping[str, Any],
    field: str = documents.COPY_CLAIM,
    lifetime: float = LIFETIME,
) -> Iterator[Claim | None]:
    """Hold, within it, the claim of a run; it is None when somebody else works on the run.

    A claim whose owner was a process of this machine, and is no more, is taken over.

    Parameters
    ----------
    collection
        Collection of run documents.
    document
        Document of the run, with its claim, if it had one.
    field
        Field of the claim.
    lifetime
        How long it lasts when this process dies on another machine, or with it [s].

    Raises
    ------
    RunDatabaseError
        When the run database cannot be asked.
    """
    run_id = documents.name_of(document)
    assert run_id is not None
    held = document.get(field)
    holder = held.get("owner") if isinstance(held, Mapping) else None
    if isinstance(holder, str) and is_dead(holder):
        documents.release(collection, run_id, holder, field)
    owner = new_owner()
    if not documents.claim(collection, run_id, owner, lifetime, field):
        yield None
        return
    claim = Claim(collection, run_id, field, owner, lifetime)
    try:
        yield claim
    finally:
        claim.release()


def new_owner() -> str:
    """Return a name for this process as the owner of a claim, by which `is_dead` knows it."""
    parts = (socket.gethostname(), os.getpid(), _start(os.getpid()), uuid.uuid4().hex)
    return _SEPARATOR.join(map(str, parts))


def is_dead(owner: str) -> bool:
    """Return whether the owner of a claim was a process of this machine, and is no more."""
    parts = owner.split(_SEPARATOR)
    if len(parts) != 4 or parts[0] != socket.gethostname():
        return False
    return not (parts[1].isdigit() and _start(int(parts[1])) == parts[2])


def _start(pid: int) -> str:
    """Return when a process was started, in ticks since the machine was; empty if it has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    # After the name in parentheses, which may hold anything: the state first, field 3
    fields = text.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else fields[19]

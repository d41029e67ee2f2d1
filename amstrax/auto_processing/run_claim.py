"""The right to process a run, kept while the work goes on, and what is written with it."""

import logging
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

from amstrax.auto_processing.jobs import Stop
from amstrax.auto_processing.submission import OWNER_PREFIX
from amstrax.exceptions import (
    AlreadyAtWork,
    LocalDatabaseError,
    RunDatabaseError,
    RunDatabaseUnreachable,
)
from amstrax.rundb import documents

log = logging.getLogger(__name__)

#: While the run database is away: time between two attempts, and between two lines about it [s]
PAUSE, SAY_EVERY = 2.0, 60.0
#: Time between two looks at a claim of one who submits [s]
LOOK_EVERY = 0.2

T = TypeVar("T")


class ClaimLost(AlreadyAtWork):
    """Somebody else processes the run from now on."""


class RunClaim:
    """The right to process a run: held within it, renewed by a thread, and given up at the end.

    When it is lost, to somebody who took this process for dead, `stop` is set, and nothing more is
    written.

    Parameters
    ----------
    collection
        Collection of run documents.
    run_id
        Run.
    attempt
        Name of the attempt that this is.
    stop
        Set when the claim is lost; when it is set by a signal, nothing is waited for any more.
    lifetime
        How long the claim lasts when this process dies [s].
    patience
        So long is tried again what the run database does not answer to [s].

    Raises
    ------
    AlreadyAtWork
        When somebody else works on the run.
    RunNotFound
        When there is no such run.
    RunDatabaseError
        When the run database cannot be reached.
    """

    def __init__(
        self,
        collection: Any,
        run_id: str,
        attempt: str,
        stop: Stop,
        lifetime: float = documents.CLAIM_LIFETIME,
        patience: float = 0.0,
    ):
        self.attempt = attempt
        self.owner = f"{attempt}.{uuid.uuid4().hex}"
        self.lost = False
        self._collection, self._run_id = collection, run_id
        self._stop, self._lifetime, self.patience = stop, lifetime, patience
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)

    def __enter__(self) -> "RunClaim":
        # Who submits this very job need not be waited for: it may have been killed
        own_submitter = {
            "processing_job.attempt": self.attempt,
            "processing_claim.owner": {"$regex": f"^{OWNER_PREFIX}"},
        }
        while not self._persist(
            documents.claim,
            self._collection,
            self._run_id,
            self.owner,
            self._lifetime,
            instead_of=own_submitter,
        ):
            self._stop.check()
            self._wait_for_submitter()
        self._thread.start()
        return self

    def __exit__(self, *_error: Any) -> None:
        self._ended.set()
        self._thread.join()
        if self.lost:
            return
        try:
            self._persist(documents.release, self._collection, self._run_id, self.owner)
        except RunDatabaseError as error:
            log.warning("the claim of run %s stays until it expires: %s", self._run_id, error)

    def _wait_for_submitter(self) -> None:
        """Wait a moment for one who submits this run; raise when another one processes it."""
        document = self._persist(
            documents.find_run, self._collection, self._run_id, None, ["processing_claim"]
        )
        claim: Any = document.get("processing_claim")
        owner = str(claim.get("owner")) if isinstance(claim, Mapping) else OWNER_PREFIX
        if not owner.startswith(OWNER_PREFIX):
            raise AlreadyAtWork(
                f"run {self._run_id} is processed by {claim.get('host')} already, as {owner} (that "
                f"is so unless it is silent until {claim.get('expires')} UTC): left to that"
            )
        self._stop.event.wait(LOOK_EVERY)

    def _keep(self) -> None:
        """Renew the claim until the end; set `stop` when it is lost."""
        while not self._ended.wait(self._lifetime / 3):
            try:
                if not documents.renew(self._collection, self._run_id, self.owner, self._lifetime):
                    self._lose()
                    return
            except RunDatabaseUnreachable as error:
                # Nobody can take the claim meanwhile, unless it is this machine that is cut off
                log.warning("the claim of run %s is not renewed: %s", self._run_id, error)
            except Exception:
                log.exception("the claim of run %s cannot be renewed", self._run_id)

    def _lose(self) -> None:
        self.lost = True
        self._stop.reason = self._stop.reason or "the loss of its claim"
        self._stop.event.set()

    def read(self) -> dict[str, Any]:
        """Return the run document, with the tags of all that the run has."""
        document = self._persist(documents.find_run, self._collection, self._run_id)
        return self._persist(documents.merge_tags, self._collection, document)

    def set_status(self, status: str, reason: str | None = None, **fields: Any) -> None:
        """Set the status of the run, see `amstrax.rundb.documents.set_status`.

        Raises
        ------
        ClaimLost
            When somebody else works on the run now; nothing is changed then.
        RunDatabaseError
            When the run database cannot be reached for too long.
        """
        if not self._persist(
            documents.set_status,
            self._collection,
            self._run_id,
            status,
            reason,
            owner=self.owner,
            **fields,
        ):
            self._lose()
        self.check()

    def record_failure(self, reason: str) -> int:
        """Record that this attempt has failed, and return how many have.

        Raises as `set_status` does.
        """
        failures = self._persist(
            documents.record_failure,
            self._collection,
            self._run_id,
            reason,
            self.attempt,
            condition={"processing_claim.owner": self.owner},
        )
        if failures is None:
            self._lose()
        self.check()
        return failures or 0

    def add_data(self, entry: Mapping[str, Any]) -> None:
        """Register data of the run.

        Raises as `set_status` does.
        """
        self.check()
        self._persist(documents.add_data, self._collection, self._run_id, entry)

    def remove_tag(self, tag: str) -> None:
        """Take a tag from the run."""
        self._persist(documents.remove_tag, self._collection, self._run_id, tag)

    def check(self) -> None:
        """Raise ClaimLost when the claim is lost."""
        if self.lost:
            raise ClaimLost(
                f"run {self._run_id} has been claimed by somebody else meanwhile: left to that"
            )

    def _persist(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Return what a function returns; try again while the run database is away.

        All that is done here may be done twice.
        """
        began = time.monotonic()
        said = -SAY_EVERY
        while True:
            try:
                return function(*args, **kwargs)
            except (RunDatabaseUnreachable, LocalDatabaseError) as error:
                waited = time.monotonic() - began
                if waited + PAUSE > self.patience or self._stop.event.is_set():
                    raise
                if waited - said >= SAY_EVERY:
                    said = waited
                    log.warning(
                        "%s; trying again until %s UTC",
                        error,
                        _clock(self.patience - waited),
                    )
                self._stop.event.wait(PAUSE)


def _clock(seconds: float) -> str:
    """Return the time of day in so many seconds."""
    return f"{datetime.fromtimestamp(time.time() + seconds, UTC):%Y-%m-%d %H:%M:%S}"

"""What a job writes into its run's document, for as long as it has the lease of the run."""

import logging
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

from amstrax.auto_processing.submitting import OWNER_PREFIX
from amstrax.commands.base import Stop
from amstrax.exceptions import (
    AlreadyAtWork,
    LocalDatabaseError,
    RunDatabaseUnreachable,
)
from amstrax.rundb import documents, leases

log = logging.getLogger(__name__)

#: While the run database is away: time between two attempts, and between two lines about it [s]
PAUSE, SAY_EVERY = 2.0, 60.0
#: Time between two looks at a claim of one who submits [s]
LOOK_EVERY = 0.2

T = TypeVar("T")


class ClaimLost(AlreadyAtWork):
    """Somebody else processes the run from now on, or may do so soon."""


class RunClaim:
    """The lease of a run to process, held within it, and what is written with it.

    When it is lost `stop` is set, and nothing more is written.

    Parameters
    ----------
    collection
        Collection of run documents.
    run_id
        Run.
    attempt
        Name of the attempt that this is.
    stop
        Set when the lease is lost; when it is set by a signal, nothing is waited for any more.
    lifetime
        How long the lease lasts when this process dies [s].
    patience
        So long is tried again what the run database does not answer to [s], unless the lease is
        lost meanwhile.

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
        lifetime: float | None = None,
        patience: float = 0.0,
    ):
        self.attempt = attempt
        self._collection, self._run_id = collection, run_id
        self._stop, self.patience = stop, patience
        self._lease = leases.Lease(
            collection, run_id, f"{attempt}.job", lifetime=lifetime, on_loss=self._tell
        )
        self.owner = self._lease.owner

    def __enter__(self) -> "RunClaim":
        # Who submits this very job need not be waited for: it may have been killed
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

    def _tell(self) -> None:
        self._stop.reason = self._stop.reason or "the loss of its claim"
        self._stop.event.set()

    def read(self) -> dict[str, Any]:
        """Return the run document, with the tags of all that the run has."""
        document = self._persist(documents.find_run, self._collection, self._run_id)
        return self._persist(documents.merge_tags, self._collection, document)

    def check_only_document(self) -> None:
        """Raise InvalidRunDocument when the run has several documents."""
        self._persist(documents.find_only, self._collection, self._run_id, ["_id"])

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
            self._lease.lose("it has been claimed by somebody else meanwhile")
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
            self._lease.lose("it has been claimed by somebody else meanwhile")
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
        if self._lease.lost.is_set():
            raise ClaimLost(f"run {self._run_id}: {self._lease.why_lost}: left to another process")

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
                self.check()
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

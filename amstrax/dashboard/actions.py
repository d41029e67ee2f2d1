"""What can be done from the dashboard: each is checked here, logged with who and what, then done.

Nothing here deletes data, and nothing takes a path.
"""

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from amstrax.auto_processing import loop, submit_stbc, submitting
from amstrax.exceptions import (
    AmstraxError,
    EngineUnreachable,
    InvalidOption,
    RunDatabaseError,
    UsageError,
)
from amstrax.rundb import documents

if TYPE_CHECKING:
    from amstrax.dashboard.page import Page

log = logging.getLogger("amstrax.dashboard.actions")

#: More runs than this are not submitted at once: for so many there is `amstrax submit`
MOST_RUNS = 200


class NotAllowed(AmstraxError, PermissionError):
    """Somebody may not do what they have asked for."""

    def __str__(self) -> str:
        return str(self.args[0])


class Row(NamedTuple):
    """What became of a run: what was done, and more about it."""

    run_id: str
    state: str
    text: str = ""


class SubmitRequest(NamedTuple):
    """What to submit for runs, as it is asked for on a page."""

    targets: tuple[str, ...]
    context: str | None
    corrections_version: str | None
    memory: int | None
    again: bool


def check(page: "Page", what: str) -> None:
    """Check that who looks at a page may change something.

    Raises
    ------
    NotAllowed
        When not; it is logged.
    """
    if page.may_act():
        return
    log.warning("REFUSED user=%r from=%s: %s", page.user, page.peer, what)
    if not page.site.actions:
        raise NotAllowed("this dashboard is read-only: it was started without --allow-actions")
    if page.site.logins is not None and not page.site.logins.is_valid(page.login):
        raise NotAllowed("you are logged in no more: log in again")
    raise NotAllowed(
        f"{page.user} may look, but change nothing: --allow-actions names those who may"
    )


def each(page: "Page", what: str, run_ids: Sequence[str], act: Callable[[str], Row]) -> list[Row]:
    """Check and log an action, do it for each run, and return what became of them.

    Raises
    ------
    NotAllowed
        See `check`.
    UsageError
        When no run is named, or too many.
    EngineUnreachable, RunDatabaseError
        When nothing (more) can be done at all.
    """
    check(page, f"{what}, runs {','.join(run_ids)}")
    if not run_ids:
        raise UsageError("name the runs first")
    if len(run_ids) > MOST_RUNS:
        raise UsageError(f"{len(run_ids)} runs are too many at once: {MOST_RUNS} is the most")
    log.info("ACTION user=%r from=%s: %s, runs %s", page.user, page.peer, what, ",".join(run_ids))
    rows = []
    for run_id in run_ids:
        try:
            rows.append(act(run_id))
        except (EngineUnreachable, RunDatabaseError):
            raise
        except AmstraxError as error:
            rows.append(Row(run_id, "not done", " ".join(str(error).split())))
        log.info("DONE user=%r: %s: %s", page.user, what, " ".join(map(str, rows[-1])).strip())
    return rows


def submit(page: "Page", run_ids: Sequence[str], order: SubmitRequest, dry_run: bool) -> list[Row]:
    """Submit jobs for runs, or with `dry_run` return what would be submitted.

    Runs that are done already are skipped, unless they are wanted again.
    """
    site = page.site
    what = f"{'dry run of ' if dry_run else ''}submit {order}"
    # Also a dry run, since it asks the batch system
    check(page, what)
    processing = submitting.ProcessingOptions(
        targets=order.targets,
        context=order.context,
        detector=site.detector,
        output_folder=site.output_folder,
        live_data_dir=site.live_data_dir,
        config_kwargs=site.config_kwargs,
        corrections_version=order.corrections_version or site.corrections_version,
    )
    work = submitting.make_job_template(
        processing, site.job_folder, site.log_folder, memory=order.memory, dry_run=dry_run
    )
    collection, engine = site.collection(), site.engine()

    def act(run_id: str) -> Row:
        why = "" if order.again else submit_stbc.why_done(work, run_id, collection)
        if why:
            return Row(run_id, "skipped", why.split(",")[0])
        done = submitting.submit(work, run_id, collection, engine, reset_failures=order.again)
        return Row(
            run_id, done.state, done.text if dry_run else f"{done.job_id} {done.text}".strip()
        )

    return each(page, what, run_ids, act)


def cancel(page: "Page", run_ids: Sequence[str]) -> list[Row]:
    """End the jobs of runs, which automatic processing leaves alone then."""
    site = page.site
    check(page, "cancel")
    collection, engine = site.collection(), site.engine()

    def act(run_id: str) -> Row:
        return Row(run_id, "cancelled", loop.cancel(collection, engine, run_id, page.user))

    return each(page, "cancel", run_ids, act)


def tag(page: "Page", run_ids: Sequence[str], name: str, remove: bool = False) -> list[Row]:
    """Give runs a tag, or take it away."""
    name = name.strip()
    what = f"{'remove' if remove else 'add'} tag {name!r}"
    check(page, what)
    if not name or not name.isprintable() or len(name) > 60:
        raise InvalidOption(f"{name!r} cannot be a tag: up to 60 printable characters can")
    collection = page.site.collection()

    def act(run_id: str) -> Row:
        if remove:
            done = documents.remove_tag(collection, run_id, name)
            return Row(run_id, "tag removed" if done else "did not have it", name)
        done = documents.add_tag(collection, run_id, name, page.user)
        return Row(run_id, "tagged" if done else "had it already", name)

    return each(page, what, run_ids, act)


def switch(page: "Page", is_on: bool) -> None:
    """Switch automatic processing on or off."""
    what = f"switch automatic processing {'on' if is_on else 'off'}"
    check(page, what)
    log.info("ACTION user=%r from=%s: %s", page.user, page.peer, what)
    loop.switch(page.site.switches(), is_on, page.user)

"""Actions from the dashboard, each checked and logged: submit, tag, cancel, switch; their panel.

No action deletes data, and none takes a path.
"""

import base64
import csv
import io
import logging
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, NamedTuple

from bokeh.models import Column, MultiChoice

from amstrax.auto_processing import loop, process_run, submit_stbc, submitting
from amstrax.auto_processing.amstraxer import ProcessingOptions
from amstrax.dashboard import render
from amstrax.dashboard.page import (
    Page,
    button,
    checkbox,
    describe,
    select,
    text_input,
    wrapped,
)
from amstrax.exceptions import (
    AmstraxError,
    EngineUnreachable,
    InvalidOption,
    RunDatabaseError,
    UsageError,
)
from amstrax.rundb import documents, transfer

log = logging.getLogger(__name__)

#: Largest number of runs of one action; `amstrax submit` takes more
MOST_RUNS = 200
_FIRST = "first that makes them"
#: Longest comment [characters]
_LONGEST = 2000
#: Choices of data types to make
_EVENTS, _LED, _PEAKS = "events", "LED pulses", "peaks"
_RAW, _OTHER = "raw data", "data types of choice"
_TARGETS = {
    _EVENTS: ("event_info", "event_waveform", "event_area_per_channel"),
    _LED: process_run.LED_TARGETS,
    _PEAKS: ("radon_peak_basics",),
    _RAW: (),
}
#: Context of a run -> what is made of it, unless something else is chosen
_USUAL = {"xams": _EVENTS, "xams_led": _LED, "xams_little": _PEAKS}


def known_runs(text: str) -> tuple[list[str], list[str]]:
    """Return the runs in a text, with ranges expanded, and the problems of other words."""
    run_ids: list[str] = []
    problems = []
    for word in text.replace(",", " ").split():
        try:
            run_ids += submit_stbc.expanded(word)
        except UsageError as error:
            problems.append(str(error))
    return list(dict.fromkeys(run_ids)), problems


def understood(text: str) -> list[str]:
    """Return the runs in a text; raise UsageError if a word is not understood."""
    run_ids, problems = known_runs(text)
    if problems:
        raise UsageError("; ".join(problems))
    return run_ids


class NotAllowed(AmstraxError, PermissionError):
    """The user may not do this."""


class Row(NamedTuple):
    """Outcome of an action for one run."""

    run_id: str
    state: str
    text: str = ""


class SubmitRequest(NamedTuple):
    """Options of jobs to submit, as entered on a page."""

    targets: tuple[str, ...]
    context: str | None
    corrections_version: str | None
    memory: int | None
    again: bool


def check(page: Page, what: str) -> None:
    """Check that the user of a page may act; raise and log `NotAllowed` otherwise."""
    if page.may_act():
        return
    log.warning("REFUSED user=%r from=%s: %s", page.user, page.peer, what)
    if not page.site.actions:
        raise NotAllowed("this dashboard is read-only: it was started without --allow-actions")
    if page.site.has_users and not page.site.is_logged_in(page.login):
        raise NotAllowed("you are no longer logged in: log in again")
    raise NotAllowed(
        f"{page.user} has read-only access: --allow-actions names the users who may act"
    )


def each(page: Page, what: str, run_ids: Sequence[str], act: Callable[[str], Row]) -> list[Row]:
    """Check and log an action, do it for each run, and return the outcomes.

    Raises
    ------
    NotAllowed
        See `check`.
    UsageError
        For no runs, or more than `MOST_RUNS`.
    EngineUnreachable, RunDatabaseError
        These end the action; other errors are the outcome of their run.
    """
    check(page, f"{what}, runs {','.join(run_ids)}")
    if not run_ids:
        raise UsageError("name the runs first")
    if len(run_ids) > MOST_RUNS:
        raise UsageError(f"{len(run_ids)} runs are too many at once: the limit is {MOST_RUNS}")
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


def submit(page: Page, run_ids: Sequence[str], request: SubmitRequest, dry_run: bool) -> list[Row]:
    """Submit jobs for runs, or with `dry_run` return their scripts.

    Runs that are done are skipped, unless ``request.again`` is set.
    """
    what = f"{'dry run of ' if dry_run else ''}submit {request}"
    # A dry run is an action too: it queries the batch system
    check(page, what)
    work, left = _template(page, request, dry_run)
    site = page.site
    collection, engine = site.collection(), site.engine()

    def act(run_id: str) -> Row:
        why = "" if request.again else submit_stbc.why_done(work, run_id, collection)
        if why:
            return Row(run_id, "skipped", why.split(",")[0])
        done = submitting.submit(work, run_id, collection, engine, reset_failures=request.again)
        text = done.text if dry_run else f"{done.job_id} {done.text}".strip()
        if left:
            text = f"# options {left}\n{text}" if dry_run else f"{text}; options {left}"
        return Row(run_id, done.state, text)

    return each(page, what, run_ids, act)


def _template(
    page: Page, request: SubmitRequest, dry_run: bool, script: str = "process_run"
) -> tuple[submitting.JobTemplate, str]:
    """Return the template of jobs, and a text that names options which are left out."""
    site, left = page.site, ""
    processing = ProcessingOptions(
        targets=request.targets,
        context=request.context,
        detector=site.detector,
        output_folder=site.output_folder,
        live_data_dir=site.live_data_dir,
        config_kwargs=site.config_kwargs,
        corrections_version=request.corrections_version or site.corrections_version,
        reconstruction=site.reconstruction,
    )
    if request.context is not None:
        # The options are those of the dashboard, which is for all contexts
        plan = process_run.Plan((), request.context, site.detector, ())
        processing, left = process_run.options_of_run(processing, plan)
    template = submitting.make_job_template(
        processing, site.job_folder, site.log_folder, script, request.memory, dry_run=dry_run
    )
    return template, left


def follow(page: Page, run_ids: Sequence[str], request: SubmitRequest) -> list[Row]:
    """Submit jobs that follow runs while they are taken, as ``amstraxer`` does."""
    what = f"follow {request}"
    check(page, what)
    work, _ = _template(page, request, False, "amstraxer")
    collection, engine = page.site.collection(), page.site.engine()

    def act(run_id: str) -> Row:
        done = submitting.follow(work, run_id, collection, engine)
        state = "followed" if done.state == "submitted" else done.state
        return Row(run_id, state, f"{done.job_id} {done.text}".strip())

    return each(page, what, run_ids, act)


def exported(runs: Sequence[transfer.Summary], total: int, code: str) -> str:
    """Return runs as a file and as a line for a notebook, as HTML."""
    return render.html(
        "exported.html",
        csv=base64.b64encode(csv_of(runs).encode()).decode(),
        total=total,
        shown=len(runs),
        code=code,
    )


def csv_of(runs: Sequence[transfer.Summary]) -> str:
    """Return a table of runs, a line a run."""
    file = io.StringIO()
    table = csv.writer(file)
    table.writerow(
        ["run", "status", "start", "end", "seconds", "mode", "class", "source", "science_run"]
        + ["user", "quality", "tags", "comment", "reason", "data_here", "data"]
    )
    for run in runs:
        row = (
            *(run.run_id, run.status, render.time(run.start), render.time(run.end)),
            *("" if run.length is None else run.length, run.mode, run.run_class, run.source),
            *(run.science_run, run.user, run.quality, " ".join(run.tags), run.comment),
            *(run.reason, " ".join(run.here), " ".join(run.types)),
        )
        # A leading = + - @ would be a formula in spreadsheets
        table.writerow([f"'{cell}" if str(cell)[:1] in tuple("=+-@") else cell for cell in row])
    return file.getvalue()


def cancel(page: Page, run_ids: Sequence[str]) -> list[Row]:
    """Cancel the jobs of runs; automatic processing then ignores these runs."""
    check(page, "cancel")
    collection, engine = page.site.collection(), page.site.engine()

    def act(run_id: str) -> Row:
        return Row(run_id, "cancelled", loop.cancel(collection, engine, run_id, page.user))

    return each(page, "cancel", run_ids, act)


def tag(
    page: Page, run_ids: Sequence[str], name: str, remove: bool = False, is_undo: bool = False
) -> list[Row]:
    """Add a tag to runs, or remove it; an undo removes only tags of the user."""
    name = name.strip()
    what = f"{'remove' if remove else 'add'} tag {name!r}"
    check(page, what)
    if not name or not name.isprintable() or len(name) > 60:
        raise InvalidOption(f"{name!r} cannot be a tag: use up to 60 printable characters")
    collection = page.site.collection()

    def act(run_id: str) -> Row:
        if remove:
            done = documents.remove_tag(collection, run_id, name, page.user if is_undo else None)
            why = "has none of yours" if is_undo else "did not have it"
            return Row(run_id, "tag removed" if done else why, name)
        done = documents.add_tag(collection, run_id, name, page.user)
        return Row(run_id, "tagged" if done else "had it already", name)

    return each(page, what, run_ids, act)


def comment(page: Page, run_ids: Sequence[str], text: str) -> list[Row]:
    """Add a comment to runs."""
    text = text.strip()
    check(page, "comment")
    if not text or len(text) > _LONGEST:
        raise InvalidOption(f"a comment has 1 to {_LONGEST} characters: this one has {len(text)}")
    collection = page.site.collection()

    def act(run_id: str) -> Row:
        documents.add_comment(collection, run_id, text, page.user)
        return Row(run_id, "commented", text)

    return each(page, f"comment {text!r}", run_ids, act)


def judge(page: Page, run_ids: Sequence[str], quality: str, reason: str) -> list[Row]:
    """Set the quality of runs, with a reason."""
    reason = reason.strip()
    check(page, f"quality {quality}")
    if not reason or len(reason) > _LONGEST:
        raise InvalidOption("the quality of a run takes a reason: write it as the comment")
    collection = page.site.collection()

    def act(run_id: str) -> Row:
        documents.set_quality(collection, run_id, quality, page.user, reason)
        return Row(run_id, quality, reason)

    return each(page, f"quality {quality}, {reason!r}", run_ids, act)


def switch(page: Page, is_on: bool) -> None:
    """Switch automatic processing on or off."""
    what = f"switch automatic processing {'on' if is_on else 'off'}"
    check(page, what)
    log.info("ACTION user=%r from=%s: %s", page.user, page.peer, what)
    loop.switch(page.site.switches(), is_on, page.user)


class ActionsPanel:
    """Part of a page with actions; its buttons are disabled for users who may not act.

    `run_ids` returns the runs to act on, or raises UsageError if the entered ones are not
    understood; `done` is called after an action.
    """

    def __init__(
        self,
        page: Page,
        run_ids: Callable[[], Sequence[str]],
        done: Callable[[], None] = lambda: None,
    ):
        self._page, self._run_ids, self._done = page, run_ids, done
        #: Runs and options of the last dry run
        self._dry_run: tuple[Any, ...] | None = None
        #: Runs whose jobs are cancelled when the button is pressed again
        self._to_cancel: list[str] | None = None
        self._is_make_chosen = self._is_preselecting = False
        self._make_widgets()
        self._result = page.html("", name="result")
        self._links = page.html("", name="act_links")
        rights = render.html(
            "rights.html", may_act=page.may_act(), actions=page.site.actions, user=page.user
        )
        self.model = Column(
            page.html("<h2>Process, tag, judge, comment</h2>"),
            page.html(rights, name="rights"),
            wrapped(
                *(self._make, self._targets, self._dry, self._submit, self._follow),
                *(self._context, self._version, self._memory, self._again),
            ),
            wrapped(self._tag, *self._tagging, self._cancel, self._export),
            wrapped(self._comment, *self._commenting),
            self._links,
            self._result,
            self._undo,
            sizing_mode="stretch_width",
        )
        self.runs_changed()

    def _make_widgets(self) -> None:
        site, change = self._page.site, self._set_buttons
        given = self._page.argument("targets").replace(",", " ").split()
        usual = list(dict.fromkeys(_USUAL[name] for name in site.contexts()))
        choices = [*usual, _RAW, _OTHER]
        self._make = select(
            "make", "Make", choices, self._change_make, _OTHER if given else choices[0], 190
        )
        known = site.data_types
        self._targets = MultiChoice(
            name="targets",
            title="Data types to make",
            options=sorted({*known, *given}),
            value=given,
            visible=bool(given),
            width=320,
        )
        self._targets.on_change("value", lambda attr, old, new: change())
        self._follow = button("follow", "Follow live", self._on_follow, 130)
        self._follow.visible = False
        self._export = button("export_these", "Export these", self._on_export, 130)
        self._context = select(
            "submit_context", "Context", [_FIRST, *site.contexts()], change, width=190
        )
        self._version = text_input(
            "submit_version",
            "Corrections version",
            change,
            160,
            placeholder=site.corrections_version or "none",
        )
        self._memory = text_input("memory", "Memory [MB]", change, placeholder="of the settings")
        self._again = checkbox("again", "also done runs", change)
        self._dry = button("dry_run", "Dry run", lambda: self._on_submit(True), 130)
        self._submit = button("submit", "Submit", lambda: self._on_submit(False), 130)
        self._tag = text_input("tag_name", "Tag", lambda: None, 160, placeholder=documents.PROCESS)
        self._tagging = [
            button("add_tag", "Add tag", lambda: self._on_tag(self._tag.value), 130),
            button("remove_tag", "Remove tag", lambda: self._on_tag(self._tag.value, True), 130),
            button("abandon", "Abandon", lambda: self._on_tag(documents.ABANDON), 130),
        ]
        self._cancel = button("cancel", "Cancel jobs", self._on_cancel, 130)
        self._comment = text_input("comment", "Comment, or reason", lambda: None, 330)
        self._commenting = [button("add_comment", "Add comment", self._on_comment, 130)]
        for quality in documents.QUALITIES:
            on_click = partial(self._on_quality, quality)
            self._commenting.append(button(quality, quality.capitalize(), on_click, 80))
        self._undo = button("undo", "Undo", self._on_undo, 130)
        self._undo.visible = False
        #: Runs, tag, and whether it was removed, of the last action
        self._tagged: tuple[list[str], str, bool] = ([], "", False)

    def _change_make(self) -> None:
        self._is_make_chosen = self._is_make_chosen or not self._is_preselecting
        self._targets.visible = self._make.value == _OTHER
        self._set_buttons()

    def runs_changed(self, contexts: Collection[str] = (), is_taking: bool = False) -> None:
        """Adapt to another choice of runs, of these contexts.

        What is usual for the runs is preselected, unless the user has chosen something. With
        `is_taking`, some of them are being taken, and can be followed.
        """
        usual = {_USUAL[name] for name in contexts}
        if len(usual) == 1 and not self._is_make_chosen and self._make.value != _OTHER:
            self._is_preselecting = True
            [self._make.value] = usual
            self._is_preselecting = False
        self._follow.visible = is_taking
        run_ids = self._understood()
        if run_ids != self._to_cancel:
            self._to_cancel = None
        self._links.text = render.html("act_links.html", runs=run_ids)
        self._set_buttons()

    def _understood(self) -> list[str]:
        """Return the runs; none if they are not understood."""
        try:
            return list(self._run_ids())
        except UsageError:
            return []

    def _set_buttons(self, is_busy: bool = False) -> None:
        off = is_busy or not self._page.may_act()
        self._export.disabled = is_busy
        more = (*self._tagging, *self._commenting)
        for each_button in (self._dry, self._follow, self._cancel, *more):
            each_button.disabled = off
        # Submission follows a dry run of the same runs and options
        entered = self._entered()
        self._submit.disabled = off or entered is None or self._dry_run != entered
        self._cancel.label = "Cancel jobs" if self._to_cancel is None else "Really cancel?"

    def _entered(self) -> tuple[Any, ...] | None:
        """Return runs and options as entered; None if the runs are not understood."""
        fields = (self._make, self._targets, self._context, self._version, self._memory)
        try:
            run_ids = self._run_ids()
        except UsageError:
            return None
        return (*run_ids, *(str(field.value) for field in fields), self._again.active)

    def _request(self) -> SubmitRequest:
        memory = self._memory.value.strip()
        if memory and not (memory.isascii() and memory.isdigit() and 0 < int(memory) < 10**7):
            raise InvalidOption(f"memory {memory!r} is no number of MB: write it as 4000")
        entered = tuple(self._targets.value)
        if self._make.value == _OTHER and not entered:
            raise InvalidOption("name the data types to make, such as peak_basics")
        targets = _TARGETS.get(self._make.value, entered)
        if self._make.value == _EVENTS and self._context.value == process_run.LED_CONTEXT:
            targets = process_run.LED_TARGETS
        return SubmitRequest(
            targets,
            None if self._context.value == _FIRST else self._context.value,
            self._version.value.strip() or None,
            int(memory) if memory else None,
            self._again.active,
        )

    def _on_submit(self, dry_run: bool) -> None:
        entered = self._entered()
        try:
            run_ids = list(self._run_ids())
            request = self._request()
            # The browser disables the button, but cannot be trusted
            if not dry_run and entered != self._dry_run:
                check(self._page, "submit without dry run")
                raise InvalidOption(
                    "runs or options have changed since the dry run: repeat it first"
                )
        except Exception as error:
            self._show([], describe(error))
            return

        def done() -> None:
            self._dry_run = entered if dry_run else None

        self._run(lambda: submit(self._page, run_ids, request, dry_run), done)

    def retry(self) -> None:
        """Show what would be submitted of the runs, with their failures forgotten."""
        self._again.active = True
        self._on_submit(True)

    def _on_follow(self) -> None:
        self._act(lambda run_ids: follow(self._page, run_ids, self._request()))

    def _on_export(self) -> None:
        site = self._page.site

        def work() -> str:
            run_ids, followed = self._run_ids(), site.followed()
            runs = [
                transfer.summary(
                    documents.find_run(site.collection(), run_id, None, transfer.SUMMARY_FIELDS),
                    followed,
                )
                for run_id in run_ids[:MOST_RUNS]
            ]
            # strax's run ids are patterns
            code = f"runs = st.select_runs(run_id={[run.run_id for run in runs]!r})"
            return exported(runs, len(run_ids), code)

        self._page.load("the export of these runs", work, self._result)

    def _on_tag(self, name: str, remove: bool = False) -> None:
        def act(run_ids: list[str]) -> list[Row]:
            rows = tag(self._page, run_ids, name, remove)
            done = [row.run_id for row in rows if row.state in ("tagged", "tag removed")]
            self._tagged = done, name, remove
            return rows

        self._act(act)

    def _on_undo(self) -> None:
        run_ids, name, was_removed = self._tagged
        self._tagged = [], "", False
        self._run(lambda: tag(self._page, run_ids, name, not was_removed, is_undo=True))

    def _on_comment(self) -> None:
        text = self._comment.value
        self._act(lambda run_ids: comment(self._page, run_ids, text))

    def _on_quality(self, quality: str) -> None:
        reason = self._comment.value
        self._act(lambda run_ids: judge(self._page, run_ids, quality, reason))

    def _on_cancel(self) -> None:
        if self._to_cancel is None and self._page.may_act():
            self._to_cancel = self._understood()
            self._set_buttons()
            return
        self._to_cancel = None
        self._act(lambda run_ids: cancel(self._page, run_ids))

    def _act(self, act: Callable[[list[str]], list[Row]]) -> None:
        """Run an action on the runs; show the words that are not understood, if any."""
        try:
            run_ids = list(self._run_ids())
        except UsageError as error:
            self._show([], describe(error))
            return
        self._run(lambda: act(run_ids))

    def _run(self, act: Callable[[], list[Row]], then: Callable[[], None] = lambda: None) -> None:
        """Run an action in a thread, and show the outcome or the error."""

        def work() -> tuple[list[Row], str]:
            try:
                return act(), ""
            except Exception as error:
                return [], describe(error)

        def take(found: tuple[list[Row], str]) -> None:
            if not found[1]:
                then()
            self._show(*found)
            self._done()

        self._set_buttons(is_busy=True)
        self._result.text = "<p>At work …</p>"
        self._page.load("the action", work, take)

    def _show(self, rows: Sequence[Row], problem: str) -> None:
        self._result.text = render.html("result.html", rows=rows, problem=problem)
        self._undo.visible = bool(self._tagged[0]) and rows[:1] != []
        self._undo.label = f"Undo: {'add' if self._tagged[2] else 'remove'} {self._tagged[1]}"
        self._set_buttons()

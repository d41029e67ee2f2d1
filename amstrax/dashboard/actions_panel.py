"""What can be done with some runs: submit them, tag them, end their jobs."""

from collections.abc import Callable, Sequence
from typing import Any

from bokeh.models import Button, Checkbox, Column, Select, TextInput

from amstrax.commands.base import CONTEXTS
from amstrax.dashboard import actions, render
from amstrax.dashboard.page import STYLE, Page, describe, wrapped
from amstrax.exceptions import InvalidOption
from amstrax.rundb import documents
from amstrax.settings import CONTEXT_DETECTORS

_FIRST = "first that makes them"


class ActionsPanel:
    """Part of a page with actions; its buttons are off for those who may not act.

    Parameters
    ----------
    page
        The page.
    run_ids
        Returns the runs that are meant.
    done
        Called after an action.
    """

    def __init__(
        self,
        page: Page,
        run_ids: Callable[[], Sequence[str]],
        done: Callable[[], None] = lambda: None,
    ):
        self._page, self._run_ids, self._done = page, run_ids, done
        self._shown: tuple[Any, ...] | None = None
        self._make_widgets()
        self._result = page.html("", name="result")
        self._hint = page.html(self._why_not(), name="rights")
        self.model = Column(
            page.html("<h2>Process, tag, cancel</h2>"),
            self._hint,
            wrapped(*self._order, self._dry, self._submit),
            wrapped(self._tag, *self._tagging, self._cancel),
            self._result,
            sizing_mode="stretch_width",
        )
        if page.argument("targets"):
            self._targets.value = page.argument("targets")
        self._set_buttons(False)

    def _make_widgets(self) -> None:
        site = self._page.site

        def text(name: str, title: str, width: int, placeholder: str) -> TextInput:
            return TextInput(
                name=name, title=title, width=width, placeholder=placeholder, stylesheets=[STYLE]
            )

        def button(name: str, label: str, function: Callable[[], None]) -> Button:
            made = Button(name=name, label=label, width=130, align="end", stylesheets=[STYLE])
            made.on_click(function)
            return made

        own = [name for name in CONTEXTS if CONTEXT_DETECTORS[name] == site.detector]
        self._targets = text("targets", "Data types to make", 220, "raw data of the context")
        self._context = Select(
            name="submit_context",
            title="Context",
            options=[_FIRST, *own],
            value=_FIRST,
            width=190,
            stylesheets=[STYLE],
        )
        self._version = text(
            "submit_version", "Corrections version", 160, site.corrections_version or "none"
        )
        self._memory = text("memory", "Memory [MB]", 120, "of the settings")
        self._again = Checkbox(
            name="again", label="also those that are done", align="end", stylesheets=[STYLE]
        )
        self._order = [self._targets, self._context, self._version, self._memory, self._again]
        for widget in self._order:
            attribute = "active" if widget is self._again else "value"
            widget.on_change(attribute, lambda attr, old, new: self._set_buttons(False))
        self._dry = button("dry_run", "Dry run", lambda: self._on_submit(True))
        self._submit = button("submit", "Submit", lambda: self._on_submit(False))
        self._tag = text("tag_name", "Tag", 160, documents.PROCESS)
        self._tagging = [
            button("add_tag", "Add tag", lambda: self._on_tag(self._tag.value, False)),
            button("remove_tag", "Remove tag", lambda: self._on_tag(self._tag.value, True)),
            button("abandon", "Abandon", lambda: self._on_tag(documents.ABANDON, False)),
        ]
        self._cancel = button("cancel", "Cancel jobs", self._on_cancel)
        self._is_sure = False

    def _why_not(self) -> str:
        return render.html(
            "rights.html",
            may_act=self._page.may_act(),
            actions=self._page.site.actions,
            user=self._page.user,
        )

    def _set_buttons(self, is_busy: bool) -> None:
        off = is_busy or not self._page.may_act()
        for button in (self._dry, *self._tagging, self._cancel):
            button.disabled = off
        # What is submitted has been seen before
        self._submit.disabled = off or self._shown is None or self._shown != self._asked()
        self._cancel.label = "Really cancel?" if self._is_sure else "Cancel jobs"

    def _asked(self) -> tuple[Any, ...]:
        return (tuple(self._run_ids()), *(w.value for w in self._order[:4]), self._again.active)

    def runs_changed(self) -> None:
        """Take into account that other runs are meant now."""
        self._is_sure = False
        self._set_buttons(False)

    def _what(self) -> actions.SubmitRequest:
        memory = self._memory.value.strip()
        if memory and not (memory.isascii() and memory.isdigit() and 0 < int(memory) < 10**7):
            raise InvalidOption(f"memory {memory!r} is no number of MB: write it as 4000")
        return actions.SubmitRequest(
            tuple(self._targets.value.replace(",", " ").split()),
            None if self._context.value == _FIRST else self._context.value,
            self._version.value.strip() or None,
            int(memory) if memory else None,
            self._again.active,
        )

    def _on_submit(self, dry_run: bool) -> None:
        run_ids, asked = list(self._run_ids()), self._asked()

        def act() -> list[actions.Row]:
            return actions.submit(self._page, run_ids, order, dry_run)

        try:
            order = self._what()
            if not dry_run and asked != self._shown:
                actions.check(self._page, "submit without dry run")
                raise InvalidOption("this has changed since the dry run: do that again first")
        except Exception as error:
            self._show([], describe(error))
            return
        self._run(act, lambda: setattr(self, "_shown", asked if dry_run else None))

    def _on_tag(self, name: str, remove: bool) -> None:
        run_ids = list(self._run_ids())
        self._run(lambda: actions.tag(self._page, run_ids, name, remove))

    def _on_cancel(self) -> None:
        run_ids = list(self._run_ids())
        if not self._is_sure and self._page.may_act():
            self._is_sure = True
            self._set_buttons(False)
            return
        self._is_sure = False
        self._run(lambda: actions.cancel(self._page, run_ids))

    def _run(
        self, act: Callable[[], list[actions.Row]], then: Callable[[], None] = lambda: None
    ) -> None:
        """Do something in a thread, and show what has come of it, or why it could not be done."""

        def work() -> tuple[list[actions.Row], str]:
            try:
                return act(), ""
            except Exception as error:
                return [], describe(error)

        def take(found: tuple[list[actions.Row], str]) -> None:
            if not found[1]:
                then()
            self._show(*found)
            self._done()

        self._set_buttons(True)
        self._result.text = "<p>At work …</p>"
        self._page.load("the action", work, take)

    def _show(self, rows: Sequence[actions.Row], problem: str) -> None:
        self._result.text = render.html("result.html", rows=rows, problem=problem)
        self._set_buttons(False)

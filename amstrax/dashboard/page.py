"""Base of all pages: work in threads, refresh, messages, address; and the widgets of pages."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from bokeh.document import Document
from bokeh.models import (
    Button,
    Checkbox,
    Column,
    CustomJS,
    Div,
    PreText,
    Row,
    Select,
    TextInput,
    UIElement,
)
from bokeh.themes import Theme
from tornado.ioloop import IOLoop

from amstrax.commands.base import is_expected
from amstrax.dashboard import render
from amstrax.exceptions import InvalidOption, UsageError

if TYPE_CHECKING:
    from amstrax.dashboard.site import Site

log = logging.getLogger(__name__)

T = TypeVar("T")

#: A page pauses between two refreshes for this multiple of the duration of the last one
_PAUSE = 5
#: Longest pause after a failure, which may have been a long timeout [s]
_RETRY = 5.0
#: End of a text in place of what is waited for
_WAITING = " …</p>"

#: Style inside Bokeh's widgets, which do not see the style of the page around them
STYLE = render.template("text.css").render()
_THEME = Theme(json={"attrs": {"Widget": {"stylesheets": [STYLE]}}})


class Page:
    """A page in one browser tab, for which Bokeh has made the document `doc`."""

    #: Address of the page, and first words of its title
    path: str
    title: str
    #: Whether Bokeh draws a table on it
    has_table = False

    def __init__(self, site: "Site", doc: Document):
        self.site, self.doc = site, doc
        self._session_context = context = doc.session_context
        self._io_loop = IOLoop.current()
        request = context.request if context is not None else None
        #: Arguments of the address
        self.arguments = {} if request is None else arguments_of(request)
        payload = context.token_payload if context is not None else {}
        #: User, number of the log-in, and IP address
        self.user: str = payload.get("user") or site.local_user
        self.login: str = payload.get("login") or ""
        self.peer: str = payload.get("peer") or "?"
        self._is_closed = False
        self._latest: dict[str, int] = {}
        self._running: set[str] = set()
        self._futures: set[Future] = set()
        self._not_before: dict[str, float] = {}
        #: Work -> text of its error, and whether it is retried
        self._troubles: dict[str, tuple[str, bool]] = {}
        self._shown_alarms: list[tuple[str, str]] = []
        self.message = self.html("", name="message")
        self._alarms = Column(sizing_mode="stretch_width", name="alarms")
        self._address = PreText(text="", visible=False, name="address")
        # JavaScript, since Bokeh cannot set the address bar
        self._address.js_on_change(
            "text", CustomJS(code="window.history.replaceState(null, '', cb_obj.text)")
        )
        doc.theme = _THEME
        # page.html tells it, and loads the page again
        doc.config.notify_connection_status = False
        title = self.title_of(self.arguments)
        doc.title = f"{title} · amstrax {site.detector.upper()}"
        doc.destroy = self._end  # type: ignore[method-assign]

    @classmethod
    def title_of(cls, _arguments: dict[str, list[str]]) -> str:
        """Return the title of the page with these arguments in its address."""
        return cls.title

    def show(self, *children: Any) -> None:
        """Put models on the page, below each other."""
        children = (self._alarms, self.message, *children, self._address)
        self.doc.add_root(Column(*children, sizing_mode="stretch_width", name="page"))
        _name(self.doc.models)
        self.repeat(lambda: self._show_alarms(self.site.alarms))

    def _show_alarms(self, found: list[Any]) -> None:
        shown = [(alarm.name, alarm.text) for alarm in found]
        if shown == self._shown_alarms:
            return
        self._shown_alarms = shown
        parts: list[Row] = []
        for alarm in found:
            text = Div(text=render.html("alarm.html", alarm=alarm), disable_math=True)
            parts.append(wrapped(text))
            if self.may_act():
                name = alarm.name
                seen = button("acknowledge", "Acknowledge", partial(self._on_seen, name))
                parts[-1].children = [text, seen]
        _name(each for part in parts for each in part.references())
        self._alarms.children = parts

    def _on_seen(self, name: str) -> None:
        def work() -> None:
            if self.may_act():
                self.site.acknowledge(name, self.user)

        self.load("the alarms", work, lambda _: self._show_alarms(self.site.alarms))

    def add_later(self, place: Column, part: Any) -> None:
        """Put a part into a place on the page, which is shown already."""
        _name(part.references())
        place.children = [part]

    def html(self, text: str, name: str | None = None) -> Div:
        """Return a part of the page with HTML of `render`; it is hidden while it is empty."""
        part = Div(text=text, name=name, disable_math=True, sizing_mode="stretch_width")

        def show(_attr: str, _old: str, new: str) -> None:
            # An empty part would leave a gap
            part.visible = bool(new.strip())

        show("text", "", text)
        part.on_change("text", show)
        return part

    def argument(self, name: str, default: str = "") -> str:
        """Return an argument of the address."""
        return self.arguments.get(name, [default])[-1]

    def text_input(self, name: str, *args: Any, **properties: Any) -> TextInput:
        """Return a text field, see `text_input`, with the argument of this name."""
        return text_input(name, *args, value=self.argument(name).strip(), **properties)

    def runs_input(self, title: str, change: Callable[[], None]) -> TextInput:
        """Return a text field for runs, with the argument ``runs``."""
        return self.text_input("runs", title, change, 320, placeholder="6724, 6730-6735")

    def number(self, name: str) -> int | None:
        """Return an argument of the address as an integer >= 0, None if it is something else."""
        value = self.argument(name)
        return int(value) if value.isascii() and value.isdigit() and len(value) < 19 else None

    def set_address(self, **arguments: Any) -> None:
        """Put the state of the page into the address bar, so that users can share it."""
        self._address.text = render.address(self.path, **arguments)

    # Work in threads

    def load(
        self,
        what: str,
        work: Callable[[], T],
        then: Callable[[T], None] | Div,
        again: bool = True,
        place: Div | None = None,
    ) -> None:
        """Run slow work in a thread, and pass its result to the page.

        The `work`, which messages call `what`, must not touch the page. `then` takes its result, in
        the thread of the server, or is a part that shows it as HTML. Of concurrent calls with the
        same `what` only the last one counts. Work that fails with an expected error other than
        `UsageError` is retried, until it succeeds or a later call replaces it.

        Periodic refreshes pass `again` False: they do not start while work of this name is running
        or has just run, and are not retried. The part `place`, by default that of `then`, says that
        the result is waited for: an error empties it.
        """
        if isinstance(then, Div):
            place = then
        if self._is_closed or not (again or self.is_free(what)):
            return
        number = self._latest[what] = self._latest.get(what, 0) + 1
        self._running.add(what)
        began = time.monotonic()

        def done(future: Future) -> None:
            now = time.monotonic()
            self._futures.discard(future)
            # In proportion to the duration, so that slow work does not run all the time
            pause = _PAUSE * (now - began)
            if future.cancelled() or future.exception() is not None:
                pause = min(pause, _RETRY)
            self._not_before[what] = now + pause
            if not future.cancelled():
                # Sessions end in the thread of the server, so none ends inside hand_over
                with contextlib.suppress(RuntimeError):  # The server has ended
                    self._io_loop.add_callback(hand_over, future)

        def hand_over(future: Future) -> None:
            if not self._is_closed:
                self.doc.add_next_tick_callback(lambda: deliver(future))

        def deliver(future: Future) -> None:
            if self._is_closed or self._latest.get(what) != number:
                return
            self._running.discard(what)
            try:
                if isinstance(then, Div):
                    set_text(then, future.result())
                else:
                    then(future.result())
            except Exception as error:
                if place is not None and place.text.endswith(_WAITING):
                    place.text = ""
                self.report(what, error)
                # Not after wrong use: the action would come as a surprise later
                if again and is_expected(error) and not isinstance(error, UsageError):
                    self.doc.add_timeout_callback(retry, int(1000 * self.site.refresh))
            else:
                self.clear_report(what)

        def retry() -> None:
            if self._latest.get(what) == number:
                self.load(what, work, then, place=place)

        future = self.site.pool.submit(work)
        self._futures.add(future)
        future.add_done_callback(done)

    def is_free(self, *names: str) -> bool:
        """Return whether work of these names neither runs nor pauses after a run."""
        now = time.monotonic()
        return all(
            name not in self._running and now >= self._not_before.get(name, 0) for name in names
        )

    def repeat(self, function: Callable[[], None], seconds: float | None = None) -> None:
        """Call a function now, and repeatedly while the page is open."""
        function()
        self.doc.add_periodic_callback(function, int(1000 * (seconds or self.site.refresh)))

    def _end(self, session: Any) -> None:
        """End the document as Bokeh does, without its full garbage collections for each page.

        They would stop all other pages; `Site.tidy` has one for many.
        """
        self.close()
        doc = self.doc
        doc.remove_on_change(session)
        doc._session_context = None
        for part in (doc.callbacks, doc.models, doc.modules):
            part.destroy()

    def close(self) -> None:
        """End what the page does."""
        self._is_closed = True
        for future in list(self._futures):
            future.cancel()
        self.site.tidy()

    # Messages

    def report(self, what: str, error: Exception) -> None:
        """Show an error on the page until the same work succeeds."""
        text = f"{what[:1].upper()}{what[1:]}: {describe(error)}"
        self._troubles[what] = text, not isinstance(error, (InvalidOption, UsageError))
        self._show_troubles()

    def clear_report(self, what: str) -> None:
        """Remove the error of some work."""
        if self._troubles.pop(what, None) is not None:
            self._show_troubles()

    def _show_troubles(self) -> None:
        texts = [text for text, _ in self._troubles.values()]
        is_retried = any(retried for _, retried in self._troubles.values())
        self.message.text = render.html("message.html", troubles=texts, is_retried=is_retried)

    def may_act(self) -> bool:
        """Return whether the user of the page may change anything."""
        return self.site.may_act(self.user, self.login)


def arguments_of(request: Any) -> dict[str, list[str]]:
    """Return the arguments in the address of a request."""
    return {
        key: [value.decode("utf-8", "replace") for value in values]
        for key, values in request.arguments.items()
    }


def _name(models: Iterable[Any]) -> None:
    """Write the names of models into the HTML of the page."""
    for model in models:
        if isinstance(model, UIElement) and model.name:
            model.html_attributes = {"data-name": model.name}


def set_text(part: Div, text: str) -> None:
    """Set the text of a part; an unchanged text keeps what is open or selected in the browser."""
    if part.text != text:
        part.text = text


def text_input(
    name: str, title: str, change: Callable[[], None], width: int = 120, **properties: Any
) -> TextInput:
    """Return a text field; `change` is called after each change."""
    field = TextInput(name=name, title=title, width=width, **properties)
    field.on_change("value", lambda attr, old, new: change())
    return field


def select(
    name: str,
    title: str,
    options: Sequence[str | tuple[str, str]],
    change: Callable[[], None],
    value: str = "",
    width: int = 150,
) -> Select:
    """Return a choice; the first option is chosen if `value` is not among them."""
    values = [option if isinstance(option, str) else option[0] for option in options]
    value = value if value in values else values[0]
    choice = Select(name=name, title=title, options=list(options), value=value, width=width)
    choice.on_change("value", lambda attr, old, new: change())
    return choice


def checkbox(name: str, label: str, change: Callable[[], None], active: bool = False) -> Checkbox:
    """Return a checkbox; `change` is called after each change."""
    box = Checkbox(name=name, label=label, active=active, align="end")
    box.on_change("active", lambda attr, old, new: change())
    return box


def button(
    name: str, label: str, click: Callable[[], None], width: int = 110, disabled: bool = False
) -> Button:
    """Return a button."""
    made = Button(name=name, label=label, width=width, align="end", disabled=disabled)
    made.on_click(click)
    return made


def wrapped(*children: Any) -> Row:
    """Return models next to each other, on several lines where the page is narrow."""
    return Row(*children, styles={"flex-wrap": "wrap"}, sizing_mode="stretch_width")


def describe(error: Exception) -> str:
    """Return one line about an error for the user; a bug is also logged with its traceback."""
    if is_expected(error):
        return " ".join(str(error).split())
    log.error("a page failed, please report it: %r", error, exc_info=error)
    return (
        f"{type(error).__name__}: this is a bug; please report it, with the log of the dashboard, "
        "which has more"
    )

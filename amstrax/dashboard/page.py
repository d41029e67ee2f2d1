"""What every page does: work in threads, refresh itself, say what is wrong, keep its address."""

import contextlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

from bokeh.document import Document
from bokeh.models import Column, CustomJS, Div, PreText, Row, UIElement
from tornado.ioloop import IOLoop

from amstrax.dashboard import render
from amstrax.dashboard.site import Site
from amstrax.exceptions import AmstraxError

log = logging.getLogger(__name__)

T = TypeVar("T")

#: A page that looks again by itself leaves so many times as long as that takes in between
_SHARE = 5
#: What has failed, which may have taken long for want of an answer, is tried again sooner [s]
_RETRY = 5.0

#: For what is within Bokeh's models, which do not see the style of the page around them
STYLE = render.template("text.css").render()


class Page:
    """A page in one browser tab.

    Parameters
    ----------
    site
        The dashboard.
    doc
        Document that Bokeh has made for this tab.
    """

    #: Address of the page, and what its title begins with
    path: str
    title: str
    #: Whether it has a table that Bokeh draws
    has_table = False

    def __init__(self, site: Site, doc: Document):
        self.site, self.doc = site, doc
        self._session_context = context = doc.session_context
        self._io_loop = IOLoop.current()
        request = context.request if context is not None else None
        #: What the address asks for
        self.arguments: dict[str, list[str]] = {
            key: [value.decode("utf-8", "replace") for value in values]
            for key, values in (request.arguments if request is not None else {}).items()
        }
        payload = context.token_payload if context is not None else {}
        #: Who looks at it, and the number of their log-in
        self.user: str = payload.get("user") or site.local_user
        self.login: str = payload.get("login") or ""
        self.peer: str = payload.get("peer") or "?"
        self._is_closed = False
        self._latest: dict[str, int] = {}
        self._at_work: set[str] = set()
        self._futures: set[Future] = set()
        self._not_before: dict[str, float] = {}
        self._troubles: dict[str, str] = {}
        self.message = self.html("", name="message")
        self._address = PreText(text="", visible=False, name="address")
        # The only line of JavaScript: Bokeh has nothing of its own for the address bar
        self._address.js_on_change(
            "text", CustomJS(code="window.history.replaceState(null, '', cb_obj.text)")
        )
        doc.title = f"{self.title} · amstrax {site.detector.upper()}"
        doc.template = render.template("page.html")
        doc.template_variables.update(
            detector=site.detector.upper(),
            page=self.path,
            has_table=self.has_table,
            user=self.user if site.logins is not None else "",
            may_act=self.may_act(),
            actions=site.actions,
            xsrf=payload.get("xsrf") or "",
        )
        doc.on_session_destroyed(self._close)

    # What pages are made of

    def show(self, *children: Any) -> None:
        """Put models on the page, below each other."""
        root = Column(
            self.message,
            *children,
            self._address,
            sizing_mode="stretch_width",
            name="page",
        )
        for model in root.references():
            if isinstance(model, UIElement) and model.name:
                model.html_attributes = {"data-name": model.name}
        self.doc.add_root(root)

    def html(self, text: str, name: str | None = None, **properties: Any) -> Div:
        """Return a part of the page that is HTML: of `render.html`, or escaped."""
        properties = {"sizing_mode": "stretch_width", "stylesheets": [STYLE]} | properties
        part = Div(text=text, name=name, disable_math=True, **properties)

        def show(_attr: str, _old: str, new: str) -> None:
            # What is empty would leave a gap
            part.visible = bool(new.strip())

        show("text", "", text)
        part.on_change("text", show)
        return part

    def argument(self, name: str, default: str = "") -> str:
        """Return an argument of the address."""
        return self.arguments.get(name, [default])[-1]

    def number(self, name: str) -> int | None:
        """Return an argument of the address as a whole number, None where it is none."""
        value = self.argument(name)
        return int(value) if value.isascii() and value.isdigit() and len(value) < 19 else None

    def set_address(self, **arguments: Any) -> None:
        """Let the address bar hold the view, so that a link to it can be sent."""
        self._address.text = render.address(self.path, **arguments)

    # Work, in threads

    def load(
        self, what: str, work: Callable[[], T], then: Callable[[T], None], again: bool = True
    ) -> None:
        """Do something that takes time in a thread, and give the page what has come of it.

        While something of the same name is at work, only the last request counts. What fails is
        tried again after a while, until it works or something else is asked for.

        Parameters
        ----------
        what
            What it is, for messages.
        work
            Does it; must not touch the page.
        then
            Takes what has come of it, between two events of the page.
        again
            Do it also while the same is at work, or has just been; else nothing is done then, for
            what is asked for again and again anyway.
        """
        if self._is_closed:
            return
        if not again and (
            what in self._at_work or time.monotonic() < self._not_before.get(what, 0)
        ):
            return
        number = self._latest[what] = self._latest.get(what, 0) + 1
        self._at_work.add(what)
        began = time.monotonic()
        future = self.site.pool.submit(work)
        self._futures.add(future)

        def done(future: Any) -> None:
            # What is slow is not all that is done
            now = time.monotonic()
            self._futures.discard(future)
            pause = _SHARE * (now - began)
            if future.cancelled() or future.exception() is not None:
                pause = min(pause, _RETRY)
            self._not_before[what] = now + pause
            if not future.cancelled():
                retry = partial(self.load, what, work, then) if again else None
                deliver = partial(self._deliver, what, number, future, then, retry)
                # To where sessions are ended, so that none is between the next two lines there
                with contextlib.suppress(RuntimeError):  # The server has ended
                    self._io_loop.add_callback(self._hand_over, deliver)

        future.add_done_callback(done)

    def _hand_over(self, deliver: Callable[[], None]) -> None:
        if not self._is_gone():
            self.doc.add_next_tick_callback(deliver)

    def _is_gone(self) -> bool:
        # Bokeh says so a while after it has taken the document apart
        return self._is_closed or (
            self._session_context is not None and self._session_context.destroyed
        )

    def _deliver(
        self,
        what: str,
        number: int,
        future: Any,
        then: Callable[[Any], None],
        retry: Callable[[], None] | None,
    ) -> None:
        if self._is_gone() or self._latest.get(what) != number:
            return
        self._at_work.discard(what)
        try:
            result = future.result()
            then(result)
        except Exception as error:
            self.report(what, error)
            if retry is not None and _is_expected(error):

                def try_again() -> None:
                    if self._latest.get(what) == number:
                        retry()

                self.doc.add_timeout_callback(try_again, int(1000 * self.site.refresh))
        else:
            self.is_well(what)

    def repeat(self, function: Callable[[], None], seconds: float | None = None) -> None:
        """Call a function now, and again and again while the page is open."""
        function()
        self.doc.add_periodic_callback(function, int(1000 * (seconds or self.site.refresh)))

    def _close(self, _context: Any) -> None:
        self._is_closed = True
        for future in list(self._futures):
            # What is at work goes on; nobody waits for what is not
            future.cancel()
        self.site.tidy()

    # Messages

    def report(self, what: str, error: Exception) -> None:
        """Say on the page what is wrong; it goes away when the same works again."""
        self._troubles[what] = f"{what[:1].upper()}{what[1:]}: {describe(error)}"
        self._show_troubles()

    def is_well(self, what: str) -> None:
        """Take back what was reported of something."""
        if self._troubles.pop(what, None) is not None:
            self._show_troubles()

    def _show_troubles(self) -> None:
        self.message.text = render.html("message.html", troubles=list(self._troubles.values()))

    # Rights

    def may_act(self) -> bool:
        """Return whether who looks at the page may change anything."""
        if not self.site.actions:
            return False
        if self.site.logins is None:
            return True
        return self.user in self.site.actors and self.site.logins.is_valid(self.login)


def wrapped(*children: Any, **properties: Any) -> Row:
    """Return models beside each other, on several lines where the page is narrow."""
    styles = {"flex-wrap": "wrap"}
    return Row(children=list(children), styles=styles, sizing_mode="stretch_width", **properties)


def describe(error: Exception) -> str:
    """Return what went wrong in a line, for a person; what is a bug is logged in full."""
    if _is_expected(error):
        return " ".join(str(error).split())
    log.error("a page failed, please report it: %r", error, exc_info=error)
    return (
        f"{type(error).__name__}: this is a bug; please report it, with the log of the dashboard, "
        "which has more"
    )


def _is_expected(error: Exception) -> bool:
    """Return whether an error is no bug, but of something that is away, wrong or not there."""
    from pymongo.errors import PyMongoError

    return isinstance(error, (AmstraxError, PyMongoError, OSError))

"""The Bokeh server with the pages: address, TLS, log-in, and HTTP headers."""

import asyncio
import ipaddress
import logging
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bokeh.application import Application
from bokeh.application.handlers.function import FunctionHandler
from bokeh.document import Document
from bokeh.embed.bundle import bundle_for_objs_and_resources
from bokeh.embed.elements import html_page_for_render_items
from bokeh.embed.util import RenderItem
from bokeh.models import Div
from bokeh.server.auth_provider import NullAuth
from bokeh.server.server import BaseServer
from bokeh.server.tornado import BokehTornado
from bokeh.server.util import bind_sockets
from bokeh.server.views.auth_request_handler import AuthRequestHandler
from bokeh.server.views.autoload_js_handler import AutoloadJsHandler
from bokeh.server.views.ws import WSHandler
from bokeh.settings import settings as bokeh_settings
from bokeh.util.token import generate_jwt_token, generate_session_id
from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop
from tornado.web import HTTPError, OutputTransform, RedirectHandler, RequestHandler, authenticated

from amstrax.dashboard import render
from amstrax.dashboard.logins import UserAuth, lasting_key, login_of
from amstrax.dashboard.page import Page, arguments_of, describe
from amstrax.dashboard.processing_page import ProcessingPage
from amstrax.dashboard.run_page import DataPage, EventsPage, RunPage
from amstrax.dashboard.runs_page import ComparePage, RunsPage
from amstrax.dashboard.site import Site
from amstrax.dashboard.storage_page import StoragePage
from amstrax.dashboard.weeks_page import LogPage, TrendsPage
from amstrax.exceptions import UsageError

log = logging.getLogger(__name__)

PAGES: tuple[type[Page], ...] = (
    *(RunsPage, RunPage, DataPage, EventsPage, ComparePage, ProcessingPage, LogPage, TrendsPage),
    StoragePage,
)

#: Lifetime of sessions without a browser, and interval of the check for them [ms]. A browser that
#: comes later, as under load, costs the page once more
_UNUSED, _CHECK = 15_000, 5000
#: Rounds of the event loop between two documents; a request takes about as many
_ROUNDS = 2
#: Largest message or form from a browser [bytes]
_LARGEST = 1_000_000
#: Element of a page that its document is put into
_PLACE = "document"
#: Large parts of Bokeh that no page uses
_NOT_USED = ("bokeh-gl", "bokeh-mathjax", "bokeh-api")

#: Bokeh needs 'unsafe-eval' for templates of cells and CustomJS. Nothing is loaded from other
#: hosts, and no page may be framed
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; "
    "script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}


class Headers(OutputTransform):
    """Adds headers to every answer, also of Bokeh's handlers."""

    def __init__(self, request: Any):
        self._request = request

    def transform_first_chunk(
        self, status_code: int, headers: Any, chunk: bytes, finishing: bool
    ) -> tuple[int, Any, bytes]:
        for name, value in _HEADERS.items():
            headers[name] = value
        # Bokeh lets other sites load the script that starts a session
        headers.pop("Access-Control-Allow-Origin", None)
        if "/static/" not in self._request.path:
            headers["Cache-Control"] = "no-store"
        return status_code, headers, chunk


class Tornado(BokehTornado):
    """Bokeh's server, whose pages load only the parts of Bokeh that they use."""

    def resources(self, absolute_url: str | bool | None = None) -> Any:
        found = super().resources(absolute_url)
        found.components = [name for name in found.components if name not in _NOT_USED]
        return found

    def get_handler_delegate(
        self, request: Any, target_class: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """Return the handler of a request, in place of some of Bokeh one of ours."""
        target_class = _HANDLERS.get(target_class, target_class)
        return super().get_handler_delegate(request, target_class, *args, **kwargs)


class SocketHandler(WSHandler):
    """Websocket of a page, which is refused without log-in: Bokeh would open it, and then fail."""

    async def get(self, *args: Any, **kwargs: Any) -> None:
        """Open the websocket, or answer that it is forbidden, which is logged as one line."""
        if self.current_user is None:
            self.set_status(403)
            await self.finish()
            # What asks for a websocket sends no other request
            self.request.connection.close()
            return
        await super().get(*args, **kwargs)


class AutoloadHandler(AutoloadJsHandler):
    """Script that starts a page in another one, refused likewise."""

    async def get_session(self) -> Any:
        """Return the session of the page; the answer is that it is forbidden without log-in."""
        if self.current_user is None:
            raise HTTPError(403)
        return await super().get_session()


_HANDLERS = {WSHandler: SocketHandler, AutoloadJsHandler: AutoloadHandler}


class ProxiedServer(HTTPServer):
    """Server behind a proxy that sends the address of the browser in X-Forwarded-For.

    tornado prefers X-Real-IP, by which visitors could choose their address if the proxy does not
    overwrite it: it is ignored.
    """

    def start_request(self, server_conn: Any, request_conn: Any) -> Any:
        delegate: Any = super().start_request(server_conn, request_conn)
        received = delegate.headers_received

        def headers_received(start_line: Any, headers: Any) -> Any:
            headers.pop("X-Real-Ip", None)
            return received(start_line, headers)

        delegate.headers_received = headers_received
        return delegate


class StartHandler(RequestHandler):
    """Answers with a number of this start of the server, for pages that lost their connection."""

    def initialize(self, start: str) -> None:
        self._start = start

    def get(self) -> None:
        self.write(self._start)


class PageHandler(FunctionHandler):
    """Makes a page; the signed token of its session holds the user and address of the request."""

    def __init__(self, site: Site, page: type[Page]):
        def make(doc: Document) -> None:
            try:
                page(site, doc)
            except Exception as error:
                # Its websocket would wait for a document that does not come
                doc.add_root(Div(text=render.html("message.html", troubles=[describe(error)])))

        super().__init__(make)
        self._site = site

    async def on_session_created(self, session_context: Any) -> None:
        """Wait for the turn of this page, whose document is made next.

        Documents of many pages would otherwise be made in a row, and requests wait for all of them.
        """
        async with self._site.turn:
            for _ in range(_ROUNDS):
                await asyncio.sleep(0)

    def process_request(self, request: Any) -> dict[str, Any]:
        login = login_of(self._site, request)
        xsrf = request.cookies.get("_xsrf")
        return {
            "user": "" if login is None else login.user,
            "login": "" if login is None else login.number,
            "peer": request.remote_ip,
            "xsrf": "" if xsrf is None else xsrf.value,
        }


class ShellHandler(AuthRequestHandler):
    """Answers with a page before its document is made, which its websocket asks for.

    A document takes a tenth of a second, which answers to other browsers do not wait for.
    """

    def initialize(self, site: Site, page: type[Page], handler: PageHandler, bundle: Any) -> None:
        self._site, self._page, self._handler, self._bundle = site, page, handler, bundle

    @authenticated
    def get(self) -> None:
        site, page, tornado = self._site, self._page, self.application
        request = self._handler.process_request(self.request)
        token = generate_jwt_token(
            generate_session_id(tornado.secret_key, signed=True),
            secret_key=tornado.secret_key,
            signed=True,
            expiration=tornado.session_token_expiration,
            # The token of a session is part of the page, and must not contain cookies
            extra_payload={
                "headers": {"Host": self.request.host},
                "cookies": {},
                "arguments": self.request.arguments,
                **request,
            },
        )
        html = html_page_for_render_items(
            self._bundle,
            {},
            [RenderItem(token=token, elementid=_PLACE, use_for_title=True)],
            f"{page.title_of(arguments_of(self.request))} · amstrax {site.detector.upper()}",
            template=render.template("page.html"),
            template_variables={
                "detector": site.detector.upper(),
                "page": page.path,
                "has_table": page.has_table,
                "start": site.start,
                "user": request["user"] if site.has_users else "",
                "may_log_out": site.proxy_users is None or not site.proxy_users.find(self.request),
                "may_act": site.may_act(request["user"], request["login"]),
                "actions": site.actions,
                "xsrf": request["xsrf"],
            },
        )
        self.set_header("Content-Type", "text/html")
        self.write(html)


def is_loopback(address: str) -> bool:
    """Return whether only this machine can reach an address."""
    if address == "localhost":
        return True
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def make_server(
    site: Site,
    address: str,
    port: int,
    origins: Sequence[str] = (),
    certificate: Path | None = None,
    key: Path | None = None,
    behind_proxy: bool = False,
) -> BaseServer:
    """Return a server that listens, on any free port for 0, but is not started.

    `origins` are other names, as ``HOST:PORT``, under which browsers reach it. With `behind_proxy`
    it trusts X-Forwarded-For and X-Forwarded-Proto.

    Raises
    ------
    UsageError
        If others could reach it without log-in, or could read passwords.
    OSError
        If it cannot listen there.
    """
    if not is_loopback(address):
        if not site.has_users:
            raise UsageError(
                f"--address {address} can be reached by others: name a file of users with --users, "
                "or the setting AMSTRAX_DASHBOARD_USERS, to make them log in; or --user_header"
            )
        if certificate is None and not behind_proxy:
            raise UsageError(
                f"--address {address} without TLS would send passwords unencrypted: give "
                "--certificate and --key, or --behind_proxy where a proxy has them"
            )
    # Override the environment (BOKEH_RESOURCES, BOKEH_ALLOW_WS_ORIGIN)
    bokeh_settings.resources = "server"
    bokeh_settings.allowed_ws_origin = []
    # It would look for mistakes of programmers in each page: an eighth of the time of a request
    bokeh_settings.perform_document_validation = False
    handlers = {page: PageHandler(site, page) for page in PAGES}
    applications = {f"/{page.path}": Application(its) for page, its in handlers.items()}
    options: dict[str, Any] = {"xheaders": behind_proxy, "max_body_size": _LARGEST}
    if certificate is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, key)
        options["ssl_options"] = context
    sockets, port = bind_sockets(address, port)
    names = ["localhost", "127.0.0.1"] if is_loopback(address) else []
    host = f"[{address}]" if ":" in address else address
    own = [f"{name}:{port}" for name in dict.fromkeys([*names, host])]
    tornado = Tornado(
        applications,
        extra_websocket_origins=[*own, *origins],
        auth_provider=UserAuth(site) if site.has_users else NullAuth(),
        sign_sessions=True,
        secret_key=lasting_key(f"sessions of {site.detector} at {address}:{port}"),
        xsrf_cookies=True,
        xsrf_cookie_kwargs={"httponly": True, "samesite": "Lax"},
        include_cookies=[],
        include_headers=["Host"],
        websocket_max_message_size_bytes=_LARGEST,
        unused_session_lifetime_milliseconds=_UNUSED,
        check_unused_sessions_milliseconds=_CHECK,
        use_index=False,
        extra_patterns=[
            (r"/", RedirectHandler, {"url": "runs", "permanent": False}),
            (r"/start", StartHandler, {"start": site.start}),
        ],
        transforms=[Headers],
    )
    bundle = bundle_for_objs_and_resources(None, tornado.resources())
    # Before Bokeh's own, which makes the document first
    tornado.add_handlers(
        ".*",
        [
            (
                f"/{page.path}/?",
                ShellHandler,
                {"site": site, "page": page, "handler": its, "bundle": bundle},
            )
            for page, its in handlers.items()
        ],
    )
    http = (ProxiedServer if behind_proxy else HTTPServer)(tornado, **options)
    http.add_sockets(sockets)
    return BaseServer(IOLoop.current(), tornado, http)

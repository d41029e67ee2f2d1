"""Log-in to the dashboard, by the hooks that Bokeh's server has for that."""

import logging
from typing import Any
from urllib.parse import urlsplit

from bokeh.server.auth_provider import AuthProvider, NullAuth
from tornado.ioloop import IOLoop
from tornado.web import HTTPError, RequestHandler

from amstrax.dashboard import render
from amstrax.dashboard.logins import LIFETIME
from amstrax.dashboard.site import Site
from amstrax.exceptions import AmstraxError

log = logging.getLogger(__name__)

COOKIE = "amstrax_login"


def provider(site: Site) -> AuthProvider:
    """Return what Bokeh's server asks who a request is from."""
    return NullAuth() if site.logins is None else PasswordAuth(site)


def login_of(site: Site, request: Any) -> Any:
    """Return the `Login` that a request's cookie stands for, or None."""
    cookie = request.cookies.get(COOKIE)
    if cookie is None or site.logins is None:
        return None
    return site.logins.find(cookie.value)


class PasswordAuth(AuthProvider):
    """Lets those in who have logged in with a password."""

    def __init__(self, site: Site):
        self._site = site
        self._login = type("Login", (LoginHandler,), {"site": site})
        self._logout = type("Logout", (LogoutHandler,), {"site": site})
        super().__init__()

    @property
    def get_user(self) -> Any:
        def user(handler: Any) -> str | None:
            login = login_of(self._site, handler.request)
            return None if login is None else login.user

        return user

    @property
    def get_user_async(self) -> None:
        return None

    @property
    def get_login_url(self) -> None:
        return None

    @property
    def login_url(self) -> str:
        return "/login"

    @property
    def login_handler(self) -> Any:
        return self._login

    @property
    def logout_url(self) -> str:
        return "/logout"

    @property
    def logout_handler(self) -> Any:
        return self._logout


class LoginHandler(RequestHandler):
    """Asks for name and password."""

    site: Site

    def get(self) -> None:
        """Show the form."""
        self._show("")

    async def post(self) -> None:
        """Check what is in the form; tornado has checked before that it is ours (XSRF)."""
        logins = self.site.logins
        assert logins is not None
        name, password = self.get_body_argument("name", ""), self.get_body_argument("password", "")
        wait = logins.wait(name)
        if wait:
            log.warning(
                "log-in as %r from %s refused: too often", name[:64], self.request.remote_ip
            )
            self.set_status(429)
            self._show(f"Too many wrong passwords for this name: wait {wait:.0f} s.")
            return
        try:
            secret = await IOLoop.current().run_in_executor(
                self.site.pool, logins.log_in, name, password
            )
        except AmstraxError as error:
            log.error("nobody can log in: %s", error)
            self.set_status(503)
            self._show(
                "Nobody can log in now: whoever runs the dashboard finds the reason in its log."
            )
            return
        if secret is None:
            log.warning("log-in as %r from %s refused", name[:64], self.request.remote_ip)
            self.set_status(401)
            self._show("Name or password is wrong.")
            return
        log.info("%s logged in from %s", name, self.request.remote_ip)
        self.set_cookie(
            COOKIE,
            secret,
            max_age=int(LIFETIME),
            httponly=True,
            samesite="Lax",
            secure=self.request.protocol == "https",
            path="/",
        )
        self.redirect(own_path(self.get_argument("next", "/")))

    def _show(self, message: str) -> None:
        self.set_header("Cache-Control", "no-store")
        self.write(
            render.template("login.html").render(
                message=message,
                xsrf=self.xsrf_form_html(),
                next=own_path(self.get_argument("next", "/")),
                detector=self.site.detector.upper(),
            )
        )


class LogoutHandler(RequestHandler):
    """Ends a log-in."""

    site: Site

    def get(self) -> None:
        """Refuse: a link on another page must not log anybody out."""
        raise HTTPError(405)

    def post(self) -> None:
        """Log out; tornado has checked before that the form is ours (XSRF)."""
        cookie = self.request.cookies.get(COOKIE)
        login = login_of(self.site, self.request)
        if cookie is not None and self.site.logins is not None:
            self.site.logins.log_out(cookie.value)
        if login is not None:
            log.info("%s logged out", login.user)
        self.clear_cookie(COOKIE, path="/")
        self.redirect("/login")


def own_path(address: str) -> str:
    """Return an address if it is a page of this server, else that of the first one."""
    parts = urlsplit(address)
    is_own = not parts.scheme and not parts.netloc and address.startswith("/")
    is_plain = not address.startswith(("//", "/\\")) and address.isprintable()
    return address if is_own and is_plain and "\\" not in address else "/"

"""Log-in to the dashboard, by the hooks that Bokeh's server has for that."""

import asyncio
import logging
import math
from typing import Any
from urllib.parse import urlsplit

from bokeh.server.auth_provider import AuthProvider, NullAuth
from tornado.web import HTTPError, RequestHandler

from amstrax.dashboard import render
from amstrax.dashboard.logins import LIFETIME, QueueFull, TooManyAttempts
from amstrax.dashboard.site import Site
from amstrax.exceptions import AmstraxError

log = logging.getLogger(__name__)

COOKIE = "amstrax_login"
#: By this a browser is known in which somebody has logged in before, for so long [s]
BROWSER_COOKIE, BROWSER_LIFETIME = "amstrax_browser", 90 * 86400


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
        browser = self.request.cookies.get(BROWSER_COOKIE)
        try:
            granted = await asyncio.wrap_future(
                logins.attempt(
                    name,
                    password,
                    self.request.remote_ip or "",
                    "" if browser is None else browser.value,
                )
            )
        except TooManyAttempts as error:
            log.warning(
                "log-in as %r from %s refused: too often", name[:64], self.request.remote_ip
            )
            wait = math.ceil(error.wait)
            self._refuse(429, f"Too many wrong passwords: wait {wait} s.", wait)
            return
        except QueueFull:
            self._refuse(503, "Too many people log in just now: try again.", 1)
            return
        except AmstraxError as error:
            log.error("nobody can log in: %s", error)
            self._refuse(
                503,
                "Nobody can log in now: whoever runs the dashboard finds the reason in its log.",
            )
            return
        if granted is None:
            log.warning("log-in as %r from %s refused", name[:64], self.request.remote_ip)
            self._refuse(401, "Name or password is wrong.")
            return
        log.info("%s logged in from %s", name, self.request.remote_ip)
        for cookie, value, lifetime in (
            (COOKIE, granted.secret, LIFETIME),
            (BROWSER_COOKIE, granted.browser, BROWSER_LIFETIME),
        ):
            self.set_cookie(
                cookie,
                value,
                max_age=int(lifetime),
                httponly=True,
                samesite="Lax",
                secure=self.request.protocol == "https",
                path="/",
            )
        self.redirect(own_path(self.get_argument("next", "/")))

    def _refuse(self, status: int, message: str, wait: int = 0) -> None:
        self.set_status(status)
        if wait:
            self.set_header("Retry-After", wait)
        self._show(message)

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

"""Log-in to the dashboard: passwords, limits on guessing, and the hooks of Bokeh's server.

Passwords are kept as bcrypt hashes, one ``NAME:HASH`` a line, in a file that only its owner can
read. Log-ins and counts of attempts are kept in memory, until the dashboard ends.

An attempt is counted before its password is checked, and uncounted if that is right, so parallel
attempts count too. Attempts are counted

- by name and address together, with pauses that double,
- by name and by address, with short constant pauses, unless that name has logged in from that
  address before,
- in a browser that has logged in under that name before (a signed cookie), by browser alone. So
  guesses by others do not lock a user out there, not even from the same address.
"""

import asyncio
import hmac
import ipaddress
import logging
import math
import re
import secrets
import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from bokeh.server.auth_provider import AuthProvider
from bokeh.util.token import get_token_payload
from tornado.web import HTTPError, RequestHandler

from amstrax import settings, strict_json
from amstrax.dashboard import render
from amstrax.exceptions import AmstraxError, InvalidOption

if TYPE_CHECKING:
    from amstrax.dashboard.site import Site

log = logging.getLogger(__name__)

#: Duration of a log-in [s]
LIFETIME = 12 * 3600.0
#: File with the secret of `lasting_key`
SECRET_FILE = "dashboard_secret"
#: Threads that check passwords, and limit on the attempts that wait for one
THREADS, QUEUE = 2, 16
#: Number of names, addresses and browsers whose attempts are kept, the newest of each
MOST_KEYS = 10_000
#: Longest password, the limit of bcrypt [bytes], and shortest [characters]
LONGEST, SHORTEST = 72, 10
#: Cookie of a log-in
COOKIE = "amstrax_login"
#: Cookie of a browser with an earlier log-in, and its lifetime [s]
BROWSER_COOKIE, BROWSER_LIFETIME = "amstrax_browser", 90 * 86400

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
#: Names of users and of headers, as of a proxy
_PROXY_NAME, _HEADER = re.compile(r"[A-Za-z0-9_.@-]{1,64}"), re.compile(r"[A-Za-z0-9-]{1,64}")
_HASH = re.compile(r"\$2[abxy]\$(0[4-9]|[12]\d|3[01])\$[./A-Za-z0-9]{53}")
#: Hash that matches no password; checked if the file has no users
_NOBODYS = b"$2b$12$BfFHHWdcODJtM6VnRzDEpOTKNMZA.NvFB0L2vjb3CaPwREZtyAyVO"


def lasting_key(purpose: str) -> bytes:
    """Return a key that is the same after a restart, and another one for each purpose.

    It is derived from a secret file of the user who starts the dashboard, in the folder of
    `amstrax.settings.local_folder`. If the file cannot be made, the key lasts until the end of the
    process, with a warning. If others can read it, or it is damaged, InvalidOption is raised.
    """
    path = settings.local_folder() / SECRET_FILE
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            strict_json.write_text(path, secrets.token_hex(32), mode=0o600)
        mode, secret = path.stat().st_mode, path.read_bytes()
    except OSError as error:
        log.warning(
            "%s cannot be used (%s): after a restart, open pages load again, and browsers are "
            "not known",
            *(path, error.strerror or error),
        )
        return secrets.token_bytes(32)
    if mode & 0o077:
        raise InvalidOption(f"others can read {path}: chmod 600 {path}, or remove it")
    if len(secret) < 64:
        raise InvalidOption(f"{path} is damaged: remove it, and start the dashboard again")
    return hmac.digest(secret, purpose.encode(), "sha256")


def check_name(name: str) -> str:
    """Return a user name, or raise InvalidOption if it is not valid."""
    if not _NAME.fullmatch(name):
        raise InvalidOption(
            f"{name!r} cannot be the name of a user: use up to 64 letters, digits and _ . -"
        )
    return name


class PasswordFile:
    """File with user names and hashes of passwords; `set` makes it."""

    def __init__(self, path: Path):
        self.path = path
        self._salt = secrets.token_bytes(32)

    def read(self) -> dict[str, bytes]:
        """Return the hash of each user's password.

        Raises InvalidOption if the file is unreadable or malformed, or if others can read it.
        """
        try:
            mode = self.path.stat().st_mode
            text = self.path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidOption(
                f"the file of users {self.path} cannot be read ({error}): `amstrax dashboard "
                "--set-password NAME` makes one"
            ) from None
        if mode & 0o077:
            raise InvalidOption(f"others can read {self.path}: chmod 600 {self.path}")
        users = {}
        for number, line in enumerate(text.splitlines(), 1):
            name, _, hashed = line.strip().partition(":")
            if not name or name.startswith("#"):
                continue
            if not _NAME.fullmatch(name) or not _HASH.fullmatch(hashed):
                raise InvalidOption(
                    f"{self.path}, line {number} is not NAME:HASH: remove it, and use `amstrax "
                    "dashboard --set-password NAME`"
                )
            users[name] = hashed.encode()
        return users

    def set(self, name: str, password: str) -> None:
        """Set the password of an old or new user.

        Raises InvalidOption for an invalid name or password, OSError if writing fails.
        """
        import bcrypt

        check_name(name)
        if not len(password) >= SHORTEST or len(password.encode()) > LONGEST:
            raise InvalidOption(
                f"a password has {SHORTEST} characters at least, and {LONGEST} bytes at most"
            )
        users = self.read() if self.path.exists() else {}
        users[name] = bcrypt.hashpw(password.encode(), bcrypt.gensalt())
        text = "".join(f"{user}:{hashed.decode()}\n" for user, hashed in sorted(users.items()))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        strict_json.write_text(self.path, text, mode=0o600)

    def is_right(self, name: str, password: str) -> bool:
        """Return whether this is the password of a user; raises as `read` does.

        For an unknown name the hash of some user is checked, always the same one, so the time does
        not tell which names exist, whatever the costs of the hashes.
        """
        import bcrypt

        users = self.read()
        hashes = sorted(users.values()) or [_NOBODYS]
        digest = hmac.digest(self._salt, name.encode("utf-8", "replace"), "sha256")
        hashed = users.get(name, hashes[int.from_bytes(digest) % len(hashes)])
        given = password.encode()
        if len(given) > LONGEST:
            given = b""
        try:
            is_right = bcrypt.checkpw(given, hashed)
        except ValueError:
            return False
        return is_right and name in users


class Login(NamedTuple):
    """A log-in: user, public number, and end (by the clock of `Logins`)."""

    user: str
    number: str
    until: float


class Granted(NamedTuple):
    """Cookies of a browser after log-in: a secret for `Logins.find`, and its signed mark."""

    secret: str
    browser: str


class TooManyAttempts(AmstraxError):
    """Attempts to log in are refused for `wait` seconds."""

    def __init__(self, wait: float):
        super().__init__(f"too many attempts to log in: wait {wait:.0f} s")
        self.wait = wait


class QueueFull(AmstraxError):
    """Too many attempts to log in wait to be checked."""


class Limit:
    """Counts of attempts by key, and the pause after too many. Callers hold a lock.

    `free` attempts are without a pause. The first `pause` doubles with each further attempt, up to
    the `longest` [s]. A key is forgotten after the time `memory` without attempts [s].
    """

    def __init__(self, free: int, pause: float, longest: float, memory: float):
        self.free, self.pause, self.longest, self.memory = free, pause, longest, memory
        self._counts: OrderedDict[Hashable, tuple[int, float]] = OrderedDict()

    def wait(self, key: Hashable, now: float) -> float:
        """Return the time until the next attempt is allowed [s]."""
        count, last = self._count(key, now)
        if count < self.free:
            return 0.0
        pause = min(self.pause * 2.0 ** min(count - self.free, 60), self.longest)
        return max(last + pause - now, 0.0)

    def add(self, key: Hashable, now: float) -> None:
        """Count an attempt."""
        _put_last(self._counts, key, (self._count(key, now)[0] + 1, now))

    def take_back(self, key: Hashable) -> None:
        """Undo the counting of an attempt."""
        count, last = self._counts.get(key, (0, 0.0))
        if count > 1:
            self._counts[key] = count - 1, last
        else:
            self.forget(key)

    def forget(self, key: Hashable) -> None:
        """Undo the counting of all attempts."""
        self._counts.pop(key, None)

    def _count(self, key: Hashable, now: float) -> tuple[int, float]:
        count, last = self._counts.get(key, (0, now))
        return (count, last) if last + self.memory > now else (0, now)


def _put_last(entries: OrderedDict[Hashable, Any], key: Hashable, value: Any) -> None:
    """Set the newest entry; drop the oldest one above `MOST_KEYS`."""
    entries[key] = value
    entries.move_to_end(key)
    if len(entries) > MOST_KEYS:
        entries.popitem(last=False)


class _Known:
    """Log-ins by a key; `clock` returns a monotonic time [s]."""

    def __init__(self, clock: Callable[[], float]):
        self._clock = clock
        self._lock = threading.Lock()
        self._logins: OrderedDict[Hashable, Login] = OrderedDict()

    def is_valid(self, number: str) -> bool:
        """Return whether the log-in of this number is valid."""
        with self._lock:
            now = self._clock()
            return any(
                login.number == number and login.until > now for login in self._logins.values()
            )


class Logins(_Known):
    """Log-ins of users of a file, and attempts to log in."""

    def __init__(self, passwords: PasswordFile, clock: Callable[[], float] = time.monotonic):
        super().__init__(clock)
        self.passwords = passwords
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="passwords")
        self._queued = 0
        self._key = lasting_key(f"browsers of {passwords.path.absolute()}")
        self._strict = Limit(free=5, pause=60.0, longest=900.0, memory=86400.0)
        self._by_name = Limit(free=20, pause=10.0, longest=10.0, memory=3600.0)
        self._by_address = Limit(free=50, pause=10.0, longest=10.0, memory=3600.0)
        # Names and addresses of successful log-ins, the newest last
        self._succeeded: OrderedDict[Hashable, None] = OrderedDict()

    def attempt(
        self, name: str, password: str, address: str = "", browser: str = ""
    ) -> Future[Granted | None]:
        """Count an attempt to log in, and check its password in a thread.

        `address` is the IP address of the browser, `browser` the mark that it got at an earlier
        log-in, if any. The result is the cookies for the browser, or None if name or password is
        wrong. Raises TooManyAttempts during a pause, QueueFull if too many attempts wait.
        """
        limits = self._limits(name, network(address), browser)
        with self._lock:
            now = self._clock()
            wait = max(limit.wait(key, now) for limit, key in limits)
            if wait:
                raise TooManyAttempts(wait)
            # Known browsers can log in although others fill the queue
            if self._queued >= QUEUE * (1 + self._is_known(name, browser)):
                raise QueueFull("too many attempts to log in wait: try again")
            for limit, key in limits:
                limit.add(key, now)
            self._queued += 1
        return self._pool.submit(self._check, name, password, address, browser, limits)

    def _check(
        self,
        name: str,
        password: str,
        address: str,
        browser: str,
        limits: list[tuple[Limit, Hashable]],
    ) -> Granted | None:
        is_wrong = False
        try:
            is_wrong = not self.passwords.is_right(name, password)
        finally:
            # An attempt that could not be checked does not count either
            with self._lock:
                self._queued -= 1
                if not is_wrong:
                    for limit, key in limits:
                        limit.take_back(key)
        if is_wrong:
            return None
        with self._lock:
            strict, key = limits[0]
            strict.forget(key)
            _put_last(self._succeeded, (name, network(address)), None)
            now = self._clock()
            for old in [old for old, login in self._logins.items() if login.until <= now]:
                del self._logins[old]
            secret = secrets.token_urlsafe(32)
            self._logins[secret] = Login(name, secrets.token_urlsafe(12), now + LIFETIME)
        if not self._is_known(name, browser):
            number = secrets.token_urlsafe(12)
            browser = f"{number}.{self._signature(name, number)}"
        return Granted(secret, browser)

    def _limits(self, name: str, address: str, browser: str) -> list[tuple[Limit, Hashable]]:
        """Return the limits for an attempt, each with its key, the strict limit first."""
        if self._is_known(name, browser):
            return [(self._strict, browser)]
        name = name[:65]  # longer than any user's
        limits: list[tuple[Limit, Hashable]] = [(self._strict, (name, address))]
        if (name, address) not in self._succeeded:
            limits += [(self._by_name, name), (self._by_address, address)]
        return limits

    def _is_known(self, name: str, browser: str) -> bool:
        """Return whether a browser has logged in under a name before."""
        number, _, signature = browser.partition(".")
        expected = self._signature(name, number)
        return hmac.compare_digest(signature.encode("utf-8", "replace"), expected.encode())

    def _signature(self, name: str, number: str) -> str:
        text = f"{number}.{name}".encode("utf-8", "replace")
        return hmac.digest(self._key, text, "sha256").hex()

    def close(self) -> None:
        """Cancel queued attempts."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def find(self, secret: str) -> Login | None:
        """Return the log-in with this secret, if it is valid."""
        with self._lock:
            login = self._logins.get(secret)
            return login if login is not None and login.until > self._clock() else None

    def log_out(self, secret: str) -> None:
        """End a log-in."""
        with self._lock:
            self._logins.pop(secret, None)


class ProxyUsers(_Known):
    """Users whom a trusted proxy, such as one of a single sign-on, names in a header.

    Any process on a trusted address can name any user. The header is ignored from other addresses,
    with a warning once for each. `proxies` are addresses and networks of the connection, not as
    X-Forwarded-For says. Raises InvalidOption for invalid ones or none, and for an invalid header.
    """

    def __init__(
        self, header: str, proxies: Sequence[str], clock: Callable[[], float] = time.monotonic
    ):
        super().__init__(clock)
        if not _HEADER.fullmatch(header):
            raise InvalidOption(f"{header!r} cannot be the name of a header: write X-Remote-User")
        if not proxies:
            raise InvalidOption(f"header {header} needs the addresses of the proxies that set it")
        self.header = header
        try:
            self._proxies = [ipaddress.ip_network(proxy) for proxy in proxies]
        except ValueError as error:
            raise InvalidOption(f"proxies are addresses or networks: {error}") from None
        self._warned: OrderedDict[Hashable, None] = OrderedDict()

    def find(self, request: Any) -> Login | None:
        """Return the log-in of the user whom the proxy of a request names, if it does."""
        name = request.headers.get(self.header)
        if name is None:
            return None
        peer = str(request.connection.context.address[0])
        if not self._is_trusted(peer):
            self._warn(peer, "%s from %s is ignored: it is none of the trusted proxies", peer)
            return None
        if not _PROXY_NAME.fullmatch(name):
            shown = name[:64]
            self._warn(shown, "%s %r is no name of a user: up to 64 letters, digits, _.@-", shown)
            return None
        with self._lock:
            now = self._clock()
            login = self._logins.get(name)
            if login is None or login.until < now + LIFETIME / 2:
                number = secrets.token_urlsafe(12) if login is None else login.number
                login = Login(name, number, now + LIFETIME)
                _put_last(self._logins, name, login)
            return login

    def _is_trusted(self, peer: str) -> bool:
        try:
            ip = _ip(peer)
        except ValueError:
            return False
        return any(ip in proxy for proxy in self._proxies)

    def _warn(self, key: str, text: str, value: str) -> None:
        with self._lock:
            is_new = key not in self._warned
            _put_last(self._warned, key, None)
        if is_new:
            log.warning(text, self.header, value)


def network(address: str) -> str:
    """Return the address to count attempts by; for IPv6 its /64, all of which a user may own."""
    try:
        ip = _ip(address)
    except ValueError:
        return address[:64]
    return str(ipaddress.ip_network((ip, 64), strict=False) if ip.version == 6 else ip)


def _ip(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return an IP address without zone, IPv4 if it is one in IPv6; or raise ValueError."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    return getattr(ip, "ipv4_mapped", None) or ip


def login_of(site: "Site", request: Any) -> Login | None:
    """Return the log-in of a request, by the header of a trusted proxy or a cookie, if valid."""
    if site.proxy_users is not None:
        login = site.proxy_users.find(request)
        if login is not None:
            return login
    cookie = request.cookies.get(COOKIE)
    if cookie is None or site.logins is None:
        return None
    return site.logins.find(cookie.value)


class UserAuth(AuthProvider):
    """Hooks for users who log in with a password, or whom a proxy names."""

    # Replace properties of AuthProvider
    login_url, logout_url = "/login", "/logout"
    login_handler: Any = None
    logout_handler: Any = None
    get_user: Any = None

    def __init__(self, site: "Site"):
        def get_user(handler: RequestHandler) -> str | None:
            login = login_of(site, handler.request)
            if login is None or not _is_own_page(handler.request, login.user):
                return None
            return login.user

        self.get_user = get_user
        login_handler = LoginHandler if site.logins is not None else NoLoginHandler
        self.login_handler = type("Login", (login_handler,), {"site": site})
        self.logout_handler = type("Logout", (LogoutHandler,), {"site": site})
        super().__init__()


def _is_own_page(request: Any, user: str) -> bool:
    """Return whether a request, if it is for a websocket, has the token of a page of this user.

    Bokeh checks the signature of the token.
    """
    given = request.headers.get("Sec-WebSocket-Protocol")
    if given is None:
        return True
    try:
        return get_token_payload(given.split(",")[-1].strip()).get("user") == user
    except (ValueError, LookupError, AttributeError, zlib.error):
        return False


class NoLoginHandler(RequestHandler):
    """Refuse requests without a user name from the proxy, if there is no log-in by password."""

    site: "Site"

    def get(self) -> None:
        self.set_status(403)
        self.write("No user: open the dashboard at the address of its proxy, which logs you in.")


class LoginHandler(RequestHandler):
    """Form for name and password."""

    site: "Site"

    def get(self) -> None:
        self._show("")

    async def post(self) -> None:
        """Check name and password; tornado has checked the origin of the form (XSRF)."""
        logins, peer = self.site.logins, self.request.remote_ip or ""
        assert logins is not None
        name, password = self.get_body_argument("name", ""), self.get_body_argument("password", "")
        mark = self.request.cookies.get(BROWSER_COOKIE)
        browser = "" if mark is None else mark.value
        try:
            granted = await asyncio.wrap_future(logins.attempt(name, password, peer, browser))
        except TooManyAttempts as error:
            log.warning("log-in as %r from %s refused: too often", name[:64], peer)
            wait = math.ceil(error.wait)
            self._refuse(429, f"Too many wrong passwords: wait {wait} s.", wait)
            return
        except QueueFull:
            self._refuse(503, "Too many people log in just now: try again.", 1)
            return
        except AmstraxError as error:
            log.error("log-in failed for all users: %s", error)
            why = "Nobody can log in now: the reason is in the log of the dashboard."
            self._refuse(503, why)
            return
        if granted is None:
            log.warning("log-in as %r from %s refused", name[:64], peer)
            self._refuse(401, "Name or password is wrong.")
            return
        log.info("%s logged in from %s", name, peer)
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
            render.html(
                "login.html",
                message=message,
                xsrf=self.xsrf_form_html(),
                next=own_path(self.get_argument("next", "/")),
                detector=self.site.detector.upper(),
            )
        )


class LogoutHandler(RequestHandler):
    """End of a log-in."""

    site: "Site"

    def get(self) -> None:
        """Refuse: a link on another page must not log anybody out."""
        raise HTTPError(405)

    def post(self) -> None:
        """Log out; tornado has checked the origin of the form (XSRF)."""
        login = login_of(self.site, self.request)
        if login is not None and self.site.logins is not None:
            self.site.logins.log_out(self.request.cookies[COOKIE].value)
            log.info("%s logged out", login.user)
        self.clear_cookie(COOKIE, path="/")
        self.redirect("/login")


def own_path(address: str) -> str:
    """Return an address if it is a page of this server, else that of the first page."""
    parts = urlsplit(address)
    is_own = not parts.scheme and not parts.netloc and address.startswith("/")
    is_plain = not address.startswith(("//", "/\\")) and address.isprintable()
    return address if is_own and is_plain and "\\" not in address else "/"

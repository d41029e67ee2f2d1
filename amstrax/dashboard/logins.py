"""Passwords, log-ins, and limits on guessing.

Passwords are kept as bcrypt hashes, one ``NAME:HASH`` a line, in a file that only its owner can
read. Log-ins and counts of attempts are kept in memory: a restart of the dashboard ends them.

An attempt is counted before its password is checked, and taken back if that is right, so parallel
guesses count too. Attempts are counted

- by name and address together, with pauses that double,
- by name and by address, with short pauses that do not grow, unless that name has logged in from
  that address before,
- or else, in a browser that has logged in under that name before (a signed cookie), by browser
  alone. So guesses by others do not keep a user out there, not even from the same address.
"""

import hmac
import ipaddress
import os
import re
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from amstrax.exceptions import AmstraxError, InvalidOption

#: How long one is logged in [s]
LIFETIME = 12 * 3600.0
#: Threads that check passwords, and attempts that may wait for one
THREADS, QUEUE = 2, 16
#: Names, addresses and browsers whose attempts are kept, of each the newest
MOST_KEYS = 10_000
#: bcrypt looks at so many bytes of a password, and refuses longer ones
LONGEST, SHORTEST = 72, 10

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_HASH = re.compile(r"\$2[abxy]\$(0[4-9]|[12]\d|3[01])\$[./A-Za-z0-9]{53}")
#: Of no password; checked where the file has no user
_NOBODYS = b"$2b$12$BfFHHWdcODJtM6VnRzDEpOTKNMZA.NvFB0L2vjb3CaPwREZtyAyVO"


def check_name(name: str) -> str:
    """Return a name of a user.

    Raises
    ------
    InvalidOption
        When it cannot be one.
    """
    if not _NAME.fullmatch(name):
        raise InvalidOption(
            f"{name!r} cannot be the name of a user: up to 64 letters, digits and _ . - can"
        )
    return name


class PasswordFile:
    """File with names and hashes of passwords.

    Parameters
    ----------
    path
        File; `set` makes it.
    """

    def __init__(self, path: Path):
        self.path = path
        self._salt = secrets.token_bytes(32)

    def read(self) -> dict[str, bytes]:
        """Return the hash of each user's password.

        Raises
        ------
        InvalidOption
            When the file cannot be read, is no such file, or others can read it.
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
        """Set the password of a user, who need not be there.

        Raises
        ------
        InvalidOption
            For a name or password that cannot be taken.
        OSError
            When the file cannot be written.
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
        beside = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(beside, self.path)

    def is_right(self, name: str, password: str) -> bool:
        """Return whether this is the password of a user.

        For an unknown name the hash of some user is checked, always the same one, so that the time
        does not tell which names exist, whatever the costs of the hashes.

        Raises
        ------
        InvalidOption
            As in `read`.
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
    """One who has logged in: who, by which number, and until when (of the clock given)."""

    user: str
    number: str
    until: float


class Granted(NamedTuple):
    """What a browser gets at log-in: a secret for `Logins.find`, and a mark by which it is known"""

    secret: str
    browser: str


class TooManyAttempts(AmstraxError):
    """An attempt to log in is refused for so long [s]."""

    def __init__(self, wait: float):
        super().__init__(f"too many attempts to log in: wait {wait:.0f} s")
        self.wait = wait


class QueueFull(AmstraxError):
    """Too many attempts to log in wait for their check."""


class Limit:
    """Counts of attempts by key, and the pause after too many. Callers hold a lock.

    Parameters
    ----------
    free
        Attempts without a pause.
    pause
        Pause after the last of those [s]; it doubles with each further one.
    longest
        Longest pause [s].
    memory
        Time after which a key without attempts is forgotten [s].
    """

    def __init__(self, free: int, pause: float, longest: float, memory: float):
        self.free, self.pause, self.longest, self.memory = free, pause, longest, memory
        self._counts: OrderedDict[Hashable, tuple[int, float]] = OrderedDict()

    def wait(self, key: Hashable, now: float) -> float:
        """Return how long to wait before the next attempt [s]."""
        count, last = self._count(key, now)
        if count < self.free:
            return 0.0
        pause = min(self.pause * 2.0 ** min(count - self.free, 60), self.longest)
        return max(last + pause - now, 0.0)

    def add(self, key: Hashable, now: float) -> None:
        """Count an attempt."""
        self._counts[key] = self._count(key, now)[0] + 1, now
        self._counts.move_to_end(key)
        if len(self._counts) > MOST_KEYS:
            self._counts.popitem(last=False)

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


class Logins:
    """Who is logged in, and who may try to.

    Parameters
    ----------
    passwords
        Where passwords are kept.
    clock
        Returns a time that goes on [s].
    """

    def __init__(self, passwords: PasswordFile, clock: Callable[[], float] = time.monotonic):
        self.passwords = passwords
        self._clock = clock
        self._lock = threading.Lock()
        self._by_secret: dict[str, Login] = {}
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="passwords")
        self._queued = 0
        self._key = secrets.token_bytes(32)
        day = 86400.0
        self._strict = Limit(free=5, pause=60.0, longest=900.0, memory=day)
        self._by_name = Limit(free=20, pause=10.0, longest=10.0, memory=3600.0)
        self._by_address = Limit(free=50, pause=10.0, longest=10.0, memory=3600.0)
        # Name and address, of those who have logged in, the newest last
        self._succeeded: OrderedDict[Hashable, None] = OrderedDict()

    def attempt(
        self, name: str, password: str, address: str = "", browser: str = ""
    ) -> Future[Granted | None]:
        """Count an attempt to log in, and check its password in a thread.

        Parameters
        ----------
        name, password
            As given.
        address
            IP address that the attempt comes from; those of a /64 of IPv6 are one.
        browser
            Mark that the browser got at an earlier log-in, if any.

        Returns
        -------
        Future
            What a browser gets, or None when name or password is wrong.

        Raises
        ------
        TooManyAttempts
            When one has to wait.
        QueueFull
            When too many attempts wait for their check.
        """
        limits = self._limits(name, network(address), browser)
        with self._lock:
            now = self._clock()
            wait = max(limit.wait(key, now) for limit, key in limits)
            if wait:
                raise TooManyAttempts(wait)
            # Known browsers get in although others fill the queue
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
            pair = name, network(address)
            self._succeeded[pair] = None
            self._succeeded.move_to_end(pair)
            if len(self._succeeded) > MOST_KEYS:
                self._succeeded.popitem(last=False)
            now = self._clock()
            self._by_secret = {
                key: login for key, login in self._by_secret.items() if login.until > now
            }
            secret = secrets.token_urlsafe(32)
            self._by_secret[secret] = Login(name, secrets.token_urlsafe(12), now + LIFETIME)
        if not self._is_known(name, browser):
            number = secrets.token_urlsafe(12)
            browser = f"{number}.{self._signature(name, number)}"
        return Granted(secret, browser)

    def _limits(self, name: str, address: str, browser: str) -> list[tuple[Limit, Hashable]]:
        """Return the limits for an attempt, each with its key; the first is the strict one."""
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
        """Cancel the attempts that wait."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def find(self, secret: str) -> Login | None:
        """Return who has this secret, if they are logged in."""
        with self._lock:
            login = self._by_secret.get(secret)
            return login if login is not None and login.until > self._clock() else None

    def is_valid(self, number: str) -> bool:
        """Return whether the log-in of this number goes on."""
        with self._lock:
            now = self._clock()
            return any(
                login.number == number and login.until > now for login in self._by_secret.values()
            )

    def log_out(self, secret: str) -> None:
        """End a log-in."""
        with self._lock:
            self._by_secret.pop(secret, None)


def network(address: str) -> str:
    """Return the address to count attempts by: of IPv6 the /64, which one user may have."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:64]
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is None:
            return str(ipaddress.ip_network((ip, 64), strict=False))
        ip = ip.ipv4_mapped
    return str(ip)

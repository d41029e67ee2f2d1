"""Who may log in, with which password, and who is logged in.

Passwords are kept as bcrypt hashes, one ``NAME:HASH`` a line, in a file that is its owner's alone.
Log-ins are kept in memory: whoever starts the dashboard again ends them all.
"""

import os
import re
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from amstrax.exceptions import InvalidOption

#: How long one is logged in [s]
LIFETIME = 12 * 3600.0
#: After so many wrong passwords for a name, one has to wait so long [s]
MOST_FAILURES, PAUSE = 5, 60.0
#: bcrypt looks at so many bytes of a password, and refuses longer ones
LONGEST, SHORTEST = 72, 10

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
#: Of no password; checked for names that are not known, so that those take as long
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
            if not _NAME.fullmatch(name) or not hashed.startswith("$2"):
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
        """Return whether this is the password of a user; takes as long for those it does not know.

        Raises
        ------
        InvalidOption
            As in `read`.
        """
        import bcrypt

        hashed = self.read().get(name)
        given = password.encode()
        if len(given) > LONGEST:
            given = b""
        try:
            is_right = bcrypt.checkpw(given, hashed or _NOBODYS)
        except ValueError:
            return False
        return is_right and hashed is not None


class Login(NamedTuple):
    """One who has logged in: who, by which number, and until when (of the clock given)."""

    user: str
    number: str
    until: float


class Logins:
    """Who is logged in.

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
        self._failures: dict[str, tuple[int, float]] = {}

    def wait(self, name: str) -> float:
        """Return how long to wait before the next attempt for a name [s]."""
        with self._lock:
            count, last = self._failures.get(name, (0, 0.0))
            if count < MOST_FAILURES:
                return 0.0
            return max(last + PAUSE - self._clock(), 0.0)

    def log_in(self, name: str, password: str) -> str | None:
        """Return a secret by which `find` knows the user; None when the password is wrong.

        It takes a good part of a second.
        """
        is_right = self.passwords.is_right(name, password)
        with self._lock:
            now = self._clock()
            if not is_right:
                # What has been forgotten anyway is not kept
                self._failures = {
                    key: value for key, value in self._failures.items() if value[1] + PAUSE > now
                }
                self._failures[name] = (self._failures.get(name, (0, 0.0))[0] + 1, now)
                return None
            self._failures.pop(name, None)
            self._by_secret = {
                key: login for key, login in self._by_secret.items() if login.until > now
            }
            secret = secrets.token_urlsafe(32)
            self._by_secret[secret] = Login(name, secrets.token_urlsafe(12), now + LIFETIME)
            return secret

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

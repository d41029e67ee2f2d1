"""Passwords and log-ins, and what is written on pages, without a server."""

import threading
from datetime import UTC, datetime

import pytest

from amstrax.dashboard import logins as logins_
from amstrax.dashboard import render
from amstrax.dashboard.logins import (
    LIFETIME,
    Limit,
    Logins,
    PasswordFile,
    QueueFull,
    TooManyAttempts,
    lasting_key,
    network,
)
from amstrax.exceptions import InvalidOption


@pytest.fixture
def passwords(tmp_path, monkeypatch):
    """A file with the password of ann; hashed quickly."""
    import bcrypt

    salt = bcrypt.gensalt
    monkeypatch.setattr(bcrypt, "gensalt", lambda: salt(4))
    file = PasswordFile(tmp_path / "below/users")
    file.set("ann", "password of ann")
    return file


@pytest.mark.slow
def test_the_file_of_users(passwords):
    passwords.set("bob", "ünïcödë of bob")
    assert passwords.is_right("ann", "password of ann")
    assert passwords.is_right("bob", "ünïcödë of bob")
    for name, password in (("ann", ""), ("ann", "x" * 100), ("carol", "password of ann"), ("", "")):
        assert not passwords.is_right(name, password)
    passwords.set("ann", "another password")
    assert not passwords.is_right("ann", "password of ann")
    assert passwords.path.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in passwords.path.parent.iterdir()] == ["users"]
    assert "password" not in passwords.path.read_text()


def test_wrong_files_names_and_passwords(passwords):
    for name, password in (("a:b", "long enough"), ("", "long enough"), ("a\nb", "long enough")):
        with pytest.raises(InvalidOption, match="cannot be the name"):
            passwords.set(name, password)
    for password in ("short", "µ" * 40):
        with pytest.raises(InvalidOption, match="a password has"):
            passwords.set("ann", password)
    for hashed in ("plain text", "$2", "$2b$99$" + "a" * 53, "$2b$12$" + "a" * 52):
        passwords.path.write_text(f"ann:{hashed}\n")
        with pytest.raises(InvalidOption, match="line 1 is not NAME:HASH") as error:
            passwords.read()
        assert hashed not in str(error.value) or hashed == "$2"
    passwords.path.chmod(0o644)
    with pytest.raises(InvalidOption, match="chmod 600"):
        passwords.read()
    with pytest.raises(InvalidOption, match="--set-password"):
        PasswordFile(passwords.path.with_name("none")).read()


@pytest.fixture
def now():
    """The time, in a list."""
    return [0.0]


@pytest.fixture
def logins(passwords, now):
    made = Logins(passwords, lambda: now[0])
    yield made
    made.close()


def log_in(logins, password="password of ann", name="ann", address="192.0.2.1", browser=""):
    return logins.attempt(name, password, address, browser).result()


def guess(logins, number, **more):
    for _ in range(number):
        assert log_in(logins, "wrong", **more) is None


def wait(logins, **more):
    with pytest.raises(TooManyAttempts) as error:
        log_in(logins, **more)
    return error.value.wait


def test_logins_end(logins, now):
    secret = log_in(logins).secret
    login = logins.find(secret)
    assert login.user == "ann" and logins.is_valid(login.number) and login.number != secret
    assert logins.find("x") is None and not logins.is_valid("x")
    other = logins.find(log_in(logins).secret)
    logins.log_out(secret)
    assert logins.find(secret) is None and not logins.is_valid(login.number)
    assert logins.is_valid(other.number)
    now[0] += LIFETIME
    assert not logins.is_valid(other.number)


def test_who_guesses_waits_longer_each_time(logins, now):
    guess(logins, 5)
    for pause in (60, 120, 240, 480, 900, 900):
        assert wait(logins) == pause
        # To try in between changes nothing
        now[0] += pause - 1
        assert wait(logins) == 1
        now[0] += 1
        guess(logins, 1)
    now[0] += 900
    assert log_in(logins)
    # All is forgiven
    guess(logins, 5)
    assert wait(logins) == 60


def test_attempts_are_counted_before_they_are_checked(logins, monkeypatch):
    """Of attempts whose check has not even begun, too."""
    blocked = threading.Event()
    is_right = logins.passwords.is_right
    checked = []

    def check(name, password):
        blocked.wait()
        checked.append(name)
        return is_right(name, password)

    monkeypatch.setattr(logins.passwords, "is_right", check)
    futures = [logins.attempt("ann", "wrong", "192.0.2.1") for _ in range(5)]
    for _ in range(35):
        with pytest.raises(TooManyAttempts):
            logins.attempt("ann", "wrong", "192.0.2.1")
    # Those that are right, or cannot be checked, do not count in the end
    right = [logins.attempt("ann", "password of ann", "192.0.2.2") for _ in range(5)]
    logins.passwords.path.unlink()
    blocked.set()
    for future in futures + right:
        with pytest.raises(InvalidOption):
            future.result()
    assert len(checked) == 10
    logins.passwords.set("ann", "password of ann")
    for address in ("192.0.2.1", "192.0.2.2"):
        for _ in range(12):
            assert log_in(logins, address=address)


def test_nobody_is_locked_out_by_the_guesses_of_others(logins, now):
    granted = log_in(logins, address="192.0.2.1")
    # From her own address, as through a tunnel: her browser is known
    guess(logins, 5, address="192.0.2.1")
    assert wait(logins, address="192.0.2.1")
    assert log_in(logins, address="192.0.2.1", browser=granted.browser)
    # From many addresses: where she has logged in before, she can
    now[0] += 60
    assert log_in(logins, address="192.0.2.1")
    for i in range(10, 14):
        guess(logins, 5, address=f"192.0.2.{i}")
    assert wait(logins, address="192.0.2.99") == 10
    assert log_in(logins, address="192.0.2.1")
    # Elsewhere she waits a little
    now[0] += 10
    assert log_in(logins, address="192.0.2.99")
    assert log_in(logins, address="192.0.2.99", browser=granted.browser)


def test_a_known_browser_has_few_guesses_too(logins, passwords):
    browser = log_in(logins).browser
    assert log_in(logins, browser=browser).browser == browser
    guess(logins, 5, browser=browser)
    assert wait(logins, browser=browser) == 60
    # It is known for its user alone, and cannot be made up
    passwords.set("bob", "password of bob")
    for made_up in (browser, browser[:-1], f"{browser}0", ".", "", "x.y", "\u00b5.\ud800"):
        guess(logins, 1, name="bob", address=f"198.51.100.{len(made_up)}", browser=made_up)
    guess(logins, 4, name="bob", address=f"198.51.100.{len(browser)}", browser=browser)
    assert wait(logins, name="bob", address=f"198.51.100.{len(browser)}") == 60


def test_many_names_from_one_address(logins, now):
    for i in range(50):
        guess(logins, 1, name=f"name{i}", address="192.0.2.1")
    assert wait(logins, name="another", address="192.0.2.1") == 10
    assert wait(logins, name="ann", address="192.0.2.1") == 10
    assert log_in(logins, address="192.0.2.2")
    now[0] += 10
    # Own log-ins do not win new guesses at others
    assert log_in(logins, address="192.0.2.1")
    assert wait(logins, name="another", address="192.0.2.1") == 10


def test_addresses():
    assert network("192.0.2.1") == network("::ffff:192.0.2.1") == "192.0.2.1"
    assert network("2001:db8::1") == network("2001:db8::ffff:1%eth0") != network("2001:db8:1::1")
    assert len(network("x" * 1000)) == 64


def test_full_queue(logins, monkeypatch):
    blocked = threading.Event()
    is_right = logins.passwords.is_right
    browser = log_in(logins).browser
    monkeypatch.setattr(
        logins.passwords, "is_right", lambda *given: blocked.wait() and is_right(*given)
    )
    futures = [logins.attempt("ann", "x", f"192.0.2.{i}") for i in range(10, 26)]
    for _ in range(3):
        with pytest.raises(QueueFull):
            logins.attempt("ann", "password of ann", "192.0.2.100")
    known = logins.attempt("ann", "password of ann", "192.0.2.100", browser)
    blocked.set()
    assert known.result() and not any(future.result() for future in futures)
    # Who was turned away has not been counted
    guess(logins, 4, address="192.0.2.101")
    assert log_in(logins, address="192.0.2.100")


def test_memory_of_attempts_is_bounded(monkeypatch):
    monkeypatch.setattr(logins_, "MOST_KEYS", 100)
    limit = Limit(free=2, pause=60, longest=60, memory=1000)
    for i in range(1000):
        limit.add(f"name{i}", now=float(i) / 100)
        limit.add("ann", now=float(i) / 100)
    assert len(limit._counts) == 100
    assert limit.wait("ann", 10) > 0 and limit.wait("name999", 10) == limit.wait("name0", 10) == 0
    assert limit.wait("ann", 2000) == 0


def test_names_that_are_unknown_cost_what_known_ones_do(passwords, monkeypatch):
    """The hashes of a file may cost anything; a hash is checked for each attempt."""
    import bcrypt

    costs = []
    checkpw = bcrypt.checkpw

    def check(password, hashed):
        costs.append(hashed[:7])
        return checkpw(password, hashed)

    monkeypatch.setattr(bcrypt, "checkpw", check)
    names = ["ann", "carol", "", "x" * 1000, "a:b", *map(str, range(20))]
    for name in names:
        for password in ("wrong", "", "x" * 100, "password of ann"):
            assert passwords.is_right(name, password) == (
                (name, password) == ("ann", "password of ann")
            )
    assert set(costs) == {b"$2b$04$"} and len(costs) == 4 * len(names)


def test_everything_is_escaped():
    bad = "<script>alert(1)</script>\"'&"
    for name in ("message.html", "result.html", "log.html"):
        values = {"troubles": [bad], "problem": bad, "rows": [], "log": None, "why": bad}
        text = render.html(name, run_id=bad, **values)
        assert "<script>" not in text and "&lt;script&gt;" in text, name
    assert "<" not in render.text(bad)
    assert render.address("run", id=bad, x="", y=None) == (
        "run?id=%3Cscript%3Ealert%281%29%3C%2Fscript%3E%22%27%26"
    )


def test_how_values_are_written():
    time = datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert render.time(time) == render.time(time.replace(tzinfo=None)) == "2024-01-02 03:04:05"
    assert [render.length(s) for s in (None, 5, 119, 1800, 7200, 2e5)] == [
        *("", "5 s", "119 s", "30 min", "2 h", "2.31 d")
    ]
    assert [render.size(n) for n in (None, 0, 999, 1500, 2e9)] == [
        *("", "0 B", "999 B", "1.5 kB", "2 GB")
    ]


def test_keys_outlive_the_process(passwords, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("AMSTRAX_LOCAL_FOLDER", str(tmp_path / "local"))
    keys = [lasting_key("a"), lasting_key("a"), lasting_key("b")]
    assert keys[0] == keys[1] != keys[2] and len(keys[0]) == 32
    path = tmp_path / "local" / "dashboard_secret"
    assert path.stat().st_mode & 0o777 == 0o600
    # So a browser is known after a restart
    granted = Logins(passwords).attempt("ann", "password of ann").result()
    assert Logins(passwords)._is_known("ann", granted.browser)
    path.chmod(0o640)
    with pytest.raises(InvalidOption, match="others can read .*chmod 600"):
        lasting_key("a")
    path.chmod(0o600)
    path.write_text("")
    with pytest.raises(InvalidOption, match="damaged: remove it"):
        lasting_key("a")
    (tmp_path / "file").touch()
    monkeypatch.setenv("AMSTRAX_LOCAL_FOLDER", str(tmp_path / "file"))
    assert lasting_key("a") != lasting_key("a")
    assert "cannot be used" in caplog.text

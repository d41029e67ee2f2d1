"""Who may look at the dashboard, and who may change anything: against servers as they run."""

import contextlib
import http.client
import re
import select
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import bcrypt
import pytest
from dashboard_server import Lab, Server, expect, new_page, part, violations
from visitors import PASSWORDS, Visitor, add_users, handshake

from amstrax.commands import dashboard
from amstrax.dashboard.logins import PasswordFile
from amstrax.exceptions import InvalidOption, UsageError
from amstrax.rundb import documents

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def lab(tmp_path_factory, served_scripts):
    """A lab with documents alone, and a file of users."""
    lab = Lab(tmp_path_factory.mktemp("lab"), served_scripts / "python")
    lab.add_documents(10)
    add_users(lab)
    return lab


@pytest.fixture(scope="module")
def server(lab):
    """A dashboard with log-in, in which alice may act."""
    with _with_login(lab, "with_login") as server:
        yield server


@pytest.fixture
def unguessed_server(lab):
    """A dashboard like `server`, whose log-in no other test has throttled."""
    with _with_login(lab, "unguessed") as server:
        yield server


@contextlib.contextmanager
def _with_login(lab, name):
    server = Server(lab, name, f"--users={lab.folder / 'users'}", "--allow-actions", "alice")
    yield server
    assert server.stop() == 0, server.text()


@pytest.fixture(scope="module")
def read_only(lab):
    """A dashboard without log-in, and without actions."""
    server = Server(lab, "read_only")
    yield server
    assert server.stop() == 0, server.text()


def test_nothing_is_shown_without_login(server):
    visitor = Visitor(server)
    for path in ("", "runs", "run?id=5", "data?id=5", "events?id=5", "processing", "compare"):
        _, url, _, text = visitor.get(path)
        assert "/login" in url and 'name="password"' in text, path
    for path in ("runs/autoload.js?bokeh-autoload-element=1", "runs/metadata"):
        status, url, _, text = visitor.get(path)
        assert "/login" in url or status in (403, 404), path
        assert "token" not in text
    # Nor by the line that a page of alice has opened
    alice = Visitor(server)
    token = re.search(r'"token":\s*"([^"]+)"', alice.log_in("alice", PASSWORDS["alice"])[3])[1]
    cookie = "; ".join(f"{each.name}={each.value}" for each in alice.jar)
    own = server.address.rstrip("/")
    assert "ACK" in handshake(server, own, cookie, token)[1]
    for cookie in ("", "amstrax_login=x"):
        status, answer = handshake(server, own, cookie, token)
        assert status == 403 and "ACK" not in answer
    assert server.text().count("403 GET /runs/ws") == 2 and "Traceback" not in server.text()


def test_log_in_refused_and_granted(server):
    visitor = Visitor(server)
    for name, password in (("alice", "wrong"), ("mallory", PASSWORDS["alice"]), ("alice", "")):
        status, url, _, text = visitor.log_in(name, password)
        assert status == 401 and "Name or password is wrong" in text and "/login" in url
    assert not [cookie for cookie in visitor.jar if cookie.name == "amstrax_login"]
    status, url, _, text = visitor.log_in("alice", PASSWORDS["alice"], next="/runs?text=x")
    assert status == 200 and url.endswith("/runs?text=x")
    [cookie] = [cookie for cookie in visitor.jar if cookie.name == "amstrax_login"]
    assert cookie.has_nonstandard_attr("HttpOnly")
    assert cookie.get_nonstandard_attr("SameSite") == "Lax"
    # The token of the session, which is in the page, has no cookie in it
    assert cookie.value not in text
    for word in ("alice logged in", "log-in as 'mallory'"):
        assert word in server.text()
    assert PASSWORDS["alice"] not in server.text()


def test_nobody_is_led_elsewhere_after_login(server):
    for next_ in ("https://evil.example/", "//evil.example/", "/\\evil.example", "javascript:1"):
        _, url, _, _ = Visitor(server).log_in("bob", PASSWORDS["bob"], next=next_)
        assert urllib.parse.urlsplit(url).netloc == server.address.split("/")[2], next_


def test_a_form_of_another_site_logs_nobody_in_or_out(server):
    visitor = Visitor(server)
    form = {"name": "alice", "password": PASSWORDS["alice"]}
    assert visitor.get("login", form)[0] == 403
    visitor.log_in("alice", PASSWORDS["alice"])
    assert visitor.get("logout", {})[0] == 403
    assert visitor.get("logout")[0] == 405
    xsrf = next(cookie.value for cookie in visitor.jar if cookie.name == "_xsrf")
    assert "/login" in visitor.get("logout", {"_xsrf": xsrf})[1]
    assert "/login" in visitor.get("runs")[1]


def test_who_guesses_has_to_wait(server):
    visitor = Visitor(server)
    for _ in range(5):
        assert visitor.log_in("carol", "guess")[0] == 401
    status, _, headers, text = visitor.log_in("carol", "guess")
    assert status == 429 and "wait" in text and 0 < int(headers["Retry-After"]) <= 60
    # To say that one comes from elsewhere does not help, without --behind_proxy
    elsewhere = {"X-Forwarded-For": "198.51.100.1", "X-Real-Ip": "198.51.100.1"}
    assert Guesser(server).guess("carol", "guess", **elsewhere)[0] == 429
    assert "198.51.100.1" not in server.text()


class Guesser:
    """One who guesses, maybe several times at once.

    Parameters
    ----------
    server
        Where.
    source
        Own address.
    """

    def __init__(self, server: Server, source: str = "127.0.0.1"):
        self._host, self._source = server.address.split("/")[2], source
        text = self._ask("GET", "/login")[2]
        self._xsrf = re.search(r'name="_xsrf" value="([^"]+)"', text)[1]

    def guess(self, name: str, password: str, **headers: str) -> tuple[int, dict, str]:
        """Return status, headers and text of the answer."""
        return self._ask(*self._guess(name, password, headers))

    def begin(self, name: str, password: str, **headers: str) -> http.client.HTTPConnection:
        """Return the connection that the answer is to come by."""
        return self._send(*self._guess(name, password, headers))

    def _guess(self, name, password, headers):
        form = urllib.parse.urlencode({"_xsrf": self._xsrf, "name": name, "password": password})
        given = {"Content-Type": "application/x-www-form-urlencoded"}
        cookie = {"Cookie": f"_xsrf={self._xsrf}"}
        return "POST", "/login", form, given | cookie | headers

    def _ask(self, *request):
        with contextlib.closing(self._send(*request)) as connection:
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read().decode()

    def _send(self, method, path, body=None, headers=None):
        connection = http.client.HTTPConnection(
            self._host, timeout=120, source_address=(self._source, 0)
        )
        connection.request(method, path, body, headers or {})
        return connection


def test_parallel_guesses_are_counted_before_they_are_checked(server):
    """And nobody is kept out by them: not in a known browser, and not at another address."""
    bob = Visitor(server)
    assert bob.log_in("bob", PASSWORDS["bob"])[0] == 200
    guesser = Guesser(server)
    with ThreadPoolExecutor(40) as pool:
        statuses = [
            status for status, _, _ in pool.map(lambda _: guesser.guess("bob", "guess"), range(40))
        ]
    assert Counter(statuses) == {401: 5, 429: 35}
    assert guesser.guess("bob", PASSWORDS["bob"])[0] == 429
    assert Guesser(server, "127.0.0.2").guess("bob", PASSWORDS["bob"])[0] == 302
    # The visitor brings the cookie of its browser along
    assert bob.log_in("bob", PASSWORDS["bob"])[0] == 200


@pytest.fixture
def behind_proxy(lab):
    """A dashboard that believes who we say we are, with a user whose password takes seconds."""
    slow = bcrypt.hashpw(b"a password that is slow", bcrypt.gensalt(15)).decode()
    users = lab.folder / "slow_users"
    users.write_text((lab.folder / "users").read_text() + f"slow:{slow}\n")
    users.chmod(0o600)
    server = Server(lab, "behind_proxy", f"--users={users}", "--behind_proxy")
    yield server
    assert server.stop() == 0, server.text()
    assert "Traceback" not in server.text()


def test_pages_do_not_wait_for_log_ins(behind_proxy):
    visitor = Visitor(behind_proxy)
    assert visitor.log_in("alice", PASSWORDS["alice"])[0] == 200
    guesser = Guesser(behind_proxy)
    with contextlib.ExitStack() as stack:
        waiting = {}
        for i in range(20):
            connection = guesser.begin("slow", "guess", **{"X-Forwarded-For": f"198.51.100.{i}"})
            waiting[connection.sock] = stack.enter_context(contextlib.closing(connection))
        # Those for which there is no place are told so at once
        statuses = []
        while 503 not in statuses:
            for sock in select.select(waiting, (), ())[0]:
                answer = waiting.pop(sock).getresponse()
                text = answer.read().decode()
                statuses.append(answer.status)
                assert answer.status == 401 or "try again" in text
        for path in ("login", "runs", "run?id=3", "processing"):
            assert visitor.get(path)[0] == 200
        # While most of the others still wait
        assert len(waiting) - len(select.select(waiting, (), (), 0)[0]) > 2


def test_guesses_from_many_addresses(behind_proxy):
    guesser = Guesser(behind_proxy)

    def guess(name, address, password="guess"):
        # What visitors claim is not what the proxy says last
        said = {"X-Forwarded-For": f"203.0.113.1, {address}", "X-Real-Ip": "203.0.113.2"}
        return guesser.guess(name, password, **said)

    assert guess("bob", "198.51.100.200", PASSWORDS["bob"])[0] == 302
    for i in range(4):
        with ThreadPoolExecutor(5) as pool:
            for status, _, _ in pool.map(lambda _, i=i: guess("bob", f"198.51.100.{i}"), range(5)):
                assert status == 401
    status, headers, _ = guess("bob", "198.51.100.201", PASSWORDS["bob"])
    assert status == 429 and 0 < int(headers["Retry-After"]) <= 10
    # Where he has logged in before, he can
    assert guess("bob", "198.51.100.200", PASSWORDS["bob"])[0] == 302
    assert "bob logged in from 198.51.100.200" in behind_proxy.text()
    assert "203.0.113." not in behind_proxy.text()


def test_forms_that_are_too_large(server):
    with pytest.raises(OSError):
        for _ in range(3):
            assert Guesser(server).guess("carol", "x" * 2_000_000)[0] == 400
            raise ConnectionResetError


def test_headers_keep_other_sites_out(read_only):
    _, _, headers, text = Visitor(read_only).get("runs", **{"User-Agent": "nobody"})
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"
    # All that a page loads is from here
    sources = re.findall(r'(?:src|href)="([^"]+)"', text)
    assert sources and not [s for s in sources if s.startswith(("http:", "https:", "//"))]
    assert (
        Visitor(read_only)
        .get("runs/autoload.js?bokeh-autoload-element=1")[2]
        .get("Access-Control-Allow-Origin")
        is None
    )


def test_paths_cannot_be_reached(read_only):
    for path in (
        *("static/../../../../etc/passwd", "static/%2e%2e/%2e%2e/%2e%2e/etc/passwd"),
        *("runs/static/..%2f..%2f..%2fetc/passwd", "static/extensions/../../etc/passwd"),
    ):
        connection = http.client.HTTPConnection(read_only.address.split("/")[2], timeout=60)
        connection.request("GET", f"/{path}")
        answer = connection.getresponse()
        assert answer.status in (403, 404) and b"root:" not in answer.read(), path
        connection.close()


def test_pages_of_other_sites_get_no_websocket(read_only):
    assert handshake(read_only, "http://evil.example", "")[0] == 403
    assert handshake(read_only, read_only.address.rstrip("/"), "")[0] == 101


# What a page would do in the browser's console
_FORGE = """(name) => {
    const button = Bokeh.documents[0].get_model_by_name(name)
    button.disabled = false
    button.trigger_event(new (Bokeh.require("core/bokeh_events").ButtonClick)())
}"""


def _forge(page, name: str) -> None:
    page.evaluate(_FORGE, name)


def test_an_action_is_refused_when_read_only(browser, read_only, lab):
    page = new_page(browser)
    page.goto(f"{read_only.address}processing?runs=3")
    expect(part(page, "rights")).to_contain_text("read-only")
    for name in ("dry_run", "submit", "add_tag", "remove_tag", "abandon", "cancel", "switch_off"):
        expect(part(page, name).locator("button")).to_be_disabled()
    before = lab.runs.find_one({"number": 3})
    for name, words in (
        ("abandon", "abandon"),
        ("cancel", "cancel"),
        ("dry_run", "dry run"),
        ("submit", "submit without dry run"),
    ):
        _forge(page, name)
        expect(part(page, "result")).to_contain_text("was started without --allow-actions")
        _wait_for(read_only, rf"REFUSED user='\w+' from=127.0.0.1: .*{words}")
    _forge(page, "switch_off")
    expect(part(page, "switched")).to_contain_text("was started without --allow-actions")
    assert lab.runs.find_one({"number": 3}) == before
    page.context.close()


def _wait_for(server: Server, pattern: str) -> None:
    server._wait_for(f"({pattern})")


def test_actions_are_for_named_users_while_they_are_logged_in(browser, unguessed_server, lab):
    server = unguessed_server
    pages = {}
    for name in PASSWORDS:
        page = pages[name] = new_page(browser)
        page.goto(f"{server.address}processing?runs=4")
        page.get_by_label("Name").fill(name)
        page.get_by_label("Password").fill(PASSWORDS[name])
        page.get_by_role("button", name="Log in").click()
        page.wait_for_url("**/processing?runs=4*")
    bob, alice = pages["bob"], pages["alice"]
    expect(bob.locator("header")).to_contain_text("read-only for you")
    expect(part(bob, "abandon").locator("button")).to_be_disabled()
    _forge(bob, "abandon")
    expect(part(bob, "result")).to_contain_text("bob has read-only access")
    assert documents.tags_of(lab.runs.find_one({"number": 4})) == []
    part(alice, "abandon").locator("button").click()
    expect(part(alice, "result")).to_contain_text("tagged")
    [tag] = lab.runs.find_one({"number": 4})["tags"]
    assert (tag["name"], tag["user"]) == ("abandon", "alice")
    # Two tabs: what is logged out in one is so in the other
    second = alice.context.new_page()
    second.goto(f"{server.address}runs")
    second.get_by_role("button", name="Log out").click()
    second.wait_for_url("**/login")
    _forge(alice, "remove_tag")
    expect(part(alice, "result")).to_contain_text("you are no longer logged in")
    for page in pages.values():
        page.context.close()


def test_a_dashboard_for_others_needs_login_and_tls(lab, monkeypatch):
    from amstrax.dashboard import server

    def make(*options: str):
        args = dashboard.parse_args(["--port=0", "--address=0.0.0.0", *options])
        args.job_folder = args.log_folder = lab.folder
        site = dashboard.make_site(args)
        try:
            return server.make_server(site, args.address, args.port)
        finally:
            site.close()

    with pytest.raises(UsageError, match="can be reached by others"):
        make()
    with pytest.raises(UsageError, match="send passwords unencrypted"):
        make(f"--users={lab.folder / 'users'}")
    with pytest.raises(UsageError, match="name the users who may act"):
        make(f"--users={lab.folder / 'users'}", "--allow-actions")
    with pytest.raises(UsageError, match="has no such user"):
        make(f"--users={lab.folder / 'users'}", "--allow-actions", "carol")
    with pytest.raises(UsageError, match="needs a log-in"):
        make("--allow-actions", "carol")


def test_passwords_are_set_by_command(tmp_path, lab):
    file = tmp_path / "users"
    command_ = [
        *(sys.executable, "-m", "amstrax.commands.dashboard", "--set-password", "dora"),
        f"--users={file}",
    ]

    def run(password: str):
        return subprocess.run(
            command_, input=f"{password}\n", capture_output=True, text=True, check=False,
            env=lab.environment,
        )  # fmt: skip

    assert run("short").returncode == 1
    assert not file.exists()
    done = run("a good password")
    assert done.returncode == 0, done.stderr
    assert "a good password" not in file.read_text() + done.stdout + done.stderr
    assert file.stat().st_mode & 0o777 == 0o600
    assert PasswordFile(file).is_right("dora", "a good password")


def test_a_trusted_proxy_names_the_user(lab):
    """For pages and websockets; alone, and beside log-in with a password."""
    header = ("--user_header=X-Remote-User", "--trusted_proxy=127.0.0.0/8")
    server = Server(lab, "proxied", *header, "--allow-actions", "alice@nikhef.nl")
    try:
        own = server.address.rstrip("/")
        assert Visitor(server).get("runs")[0] == 403
        tokens = {}
        for user, rights in (("alice@nikhef.nl", "actions allowed"), ("bob", "read-only for you")):
            status, url, _, text = Visitor(server).get("runs", **{"X-Remote-User": user})
            assert status == 200 and "/login" not in url
            assert f"· {user}" in text and rights in text and "Log out" not in text
            tokens[user] = re.search(r'"token":\s*"([^"]+)"', text)[1]
            assert "ACK" in handshake(server, own, "", tokens[user], user)[1]
        # A page of alice is no page of somebody else
        for user in ("bob", ""):
            assert "ACK" not in handshake(server, own, "", tokens["alice@nikhef.nl"], user)[1]
        for name in ("a b", "x" * 65, "alice@nikhef.nl,bob"):
            assert Visitor(server).get("runs", **{"X-Remote-User": name})[0] == 403
        assert server.text().count("is no name of a user") == 3
    finally:
        assert server.stop() == 0, server.text()
    both = Server(lab, "both", *header, f"--users={lab.folder / 'users'}", "--allow-actions=alice")
    try:
        visitor = Visitor(both)
        assert "/login" in visitor.get("runs")[1]
        assert "· alice" in visitor.log_in("alice", PASSWORDS["alice"])[3]
        assert "· carol" in Visitor(both).get("runs", **{"X-Remote-User": "carol"})[3]
    finally:
        assert both.stop() == 0, both.text()


def test_the_header_of_somebody_else_is_ignored(lab, server):
    """Also if they say that they come from the proxy; with one warning for each."""
    proxy = ("--user_header=X-Remote-User", "--trusted_proxy=192.0.2.1", "--behind_proxy")
    other = Server(lab, "elsewhere", *proxy)
    try:
        for _ in range(3):
            named = {"X-Remote-User": "alice", "X-Forwarded-For": "192.0.2.1"}
            assert Visitor(other).get("runs", **named)[0] == 403
        own = other.address.rstrip("/")
        assert "ACK" not in handshake(other, own, "", "x.y", "alice")[1]
        assert other.text().count("it is none of the trusted proxies") == 1
    finally:
        assert other.stop() == 0, other.text()
    # Off by default
    assert "/login" in Visitor(server).get("runs", **{"X-Remote-User": "alice"})[1]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--trusted_proxy=127.0.0.1"], "--trusted_proxy needs --user_header"),
        (["--user_header=X-User"], "needs the addresses of the proxies"),
        (["--user_header=X-User", "--trusted_proxy=here"], "addresses or networks"),
        (["--user_header=X User", "--trusted_proxy=127.0.0.1"], "cannot be the name of a header"),
    ],
)
def test_options_of_a_proxy_are_checked(options, problem):
    with pytest.raises((UsageError, InvalidOption), match=problem):
        dashboard.make_site(dashboard.parse_args(options))


def test_the_form_breaks_no_rule_of_accessibility(server, browser):
    page = new_page(browser)
    page.goto(server.address)
    expect(page.locator("#password")).to_be_visible()
    assert violations(page) == []
    page.context.close()

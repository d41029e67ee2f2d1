"""The dashboard for others: with TLS of its own, and behind a web server that has it."""

import http.client
import re
import ssl
import urllib.error

import pytest
from dashboard_server import Lab, Server, expect, new_page, part
from reverse_proxy import VISITOR, ReverseProxy, make_certificate
from visitors import PASSWORDS, Visitor, add_users, handshake

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def lab(tmp_path_factory, served_scripts):
    """A lab with documents alone, users, and a certificate."""
    lab = Lab(tmp_path_factory.mktemp("lab"), served_scripts / "python")
    lab.add_documents(3)
    add_users(lab)
    lab.certificate = make_certificate(lab.folder)
    return lab


def serve(lab, name: str, *options: str) -> Server:
    return Server(lab, name, f"--users={lab.folder / 'users'}", *options)


def log_in(browser, address: str):
    """Log in with a browser that has never seen this certificate, and return the page."""
    page = new_page(browser, ignore_https_errors=True)
    page.goto(f"{address}runs")
    page.get_by_label("Name").fill("alice")
    page.get_by_label("Password").fill(PASSWORDS["alice"])
    page.get_by_role("button", name="Log in").click()
    # What comes by the websocket
    expect(part(page, "count")).to_contain_text("Runs 1 to 3 of 3.")
    [cookie] = [each for each in page.context.cookies() if each["name"] == "amstrax_login"]
    assert cookie["secure"] and cookie["httpOnly"] and cookie["sameSite"] == "Lax"
    assert page.problems == []
    return page


def test_log_in_over_tls(browser, lab):
    files = lab.certificate
    server = serve(lab, "tls", f"--certificate={files.certificate}", f"--key={files.key}")
    try:
        assert server.address.startswith("https://")
        log_in(browser, server.address).context.close()
        visitor = Visitor(server, trust=files.trust())
        assert visitor.log_in("bob", "wrong")[0] == 401
        assert visitor.log_in("bob", PASSWORDS["bob"])[0] == 200
        [cookie] = [each for each in visitor.jar if each.name == "amstrax_login"]
        assert cookie.secure
        with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
            Visitor(server, trust=ssl.create_default_context()).get("login")
        # Nor is anything told without TLS
        plain = http.client.HTTPConnection(server.address.split("/")[2], timeout=60)
        with pytest.raises((http.client.HTTPException, OSError)):
            plain.request("GET", "/login")
            plain.getresponse()
        plain.close()
    finally:
        assert server.stop() == 0, server.text()


def test_behind_a_proxy(browser, lab):
    proxy = ReverseProxy(lab.certificate)
    own = proxy.address.rstrip("/")
    server = serve(lab, "proxy", "--behind_proxy", f"--origin=localhost:{proxy.port}")
    try:
        proxy.to_port = int(re.search(r":(\d+)/", server.address)[1])
        page = log_in(browser, proxy.address)
        # Who it is comes from the proxy, not from the line that the server sees
        assert f"alice logged in from {VISITOR}" in server.text()
        page.context.close()
        visitor = Visitor(server, proxy.address, lab.certificate.trust())
        status, url, _, text = visitor.log_in("bob", PASSWORDS["bob"], next="/runs")
        assert status == 200 and url == f"{own}/runs"
        # Whoever asks may not say who they are in place of the proxy
        xsrf = next(each.value for each in visitor.jar if each.name == "_xsrf")
        form = {"_xsrf": xsrf, "name": "carol", "password": "a guess of hers"}
        assert visitor.get("login", form, **{"X-Forwarded-For": "198.51.100.1"})[0] == 401
        assert f"log-in as 'carol' from {VISITOR} refused" in server.text()
        token = re.search(r'"token":\s*"([^"]+)"', text)[1]
        cookie = "; ".join(f"{each.name}={each.value}" for each in visitor.jar)
        assert "ACK" in handshake(server, own, cookie, token)[1]
        assert handshake(server, "https://evil.example", cookie)[0] == 403
        assert handshake(server, f"https://localhost:{proxy.port + 1}", cookie)[0] == 403
    finally:
        status = server.stop()
        proxy.close()
        assert status == 0, server.text()

"""The command ``amstrax dashboard``: serve the dashboard."""

import argparse
import getpass
import logging
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from amstrax import settings
from amstrax.commands import base
from amstrax.exceptions import AmstraxError, NotAvailable, UsageError
from amstrax.rundb.leases import Stop

if TYPE_CHECKING:
    from amstrax.dashboard.site import Site

log = logging.getLogger("amstrax.dashboard")

PORT = 5006
#: Interval at which the server checks whether to stop [s]
_LOOK = 0.25


def parse_args(argv: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Show runs, their data and their processing in a browser. Without options only "
        "this machine can reach it, and it changes nothing.",
    )
    add = parser.add_argument
    base.add(parser, "--detector")
    add(
        "--port",
        type=int,
        default=PORT,
        help="port to listen on, 0 for any that is free (default: %(default)s)",
    )
    add(
        "--address",
        default="127.0.0.1",
        help="address to listen on; other machines need log-in and TLS (default: %(default)s)",
    )
    add(
        "--origin",
        action="append",
        default=[],
        metavar="HOST:PORT",
        help="host and port in the address of browsers, if different; may be repeated",
    )
    add(
        "--users",
        type=Path,
        metavar="FILE",
        help="file of users, who then have to log in (default: the setting "
        "AMSTRAX_DASHBOARD_USERS)",
    )
    add(
        *("--set-password", "--set_password"),
        metavar="NAME",
        help="set a user's password in the file of users, from a prompt or a pipe, and exit",
    )
    add(
        *("--allow-actions", "--allow_actions"),
        nargs="*",
        metavar="NAME",
        help="allow these users, or without log-in everybody, to submit, tag, abandon and cancel",
    )
    add("--certificate", type=Path, metavar="FILE", help="certificate for TLS")
    add("--key", type=Path, metavar="FILE", help="its private key")
    add(
        "--behind_proxy",
        action="store_true",
        help="run behind a proxy with TLS that sends the address of browsers in headers",
    )
    add(
        "--user_header",
        metavar="NAME",
        help="header in which a trusted proxy, as of a single sign-on, names the user, as "
        "X-Remote-User (default: none)",
    )
    add(
        "--trusted_proxy",
        action="append",
        default=[],
        metavar="ADDRESS",
        help="address or network of proxies that may set --user_header; may be repeated",
    )
    base.add_engine(parser)
    base.add_data(parser)
    text = "version of the corrections, as v1 or ONLINE (default: none, unless a page asks for one)"
    base.add(parser, "--corrections_version", help=text)
    base.add(parser, "--reconstruction")
    base.add_seconds(parser, "--refresh", 5.0, "interval between two refreshes of a page")
    add("--check", action="store_true", help="start, request each page once, and exit")
    base.add(parser, "--debug")
    return parser.parse_args(argv)


@base.main_of(parse_args)
def main(args: argparse.Namespace) -> int:
    def work(stop: Stop) -> str | None:
        try:
            import bokeh  # noqa: F401
        except ModuleNotFoundError:
            raise NotAvailable(
                "the dashboard needs Bokeh: pip install 'amstrax[dashboard]'"
            ) from None
        return set_password(args) if args.set_password else run(args, stop)

    return base.run_tool(
        args,
        log,
        work,
        "the dashboard",
        args.log_folder,
        "--log_folder",
        None if args.set_password or args.check else "dashboard",
    )


def set_password(args: argparse.Namespace) -> str:
    """Set a user's password, and return the message."""
    from amstrax.dashboard.logins import PasswordFile, check_name

    path = users_file(args)
    if path is None:
        raise UsageError("name the file of users with --users, or AMSTRAX_DASHBOARD_USERS")
    name = check_name(args.set_password)
    if sys.stdin.isatty():
        password = getpass.getpass(f"Password of {name}: ")
        if getpass.getpass("Again: ") != password:
            raise UsageError("the two passwords differ: nothing is changed")
    else:
        password = sys.stdin.readline().rstrip("\n")
    PasswordFile(path).set(name, password)
    return f"password of {name} set in {path}"


def users_file(args: argparse.Namespace) -> Path | None:
    """Return the file of users; None if no log-in is required."""
    path = args.users or settings.get("AMSTRAX_DASHBOARD_USERS")
    return None if path is None else settings.expanded(path)


def make_site(args: argparse.Namespace) -> "Site":
    """Return the dashboard with these options.

    Raises
    ------
    UsageError
        If the options conflict, or no plugin of the detector takes an option.
    InvalidOption
        If the file of users cannot be used.
    """
    from amstrax.dashboard.logins import Logins, PasswordFile, ProxyUsers, check_name
    from amstrax.dashboard.site import Site

    path = users_file(args)
    logins = proxy_users = None
    actors: frozenset[str] = frozenset()
    if args.user_header:
        proxy_users = ProxyUsers(args.user_header, args.trusted_proxy)
    elif args.trusted_proxy:
        raise UsageError("--trusted_proxy needs --user_header, the header that the proxy sets")
    if path is not None:
        passwords = PasswordFile(path)
        known = passwords.read()
        logins = Logins(passwords)
    if path is not None or proxy_users is not None:
        if args.allow_actions is not None:
            if not args.allow_actions:
                raise UsageError(
                    "--allow-actions: name the users who may act, since there is a log-in"
                )
            actors = frozenset(args.allow_actions)
            # Whom the proxy knows is not known here
            if proxy_users is None:
                for name in sorted(set(map(check_name, actors)) - set(known)):
                    raise UsageError(f"--allow-actions {name}: {path} has no such user")
    elif args.allow_actions:
        raise UsageError(
            "--allow-actions with names needs a log-in: name the file of users with --users"
        )
    if args.config_kwargs:
        from amstrax import contexts

        names = [name for name, its in settings.CONTEXT_DETECTORS.items() if its == args.detector]
        parts = {"xams": args.reconstruction}
        taken = [contexts.options_of(name, reconstruction=parts.get(name)) for name in names]
        contexts.check_options(args.config_kwargs, set().union(*taken))
    return Site(
        detector=args.detector,
        engine_name=args.engine or settings.engine(),
        actions=args.allow_actions is not None,
        actors=actors,
        logins=logins,
        proxy_users=proxy_users,
        job_folder=settings.expanded(args.job_folder).absolute(),
        log_folder=settings.expanded(args.log_folder).absolute(),
        output_folder=args.output_folder and settings.expanded(args.output_folder).absolute(),
        live_data_dir=args.live_data_dir and settings.expanded(args.live_data_dir).absolute(),
        config_kwargs=args.config_kwargs,
        corrections_version=args.corrections_version,
        reconstruction=args.reconstruction,
        refresh=args.refresh,
    )


def run(args: argparse.Namespace, stop: Stop) -> str | None:
    """Serve pages until stopped; return the answers of all pages with ``--check``."""
    from tornado.ioloop import PeriodicCallback

    from amstrax.dashboard import figures
    from amstrax.dashboard.server import make_server

    site = make_site(args)
    stop.remark = "jobs go on"
    for name in ("bokeh", "tornado.access"):
        logging.getLogger(name).setLevel(logging.DEBUG if args.debug else logging.WARNING)
    try:
        server = make_server(
            site,
            args.address,
            0 if args.check else args.port,
            args.origin,
            args.certificate,
            args.key,
            args.behind_proxy,
        )
    except OSError as error:
        raise UsageError(
            f"the dashboard cannot listen on {args.address}, port {args.port} "
            f"({error.strerror or error}): stop what does, or set another --port"
        ) from None
    address = f"{'https' if args.certificate else 'http'}://{args.address}:{server.port}/"
    rights = "read-only"
    if site.actions:
        rights = f"actions by {', '.join(sorted(site.actors)) or 'everybody'}"
    log.info("the dashboard is at %s (%s); Ctrl-C ends it", address, rights)

    def end_if_stopped() -> None:
        if stop.event.is_set():
            server.io_loop.stop()

    watch = PeriodicCallback(end_if_stopped, 1000 * _LOOK)
    watch.start()
    server.start()
    site.warm_up(figures.warm_up)
    checked: list[tuple[str, str]] = []
    if not args.check:
        site.look_for_alarms()
    else:
        server.io_loop.add_callback(_check, address, checked)
    try:
        server.io_loop.start()
    finally:
        watch.stop()
        server.stop()
        site.close()
    if args.check:
        text = "\n".join(f"{path}: {answer}" for path, answer in checked)
        if any(not answer.startswith("200") for _, answer in checked):
            raise AmstraxError(f"not every page answers: {text}")
        return text
    log.info("ended%s", f" by {stop.reason}" if stop.reason else "")
    return None


async def _check(address: str, answers: list[tuple[str, str]]) -> None:
    """Request each page and its document once, and stop the loop."""
    from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest
    from tornado.ioloop import IOLoop
    from tornado.websocket import websocket_connect

    from amstrax.dashboard.server import PAGES

    try:
        for page in PAGES:
            # The certificate is for the public name, and need not be valid for this address
            answer = await AsyncHTTPClient().fetch(
                f"{address}{page.path}", raise_error=False, validate_cert=False
            )
            text = f"{answer.code} {answer.reason}"
            token = re.search(r'"token":\s*"([^"]+)"', answer.body.decode())
            # With log-in, the answer is its form
            if token is not None:
                request = HTTPRequest(
                    f"ws{address.removeprefix('http')}{page.path}/ws",
                    headers={"Origin": address.rstrip("/")},
                    validate_cert=False,
                )
                try:
                    opened = await websocket_connect(request, subprotocols=["bokeh", token[1]])
                    if "ACK" not in str(await opened.read_message()):
                        text = "no document"
                    opened.close()
                except (HTTPClientError, OSError) as error:
                    text = f"no document: {error}"
            answers.append((page.path, text))
    finally:
        IOLoop.current().stop()


if __name__ == "__main__":
    sys.exit(main())

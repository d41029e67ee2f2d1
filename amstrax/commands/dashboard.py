"""The command ``amstrax dashboard``: serve the dashboard."""

import argparse
import getpass
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from amstrax import settings
from amstrax.commands import base
from amstrax.exceptions import AmstraxError, NotAvailable, UsageError
from amstrax.rundb.leases import Stop
from amstrax.settings import DETECTORS

if TYPE_CHECKING:
    from amstrax.dashboard.site import Site

log = logging.getLogger("amstrax.dashboard")

PORT = 5006
#: Interval at which the server checks whether to stop [s]
_LOOK = 0.25


def parse_args(argv: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    """Parse `argv` (by default the command line) into options; exit with 2 on invalid ones."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Show runs, their data and their processing in a browser. Without options it "
        "can be reached from this machine alone, and changes nothing.",
    )
    parser.add_argument(
        "--detector", choices=DETECTORS, default="xams", help="whose runs (default: xams)"
    )
    parser.add_argument(
        "--port",
        type=int,
        default=PORT,
        help="port to listen on, 0 for any that is free (default: %(default)s)",
    )
    parser.add_argument(
        "--address",
        default="127.0.0.1",
        help="address to listen on; for others than this machine's own, log-in and TLS are "
        "needed (default: %(default)s)",
    )
    parser.add_argument(
        "--origin",
        action="append",
        default=[],
        metavar="HOST:PORT",
        help="name under which browsers reach it, if another; may be given several times",
    )
    parser.add_argument(
        "--users",
        type=Path,
        metavar="FILE",
        help="file of users, who then have to log in (default: the setting "
        "AMSTRAX_DASHBOARD_USERS)",
    )
    parser.add_argument(
        "--set-password",
        "--set_password",
        metavar="NAME",
        help="set the password of a user in the file of users, and end; it is asked for, or read "
        "from a pipe",
    )
    parser.add_argument(
        "--allow-actions",
        "--allow_actions",
        nargs="*",
        metavar="NAME",
        help="let these users submit, tag, abandon and cancel; without log-in, whoever reaches it",
    )
    parser.add_argument("--certificate", type=Path, metavar="FILE", help="certificate for TLS")
    parser.add_argument("--key", type=Path, metavar="FILE", help="its private key")
    parser.add_argument(
        "--behind_proxy",
        action="store_true",
        help="a proxy with TLS is before it, and says in headers who asks",
    )
    parser.add_argument(
        "--engine",
        type=base.engine_name,
        help="where jobs run (default: the setting AMSTRAX_ENGINE, or else local)",
    )
    for what, name in (("scripts", "job"), ("logs", "log")):
        parser.add_argument(
            f"--{name}_folder",
            type=Path,
            metavar="FOLDER",
            help=f"folder for the {what} of jobs, as of `amstrax auto` (default: the setting "
            f"AMSTRAX_{name.upper()}_FOLDER, or else ./{name}s)",
        )
    base.add_data(parser)
    parser.add_argument(
        "--corrections_version",
        metavar="VERSION",
        help="version of the corrections, where none is asked for on a page",
    )
    parser.add_argument(
        "--refresh",
        type=base.positive_number,
        default=5.0,
        metavar="SECONDS",
        help="time between two looks at what may have changed (default: %(default)s)",
    )
    parser.add_argument(
        "--check", action="store_true", help="start, ask for each page once, and end"
    )
    parser.add_argument("--debug", action="store_true", help="log more, and errors in full")
    return parser.parse_args(argv)


def main(args: argparse.Namespace | Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run the dashboard until it is stopped, and return the exit status."""
    if not isinstance(args, argparse.Namespace):
        args = parse_args(args, prog)
    args.job_folder = args.job_folder or Path(settings.batch("AMSTRAX_JOB_FOLDER"))
    args.log_folder = args.log_folder or Path(settings.batch("AMSTRAX_LOG_FOLDER"))
    return base.run_tool(
        args,
        log,
        lambda stop: set_password(args) if args.set_password else run(args, stop),
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
            raise UsageError("these are two different passwords: nothing is changed")
    else:
        password = sys.stdin.readline().rstrip("\n")
    PasswordFile(path).set(name, password)
    return f"{name} can log in, as {path} says"


def users_file(args: argparse.Namespace) -> Path | None:
    """Return the file of users; None if no log-in is required."""
    path = args.users or settings.get("AMSTRAX_DASHBOARD_USERS")
    return None if path is None else settings.expanded(path)


def make_site(args: argparse.Namespace) -> "Site":
    """Return the dashboard that the options ask for.

    Raises
    ------
    UsageError
        When the options conflict.
    InvalidOption
        When the file of users cannot be used.
    NotAvailable
        Without Bokeh.
    """
    try:
        import bokeh  # noqa: F401
    except ModuleNotFoundError:
        raise NotAvailable("the dashboard needs Bokeh: pip install 'amstrax[dashboard]'") from None
    from amstrax.dashboard.logins import Logins, PasswordFile, check_name
    from amstrax.dashboard.site import Site

    path = users_file(args)
    logins = None
    actors: frozenset[str] = frozenset()
    if path is not None:
        passwords = PasswordFile(path)
        known = passwords.read()
        logins = Logins(passwords)
        if args.allow_actions is not None:
            if not args.allow_actions:
                raise UsageError(
                    "--allow-actions: name the users who may act, since there is a log-in"
                )
            actors = frozenset(map(check_name, args.allow_actions))
            for name in sorted(actors - set(known)):
                raise UsageError(f"--allow-actions {name}: {path} has no such user")
    elif args.allow_actions:
        raise UsageError(
            "--allow-actions with names needs a log-in: name the file of users with --users"
        )
    return Site(
        detector=args.detector,
        engine_name=args.engine or settings.engine(),
        actions=args.allow_actions is not None,
        actors=actors,
        logins=logins,
        job_folder=settings.expanded(args.job_folder).absolute(),
        log_folder=settings.expanded(args.log_folder).absolute(),
        output_folder=args.output_folder and settings.expanded(args.output_folder).absolute(),
        live_data_dir=args.live_data_dir and settings.expanded(args.live_data_dir).absolute(),
        config_kwargs=args.config_kwargs,
        corrections_version=args.corrections_version,
        refresh=args.refresh,
    )


def run(args: argparse.Namespace, stop: Stop) -> str | None:
    """Serve pages until stopped.

    Raises
    ------
    UsageError, NotAvailable
        When it cannot be started so.
    OSError
        When it cannot listen.
    """
    site = make_site(args)
    from amstrax.dashboard import figures
    from amstrax.dashboard.server import make_server

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
            f"nothing can listen on {args.address}, port {args.port} "
            f"({error.strerror or error}): another dashboard? --port names another port"
        ) from None
    address = f"{'https' if args.certificate else 'http'}://{args.address}:{server.port}/"
    rights = "read-only"
    if site.actions:
        rights = f"actions by {', '.join(sorted(site.actors)) or 'whoever reaches it'}"
    log.info("the dashboard is at %s (%s); Ctrl-C ends it", address, rights)

    def look() -> None:
        if stop.event.is_set():
            server.io_loop.stop()

    from tornado.ioloop import PeriodicCallback

    watch = PeriodicCallback(look, 1000 * _LOOK)
    watch.start()
    server.start()
    site.warm_up(figures.warm_up)
    checked: list[tuple[str, str]] = []
    if args.check:
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


async def _check(address: str, said: list[tuple[str, str]]) -> None:
    """Ask for each page once, and end."""
    from tornado.httpclient import AsyncHTTPClient
    from tornado.ioloop import IOLoop

    from amstrax.dashboard.server import PAGES

    try:
        for page in PAGES:
            # The certificate is for the name that others know, and need not be for this address
            answer = await AsyncHTTPClient().fetch(
                f"{address}{page.path}", raise_error=False, validate_cert=False
            )
            said.append((page.path, f"{answer.code} {answer.reason}"))
    finally:
        IOLoop.current().stop()


if __name__ == "__main__":
    sys.exit(main())

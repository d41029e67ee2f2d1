"""The command ``amstrax corrections``: show options of a run, and check correction files.

Exit status: 0 on success, 1 if a value is missing or a file is invalid, 2 on wrong use.
"""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from amstrax.commands import base
from amstrax.corrections import lookup
from amstrax.exceptions import AmstraxError, InvalidOption, UsageError

log = logging.getLogger("amstrax.corrections")

#: Longest value in a table [characters]
_LONGEST = 60


def parse_args(argv: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog, description="Show corrections, and check correction files"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, help_: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help_, description=help_)
        base.add(sub, "--debug")
        return sub

    show = command("show", "show the options that a version sets for a run")
    show.add_argument("run_id", metavar="RUN", type=base.run_id, help="run, as 006724")
    show.add_argument(
        "--version",
        default="ONLINE",
        help="version, as v1 or v1@branch (default: %(default)s)",
    )
    show.add_argument(
        "--full", action="store_true", help="show long values in full, and the paths of files"
    )
    check = command("check", "check the correction files in a folder")
    check.add_argument("folder", type=Path, metavar="FOLDER", help="folder with NAME/FILE.json")
    check.add_argument(
        "--against",
        type=Path,
        metavar="OLD",
        help="an older copy of the folder: values of runs that it covers must not change",
    )
    check.add_argument(
        "--gain_lengths",
        type=base.positive_integer,
        nargs="+",
        default=(),
        metavar="N",
        help="allowed numbers of gains (default: 6 to 8, or as in the first range)",
    )
    coverage = command(
        "coverage",
        "show which runs have a value for every option of a version, and the gaps between",
    )
    coverage.add_argument(
        "version",
        metavar="VERSION",
        nargs="?",
        help="version, as v1 or v1@branch (default: all versions on this machine)",
    )
    return parser.parse_args(argv)


@base.main_of(parse_args)
def main(args: argparse.Namespace) -> int:
    return base.run_subcommand(args, log, lambda: _COMMANDS[args.command](args))


def show(args: argparse.Namespace) -> int:
    """Print each option of a version: file, range of runs, value."""
    rows: list[tuple[str, ...]] = [("option", "file", "runs", "value")]
    places = []
    failures = []
    for option, value in _options(args.version).items():
        if not lookup.is_lookup(value):
            rows.append((option, "-", "all", _text(value, args.full)))
            continue
        _, _, parameters = lookup.split(value)
        try:
            found = lookup.look_up(value, args.run_id)
        except AmstraxError as error:
            rows.append((option, parameters["filename"], "?", "none"))
            failures.append(str(error))
            continue
        rows.append((option, found.file.name, found.range, _text(found.value, args.full)))
        places.append(f"{found.file.name}: {found.file.place}")
    print(base.format_table(rows))
    if args.full:
        print("\n" + "\n".join(places))
    return _report(failures)


def check(args: argparse.Namespace) -> int:
    """Print the errors in a folder of files."""
    for folder in (args.folder, args.against):
        if folder is not None and not folder.is_dir():
            raise UsageError(f"{folder} is no folder")
    from amstrax.corrections.check import check_folder

    report = check_folder(args.folder, args.against, args.gain_lengths)
    if not report.files:
        raise UsageError(
            f"{args.folder} has no correction file: name the folder that has _global/, elife/, "
            "and so on"
        )
    for problem in report.problems:
        print(problem)
    for note in report.notes:
        log.warning("%s", note)
    wrong = len(report.problems)
    log.info("%d files checked, %d problem%s", report.files, wrong, "s" * (wrong != 1))
    return 1 if wrong else 0


def coverage(args: argparse.Namespace) -> int:
    """Print the runs covered by versions and the gaps; for one version, also those of each file."""
    names = lookup.known_versions() if args.version is None else [args.version]
    if not names:
        raise UsageError("no version of the corrections on this machine: name one")
    summary: list[tuple[str, ...]] = [("version", "runs", "gaps")]
    failures = []
    for version in names:
        _options(version)
        files = lookup.coverage(version)
        problems = [f"version {version}: {file.problem}" for file in files if file.problem]
        everywhere, gaps = ("?", "?") if problems else map(lookup.as_text, lookup.covered(files))
        summary.append((version, everywhere, gaps))
        failures += problems
    if args.version is None:
        print(base.format_table(summary))
        return _report(failures)
    rows: list[tuple[str, ...]] = [("option", "file", "runs")]
    rows += [(f.option, f.file, "?" if f.problem else lookup.as_text(f.runs)) for f in files]
    print(base.format_table([*rows, ("all of these", "", everywhere), ("gaps", "", gaps)]))
    return _report(failures)


_COMMANDS = {"show": show, "check": check, "coverage": coverage}


def _options(version: str) -> dict[str, Any]:
    try:
        lookup.parse_version(version)
    except InvalidOption as error:
        raise UsageError(str(error)) from None
    return lookup.options(version)


def _report(failures: list[str]) -> int:
    for failure in failures:
        log.error("%s", " ".join(failure.split()))
    return 1 if failures else 0


def _text(value: Any, full: bool) -> str:
    text = json.dumps(value)
    return text if full or len(text) <= _LONGEST else f"{text[: _LONGEST - 4]} ..."


if __name__ == "__main__":
    sys.exit(main())

"""Types of command-line arguments that the tools share, with errors that say what is wrong.

Each takes text, and raises `argparse.ArgumentTypeError` (exit status 2) for anything else.
Nothing here imports anything slow, so that ``--help`` answers at once.
"""

import argparse
import contextlib
import json
from pathlib import Path
from typing import Any

from amstrax import rundoc
from amstrax.exceptions import InvalidRunDocument, did_you_mean
from amstrax.settings import CONTEXT_DETECTORS

CONTEXTS = tuple(CONTEXT_DETECTORS)


def run_id(text: str) -> str:
    """Return a run id: numbers get six digits."""
    text = text.strip()
    if not text or "-" in text or "/" in text or text.startswith("."):
        raise argparse.ArgumentTypeError(f"{text!r} is no run id: give a number, as 006724")
    return text.zfill(6) if text.isdigit() else text


def context_name(text: str) -> str:
    """Return the name of a context."""
    if text not in CONTEXTS:
        raise argparse.ArgumentTypeError(f"no context {text!r}{did_you_mean(text, CONTEXTS)}")
    return text


def run_document(text: str) -> dict[str, Any]:
    """Return the run document in JSON, or in a file with that."""
    try:
        return rundoc.from_json(text)
    except InvalidRunDocument as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def options(text: str) -> dict[str, Any]:
    """Return options in a JSON object, or in a file with one."""
    if text.lstrip().startswith("{"):
        return json_object(text)
    try:
        content = Path(text).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no JSON object, as '{{\"elife\": 25000}}', and no file with one ({error})"
        ) from None
    return json_object(content)


def json_object(text: str) -> dict[str, Any]:
    """Return what a JSON object holds."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not JSON: {error.msg} at column {error.colno}"
        ) from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a JSON object, as '{{\"elife\": 25000}}'"
        )
    return value


def positive_number(text: str) -> float:
    """Return a number above 0."""
    with contextlib.suppress(ValueError):
        if float(text) > 0:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")


def positive_integer(text: str) -> int:
    """Return a whole number above 0."""
    with contextlib.suppress(ValueError):
        if int(text) > 0:
            return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")


def add_workers(parser: argparse.ArgumentParser) -> None:
    """Add the option for the number of cores."""
    parser.add_argument(
        "--workers",
        type=positive_integer,
        default=1,
        metavar="N",
        help="number of cores to use (default: %(default)s)",
    )


def add_console(parser: argparse.ArgumentParser) -> None:
    """Add the options for what a command says while it works."""
    parser.add_argument(
        "--progress",
        action=argparse.BooleanOptionalAction,
        help="show a bar (default: in a terminal), or log lines",
    )
    parser.add_argument("--debug", action="store_true", help="log more, and errors in full")

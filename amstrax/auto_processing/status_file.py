"""The file in which a tool that runs for months says how it is, for a monitor to read."""

import json
import logging
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import amstrax
from amstrax import files, strict_json
from amstrax.exceptions import InvalidOption
from amstrax.rundb import documents

log = logging.getLogger(__name__)

# Files of which it has been said that they cannot be written, and why
_said: dict[Path, str] = {}


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write what a tool says of itself, with time, host, process and version, into a JSON file.

    It takes the place of the one before at once. Where it cannot be written a log line says so,
    once, and the tool goes on.

    Parameters
    ----------
    path
        File; its folder is made.
    content
        What to say; times are written in ISO format.
    """
    own = {
        "time": datetime.now(UTC),
        "host": documents.this_host(),
        "pid": os.getpid(),
        "version": amstrax.__version__,
    }
    text = json.dumps({**own, **content}, indent=1, default=_to_json)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write(path, text + "\n")
        _said.pop(path, None)
    except OSError as error:
        reason = str(error.strerror or error)
        if _said.get(path) != reason:
            _said[path] = reason
            log.warning("the status file %s cannot be written: %s", path, reason)


def read(path: Path) -> tuple[dict[str, Any], datetime] | None:
    """Return what a tool has said of itself, and when; None where it has not.

    Parameters
    ----------
    path
        File, as of `write`.

    Raises
    ------
    OSError
        When there is a file that cannot be read.
    InvalidOption
        When it is none that `write` has written.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = strict_json.parse(text, str(path), InvalidOption)
        time = datetime.fromisoformat(content["time"])
        return content, time if time.tzinfo else time.replace(tzinfo=UTC)
    except FileNotFoundError:
        return None
    except (ValueError, LookupError, TypeError) as error:
        raise InvalidOption(
            f"{path} is no status file of a tool of amstrax ({error}): remove it"
        ) from None


def _to_json(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)

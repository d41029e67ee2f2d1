"""The file in which a tool that runs for months says how it is, for a monitor to read."""

import json
import logging
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import amstrax
from amstrax.rundb import documents

log = logging.getLogger(__name__)


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write what a tool says of itself, with time, host, process and version, into a JSON file.

    It takes the place of the one before at once. Where it cannot be written a log line says so,
    and the tool goes on.

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
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({**own, **content}, indent=1, default=_to_json)
        new.write_text(text + "\n", encoding="utf-8")
        new.replace(path)
    except OSError as error:
        new.unlink(missing_ok=True)
        log.warning("the status file %s cannot be written: %s", path, error.strerror or error)


def _to_json(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)

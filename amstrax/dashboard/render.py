"""HTML of pages: templates, in which Jinja escapes all values, and formats of values."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import jinja2
from markupsafe import Markup

from amstrax.commands.base import size
from amstrax.rundb.transfer import Summary


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        auto_reload=False,
    )
    environment.filters |= {"time": time, "size": size, "duration": length, "parent": parent}
    environment.filters |= {"state": state, "run_length": run_length}
    environment.globals["address"] = address
    return environment


def template(name: str) -> jinja2.Template:
    """Return a template of the folder ``templates``."""
    return _environment().get_template(name)


def html(name: str, **values: Any) -> str:
    """Return a filled template."""
    return template(name).render(values)


def text(value: Any) -> str:
    """Return an escaped text."""
    return str(Markup.escape(str(value)))


def address(page: str, **arguments: Any) -> str:
    """Return the address of a page; empty arguments are left out."""
    given = {key: value for key, value in arguments.items() if value not in (None, "", (), [])}
    query = urlencode(given, doseq=True, quote_via=quote)
    return f"{page}?{query}" if query else page


def time(value: datetime | None) -> str:
    """Return a time, in UTC; empty for None."""
    return "" if value is None else f"{_aware(value):%Y-%m-%d %H:%M:%S}"


def _aware(value: datetime) -> datetime:
    return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


def length(seconds: float | None) -> str:
    """Return a duration in the unit that fits; empty for None."""
    if seconds is None:
        return ""
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if abs(seconds) >= 2 * unit:
            value = seconds / unit
            return f"{value:.3g} {name}" if value < 1000 else f"{value:.0f} {name}"
    return f"{seconds:.0f} s"


def state(word: str) -> str:
    """Return one of `amstrax.rundb.documents.STATES` as shown."""
    return {"taking": "being taken", "no-end": "no end"}.get(word, word)


def run_length(run: Summary) -> str:
    """Return the length of a run, or why it has none; empty without start."""
    if run.length is not None:
        return length(run.length)
    return "" if run.start is None else state("taking" if run.is_being_taken else "no-end")


def parent(folder: str) -> str:
    """Return the parent of a folder."""
    return str(Path(folder).parent)


def pretty(value: Any) -> str:
    """Return a document as indented JSON."""

    def plain(value: Any) -> Any:
        if isinstance(value, datetime):
            return _aware(value).isoformat()
        return dict(value) if isinstance(value, Mapping) else str(value)

    return json.dumps(value, indent=2, default=plain, ensure_ascii=False)

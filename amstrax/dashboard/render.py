"""How values are written on pages: everything that is not ours is escaped, by Jinja."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import jinja2
from markupsafe import Markup


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
    )
    environment.filters |= {"time": time, "ago": ago, "size": size, "duration": length}
    environment.filters["parent"] = parent
    environment.globals["address"] = address
    return environment


def template(name: str) -> jinja2.Template:
    """Return a template of the folder ``templates``."""
    return _environment().get_template(name)


def html(name: str, **values: Any) -> str:
    """Return a template with values filled in, as HTML."""
    return template(name).render(values)


def text(value: Any) -> str:
    """Return a text as HTML that shows it as it is."""
    return str(Markup.escape(str(value)))


def address(page: str, **arguments: Any) -> str:
    """Return the address of a page, without arguments that are empty."""
    given = {key: value for key, value in arguments.items() if value not in (None, "", (), [])}
    query = urlencode(given, doseq=True, quote_via=quote)
    return f"{page}?{query}" if query else page


def time(value: datetime | None) -> str:
    """Return a time, in UTC; empty for None."""
    if value is None:
        return ""
    return f"{_aware(value):%Y-%m-%d %H:%M:%S}"


def ago(value: datetime | None) -> str:
    """Return how long ago a time was; empty for None."""
    if value is None:
        return ""
    return f"{length((datetime.now(UTC) - _aware(value)).total_seconds())} ago"


def _aware(value: datetime) -> datetime:
    return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


def length(seconds: float | None) -> str:
    """Return a duration in the unit that fits; empty for None."""
    if seconds is None:
        return ""
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if abs(seconds) >= 2 * unit:
            return (
                f"{seconds / unit:.3g} {name}"
                if seconds < 1000 * unit
                else f"{seconds / unit:.0f} {name}"
            )
    return f"{seconds:.0f} s"


def parent(folder: str) -> str:
    """Return the folder that a folder is in, as texts."""
    return str(Path(folder).parent)


def size(n_bytes: float | None) -> str:
    """Return a number of bytes in the unit that fits; empty for None."""
    if n_bytes is None:
        return ""
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if n_bytes >= unit:
            return f"{n_bytes / unit:.3g} {name}"
    return f"{n_bytes:.0f} B"


def pretty(value: Any) -> str:
    """Return a document as JSON over several lines."""
    return json.dumps(value, indent=2, default=_plain, ensure_ascii=False)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return _aware(value).isoformat()
    return dict(value) if isinstance(value, Mapping) else str(value)

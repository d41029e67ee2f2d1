"""Where copies of live data go, as the settings say."""

import re
from dataclasses import dataclass

from amstrax import settings
from amstrax.exceptions import InvalidOption, did_you_mean


@dataclass(frozen=True)
class Destination:
    """Where copies of live data go.

    Attributes
    ----------
    name
        Name of the host in run documents.
    ssh_host
        Host to reach by ssh, or ``user@host``; None: `folder` is one of this machine.
    folder
        Folder that holds RUN_ID/.
    """

    name: str
    ssh_host: str | None
    folder: str


_DESTINATION = re.compile(
    r"(?P<name>[\w.+-]+)\s*=\s*(?:(?P<ssh_host>[\w@.+][\w@.+-]*):)?(?P<folder>/[^,\n]*)", re.ASCII
)


def copy_destinations(detector: str) -> tuple[Destination, ...]:
    """Return where copies of live data of `detector` go: the setting XAMS_COPY_TO or XAMSL_COPY_TO.

    Raises
    ------
    InvalidOption
        When the setting makes no sense.
    """
    from amstrax.rundb import documents

    setting = f"{detector.upper()}_COPY_TO"
    found: dict[str, Destination] = {}
    for part in _parts(setting):
        match = _DESTINATION.fullmatch(part)
        problem = None
        if match is None:
            problem = "is no destination"
        elif match["name"] in found:
            problem = "is given twice"
        elif match["name"] == documents.this_host():
            problem = "is this machine, where live data is copied from"
        if match is None or problem is not None:
            raise InvalidOption(
                f"the setting {setting} has {part!r}, which {problem}: write "
                "NAME=USER@HOST:/FOLDER, or NAME=/FOLDER for one of this machine, with commas "
                "between them"
            )
        folder = match["folder"].rstrip("/") or "/"
        found[match["name"]] = Destination(match["name"], match["ssh_host"], folder)
    return tuple(found.values())


def delete_after_copies(detector: str) -> tuple[Destination, ...]:
    """Return the copies without which live data of `detector` is not deleted; never none.

    Raises
    ------
    InvalidOption
        When a setting makes no sense, or no copies are set.
    """
    setting = f"{detector.upper()}_DELETE_AFTER_COPIES"
    copies = {destination.name: destination for destination in copy_destinations(detector)}
    if not copies:
        raise InvalidOption(
            f"the setting {detector.upper()}_COPY_TO is empty: without copies nothing is deleted"
        )
    names = _parts(setting) or list(copies)
    for name in names:
        if name not in copies:
            raise InvalidOption(
                f"the setting {setting} has {name!r}, which {detector.upper()}_COPY_TO has not"
                f"{did_you_mean(name, copies)}"
            )
    return tuple(copies[name] for name in dict.fromkeys(names))


def _parts(setting: str) -> list[str]:
    return [part.strip() for part in (settings.get(setting) or "").split(",") if part.strip()]

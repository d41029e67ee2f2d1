"""Where copies of live data go, as the settings say."""

import contextlib
import re
from dataclasses import dataclass
from os.path import normpath

from amstrax import settings
from amstrax.auto_processing import live_folder
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
        When the setting makes no sense, or one folder serves twice: for two destinations, or for
        another detector's copies or live data.
    """
    found = _destinations(detector)
    for i, destination in enumerate(found):
        for other in found[:i]:
            _check_apart(destination, other, f"{other.name}: two names of one folder are one copy")
    for other_detector in settings.DETECTORS:
        if other_detector == detector:
            continue
        others: list[Destination] = []
        # What is wrong with these is for the other detector's tools to say
        with contextlib.suppress(InvalidOption):
            others += _destinations(other_detector)
        live_data = settings.get(f"{other_detector.upper()}_LIVE_DATA")
        if live_data:
            others.append(Destination("its live data", None, live_data))
        for destination in found:
            for other in others:
                what = f"{other.name} of {other_detector}"
                _check_apart(destination, other, f"{what}: give each detector its own folder")
    return found


def _check_apart(one: Destination, other: Destination, text: str) -> None:
    if (one.ssh_host is None) != (other.ssh_host is None):
        return  # Markers of copies tell, see `copy_marker`
    if one.ssh_host is None or other.ssh_host is None:
        are_same = live_folder.is_same(one.folder, other.folder)
    else:
        hosts = {host.rpartition("@")[2].lower() for host in (one.ssh_host, other.ssh_host)}
        are_same = len(hosts) == 1 and normpath(one.folder) == normpath(other.folder)
    if are_same:
        raise InvalidOption(f"the folder {one.folder} of destination {one.name} is that of {text}")


def _destinations(detector: str) -> tuple[Destination, ...]:
    """Return what the setting of a detector says."""
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
        folder = re.sub("/+", "/", match["folder"]).rstrip("/") or "/"
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

"""Find correction files in these places; the first place that has a file is used.

1. The folder in the setting AMSTRAX_CORRECTIONS_FOLDER. ``{branch}`` in it is replaced by the name
   of the branch; a folder without it serves every branch.
2. The package ``amstrax_files``, if it is installed: folders within it, and ``corrections`` next to
   it, as in a clone installed with ``pip install -e``. It serves the branch master.
3. The address in the setting AMSTRAX_CORRECTIONS_URL, with ``{branch}`` likewise, over HTTPS (see
   `amstrax.corrections.published`).

In each of them FILE of the correction NAME is at ``NAME/FILE``.
"""

import logging
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from amstrax import settings, strict_json
from amstrax.corrections import lookup, published
from amstrax.exceptions import CorrectionNotFound, InvalidCorrection, InvalidOption
from amstrax.settings import Corrections

log = logging.getLogger(__name__)

MASTER = "master"
_PACKAGE = "amstrax_files"
#: Folders of the package that may hold the corrections folders
_IN_PACKAGE = ("corrections", "data/corrections", "data", "")

# Folders already reported as having no branches
_warned: set[str] = set()


class File(NamedTuple):
    """A correction file."""

    name: str
    text: str
    place: str  #: path or address

    def content(self) -> dict[str, Any]:
        """Return the read-only content; raise `InvalidCorrection` if it is not JSON."""
        return _parsed(self.text, self.place)


#: Parsing a map takes a second, and each run in a process looks up its own
_parsed = lru_cache(maxsize=16)(lookup.parse)


def get_correction(file_name: str, branch: str = MASTER) -> dict[str, Any]:
    """Return the content of a correction file: range of runs -> value.

    Parameters
    ----------
    file_name
        Name of the file, as ``'elife_v1.json'``.
    branch
        Branch of the repository in which corrections are published.

    Raises
    ------
    CorrectionNotFound
        (a FileNotFoundError) when it is nowhere.
    InvalidCorrection
        (a ValueError) when it is no name of a correction file, or the file is not JSON.
    CorrectionsUnreachable
        (a ConnectionError) when it cannot be had from where it is published, and no copy is kept.
    """
    file = find(file_name, branch)
    return lookup.parse(file.text, file.place)


def find(file_name: str, branch: str = MASTER) -> File:
    """Return the text of a correction file; parameters and errors are those of `get_correction`."""
    path = Path(lookup.folder_of(file_name), file_name)
    check_branch(branch)
    known = settings.corrections()
    looked_in = []
    for folder in (*_folder(known.folder, branch), *_package(branch)):
        if _is_file(folder / path):
            return File(
                file_name,
                strict_json.read_text(folder / path, InvalidCorrection),
                str(folder / path),
            )
        looked_in.append(str(folder))
    if known.url:
        text, address = published.fetch(path.as_posix(), branch, known)
        if text is not None:
            return File(file_name, text, address)
        looked_in.append(address)
    raise CorrectionNotFound(_not_found(file_name, branch, looked_in, known))


def exists(file_name: str, branch: str = MASTER) -> bool:
    """Return whether a correction file exists; raise if that cannot be determined."""
    try:
        find(file_name, branch)
    except CorrectionNotFound:
        return False
    return True


def names(pattern: str) -> list[str]:
    """Return the names of local files of branch master that match a pattern.

    Parameters
    ----------
    pattern
        As ``_global_*.json``.

    Raises
    ------
    InvalidOption
        When the folder of the settings is not there.
    """
    folders = (*_folder(settings.corrections().folder, MASTER), *_package(MASTER))
    place = lookup.folder_of(pattern.replace("*", "x"))
    return sorted({path.name for folder in folders for path in (folder / place).glob(pattern)})


def check_branch(branch: str) -> None:
    """Raise InvalidCorrection for an invalid branch name."""
    if not published.BRANCH.fullmatch(branch) or ".." in branch:
        raise InvalidCorrection(
            f"{branch!r} is no name of a branch: it may have letters, digits and . _ / -"
        )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except PermissionError:
        return True  # reading it tells what is wrong


def _folder(setting: str, branch: str) -> list[Path]:
    if not setting:
        return []
    if "{branch}" not in setting and branch != MASTER and setting not in _warned:
        _warned.add(setting)
        log.warning(
            "corrections of branch %s are taken from %s, which is one folder for all branches: "
            "write {branch} in AMSTRAX_CORRECTIONS_FOLDER where each has its own",
            branch,
            setting,
        )
    folder = settings.expanded(setting.replace("{branch}", branch))
    if not folder.is_dir():
        raise InvalidOption(
            f"the setting AMSTRAX_CORRECTIONS_FOLDER is {setting!r}, and there is no folder "
            f"{folder}: correct it, or leave it out"
        )
    return [folder]


def _package(branch: str) -> list[Path]:
    """Return the folders of the installed package without importing it."""
    if branch != MASTER:
        return []
    try:
        spec = find_spec(_PACKAGE)
    except (ImportError, ValueError):
        return []
    places = (spec.submodule_search_locations or ()) if spec is not None else ()
    folders = [Path(place, folder) for place in places for folder in _IN_PACKAGE]
    folders += [Path(place).resolve().parent / "corrections" for place in places]
    return [folder for folder in folders if folder.is_dir()]


def _not_found(file_name: str, branch: str, looked_in: list[str], known: Corrections) -> str:
    where = ", ".join(looked_in) if looked_in else "nowhere, since nothing says where they are"
    unset = ["AMSTRAX_CORRECTIONS_FOLDER"] * (not known.folder)
    unset += ["AMSTRAX_CORRECTIONS_URL"] * (not known.url)
    remedy = ["check its name"] * bool(looked_in) + [f"set {' or '.join(unset)}"] * bool(unset)
    return (
        f"no correction file {file_name} of branch {branch}. Looked in: {where}. To mend it, "
        f"{', or '.join(remedy)}"
    )

"""A verified copy of the live data of one run."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from amstrax.exceptions import CopyDiffers, CopyFailed, InvalidOption

if TYPE_CHECKING:
    from amstrax.auto_processing import live_folder
    from amstrax.auto_processing.rsync import Place

log = logging.getLogger("amstrax.copy_live")


class Copied(NamedTuple):
    """What a verified copy holds: number of files, their size [bytes], and the copy's own id."""

    n_files: int
    n_bytes: int
    copy_id: str = ""


def copy_data(
    run_id: str,
    live_data_path: str | Path,
    location: str,
    hostname: str,
    production: bool,
    ssh_host: str | None = None,
    bandwidth: int | None = None,
    stopped: Callable[[], bool] = bool,
    on_bytes: Callable[[int], None] | None = None,
    identity: Mapping[str, Any] | None = None,
) -> Copied | None:
    """Copy the live data of a run, and verify the copy by checksum.

    Only a copy of this run is written to, see `amstrax.auto_processing.copy_marker`.

    What has come already, whole or in part, is not sent again. A copy that differs afterwards is
    made once more, by checksum. Nothing is written into the run database here.

    Parameters
    ----------
    run_id
        Name of the run.
    live_data_path
        Folder on this machine that holds RUN_ID/.
    location
        Folder for it at the destination, which must be there.
    hostname
        Name of the destination, for the log.
    production
        Do it; else log what would be done, and return None.
    ssh_host
        Host to reach by ssh, or ``user@host``; None for a folder of this machine.
    bandwidth, stopped, on_bytes
        As of `amstrax.auto_processing.rsync.copy`.
    identity
        What tells the run from others, as from `amstrax.auto_processing.copy_marker.identity`; by
        default its name, and where it is copied from.

    Returns
    -------
    copied
        What the copy holds.

    Raises
    ------
    LiveDataNotFound, LiveDataCorrupted
        When what is to be copied is not there, or holds more than files and folders.
    CopyFailed
        When it cannot be copied, of a kind that says more: DestinationUnusable, CopyDiffers,
        CopyRefused.
    Stopped
        When `stopped` said so.
    """
    from amstrax.auto_processing import copy_marker, live_folder, rsync
    from amstrax.rundb import documents

    run_dir = Path(live_data_path) / live_folder.run_name({"name": run_id})
    folder = rsync.Place(location, ssh_host)
    place = folder / run_dir.name
    what = f"run {run_id} to {hostname} ({place})"
    before = live_folder.inventory(run_dir)
    copied = Copied(*live_folder.count(before))
    if ssh_host is None and live_folder.is_same(location, live_data_path):
        raise InvalidOption(f"{what}: that is where it is: correct the destination")
    if ssh_host is None and live_folder.is_in_run(location, live_data_path):
        raise InvalidOption(f"{what}: that is in the live data of a run: correct the destination")
    if identity is None:
        source = f"{documents.this_host()}:{Path(live_data_path).resolve()}"
        identity = {"name": run_id, "source": source}
    left = copy_marker.check(run_dir, place, before, identity)
    if not production:
        rsync.check_folder(folder)
        n = rsync.to_copy(run_dir, place)
        log.info("dry run: would copy %s, %d of %d files and folders", what, n, len(before))
        return None
    log.info("copying %s, %d files, %.1f MB", what, copied.n_files, copied.n_bytes / 1e6)
    marker = copy_marker.find(place, identity) or copy_marker.add(place, identity)
    copy_marker.check_apart(run_dir, place, marker)
    rsync.copy(run_dir, place, bandwidth, False, stopped, on_bytes, left)
    wrong = compare(run_dir, place, before, stopped)
    if wrong:
        log.warning(
            "the copy of %s differs in %s: copying that again", what, live_folder.some(wrong)
        )
        left = copy_marker.leftovers(before, wrong)
        rsync.copy(run_dir, place, bandwidth, True, stopped, on_bytes, left)
        wrong = compare(run_dir, place, before, stopped)
    if live_folder.inventory(run_dir) != before:
        raise CopyFailed(f"{run_dir} has changed while it was copied to {hostname}: try again")
    if wrong:
        raise CopyDiffers(
            f"the copy of {what} differs in {live_folder.some(wrong)}, twice: look at the disk "
            "there, and whether somebody else writes into it"
        )
    if copy_marker.find(place, identity) != marker:
        raise CopyFailed(f"somebody has changed {place} while {what} was copied: copy it again")
    return copied._replace(copy_id=marker["copy"])


def compare(
    run_dir: Path,
    place: "Place",
    known: "live_folder.Inventory",
    stopped: Callable[[], bool] = bool,
) -> list[str]:
    """Return the names of what differs between live data and a copy: by list, and by checksum.

    Parameters
    ----------
    run_dir, place
        Folder of the run, and of its copy.
    known
        What is in the former.
    stopped
        As of `amstrax.auto_processing.rsync.copy`.

    Raises
    ------
    CopyFailed, Stopped
        When the copy cannot be looked at.
    """
    from amstrax.auto_processing import live_folder, rsync

    here, there = live_folder.sizes(known), rsync.listing(place, stopped)
    if there is None:
        return ["all of it, which is not there"]
    by_list = {name for name in here.keys() | there.keys() if here.get(name) != there.get(name)}
    return sorted(by_list) or rsync.differences(run_dir, place, stopped)

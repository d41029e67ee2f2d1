"""Settings of this machine: the only place that reads the environment and ``~/.xams_config``.

A setting comes from the environment variable of its name, or else from the section ``[default]``
of ``~/.xams_config`` (``AMSTRAX_CONFIG`` names another file)::

    [default]
    XAMS_LIVE_DATA = /data/xenon/xams_v2/live_data
    XAMS_RAW_DATA = /data/xenon/xams_v2/xams_raw_records
    XAMS_PROCESSED_DATA = /data/xenon/xams_v2/xams_processed
    XAMSL_LIVE_DATA = /data/xenon/xamsl/live_data
    XAMSL_RAW_DATA = /data/xenon/xamsl/raw
    XAMSL_PROCESSED_DATA = /data/xenon/xamsl/processed
    DAQ_HOST = daq.example.org
    DAQ_USER = me
    DAQ_KEY_FILE = ~/.ssh/id_ed25519
    MONGO_USER = me
    MONGO_PASSWORD = ...

A file that holds a secret is for its owner alone (``chmod 600``); a warning says when it is not.
Nothing is read when this module is imported.

A file that exists and cannot be used is an `InvalidOption` that names file and reason, never a file
without settings: unreadable, not UTF-8, a mistake in its form, settings outside ``[default]``, and
names that look like misspelt settings. The same holds for such names in the environment.
"""

import configparser
import functools
import getpass
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType

from amstrax.exceptions import InvalidOption
from amstrax.strict_json import short

log = logging.getLogger(__name__)

CONFIG_VARIABLE = "AMSTRAX_CONFIG"
SECTION = "default"

#: Settings of the run database, in the order in which `amstrax rundb check` shows them, with what
#: each is and its value where it is not set
RUN_DATABASE = MappingProxyType(
    {
        "AMSTRAX_MONGO_URI": ("connection string of MongoDB, for a database without tunnel", ""),
        "DAQ_HOST": ("host that MongoDB is reached through, by SSH", ""),
        "DAQ_PORT": ("port of its SSH server", "22"),
        "DAQ_USER": ("user there", "your login name"),
        "DAQ_KEY_FILE": ("private key to log in with", ""),
        "DAQ_KEY_PASSWORD": ("password of that key", ""),
        "DAQ_PASSWORD": ("password to log in with", ""),
        "DAQ_KNOWN_HOSTS": ("file with the keys of known hosts", "~/.ssh/known_hosts"),
        "MONGO_HOST": ("host of MongoDB, as the DAQ host sees it", "127.0.0.1"),
        "MONGO_PORT": ("port of MongoDB", "27017"),
        "MONGO_USER": ("user of MongoDB", ""),
        "MONGO_PASSWORD": ("password of that user", ""),
        "MONGO_AUTH_DB": ("database that the user signs in to", "admin"),
        "AMSTRAX_RUNDB_PATH": ("file of the embedded run database", ""),
        "AMSTRAX_HOST": ("name of this machine in run documents", "its host name"),
        "AMSTRAX_RUNDB_TIMEOUT": ("longest time that one call may take [s]", "20"),
    }
)
#: Settings of the corrections, with what each is and its value where it is not set
CORRECTIONS = MappingProxyType(
    {
        "AMSTRAX_CORRECTIONS_FOLDER": ("folder with correction files; goes before all else", ""),
        "AMSTRAX_CORRECTIONS_URL": ("where they are published, with {branch} in it", ""),
        "AMSTRAX_CORRECTIONS_TIMEOUT": ("longest time for one of those, in all [s]", "10"),
        "AMSTRAX_CORRECTIONS_CACHE": (
            "folder in which those are kept",
            "$XDG_CACHE_HOME/amstrax/corrections",
        ),
    }
)
#: Settings of jobs and of the batch system that they run on, in the same form
BATCH = MappingProxyType(
    {
        "AMSTRAX_ENGINE": ("where jobs run: local, slurm or htcondor", "local"),
        "AMSTRAX_QUEUE": ("queue of the batch system: a partition or job category", ""),
        "AMSTRAX_JOB_MEMORY": ("memory of a job [MB]", "2000"),
        "AMSTRAX_JOB_FOLDER": ("folder for the scripts of jobs", "./jobs"),
        "AMSTRAX_LOG_FOLDER": ("folder for the logs of jobs", "./logs"),
        "AMSTRAX_KEEP_LOGS": ("age at which scripts and logs of jobs are removed [days]", "90"),
        "AMSTRAX_LOCAL_JOBS": ("jobs at once on this machine", "the number of its cores"),
        "AMSTRAX_LOCAL_FOLDER": (
            "where jobs on this machine are kept track of",
            "~/.local/state/amstrax/jobs",
        ),
        "AMSTRAX_CONDOR_ATTRIBUTES": (
            "attributes of jobs on HTCondor, separated by semicolons; {queue} is the queue",
            "",
        ),
    }
)
#: Settings of copying live data from the DAQ, and of deleting it there
COPY = MappingProxyType(
    {
        "XAMS_COPY_TO": (
            "where copies go, as NAME=USER@HOST:/FOLDER, or NAME=/FOLDER on this machine, with "
            "commas between them",
            "",
        ),
        "XAMSL_COPY_TO": ("the same for XAMSL", ""),
        "XAMS_DELETE_AFTER_COPIES": (
            "names of the copies without which nothing is deleted",
            "all of XAMS_COPY_TO",
        ),
        "XAMSL_DELETE_AFTER_COPIES": ("the same for XAMSL", "all of XAMSL_COPY_TO"),
        "AMSTRAX_SSH_CONFIG": ("file with settings of ssh, as for ssh -F", "~/.ssh/config"),
    }
)
#: Settings of contexts
CONTEXTS = MappingProxyType(
    {
        "AMSTRAX_RELEASE": (
            "release of the lab's package whose data the contexts of XAMS make and load: 2.1 "
            "(June 2025) or 2.2 (2026)",
            "2.1",
        ),
    }
)
#: Releases of the lab's package that contexts of XAMS know
RELEASES = ("2.1", "2.2")
#: Settings of the dashboard
DASHBOARD = MappingProxyType(
    {
        "AMSTRAX_DASHBOARD_USERS": (
            "file of those who may log in to the dashboard, with hashes of their passwords",
            "",
        ),
    }
)
#: Settings whose value is shown to nobody. A connection string may hold a password.
SECRETS = frozenset({"AMSTRAX_MONGO_URI", "DAQ_KEY_PASSWORD", "DAQ_PASSWORD", "MONGO_PASSWORD"})

# Paths about which a warning has been logged
_warned: set[Path] = set()

#: The contexts, and the detector whose lab folders and run documents each uses. A context is chosen
#: for a target in this order.
CONTEXT_DETECTORS = MappingProxyType({"xams": "xams", "xams_led": "xams", "xams_little": "xamsl"})
DETECTORS = tuple(dict.fromkeys(CONTEXT_DETECTORS.values()))


#: Folders of the lab, by detector
FOLDERS = tuple(
    f"{detector.upper()}_{kind}_DATA"
    for detector in DETECTORS
    for kind in ("LIVE", "RAW", "PROCESSED")
)
#: All settings
NAMES = frozenset((*RUN_DATABASE, *CORRECTIONS, *BATCH, *COPY, *CONTEXTS, *DASHBOARD, *FOLDERS))
#: A name this similar to a setting is taken for a misspelt one
_SIMILAR = 0.87


def config_path() -> Path:
    """Path of the file with settings; it need not exist."""
    given = os.environ.get(CONFIG_VARIABLE)
    return expanded(given) if given else in_home("~/.xams_config")


def get(name: str, default: str | None = None) -> str | None:
    """Return the setting called `name`, or `default` where it is set nowhere or empty.

    Raises
    ------
    InvalidOption
        When the file of settings cannot be used, or a name in the environment is misspelt.
    """
    return find(name)[0] or default


def find(name: str) -> tuple[str, str]:
    """Return the setting called `name`, and where it is from; both empty where it is set nowhere.

    Raises
    ------
    InvalidOption
        When the file of settings cannot be used, or a name in the environment is misspelt.
    """
    _check_environment(name)
    value = os.environ.get(name)
    if value:
        return value, "environment"
    path, values = _from_file()
    value = values.get(name.upper(), "")
    if not value:
        return "", ""
    if name in SECRETS:
        _warn_if_others_can_read(path)
    return value, str(path)


def _from_file() -> tuple[Path, Mapping[str, str]]:
    """Return the path of the file of settings, and what it sets."""
    is_named = bool(os.environ.get(CONFIG_VARIABLE))
    try:
        path = config_path()
    except InvalidOption:
        if is_named:
            raise
        return Path("~/.xams_config"), {}
    try:
        data = path.read_bytes()
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not is_named and not path.is_symlink():
            return path, {}
        remedy = "correct it, or remove it"
        if is_named:
            remedy = f"correct {CONFIG_VARIABLE}, or unset it"
        elif isinstance(error, PermissionError):
            remedy = "make it readable for you, or name another file with AMSTRAX_CONFIG"
        raise InvalidOption(
            f"the file of settings {path} cannot be read ({error.strerror}): {remedy}"
        ) from error
    return path, _parsed(path, data)


@functools.lru_cache(maxsize=4)
def _parsed(path: Path, data: bytes) -> Mapping[str, str]:
    """Return the settings in the text of a file, by their names in upper case."""
    # No section is the default of others
    parser = configparser.ConfigParser(interpolation=None, default_section="\0")
    try:
        parser.read_string(data.decode("utf-8-sig"))
    except (configparser.Error, UnicodeDecodeError) as error:
        # Their messages quote lines, and a line may hold a password
        lines = [getattr(error, "lineno", None), *(n for n, _ in getattr(error, "errors", ()))]
        place = "".join(f", line {n}" for n in lines[:4] if n)
        raise InvalidOption(
            f"{path} is not a file of settings ({type(error).__name__}{place}): "
            f"write one 'NAME = value' a line below [{SECTION}]"
        ) from None
    values = {}
    if parser.has_section(SECTION):
        values = {name.upper(): value for name, value in parser.items(SECTION)}
    for name, value in values.items():
        meant = _nearest(name) or [known for known in sorted(NAMES) if known.endswith(f"_{name}")]
        _check_name(name, meant, values, f"in {path}")
        if "\0" in value:
            raise InvalidOption(f"{path}: {name} holds a NUL character: write the file as UTF-8")
        for line in value.splitlines()[1:]:
            if re.split("[=:]", line)[0].strip().upper() in NAMES:
                raise InvalidOption(
                    f"{path}: the line after {name} is indented, which makes it part of its value: "
                    "begin each setting at the start of a line"
                )
    for section in parser.sections():
        if section == SECTION:
            continue
        strays = {name.upper() for name in parser[section]} & NAMES - values.keys()
        if strays:
            raise InvalidOption(
                f"{path} has {min(strays)} in section [{section}], which is not read: move it to "
                f"[{SECTION}]"
            )
        is_similar = get_close_matches(section.strip().lower(), [SECTION])
        if is_similar and not parser.has_section(SECTION):
            raise InvalidOption(
                f"{path} has a section [{section}], which is not read: did you mean [{SECTION}]?"
            )
    return MappingProxyType(values)


def _check_environment(asked: str) -> None:
    """Raise for a variable that looks like a misspelt setting.

    Other programs use DAQ_ and MONGO_, too: such variables count when a setting of that kind is
    asked for, and plurals do not.
    """
    shared = tuple(prefix for prefix in ("DAQ_", "MONGO_") if asked.startswith(prefix))
    for name in os.environ:
        if name.startswith(("AMSTRAX", "XAMS")):
            _check_name(name, _nearest(name), {}, "in the environment")
        elif name.startswith(shared) and name.removesuffix("S") not in NAMES:
            _check_name(name, _nearest(name), os.environ, "in the environment")


@functools.lru_cache(maxsize=1024)
def _nearest(name: str) -> list[str]:
    """Return the setting that a name may be a misspelling of, in a list; empty if it is none."""
    known = {*NAMES, CONFIG_VARIABLE}
    near = [] if name in known else get_close_matches(name, sorted(known), 1, _SIMILAR)
    # A name with one more word, as MONGO_PASSWORD_FILE, is another name
    return [each for each in near if not set(each.split("_")) < set(name.split("_"))]


def _check_name(name: str, meant: list[str], given: Mapping[str, str], place: str) -> None:
    """Raise for a name that means another one, unless that is given as well."""
    if name not in NAMES and meant and not any(each in given for each in meant):
        raise InvalidOption(
            f"there is no setting {name} ({place}): did you mean {' or '.join(meant)}?"
        )


def _warn_if_others_can_read(path: Path) -> None:
    if path in _warned or not path.stat().st_mode & 0o077:
        return
    _warned.add(path)
    log.warning("%s holds a password, and others can read it: chmod 600 %s", path, path)


def number(name: str, default: float, low: float = 1, high: float = 65535) -> float:
    """Return the setting `name` as a number.

    Raises
    ------
    InvalidOption
        When it is no number from `low` to `high`.
    """
    text, source = find(name)
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise InvalidOption(
            f"the setting {name} is {short(text)}: make it a number from {low:g} to {high:g} "
            f"({source})"
        )
    return value


def _port(name: str, default: int) -> int:
    value = number(name, default)
    if value != int(value):
        raise InvalidOption(f"the setting {name} is {value:g}: a port is a whole number")
    return int(value)


def batch(name: str) -> str:
    """Return a setting of `BATCH`, or its value where it is not set."""
    return get(name) or BATCH[name][1]


def engine() -> str:
    """Return the name of the engine that jobs run with, where none is asked for."""
    return batch("AMSTRAX_ENGINE")


def job_memory() -> int:
    """Return the memory that a job asks for [MB].

    Raises
    ------
    InvalidOption
        When it is no number.
    """
    default = float(BATCH["AMSTRAX_JOB_MEMORY"][1])
    return int(number("AMSTRAX_JOB_MEMORY", default, low=1, high=1e7))


def release(name: str | None = None) -> str:
    """Return the release of the lab's package to follow: `name`, or that of AMSTRAX_RELEASE.

    Raises
    ------
    InvalidOption
        (a ValueError) when there is no such release.
    """
    place = "release"
    if name is None:
        place = "AMSTRAX_RELEASE"
        name = get(place, CONTEXTS[place][1])
    if name not in RELEASES:
        raise InvalidOption(f"{place}={name!r} is no release: write {' or '.join(RELEASES)}")
    return name


def keep_logs() -> float:
    """Return how long scripts and logs of jobs are kept [s].

    Raises
    ------
    InvalidOption
        When it is no number.
    """
    default = float(BATCH["AMSTRAX_KEEP_LOGS"][1])
    return 86400 * number("AMSTRAX_KEEP_LOGS", default, low=1, high=1e5)


def local_jobs() -> int:
    """Return how many jobs the local engine runs at once.

    Raises
    ------
    InvalidOption
        When that is no number.
    """
    return int(number("AMSTRAX_LOCAL_JOBS", len(os.sched_getaffinity(0)), low=1, high=10000))


def local_folder() -> Path:
    """Folder in which the local engine keeps track of its jobs; it need not exist."""
    path = get("AMSTRAX_LOCAL_FOLDER")
    if path:
        return expanded(path).absolute()
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return expanded(state).absolute() / "amstrax" / "jobs"


def folder(name: str) -> Path | None:
    """Return the setting `name` as a folder, or None where it is not set or does not exist.

    A warning tells once of one that does not exist.

    Raises
    ------
    InvalidOption
        When it cannot be used: it is a file, or there is no permission to look.
    """
    value, source = find(name)
    if not value:
        return None
    path = expanded(value)
    try:
        path.stat()
        with os.scandir(path):
            return path
    except FileNotFoundError:
        if path not in _warned:
            _warned.add(path)
            log.warning("the folder %s of the setting %s does not exist: left out", path, name)
        return None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InvalidOption(
            f"the setting {name} is {short(value)}, which cannot be used as a folder ({reason}): "
            f"correct it ({source})"
        ) from error


def live_data(detector: str) -> Path | None:
    """Folder in which the DAQ's runs of `detector` (xams or xamsl) lie on this machine."""
    return folder(f"{_checked(detector)}_LIVE_DATA")


def raw_data(detector: str) -> Path | None:
    """Folder with the lab's stored raw records of `detector`."""
    return folder(f"{_checked(detector)}_RAW_DATA")


def processed_data(detector: str) -> Path | None:
    """Folder with the lab's processed data of `detector`."""
    return folder(f"{_checked(detector)}_PROCESSED_DATA")


def _checked(detector: str) -> str:
    if detector not in DETECTORS:
        raise InvalidOption(f"unknown detector {detector!r}: take one of {', '.join(DETECTORS)}")
    return detector.upper()


@dataclass(frozen=True)
class RunDatabase:
    """Where the run database is, and how to get there. Its repr has no secrets.

    Attributes
    ----------
    uri
        Connection string of MongoDB; empty: see the next ones.
    daq_host
        Host of the SSH tunnel; empty: the embedded store at `path` is used.
    timeout
        Longest time that a call may take [s].
    ssh_config
        File with settings of ssh; None for ssh's own.
    given
        Names of the settings that are set, by the user or by arguments.
    """

    uri: str = field(repr=False)
    daq_host: str
    daq_port: int
    daq_user: str
    daq_key_file: Path | None
    daq_key_password: str | None = field(repr=False)
    daq_password: str | None = field(repr=False)
    known_hosts: tuple[Path, ...]
    mongo_host: str
    mongo_port: int
    mongo_user: str
    mongo_password: str | None = field(repr=False)
    mongo_auth_db: str
    path: Path
    timeout: float
    ssh_config: Path | None = None
    given: frozenset[str] = frozenset()


def run_database(daq_host: str = "", daq_user: str = "") -> RunDatabase:
    """Return the settings of the run database.

    Parameters
    ----------
    daq_host, daq_user
        Host of the SSH tunnel and the user there, which then go before the settings
        AMSTRAX_MONGO_URI, DAQ_HOST and DAQ_USER.

    Raises
    ------
    InvalidOption
        When a number is none, and as `find` does.
    """
    key_file = get("DAQ_KEY_FILE")
    ssh_config = get("AMSTRAX_SSH_CONFIG")
    arguments = {"DAQ_HOST": daq_host, "DAQ_USER": daq_user}
    known_hosts = get("DAQ_KNOWN_HOSTS")
    return RunDatabase(
        uri="" if daq_host else get("AMSTRAX_MONGO_URI", "") or "",
        daq_host=daq_host or get("DAQ_HOST", "") or "",
        daq_port=_port("DAQ_PORT", 22),
        daq_user=daq_user or get("DAQ_USER") or login_name(),
        daq_key_file=expanded(key_file) if key_file else None,
        daq_key_password=get("DAQ_KEY_PASSWORD"),
        daq_password=get("DAQ_PASSWORD"),
        known_hosts=(
            (expanded(known_hosts),)
            if known_hosts
            else (in_home("~/.ssh/known_hosts"), Path("/etc/ssh/ssh_known_hosts"))
        ),
        mongo_host=get("MONGO_HOST", "127.0.0.1") or "",
        mongo_port=_port("MONGO_PORT", 27017),
        mongo_user=get("MONGO_USER", "") or "",
        mongo_password=get("MONGO_PASSWORD"),
        mongo_auth_db=get("MONGO_AUTH_DB", "admin") or "",
        path=rundb_path(),
        timeout=number("AMSTRAX_RUNDB_TIMEOUT", 20, low=0.1, high=3600),
        ssh_config=expanded(ssh_config) if ssh_config else None,
        given=frozenset(name for name in RUN_DATABASE if arguments.get(name) or get(name)),
    )


@dataclass(frozen=True)
class Corrections:
    """Where correction files are; see `amstrax.corrections.store`.

    Attributes
    ----------
    folder
        Folder with correction files, maybe with ``{branch}`` in it; empty for none.
    url
        Where they are published, maybe with ``{branch}`` in it; empty for nowhere.
    timeout
        Longest time to wait for a published file, from the look-up of its server to its end [s].
    cache
        Folder in which those are kept; it need not exist.
    """

    folder: str
    url: str
    timeout: float
    cache: Path


def corrections() -> Corrections:
    """Return the settings of the corrections.

    Raises
    ------
    InvalidOption
        When the time to wait is no number.
    """
    given = get("AMSTRAX_CORRECTIONS_CACHE")
    usual = f"{os.environ.get('XDG_CACHE_HOME') or '~/.cache'}/amstrax/corrections"
    return Corrections(
        folder=get("AMSTRAX_CORRECTIONS_FOLDER", "") or "",
        url=get("AMSTRAX_CORRECTIONS_URL", "") or "",
        timeout=number("AMSTRAX_CORRECTIONS_TIMEOUT", 10, low=0.1, high=3600),
        cache=expanded(given) if given else in_home(usual),
    )


def rundb_path() -> Path:
    """Path of the embedded run database; it need not exist."""
    path = get("AMSTRAX_RUNDB_PATH")
    if path:
        return expanded(path)
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return in_home(data) / "amstrax" / "rundb.sqlite"


def amstrax_path() -> str:
    """Return the folder that this package is in."""
    return str(Path(__file__).resolve().parents[1])


def login_name() -> str:
    """Return the name of this machine's user; for a user id without a name, its number."""
    try:
        return getpass.getuser() or str(os.getuid())
    except (ImportError, KeyError, OSError):
        # As containers have them
        return str(os.getuid())


def expanded(path: str | Path) -> Path:
    """Return a path with ``~`` as the home folder.

    Raises
    ------
    InvalidOption
        When the home folder is unknown, as in a container without HOME.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise InvalidOption(
            f"{str(path)!r}: user {login_name()} has no home folder: set HOME, or write the whole "
            "path"
        ) from None


def in_home(path: str) -> Path:
    """Return a default below the home folder; where that is unknown, a path that cannot exist."""
    try:
        return expanded(path)
    except InvalidOption:
        return Path("/nonexistent", path.removeprefix("~").lstrip("/"))

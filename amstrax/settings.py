"""Settings of this machine: the only module that reads the environment and ``~/.xams_config``.

A setting is an environment variable, or else a line in the section ``[default]`` of
``~/.xams_config`` (``AMSTRAX_CONFIG`` names another file)::

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

A file with a secret should be readable by its owner only (``chmod 600``); otherwise a warning is
logged. Nothing is read when this module is imported.

All functions raise `InvalidOption` for a file that exists and is unusable: unreadable, not UTF-8,
malformed, with settings outside ``[default]``, or with names that resemble settings. The same holds
for such names in the environment.
"""

import configparser
import functools
import getpass
import logging
import os
import re
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType

from amstrax.exceptions import InvalidOption
from amstrax.strict_json import short

log = logging.getLogger(__name__)

CONFIG_VARIABLE = "AMSTRAX_CONFIG"
SECTION = "default"

#: Settings of the run database, in the order of `amstrax rundb check`: description and default
RUN_DATABASE = MappingProxyType(
    {
        "AMSTRAX_MONGO_URI": ("connection string of MongoDB, for a database without tunnel", ""),
        "DAQ_HOST": ("host of the SSH tunnel to MongoDB", ""),
        "DAQ_PORT": ("port of its SSH server", "22"),
        "DAQ_USER": ("user on that host", "your login name"),
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
#: Settings of the corrections, in the same form
CORRECTIONS = MappingProxyType(
    {
        "AMSTRAX_CORRECTIONS_FOLDER": ("folder with correction files, searched first", ""),
        "AMSTRAX_CORRECTIONS_URL": ("address of published files, with {branch} in it", ""),
        "AMSTRAX_CORRECTIONS_TIMEOUT": ("longest time to fetch a published file [s]", "10"),
        "AMSTRAX_CORRECTIONS_CACHE": (
            "folder for copies of published files",
            "$XDG_CACHE_HOME/amstrax/corrections",
        ),
    }
)
#: Settings of jobs and of their batch system
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
            "folder for the state of local jobs",
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
#: Settings of alarms
ALARMS = MappingProxyType(
    {
        "AMSTRAX_ALARM_MAIL": ("addresses to which alarms are sent, with commas between them", ""),
        "AMSTRAX_ALARM_SMTP": ("server that takes the mails, as HOST:PORT", "localhost:25"),
        "AMSTRAX_ALARM_SMTP_USER": ("user of that server, over TLS only", ""),
        "AMSTRAX_ALARM_SMTP_PASSWORD": ("password of that user", ""),
        "AMSTRAX_ALARM_WEBHOOK": ("address of a webhook of Mattermost or Slack", ""),
        "AMSTRAX_ALARM_FAILURES": ("jobs that fail one after the other, 0 for any", "3"),
        "AMSTRAX_ALARM_NO_RUN": ("time without a new run [h], 0 for any", "0"),
        "AMSTRAX_ALARM_DISK": ("free space of a disk of data [%]", "5"),
    }
)
#: Settings whose values are never shown. A connection string may contain a password, and the
#: address of a webhook is one.
SECRETS = frozenset(
    {
        *("AMSTRAX_MONGO_URI", "DAQ_KEY_PASSWORD", "DAQ_PASSWORD", "MONGO_PASSWORD"),
        *("AMSTRAX_ALARM_SMTP_PASSWORD", "AMSTRAX_ALARM_WEBHOOK"),
    }
)

# Paths already warned about
_warned: set[Path] = set()

#: Context -> detector whose lab folders and run documents it uses. The first context that makes a
#: target is chosen.
CONTEXT_DETECTORS = MappingProxyType({"xams": "xams", "xams_led": "xams", "xams_little": "xamsl"})
DETECTORS = tuple(dict.fromkeys(CONTEXT_DETECTORS.values()))

#: Folders of the lab, by detector
FOLDERS = tuple(
    f"{detector.upper()}_{kind}_DATA"
    for detector in DETECTORS
    for kind in ("LIVE", "RAW", "PROCESSED")
)
#: All settings
NAMES = frozenset(
    (*RUN_DATABASE, *CORRECTIONS, *BATCH, *COPY, *CONTEXTS, *DASHBOARD, *ALARMS, *FOLDERS)
)
#: Similarity to a setting from which a name counts as misspelt
_SIMILAR = 0.87


def config_path() -> Path:
    """Return the path of the file with settings; it need not exist."""
    given = os.environ.get(CONFIG_VARIABLE)
    return expanded(given) if given else in_home("~/.xams_config")


def get(name: str, default: str | None = None) -> str | None:
    """Return a setting, or `default` if it is not set or empty."""
    return find(name)[0] or default


def find(name: str) -> tuple[str, str]:
    """Return a setting and its source; both are empty if it is not set."""
    shared = tuple(prefix for prefix in ("DAQ_", "MONGO_") if name.startswith(prefix))
    _check_environment(shared, tuple(os.environ))
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
    """Return the path of the file of settings, and its content."""
    is_named = bool(os.environ.get(CONFIG_VARIABLE))
    path = config_path()
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
    """Return the settings in the text of a file, by name in upper case."""
    # Disables the special section that provides defaults for others
    parser = configparser.ConfigParser(interpolation=None, default_section="\0")
    try:
        parser.read_string(data.decode("utf-8-sig"))
    except (configparser.Error, UnicodeDecodeError) as error:
        # Their messages quote lines, which may contain a password
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


@functools.lru_cache(maxsize=4)
def _check_environment(shared: tuple[str, ...], names: tuple[str, ...]) -> None:
    """Raise for a name of a variable that resembles a setting.

    Other programs use DAQ_ and MONGO_, too: such variables are checked only if a setting with that
    prefix, in `shared`, is read, and plurals are not.
    """
    for name in names:
        if name.startswith(("AMSTRAX", "XAMS")):
            _check_name(name, _nearest(name), (), "in the environment")
        elif name.startswith(shared) and name.removesuffix("S") not in NAMES:
            _check_name(name, _nearest(name), names, "in the environment")


def _nearest(name: str) -> list[str]:
    """Return a list with the setting that a name may be a misspelling of, or an empty list."""
    known = {*NAMES, CONFIG_VARIABLE}
    near = [] if name in known else get_close_matches(name, sorted(known), 1, _SIMILAR)
    # A name with one more word, as MONGO_PASSWORD_FILE, is another name
    return [each for each in near if not set(each.split("_")) < set(name.split("_"))]


def _check_name(name: str, meant: list[str], given: Container[str], place: str) -> None:
    """Raise for a misspelt name, unless the right one is given as well."""
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
    """Return a setting as a number, or raise InvalidOption unless it is from `low` to `high`."""
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
    """Return a setting of `BATCH`, or its default."""
    return get(name) or BATCH[name][1]


def engine() -> str:
    """Return the name of the default engine for jobs."""
    return batch("AMSTRAX_ENGINE")


def job_memory() -> int:
    """Return the memory that a job asks for [MB]."""
    return int(number("AMSTRAX_JOB_MEMORY", float(BATCH["AMSTRAX_JOB_MEMORY"][1]), high=1e7))


def keep_logs() -> float:
    """Return how long scripts and logs of jobs are kept [s]."""
    return 86400 * number("AMSTRAX_KEEP_LOGS", float(BATCH["AMSTRAX_KEEP_LOGS"][1]), high=1e5)


def local_jobs() -> int:
    """Return the number of jobs that the local engine runs at once."""
    # Only Linux knows which cores this process may use
    on_linux = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if on_linux else os.cpu_count() or 1
    return int(number("AMSTRAX_LOCAL_JOBS", cores, high=10000))


def release(name: str | None = None) -> str:
    """Return the release of the lab's package to follow: `name`, or that of AMSTRAX_RELEASE.

    Raises InvalidOption (a ValueError) for any other name.
    """
    place = "release"
    if name is None:
        place = "AMSTRAX_RELEASE"
        name = get(place, CONTEXTS[place][1])
    if name not in RELEASES:
        raise InvalidOption(f"{place}={name!r} is no release: write {' or '.join(RELEASES)}")
    return name


def local_folder() -> Path:
    """Return the folder for the state of local jobs; it need not exist."""
    path = get("AMSTRAX_LOCAL_FOLDER")
    if path:
        return expanded(path).absolute()
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return expanded(state).absolute() / "amstrax" / "jobs"


def folder(name: str) -> Path | None:
    """Return a setting as a folder; None if it is not set or does not exist.

    A missing folder is warned about once. A file, or a folder without permission, raises
    InvalidOption.
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
    """Return the folder with live data of `detector` (xams or xamsl) on this machine."""
    return folder(f"{_checked(detector)}_LIVE_DATA")


def raw_data(detector: str) -> Path | None:
    """Return the folder with the lab's stored raw records of `detector`."""
    return folder(f"{_checked(detector)}_RAW_DATA")


def processed_data(detector: str) -> Path | None:
    """Return the folder with the lab's processed data of `detector`."""
    return folder(f"{_checked(detector)}_PROCESSED_DATA")


def _checked(detector: str) -> str:
    if detector not in DETECTORS:
        raise InvalidOption(f"unknown detector {detector!r}: take one of {', '.join(DETECTORS)}")
    return detector.upper()


@dataclass(frozen=True)
class RunDatabase:
    """Location of the run database and how to connect. Its repr has no secrets."""

    uri: str = field(repr=False)  #: connection string of MongoDB; empty: see the next ones
    daq_host: str  #: host of the SSH tunnel; empty: the embedded store at `path` is used
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
    path: Path = field(compare=False)  #: embedded store; not part of a connection to MongoDB
    timeout: float  #: longest duration of a call [s]
    ssh_config: Path | None = None  #: file with settings of ssh; None for ssh's own
    given: frozenset[str] = frozenset()  #: names of the settings given by user or arguments


def run_database(daq_host: str = "", daq_user: str = "") -> RunDatabase:
    """Return the settings of the run database.

    `daq_host` and `daq_user`, the host of the SSH tunnel and the user there, replace the settings
    AMSTRAX_MONGO_URI, DAQ_HOST and DAQ_USER.
    """
    values = {name: get(name) for name in (*RUN_DATABASE, "AMSTRAX_SSH_CONFIG")}
    values |= {k: v for k, v in {"DAQ_HOST": daq_host, "DAQ_USER": daq_user}.items() if v}
    key_file, known_hosts = values["DAQ_KEY_FILE"], values["DAQ_KNOWN_HOSTS"]
    ssh_config = values["AMSTRAX_SSH_CONFIG"]
    usual_hosts = (in_home("~/.ssh/known_hosts"), Path("/etc/ssh/ssh_known_hosts"))
    return RunDatabase(
        uri="" if daq_host else values["AMSTRAX_MONGO_URI"] or "",
        daq_host=values["DAQ_HOST"] or "",
        daq_port=_port("DAQ_PORT", 22),
        daq_user=values["DAQ_USER"] or login_name(),
        daq_key_file=expanded(key_file) if key_file else None,
        daq_key_password=values["DAQ_KEY_PASSWORD"],
        daq_password=values["DAQ_PASSWORD"],
        known_hosts=(expanded(known_hosts),) if known_hosts else usual_hosts,
        mongo_host=values["MONGO_HOST"] or "127.0.0.1",
        mongo_port=_port("MONGO_PORT", 27017),
        mongo_user=values["MONGO_USER"] or "",
        mongo_password=values["MONGO_PASSWORD"],
        mongo_auth_db=values["MONGO_AUTH_DB"] or "admin",
        path=rundb_path(),
        timeout=number("AMSTRAX_RUNDB_TIMEOUT", 20, low=0.1, high=3600),
        ssh_config=expanded(ssh_config) if ssh_config else None,
        given=frozenset(name for name in RUN_DATABASE if values[name]),
    )


@dataclass(frozen=True)
class Corrections:
    """Locations of correction files; see `amstrax.corrections.store`."""

    folder: str  #: folder of correction files, may contain ``{branch}``; empty for none
    url: str  #: address where they are published, may contain ``{branch}``; empty for none
    timeout: float  #: longest wait for a published file, including the look-up of its server [s]
    cache: Path  #: folder for copies of published files; it need not exist


def corrections() -> Corrections:
    """Return the settings of the corrections."""
    given = get("AMSTRAX_CORRECTIONS_CACHE")
    usual = f"{os.environ.get('XDG_CACHE_HOME') or '~/.cache'}/amstrax/corrections"
    return Corrections(
        folder=get("AMSTRAX_CORRECTIONS_FOLDER", "") or "",
        url=get("AMSTRAX_CORRECTIONS_URL", "") or "",
        timeout=number("AMSTRAX_CORRECTIONS_TIMEOUT", 10, low=0.1, high=3600),
        cache=expanded(given) if given else in_home(usual),
    )


def rundb_path() -> Path:
    """Return the path of the embedded run database; it need not exist."""
    path = get("AMSTRAX_RUNDB_PATH")
    if path:
        return expanded(path)
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return in_home(data) / "amstrax" / "rundb.sqlite"


def amstrax_path() -> str:
    """Return the folder that contains this package."""
    return str(Path(__file__).resolve().parents[1])


def login_name() -> str:
    """Return the name of the user; for a user id without a name, its number."""
    try:
        return getpass.getuser() or str(os.getuid())
    except (ImportError, KeyError, OSError):
        # In containers
        return str(os.getuid())


def expanded(path: str | Path) -> Path:
    """Return a path with ``~`` replaced by the home folder.

    Raises InvalidOption when that is unknown, as in a container without HOME.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise InvalidOption(
            f"{str(path)!r}: user {login_name()} has no home folder: set HOME, or write the whole "
            "path"
        ) from None


def in_home(path: str) -> Path:
    """Return a default below the home folder; if that is unknown, a path that cannot exist."""
    try:
        return expanded(path)
    except InvalidOption:
        return Path("/nonexistent", path.removeprefix("~").lstrip("/"))

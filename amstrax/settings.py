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

Nothing is read when this module is imported.
"""

import configparser
import os
from pathlib import Path
from types import MappingProxyType

from amstrax.exceptions import InvalidOption

CONFIG_VARIABLE = "AMSTRAX_CONFIG"
SECTION = "default"

#: The contexts, and the detector whose lab folders and run documents each uses. A context is chosen
#: for a target in this order.
CONTEXT_DETECTORS = MappingProxyType({"xams": "xams", "xams_led": "xams", "xams_little": "xamsl"})
DETECTORS = tuple(dict.fromkeys(CONTEXT_DETECTORS.values()))


def config_path() -> Path:
    """Path of the file with settings; it need not exist."""
    return Path(os.environ.get(CONFIG_VARIABLE) or "~/.xams_config").expanduser()


def get(name: str, default: str | None = None) -> str | None:
    """Return the setting called `name`, or `default` where it is set nowhere or empty.

    Raises
    ------
    InvalidOption
        When the file with settings cannot be read as one.
    """
    value = os.environ.get(name)
    if value:
        return value
    path = config_path()
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read(path, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError) as error:
        # Their messages quote lines, and a line may hold a password
        raise InvalidOption(
            f"{path} is not a file of settings ({type(error).__name__}): "
            f"write one 'NAME = value' a line below [{SECTION}]"
        ) from None
    return parser.get(SECTION, name, fallback="") or default


def folder(name: str) -> Path | None:
    """Return the setting `name` as a folder, or None where it is not set or does not exist."""
    value = get(name)
    if not value:
        return None
    path = Path(value).expanduser()
    return path if path.is_dir() else None


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

"""Names and commands that users know are those of `public_names.json`.

Run as a file to rewrite the list, after a change on purpose: ``python tests/test_public_names.py``.
"""

import argparse
import importlib
import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import amstrax
from amstrax import cli

ROOT = Path(__file__).resolve().parents[1]
LIST = Path(__file__).with_name("public_names.json")

#: Modules that the documentation names
MODULES = [
    *("SiPMdata", "common", "contexts", "hitfinder_thresholds", "itp_map", "rundb"),
    *(
        f"plugins.{name}"
        for name in (
            *("daqreader", "event_processing", "pax_interface", "peak_processing"),
            *("pulse_processing", "pulse_processing_alt_baseline"),
        )
    ),
    *(
        f"auto_processing.{name}"
        for name in ("amstraxer", "auto_processing", "copy_live", "process_run", "submit_stbc")
    ),
    *("auto_processing.delete_live", "cli", "exceptions", "settings"),
]
TOOLS = ("amstraxer", "auto_processing", "copy_live", "delete_live", "process_run", "submit_stbc")


class _Parser(Exception):
    """Carries the parser of a command out of it."""


def options_of(parser: argparse.ArgumentParser) -> dict[str, Any]:
    """Return the options and arguments of a parser, and those of its subcommands."""
    found: dict[str, Any] = {"options": [], "arguments": []}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found["subcommands"] = {
                name: options_of(sub) for name, sub in sorted(action.choices.items())
            }
        elif action.option_strings:
            value = [*action.option_strings, *(["required"] if action.required else [])]
            found["options"].append(" ".join(value))
        else:
            found["arguments"].append(f"{action.dest} {action.nargs or ''}".strip())
    found["options"].sort()
    return found


def parser_of(module: str) -> argparse.ArgumentParser:
    """Return the parser with which a command reads its options."""

    def give(self: argparse.ArgumentParser, *_args: Any, **_kwargs: Any) -> Any:
        raise _Parser(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", give)
        try:
            importlib.import_module(module).main([])
        except _Parser as found:
            return found.args[0]
    raise AssertionError(f"{module} has read no options")


def members_of(module: str) -> list[str]:
    """Return the names that a module is known for: of ``__all__``, else what it defines."""
    value = importlib.import_module(module)
    if names := getattr(value, "__all__", None):
        return sorted(names)
    return sorted(
        name
        for name, member in vars(value).items()
        if not name.startswith("_")
        and (inspect.isfunction(member) or inspect.isclass(member))
        and member.__module__ == module
    )


def console_scripts() -> list[str]:
    """Return the programs that setup.py installs, with what they call."""
    text = (ROOT / "setup.py").read_text(encoding="utf-8")
    block = text.partition('"console_scripts": [')[2].partition("]")[0]
    return sorted(line.strip().strip('",') for line in block.splitlines() if line.strip())


def public_names() -> dict[str, Any]:
    """Return what users know of the package."""
    return {
        "package": sorted(amstrax.__all__),
        "modules": {name: members_of(f"amstrax.{name}") for name in MODULES},
        "console_scripts": console_scripts(),
        "commands": {
            name: options_of(parser_of(f"amstrax.{tool.module}"))
            for name, tool in sorted(cli.TOOLS.items())
        },
    }


def test_names_and_commands_are_as_listed():
    known = json.loads(LIST.read_text(encoding="utf-8"))
    found = public_names()
    assert set(found["package"]) >= set(known["package"])
    for name, members in known["modules"].items():
        assert set(found["modules"][name]) >= set(members), name
    assert found["console_scripts"] == known["console_scripts"]
    for name, command in known["commands"].items():
        check_command(name, found["commands"][name], command)


def check_command(name: str, found: dict[str, Any], known: dict[str, Any]) -> None:
    """Check that a command takes what is listed; new options and subcommands may be added."""
    assert set(found["options"]) >= set(known["options"]), name
    assert not [o for o in set(found["options"]) - set(known["options"]) if "required" in o], name
    assert found["arguments"] == known["arguments"], name
    for subcommand, its in known.get("subcommands", {}).items():
        check_command(f"{name} {subcommand}", found["subcommands"][subcommand], its)


@pytest.mark.parametrize("name", TOOLS)
def test_tools_run_as_modules(name):
    command = [sys.executable, "-m", f"amstrax.auto_processing.{name}", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout


if __name__ == "__main__":
    LIST.write_text(json.dumps(public_names(), indent=1) + "\n", encoding="utf-8")

"""Every name that users know from the documentation imports, and takes what it used to take.

The modules are those of DESIGN.md, names and arguments those of the documentation of release 2.1.0.
"""

import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import strax

import amstrax
from amstrax import plugins
from amstrax.plugins import pulse_processing

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"

_PAGE = "docs/source/reference.rst"


def documented_modules(design: str) -> list[str]:
    """Return the modules that DESIGN.md says are documented: amstrax.{one, other}, ..."""
    paragraph = re.search(r"The documented module names.*?also amstrax\.NAME", design, re.S)
    assert paragraph, "DESIGN.md no longer says which modules are documented"
    found = re.findall(r"(amstrax(?:\.\w+)*)\.\{([^}]*)\}", paragraph[0])
    return [f"{package}.{name}" for package, names in found for name in re.findall(r"[\w]+", names)]


def documented_callables(text: str) -> dict[str, list[str]]:
    """Return functions and classes of the old documentation, with the names of their arguments."""
    text = text.replace("\\_", "_").replace("\\*", "*")
    start = text.index("## 1.8 amstrax package")
    text = text[start : text.index("INDICES AND TABLES", start)]
    found = {}
    pattern = (
        r"^`?(?:\*\*)?(?:class )?(?:\*\*class\*\* )?(?:\*\*)?(amstrax(?:\.\w+)+)(?:\*\*)?(\(|$)"
    )
    for match in re.finditer(pattern, text, re.M):
        arguments: list[str] = []
        if match[2]:
            arguments = argument_names(inside(text, match.end()))
        if is_member(match[1]):
            found[match[1]] = arguments
    return found


def inside(text: str, start: int) -> str:
    """Return what is between a bracket that was opened before `start` and its end."""
    depth = 1
    for i in range(start, len(text)):
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(text[i], 0)
        if depth == 0:
            return text[start:i]
    raise AssertionError(text[start : start + 100])


def argument_names(text: str) -> list[str]:
    """Return the names in a signature, without values, types, and what takes all others."""
    text = re.sub(r"(?<!\*)\*(\w[^*,]*)\*", r"\1", text)  # *italics*
    names, depth, word = [], 0, ""
    for character in text + ",":
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(character, 0)
        if character == "," and depth == 0:
            if name := re.match(r"\s*(\w+)", word):
                names.append(name[1])
            word = ""
        else:
            word += character
    return names


def is_member(name: str) -> bool:
    """Return whether it is a function or class in a module, and not a module."""
    return name.count(".") >= 2


def modules() -> list[str]:
    design = SHARED / "DESIGN.md"
    return documented_modules(design.read_text(encoding="utf-8")) if design.is_file() else []


def callables() -> dict[str, list[str]]:
    old = SHARED / "seed/amstrax_documentation_2.1.0.txt"
    return documented_callables(old.read_text(encoding="utf-8")) if old.is_file() else {}


MODULES, CALLABLES = modules(), callables()


def test_lists_are_whole(shared):
    """They are read from text: see that what is known to be there was found."""
    assert len(MODULES) == len(set(MODULES)) == 17
    for name in ("SiPMdata", "rundb", "plugins.pax_interface", "auto_processing.submit_stbc"):
        assert f"amstrax.{name}" in MODULES
    assert len(CALLABLES) == 30
    assert CALLABLES["amstrax.common.get_elife"] == ["run_id"]
    assert CALLABLES["amstrax.auto_processing.copy_live.copy_data"] == [
        "run_id",
        "live_data_path",
        "location",
        "hostname",
        "production",
        "ssh_host",
    ]
    assert "amstrax.rundb.RunDB" in CALLABLES
    assert "amstrax.plugins.pulse_processing.PulseProcessing" in CALLABLES
    assert CALLABLES["amstrax.contexts.context_for_daq_reader"][:3] == ["st", "run_id", "detector"]


@pytest.mark.parametrize("name", MODULES)
def test_module(name):
    module = importlib.import_module(name)
    assert module.__doc__
    # Also as an attribute of the package, as documentation and notebooks write it
    value = amstrax
    for part in name.split(".")[1:]:
        value = getattr(value, part)
    assert value is module
    reference = (ROOT / _PAGE).read_text(encoding="utf-8")
    assert re.search(rf"^   {re.escape(name)}(\.\w+)?$", reference, re.M), f"{_PAGE} lacks {name}"


@pytest.mark.parametrize("name", CALLABLES)
def test_callable(name):
    module, _, member = name.rpartition(".")
    value = getattr(importlib.import_module(module), member)
    assert callable(value)
    parameters = inspect.signature(value).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    missing = [a for a in CALLABLES[name] if a not in parameters and not takes_any]
    assert not missing, f"{name} no longer takes {missing}"
    # What imports is there for a reason: some test of ours uses it (plugins: test_data_types.py)
    if inspect.isclass(value) and issubclass(value, strax.Plugin):
        return
    used = re.compile(rf"\b{member}\b")
    tests = (ROOT / "tests").rglob("*.py")
    assert any(used.search(p.read_text(encoding="utf-8")) for p in tests), f"no test has {name}"


def test_type_of_pulse_counts():
    dtype = np.dtype(pulse_processing.pulse_count_dtype(5))
    assert dtype["pulse_count"].shape == (5,)
    assert dtype.names[:2] == ("time", "endtime")


def plugin_classes() -> dict[str, type]:
    """Return plugins that make something, by module and name; not bases, which modules hide."""
    found = {}
    for module_info in pkgutil.iter_modules(plugins.__path__):
        module = importlib.import_module(f"amstrax.plugins.{module_info.name}")
        for name, value in vars(module).items():
            if (
                inspect.isclass(value)
                and issubclass(value, strax.Plugin)
                and value.__module__ == module.__name__
                and getattr(value, "provides", ())
                and name in getattr(module, "__all__", (name,))
            ):
                found[f"{module_info.name}.{name}"] = value
    return found


PLUGINS = plugin_classes()
#: These have the names of those of release 2.1, which are part of the lineage
RELEASE_2_2 = {name for name in PLUGINS if name.startswith("release_2_2.")}
#: So is that of both readers
_OTHER_NAMES = {"radon.DAQReader": "RadonDAQReader"}


@pytest.mark.parametrize("name", sorted(set(PLUGINS) - RELEASE_2_2))
def test_plugin_is_an_attribute_of_the_package(name):
    public = _OTHER_NAMES.get(name, PLUGINS[name].__name__)
    assert getattr(amstrax, public) is PLUGINS[name]
    assert public in dir(amstrax)
    assert PLUGINS[name].__doc__


@pytest.mark.parametrize("name", ("xams", "xams_led", "xams_little"))
def test_all_plugins_of_a_context(name):
    st = getattr(amstrax.contexts, name)(init_rundb=False, storage=[])
    known = {getattr(amstrax, public) for public in dir(amstrax) if public[0].isupper()}
    assert set(st._plugin_class_registry.values()) <= known


@pytest.mark.parametrize("name", ("xams", "xams_led"))
def test_all_plugins_of_release_2_2(name):
    known = {PLUGINS[key] for key in RELEASE_2_2}
    known |= {getattr(amstrax, public) for public in dir(amstrax) if public[0].isupper()}
    st = getattr(amstrax.contexts, name)(release="2.2", init_rundb=False, storage=[])
    assert set(st._plugin_class_registry.values()) <= known


def test_every_public_name_of_the_package():
    for name in amstrax.__all__:
        assert getattr(amstrax, name) is not None


def test_imports_are_quick():
    """None of the documented modules imports straxen, matplotlib or iminuit when it is imported."""
    names = [m for m in MODULES if not m.startswith("amstrax.auto_processing")]
    code = (
        f"import importlib, sys\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        f"sys.exit(' '.join({{'straxen', 'matplotlib.pyplot', 'iminuit'}} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr

"""Modules import each other in one direction, and commands start without slow packages."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import amstrax
from amstrax import cli

PACKAGE = Path(amstrax.__file__).parent
#: Circles that are to be opened
KNOWN = [
    # get_elife gives the default of a plugin's option
    ["amstrax.common", "amstrax.plugins.event_processing"],
    ["amstrax.rundb.collection", "amstrax.rundb.connection"],
]
#: Packages that cost seconds, or have no part in what a command's help says
SLOW = ("strax", "straxen", "numba", "pandas", "pymongo", "matplotlib", "scipy", "bokeh")


def modules() -> dict[str, Path]:
    """Return the files of all modules, by name."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = ["amstrax", *path.relative_to(PACKAGE).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, known: set[str]) -> set[str]:
    """Return the modules that a file imports, also in functions, but not for types alone."""
    found = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in known else node.module)
    return found & known


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the modules that reach themselves, with others in the same circle (Tarjan)."""
    found, index, low, stack = [], {}, {}, []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in sorted(graph[name]):
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            i = stack.index(name)
            part, stack[i:] = stack[i:], []
            if len(part) > 1 or name in graph[name]:
                found.append(sorted(part))

    for name in sorted(graph):
        if name not in index:
            visit(name)
    return found


def test_circles_are_found():
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set(), "e": {"e"}}
    assert circles(graph) == [["a", "b", "c"], ["e"]]


def test_no_module_imports_itself_by_way_of_others():
    files = modules()
    # The package itself gives names of its modules on, when they are asked for
    known = set(files) - {"amstrax"}
    graph = {name: imports(files[name], known) for name in known}
    assert graph["amstrax.auto_processing.deleting"] >= {"amstrax.auto_processing.copying"}
    assert [circle for circle in circles(graph) if circle not in KNOWN] == []


@pytest.mark.parametrize("command", ["", *sorted(cli.TOOLS)])
def test_help_imports_nothing_slow(command):
    code = (
        "import sys\nfrom amstrax import cli\n"
        "try:\n    cli.main(sys.argv[1:])\nexcept SystemExit: pass\n"
        f"sys.exit(' '.join(sorted({set(SLOW)!r} & set(sys.modules))) or 0)"
    )
    arguments = [*([command] if command else []), "--help"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout

"""Imports go one way, and commands start without slow packages."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import amstrax
from amstrax import cli

PACKAGE = Path(amstrax.__file__).parent
ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "docs/source"))
import import_graph  # noqa: E402  of the documentation, which draws what is tested here

#: Imports against the direction, each with its reason
KNOWN = {
    # Old arguments of plots make figures in the style of new ones
    ("amstrax._legacy", "amstrax.analyses.style"),
}
#: Packages that cost seconds, or have no part in what a command's help says
SLOW = ("strax", "straxen", "numba", "pandas", "pymongo", "matplotlib", "scipy", "bokeh")


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


@pytest.fixture(scope="module")
def graph():
    return import_graph.graph(PACKAGE)


def test_modules_do_not_import_themselves_by_way_of_others(graph):
    assert graph["amstrax.auto_processing.deleting"] >= {"amstrax.auto_processing.copying"}
    assert circles(graph) == []


def test_rooms_import_from_rooms_above_them(graph):
    order = list(import_graph.ROOMS)
    assert {import_graph.room_of(module) for module in graph} == set(order)
    assert import_graph.room_of("amstrax.commands.base") == "commands.base"
    assert import_graph.room_of("amstrax.auto_processing_new.process") == "auto_processing_new"
    rank = {module: order.index(import_graph.room_of(module)) for module in graph}
    back = {(module, x) for module in graph for x in graph[module] if rank[x] > rank[module]}
    assert back == KNOWN
    drawn = import_graph.direct(import_graph.rooms(graph))
    assert drawn["plugins"] and set(drawn) == set(order)


def test_figure_leaves_out_rooms_that_others_lead_to():
    rooms = {"a": set(), "b": {"a"}, "c": {"a", "b"}, "d": {"a"}}
    assert import_graph.direct(rooms) == {"a": set(), "b": {"a"}, "c": {"b"}, "d": {"a"}}


def test_files_on_the_page_of_the_architecture_exist():
    text = (ROOT / "docs/source/architecture.rst").read_text(encoding="utf-8")
    names = re.findall(r"``([\w/]+\.py)``", text)
    assert len(names) > 20
    for name in names:
        assert any(PACKAGE.rglob(name)) or (ROOT / name).exists(), name


def test_package_is_found_in_the_folder_above_a_clone(tmp_path):
    """Python takes a folder without __init__.py for a package if it finds no other."""
    (tmp_path / "amstrax").symlink_to(ROOT)
    script = tmp_path / "script.py"
    script.write_text("import amstrax\nprint(amstrax.__version__)\n")
    for arguments in ([script.name], ["-c", script.read_text()]):
        command = [sys.executable, *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.stdout == f"{amstrax.__version__}\n", done.stderr


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

"""Graph of data types as SVG: what is made of what, each box a link to its section."""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from grandalf.graphs import Edge, Vertex, graph_core
from grandalf.layouts import SugiyamaLayout

# Sizes in px at full size; text is of a fixed width, so that boxes can be as wide as it is
CHARACTER, HEIGHT, MARGIN = 7.0, 36, 7
LAYER_GAP, BOX_GAP = 30, 10
#: Characters in a line of a box; longer names are broken after an underscore
LINE = 14


class Node(NamedTuple):
    """A box of the graph."""

    name: str
    #: What is shown when the mouse is on it
    remark: str
    #: Names of the boxes that arrows come from
    made_of: tuple[str, ...]
    #: Where a click leads; empty for nowhere
    link: str


class _Box:
    """Size and place of a box, or of a bend of a line; as grandalf wants it."""

    def __init__(self, width: float = 2, height: float = 2):
        self.w, self.h = width, height
        self.xy = (0.0, 0.0)


class _Line:
    """Points of a line, which grandalf sets."""

    def __init__(self) -> None:
        self.points: list[tuple[float, float]] = []

    def setpath(self, points: list[tuple[float, float]]) -> None:
        self.points = list(points)


def svg(nodes: Sequence[Node], title: str) -> str:
    """Return the graph as an ``<svg>`` element, to be put into a page.

    Parameters
    ----------
    nodes
        Boxes, each name once; all that they are made of must be among them. Each must be connected
        with all others over some way, and none be made of itself.
    title
        What readers hear who do not see the picture.
    """
    vertices = {node.name: Vertex(node) for node in nodes}
    for node in nodes:
        width = CHARACTER * max(map(len, _lines(node.name))) + 2 * MARGIN
        vertices[node.name].view = _Box(width, HEIGHT)
    edges = [
        Edge(vertices[source], vertices[node.name]) for node in nodes for source in node.made_of
    ]
    for edge in edges:
        edge.view = _Line()
    # Not `Graph`, which sorts lines by their addresses in memory: no two builds would be alike
    graph = graph_core(list(vertices.values()), edges)
    layout = SugiyamaLayout(graph)
    layout.xspace, layout.yspace = BOX_GAP, LAYER_GAP
    layout.init_all(optimize=True)
    # A step improves the order within layers; more than these change nothing any more
    layout.draw(20)
    views = [vertex.view for vertex in vertices.values()]
    left = min(view.xy[0] - view.w / 2 for view in views)
    top = min(view.xy[1] - view.h / 2 for view in views)
    width = max(view.xy[0] + view.w / 2 for view in views) - left
    height = max(view.xy[1] + view.h / 2 for view in views) - top
    boxes = [_box(vertex.data, vertex.view, -left, -top) for vertex in vertices.values()]
    lines = [_line(edge, -left, -top) for edge in edges]
    # Of large ones text would be too small on a phone, where they are scrolled instead
    kind = "dependencies large" if width > 600 else "dependencies"
    return "\n".join(
        (
            f'<svg class="{kind}" xmlns="http://www.w3.org/2000/svg" role="img" '
            f'width="{width + 4:.0f}" height="{height + 4:.0f}" '
            f'viewBox="-2 -2 {width + 4:.0f} {height + 4:.0f}">',
            f"<title>{escape(title)}</title>",
            '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
            'markerHeight="7" orient="auto"><path d="M0,0 L8,4 L0,8 z"/></marker></defs>',
            *lines,
            *boxes,
            "</svg>",
        )
    )


def _lines(name: str) -> list[str]:
    """Return a name in lines, each as long as it may be; a word that is longer stays whole."""
    lines = [""]
    for word in name.replace("_", "_ ").split():
        if lines[-1] and len(lines[-1] + word) > LINE:
            lines.append("")
        lines[-1] += word if word.endswith("_") else f"{word} "
    return [line.strip() for line in lines]


def _box(node: Node, view: _Box, right: float, down: float) -> str:
    x, y = view.xy[0] + right, view.xy[1] + down
    lines = _lines(node.name)
    first = y + 4 - 7 * (len(lines) - 1)
    drawn = (
        f"<title>{escape(node.remark)}</title>"
        f'<rect x="{x - view.w / 2:.1f}" y="{y - view.h / 2:.1f}" width="{view.w:.1f}" '
        f'height="{view.h:.1f}" rx="5"/>'
    ) + "".join(
        f'<text x="{x:.1f}" y="{first + 14 * i:.1f}">{escape(line)}</text>'
        for i, line in enumerate(lines)
    )
    if not node.link:
        return f"<g>{drawn}</g>"
    return f'<a href="{escape(node.link)}" aria-label="{escape(node.name)}">{drawn}</a>'


def _line(edge: Edge, right: float, down: float) -> str:
    """Draw a line from box to box, straight down where it passes a layer between two boxes."""
    points = [(x + right, y + down) for x, y in edge.view.points]
    x, y = points[0]
    path = [f"M{x:.1f},{y + HEIGHT / 2:.1f}"]
    for (xa, ya), (xb, yb) in zip(points, points[1:], strict=False):
        start, end = ya + HEIGHT / 2, yb - HEIGHT / 2
        middle = (start + end) / 2
        path.append(f"V{start:.1f} C{xa:.1f},{middle:.1f} {xb:.1f},{middle:.1f} {xb:.1f},{end:.1f}")
    return f'<path class="line" d="{" ".join(path)}" marker-end="url(#arrow)"/>'


def html(nodes: Sequence[Node], title: str) -> str:
    """Return the graph in an element that can be scrolled where the screen is too narrow."""
    return f'<div class="wide-figure" tabindex="0">\n{svg(nodes, title)}\n</div>'

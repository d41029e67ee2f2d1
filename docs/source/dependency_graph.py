"""Graph of data types as SVG: what is made of what, each box a link to its section."""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from grandalf.graphs import Edge, Graph, Vertex
from grandalf.layouts import SugiyamaLayout

# Sizes in px at full size; text is of a fixed width, so that boxes can be as wide as it is
CHARACTER, HEIGHT, MARGIN = 7.3, 38, 12
LAYER_GAP, BOX_GAP = 34, 14


class Node(NamedTuple):
    """A box of the graph."""

    name: str
    #: Second line, smaller
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
        Boxes, each name once; all that they are made of must be among them, and no box may be made
        of itself, over whatever ways.
    title
        What readers hear who do not see the picture.
    """
    vertices = {node.name: Vertex(node) for node in nodes}
    for node in nodes:
        width = CHARACTER * max(len(node.name), len(node.remark) * 0.85) + 2 * MARGIN
        vertices[node.name].view = _Box(width, HEIGHT)
    edges = [
        Edge(vertices[source], vertices[node.name]) for node in nodes for source in node.made_of
    ]
    for edge in edges:
        edge.view = _Line()
    graph = Graph(list(vertices.values()), edges)
    left = 0.0
    boxes, lines = [], []
    height = 0.0
    for part in graph.C:
        _lay_out(part)
        shift = left - min(v.view.xy[0] - v.view.w / 2 for v in part.sV)
        top = -min(v.view.xy[1] - v.view.h / 2 for v in part.sV)
        boxes += [_box(v.data, v.view, shift, top) for v in part.sV]
        lines += [_line(e, shift, top) for e in part.sE]
        left = shift + max(v.view.xy[0] + v.view.w / 2 for v in part.sV) + BOX_GAP
        height = max(height, top + max(v.view.xy[1] + v.view.h / 2 for v in part.sV))
    width = left - BOX_GAP
    return "\n".join(
        (
            f'<svg class="dependencies" xmlns="http://www.w3.org/2000/svg" role="img" '
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


def _lay_out(part) -> None:
    """Give the boxes and lines of a connected graph their places."""
    layout = SugiyamaLayout(part)
    layout.xspace, layout.yspace = BOX_GAP, LAYER_GAP
    layout.init_all(optimize=True)
    # A step improves the order within layers; more than these change nothing any more
    layout.draw(20)


def _box(node: Node, view: _Box, right: float, down: float) -> str:
    x, y = view.xy[0] + right, view.xy[1] + down
    drawn = (
        f'<rect x="{x - view.w / 2:.1f}" y="{y - view.h / 2:.1f}" width="{view.w:.1f}" '
        f'height="{view.h:.1f}" rx="5"/>'
        f'<text x="{x:.1f}" y="{y - 3:.1f}">{escape(node.name)}</text>'
        f'<text class="remark" x="{x:.1f}" y="{y + 12:.1f}">{escape(node.remark)}</text>'
    )
    if not node.link:
        return f"<g>{drawn}</g>"
    return f'<a href="{escape(node.link)}">{drawn}</a>'


def _line(edge: Edge, right: float, down: float) -> str:
    """Draw a line from box to box, straight up and down where it meets a layer."""
    points = [(x + right, y + down) for x, y in edge.view.points]
    source, target = edge.v[0].view, edge.v[1].view
    (x0, y0), (x1, y1) = points[0], points[-1]
    points[0], points[-1] = (x0, y0 + source.h / 2), (x1, y1 - target.h / 2)
    path = [f"M{points[0][0]:.1f},{points[0][1]:.1f}"]
    for (xa, ya), (xb, yb) in zip(points, points[1:], strict=False):
        middle = (ya + yb) / 2
        path.append(f"C{xa:.1f},{middle:.1f} {xb:.1f},{middle:.1f} {xb:.1f},{yb:.1f}")
    return f'<path class="line" d="{" ".join(path)}" marker-end="url(#arrow)"/>'


def html(nodes: Sequence[Node], title: str) -> str:
    """Return the graph in an element that can be scrolled where the screen is too narrow."""
    return f'<div class="wide-figure" tabindex="0">\n{svg(nodes, title)}\n</div>'

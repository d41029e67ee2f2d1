"""HISTORY.md as reStructuredText: the Markdown that it uses, and an error for any other."""

import re
from pathlib import Path

_UNDERLINES = {2: "-", 3: "~", 4: "^"}
_INLINE = re.compile(r"(`[^`]+`|\*\*[^*]+\*\*|\[[^\]]+\]\([^)]+\))")


def write(source: Path, target: Path) -> None:
    """Convert the file `source` to `target`, without its title."""
    target.write_text(convert(source.read_text(encoding="utf-8")), encoding="utf-8")


def convert(text: str) -> str:
    """Return Markdown as reStructuredText; headings of level 1 are left out.

    Headings, paragraphs, lists, tables, code, bold text and links to web pages are known.

    Raises
    ------
    ValueError
        For anything else that would come out wrong.
    """
    result: list[str] = []
    lines = text.splitlines()
    i = 0
    while i < len(lines):
        line = lines[i]
        if line.lstrip().startswith(("```", "> ", "![")):
            raise ValueError(f"line {i + 1} of HISTORY.md: {line!r} is more than history.py knows")
        if heading := re.match(r"(#+) (.+)", line):
            if (level := len(heading[1])) > 1:
                title = inline(heading[2])
                result += ["", title, _UNDERLINES[level] * len(title), ""]
        elif line.startswith("|"):
            rows = []
            while i < len(lines) and lines[i].startswith("|"):
                rows.append(lines[i])
                i += 1
            result += table(rows)
            continue
        else:
            # Lists need an empty line before them
            starts_list = line.startswith("- ")
            if starts_list and result and result[-1] and not result[-1].startswith(("- ", "  ")):
                result.append("")
            result.append(inline(line))
        i += 1
    return "\n".join(result) + "\n"


def table(rows: list[str]) -> list[str]:
    """Return the lines of a Markdown table as a list-table."""
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", row.strip("| "))] for row in rows]
    if len({len(row) for row in cells}) != 1 or not set("".join(cells[1])) <= set(":-"):
        raise ValueError(f"not a table with as many cells in each row: {rows[0]}")
    result = ["", ".. list-table::", "   :header-rows: 1", "   :class: wide", ""]
    for row in [cells[0], *cells[2:]]:
        for j, cell in enumerate(row):
            result.append(f"   {'*' if j == 0 else ' '} - {inline(cell)}".rstrip())
    return [*result, ""]


def inline(text: str) -> str:
    """Return a line with code, bold text and links written the other way, the rest as it is."""
    return "".join(_part(part) for part in _INLINE.split(text))


def _part(part: str) -> str:
    if part.startswith("`"):
        return f"`{part}`"
    if part.startswith("**"):
        return part
    if link := re.fullmatch(r"\[([^\]]+)\]\(([^)]+)\)", part):
        if not link[2].startswith("https://"):
            raise ValueError(f"HISTORY.md links to {link[2]}, which these pages do not have")
        return f"`{link[1]} <{link[2]}>`__"
    return re.sub(r"([\\*|`_])", r"\\\1", part)

"""Look for links of built pages that lead nowhere, and for what they would fetch from elsewhere.

``python docs/check_html.py docs/build/html`` prints what is wrong, a line each; the exit status is
1 if anything is. Links to other sites are not followed.
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

#: Attributes that a browser loads by itself
LOADED = {
    ("script", "src"),
    ("img", "src"),
    ("iframe", "src"),
    ("source", "src"),
    ("video", "src"),
    ("link", "href"),
}
#: Relations of a <link> that only say something
SAID = {"canonical", "next", "prev", "search", "index", "author", "copyright"}


class Page(HTMLParser):
    """What a page links to, what it loads, and the places in it that links can lead to."""

    def __init__(self, text: str):
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = {name: value for name, value in attrs if value}
        if "id" in values:
            self.ids.add(values["id"])
        if tag == "a":
            self.ids |= {values["name"]} if "name" in values else set()
            self.links += [values["href"]] if "href" in values else []
        relations = set(values.get("rel", "").split())
        for name, value in values.items():
            if (tag, name) in LOADED and not (tag == "link" and relations & SAID):
                self.loaded.append(value)
            elif (tag, name) in LOADED:
                self.links.append(value)


def problems(folder: Path) -> list[str]:
    """Return a line for each thing that is wrong in the pages of a folder.

    Raises
    ------
    FileNotFoundError
        When there is no page.
    """
    paths = sorted(folder.rglob("*.html"))
    if not paths:
        raise FileNotFoundError(f"there are no pages in {folder}")
    pages = {path.resolve(): Page(path.read_text(encoding="utf-8")) for path in paths}
    found = []
    for path, page in pages.items():
        name = path.relative_to(folder.resolve())
        for link in page.links + page.loaded:
            parts = urlsplit(link)
            is_elsewhere = bool(parts.scheme or parts.netloc)
            if is_elsewhere:
                if link in page.loaded and parts.scheme != "data":
                    found.append(f"{name}: loads {link} from elsewhere")
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target /= "index.html"
            if not target.exists():
                found.append(f"{name}: {link} is not there")
            elif parts.fragment and target in pages:
                fragment = unquote(parts.fragment)
                if fragment not in pages[target].ids:
                    found.append(f"{name}: {link}: no such place on that page")
    return sorted(set(found))


def main(arguments: list[str]) -> int:
    """Print what is wrong in the pages of a folder, and return the exit status."""
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    lines = problems(Path(arguments[0]))
    for line in lines:
        print(line, file=sys.stderr)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

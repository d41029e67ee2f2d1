"""The page that compares two runs."""

import base64
import io
import threading
from typing import Any, NamedTuple

from bokeh.models import Select, TextInput

from amstrax.dashboard import render, stored
from amstrax.dashboard.page import STYLE, Page, wrapped
from amstrax.dashboard.run_page import run_id_of
from amstrax.exceptions import UsageError
from amstrax.rundb import documents

# matplotlib's fonts and caches are those of the whole process
_drawing = threading.Lock()

_NORMALIZE = [("rate", "rates"), ("counts", "numbers"), ("shape", "shapes")]


class _Compared(NamedTuple):
    runs: list[documents.Summary]
    picture: str


class ComparePage(Page):
    """Two runs over each other."""

    path, title = "compare", "Compare runs"

    def __init__(self, *args: Any):
        super().__init__(*args)
        self._runs = [
            TextInput(
                name=name,
                title=title,
                value=self.argument(name),
                placeholder="6724",
                width=120,
                stylesheets=[STYLE],
            )
            for name, title in (("a", "Run"), ("b", "and run"))
        ]
        given = self.argument("normalize", "rate")
        self._normalize = Select(
            name="normalize",
            title="Compare",
            options=_NORMALIZE,
            value=given if given in dict(_NORMALIZE) else "rate",
            width=140,
            stylesheets=[STYLE],
        )
        for widget in (*self._runs, self._normalize):
            widget.on_change("value", lambda attr, old, new: self._draw())
        self._result = self.html("", name="compared")
        self.show(wrapped(*self._runs, self._normalize), self._result)
        self._draw()

    def _draw(self) -> None:
        names = [run_id_of(widget.value) for widget in self._runs]
        normalize = self._normalize.value
        self.set_address(a=names[0], b=names[1], normalize=normalize)
        if not all(names):
            self._result.text = "<p>Name two runs; or select two in the list of runs.</p>"
            return
        self._result.text = "<p>Loading …</p>"
        self.load("the comparison", lambda: self._find(names, normalize), self._take)

    def report(self, what: str, error: Exception) -> None:
        """Say what is wrong; also where the plot would be."""
        super().report(what, error)
        self._result.text = "<p>There is nothing to show.</p>"

    def _find(self, names: list[str], normalize: str) -> _Compared:
        collection = self.site.collection()
        found = [
            documents.find_run(collection, name, projection=documents.SUMMARY_FIELDS)
            for name in names
        ]
        contexts = [self.site.context_for(document) for document in found]
        if contexts[0] != contexts[1]:
            raise UsageError(
                f"run {names[0]} is one of context {contexts[0]}, and run {names[1]} one of "
                f"{contexts[1]}: compare runs of one sort"
            )
        st = self.site.context(contexts[0])
        sort = "peak_basics" if stored.name_of(st, "peak_basics") else "led_calibration"
        for name in names:
            stored.span(st, name, sort)
        with _drawing:
            figure = st.compare_runs(names, normalize=normalize, progress_bar=False)  # type: ignore[attr-defined]
            file = io.BytesIO()
            figure.savefig(file, format="png", dpi=100)
        picture = base64.b64encode(file.getvalue()).decode("ascii")
        return _Compared([documents.summary(document) for document in found], picture)

    def _take(self, compared: _Compared) -> None:
        self._result.text = render.html("compared.html", **compared._asdict())

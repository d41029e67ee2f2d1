"""Pages over weeks: the shift log, and trends of quantities with their limits."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
from bokeh.models import ColumnDataSource, OpenURL, Span, TapTool
from bokeh.plotting import figure

from amstrax.analyses import style, tables
from amstrax.calibration.trends import CHANNEL_QUANTITIES, QUANTITIES, quantity_of, unit_of
from amstrax.dashboard import figures, render
from amstrax.dashboard.page import Page, select, wrapped
from amstrax.rundb import connection, documents

#: Choices of days to look back
_DAYS = ("1", "7", "30", "365")
#: Most entries of the log that are shown
_MOST = 500


class _Entry(NamedTuple):
    """Entry of the shift log."""

    time: datetime
    user: str
    run_id: str
    what: str
    text: str


class LogPage(Page):
    """What people wrote about runs: comments, tags and judgements, by time."""

    path, title = "log", "Shift log"

    def __init__(self, *args: Any):
        super().__init__(*args)
        self._days = select("days", "Days", _DAYS, self._refresh, self.argument("days", "7"), 100)
        self._words = self.text_input(
            "text", "Search", self._refresh, 250, placeholder="user, text"
        )
        self._table = self.html("<p>Loading …</p>", name="entries")
        self.show(wrapped(self._days, self._words), self._table)
        self.repeat(lambda: self._refresh(again=False))

    def _refresh(self, again: bool = True) -> None:
        days, words = int(self._days.value), self._words.value.lower().split()
        self.set_address(days=days, text=self._words.value.strip())

        def find() -> list[_Entry]:
            return entries(self.site.collection(), datetime.now(UTC) - timedelta(days=days))

        def work() -> str:
            found = [
                entry
                for entry in self.site.shared(("log", days), find, fresh=again)
                if all(word in " ".join(map(str, entry)).lower() for word in words)
            ]
            return render.html("log_entries.html", entries=found[:_MOST], total=len(found))

        self.load("the log", work, self._table, again)


def entries(collection: Any, since: datetime) -> list[_Entry]:
    """Return comments and tags of runs since a time, the newest first."""
    recent = {"$or": [{f"{field}.date": {"$gte": since}} for field in ("comments", "tags")]}
    found = []
    for document in documents.read(collection, recent, ["name", "number", "comments", "tags"]):
        run_id = documents.name_of(document) or "?"
        for comment in documents.comments_of(document):
            found.append((comment["time"], comment["user"], run_id, "comment", comment["text"]))
        tags = document.get("tags")
        for tag in tags if isinstance(tags, list) else ():
            if isinstance(tag, Mapping):
                text = ": ".join(str(tag[key]) for key in ("name", "comment") if tag.get(key))
                time = documents.utc_time_of(tag, "date")
                found.append((time, str(tag.get("user") or ""), run_id, "tag", text))
    recent_ones = [_Entry(*entry) for entry in found if entry[0] is not None and entry[0] >= since]
    return sorted(recent_ones, key=lambda entry: entry.time, reverse=True)


class TrendsPage(Page):
    """Quantities of runs over weeks, from ``amstrax trends``; a click on a point opens its run."""

    path, title = "trends", "Trends"

    def __init__(self, *args: Any):
        super().__init__(*args)
        self._days = select("days", "Days", _DAYS, self._draw, self.argument("days", "30"), 100)
        self._text = self.html("<p>Loading …</p>", name="loaded")
        self._figures = wrapped()
        self.show(wrapped(self._days), self._text, self._figures)
        self._draw()

    def _draw(self) -> None:
        days = int(self._days.value)
        self.set_address(days=days)

        def work() -> tuple[int, list[Any]]:
            since = datetime.now(UTC) - timedelta(days=days)
            rows = connection.read_trends(self.site.trends())
            rows = [row for row in rows if (documents.utc_time_of(row, "start") or since) > since]
            return len(rows), trend_figures(rows)

        self.load("the trends", work, self._take, place=self._text)

    def _take(self, found: tuple[int, list[Any]]) -> None:
        number, drawn = found
        self._text.text = render.html("trends.html", runs=number)
        self._figures.children = list(figures.fit(drawn).children)


def trend_figures(rows: list[dict[str, Any]]) -> list[Any]:
    """Return a figure for each quantity of rows of trends; flagged runs have a circle."""
    if not rows:
        return []
    table = tables.trends_table(rows)
    table = table[table["start"].notna()].sort_values("time")
    table = table.drop_duplicates("run_id", keep="last").sort_values("start")
    limits = tables.trends_limits(rows)
    by_quantity: dict[str, list[str]] = {}
    for name in table.columns:
        quantity = quantity_of(name)[0]
        if name.endswith("_error"):
            continue
        if quantity in QUANTITIES | CHANNEL_QUANTITIES and table[name].notna().any():
            by_quantity.setdefault(quantity, []).append(name)
    result = []
    for quantity, names in by_quantity.items():
        drawn = figure(
            title=quantity,
            x_axis_type="datetime",
            x_axis_label="Start of the run [UTC]",
            y_axis_label=f"{quantity} [{unit_of(quantity)}]",
            tools="pan,box_zoom,wheel_zoom,reset,save,tap,hover",
            tooltips=[("run", "@run"), (quantity, "@value ± @error"), ("flags", "@flags")],
            active_drag="box_zoom",
        )
        drawn.toolbar.logo = None
        for name in names:
            channel = quantity_of(name)[1]
            color = style.BLUE if channel is None else style.channel_color(channel)
            errors = table.get(f"{name}_error")
            value = table[name].to_numpy(dtype=float)
            error = np.zeros(len(value)) if errors is None else errors.to_numpy(dtype=float)
            flagged = (table["flags"] != "") | (table["error"] != "")
            source = ColumnDataSource(
                {
                    "start": table["start"].dt.tz_localize(None).to_numpy(),
                    "value": value,
                    "error": error,
                    "low": value - np.nan_to_num(error),
                    "high": value + np.nan_to_num(error),
                    "run": table["run_id"].to_numpy(dtype=str),
                    "flags": table["flags"].to_numpy(dtype=str),
                    "edge": np.where(flagged, style.VERMILLION, color),
                    "size": np.where(flagged, 11, 6),
                }
            )
            drawn.segment("start", "low", "start", "high", source=source, color=color)
            drawn.scatter(
                "start", "value", source=source, size="size", line_color="edge", fill_color=color
            )
        for name, pair in limits.items():
            for end in pair if quantity in (name, quantity_of(name)[0]) else ():
                if end is not None:
                    look = {"line_dash": "dashed", "line_color": style.GREY}
                    drawn.add_layout(Span(location=end, dimension="width", **look))
        drawn.select_one(TapTool).callback = OpenURL(url="run?id=@run", same_tab=True)
        result.append(drawn)
    return result

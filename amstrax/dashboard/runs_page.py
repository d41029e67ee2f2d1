"""The page with all runs: search and filters, a page of a table, and what to do with some runs."""

from collections.abc import Mapping
from datetime import date
from typing import Any

from bokeh.models import (
    AllIndices,
    Button,
    ColumnDataSource,
    DataTable,
    HTMLTemplateFormatter,
    Select,
    StringFormatter,
    TableColumn,
    TextInput,
)

from amstrax.dashboard import render, run_overview
from amstrax.dashboard.page import STYLE, Page, wrapped
from amstrax.exceptions import InvalidOption
from amstrax.rundb import documents

#: Rows of the table
ROWS = 50

#: Stands for no filter
_ANY = "any"

#: Columns of the table: field, title, width [pixels]
_COLUMNS = (
    ("run", "Run", 90),
    ("status", "Status", 90),
    ("start", "Start (UTC)", 160),
    ("length", "Length", 80),
    ("mode", "Mode", 170),
    ("tags", "Tags", 140),
    ("user", "User", 100),
    ("here", "Data here", 260),
    ("elsewhere", "Data elsewhere", 200),
)
# <%- escapes, as StringFormatter does
_LINK = '<a href="run?id=<%- encodeURIComponent(value) %>"><%- value %></a>'
_STATUS = '<span class="status <%- value %>"><%- value %></span>'

_TABLE_STYLE = STYLE + ".slick-cell { font-size: 14px; } .slick-header-column { font-size: 14px; }"


class RunsPage(Page):
    """The list of runs."""

    path, title = "runs", "Runs"
    has_table = True

    def __init__(self, *args: Any):
        super().__init__(*args)
        self._choices: tuple[list[str], list[str]] = ([], [])
        self._skip = max(self.number("skip") or 0, 0)
        self._total = 0
        self._make_filters()
        self._source = ColumnDataSource({field: [] for field, _, _ in _COLUMNS})
        self._source.selected.on_change("indices", lambda attr, old, new: self._show_selection())
        self._table = DataTable(
            source=self._source,
            columns=[
                TableColumn(field=field, title=title, width=width, formatter=_formatter(field))
                for field, title, width in _COLUMNS
            ],
            name="runs",
            selectable="checkbox",
            sortable=False,
            reorderable=False,
            index_position=None,
            autosize_mode="none",
            row_height=30,
            height=30 * 18,
            sizing_mode="stretch_width",
            stylesheets=[_TABLE_STYLE],
        )
        self._count = self.html("", name="count")
        self._selection = self.html("", name="selection")
        self._before = self._button("‹ Previous", "previous", lambda: self._go(-ROWS))
        self._after = self._button("Next ›", "next", lambda: self._go(ROWS))
        self.show(
            wrapped(*self._filters.values(), self._clear),
            wrapped(self._order, self._way, self._before, self._after),
            self._count,
            self._selection,
            self._table,
        )
        self._show_selection()
        self.repeat(self.refresh)
        self.load("the modes and tags of runs", self._find_choices, self._take_choices)

    def _make_filters(self) -> None:
        def choice(name: str, title: str, options: list[str]) -> Select:
            given = self.argument(name)
            options = [_ANY, *dict.fromkeys([*options, *([given] if given else [])])]
            return Select(title=title, name=name, options=options, value=given or _ANY, width=140)

        def text(name: str, title: str, width: int, **more: Any) -> TextInput:
            return TextInput(title=title, name=name, value=self.argument(name), width=width, **more)

        self._filters: dict[str, Any] = {
            "text": text("text", "Search", 250, placeholder="number, mode, user, tag, comment"),
            "first": text("first", "From run", 95),
            "last": text("last", "To run", 95),
            "since": text("since", "Begun from (UTC)", 140, placeholder="2024-01-31"),
            "until": text("until", "Begun until (UTC)", 140, placeholder="2024-01-31"),
            "status": choice("status", "Status", list(documents.STATUSES)),
            "mode": choice("mode", "Mode", []),
            "tag": choice("tag", "Tag", []),
        }
        order = self.argument("order", "number")
        self._order = Select(
            title="Sort by",
            name="order",
            options=list(run_overview.ORDERS),
            value=order if order in run_overview.ORDERS else "number",
            width=130,
        )
        self._way = Select(
            title="Direction",
            name="way",
            options=[("down", "largest, newest first"), ("up", "smallest, oldest first")],
            value="up" if self.argument("way") == "up" else "down",
            width=190,
        )
        for widget in (*self._filters.values(), self._order, self._way):
            widget.stylesheets = [STYLE]
            widget.on_change("value", lambda attr, old, new: self._start_over())
        self._clear = self._button("Clear", "clear", self._clear_filters)

    def _button(self, label: str, name: str, function: Any) -> Button:
        button = Button(label=label, name=name, width=110, align="end", stylesheets=[STYLE])
        button.on_click(function)
        return button

    # What is asked for

    def _search(self) -> run_overview.Search:
        values = self._values()
        return run_overview.Search(
            text=values["text"],
            statuses=_some(values["status"]),
            modes=_some(values["mode"]),
            tags=_some(values["tag"]),
            since=_date(values["since"]),
            until=_date(values["until"]),
            first=_number(values["first"]),
            last=_number(values["last"]),
        )

    def _values(self) -> dict[str, str]:
        return {
            name: "" if widget.value == _ANY else widget.value
            for name, widget in self._filters.items()
        }

    def _start_over(self) -> None:
        self._skip = 0
        self.refresh(again=True)

    def _go(self, rows: int) -> None:
        self._skip = max(self._skip + rows, 0)
        self.refresh(again=True)

    def _clear_filters(self) -> None:
        for widget in self._filters.values():
            widget.value = _ANY if isinstance(widget, Select) else ""
        self._start_over()

    def refresh(self, again: bool = False) -> None:
        """Ask for the runs of this page of the table."""
        try:
            search, skip = self._search(), self._skip
        except InvalidOption as error:
            self.report("the filters", error)
            return
        self.is_well("the filters")
        order, descending = self._order.value, self._way.value == "down"

        def work() -> tuple[run_overview.Page, list[documents.Summary], bool]:
            page = run_overview.page(
                self.site.collection(),
                search,
                documents.SUMMARY_FIELDS,
                order,
                descending,
                skip,
                ROWS,
            )
            return page, [documents.summary(run) for run in page.runs], bool(search.filter())

        self.load("the list of runs", work, self._take, again)

    # What has come

    def _take(self, found: tuple[run_overview.Page, list[documents.Summary], bool]) -> None:
        page, runs, filtered = found
        self._skip, self._total = page.skipped, page.total
        columns = _columns(runs)
        if columns != self._source.data:
            selected = self.selected()
            self._source.data = columns
            # Bokeh (3.9.2) shows other values only when their number, or the view, changes
            self._table.view.filter = AllIndices()
            self._source.selected.indices = [
                i for i, run_id in enumerate(columns["run"]) if run_id in selected
            ]
        self._before.disabled = self._skip == 0
        self._after.disabled = self._skip + ROWS >= self._total
        self._count.text = render.html(
            "count.html",
            first=self._skip + 1,
            last=self._skip + len(runs),
            total=self._total,
            filtered=filtered,
        )
        self.set_address(
            **self._values(),
            order=self._order.value if self._order.value != "number" else "",
            way=self._way.value if self._way.value != "down" else "",
            skip=self._skip or "",
        )

    def _find_choices(self) -> tuple[list[str], list[str]]:
        return run_overview.modes_and_tags(self.site.collection())

    def _take_choices(self, found: tuple[list[str], list[str]]) -> None:
        for name, options in zip(("mode", "tag"), found, strict=True):
            widget = self._filters[name]
            widget.options = list(dict.fromkeys([_ANY, *options, widget.value]))

    def selected(self) -> list[str]:
        """Return the runs that are selected."""
        names = self._source.data["run"]
        return [names[i] for i in self._source.selected.indices if i < len(names)]

    def _show_selection(self) -> None:
        self._selection.text = render.html("selection.html", runs=self.selected())


def _columns(runs: list[documents.Summary]) -> dict[str, list[str]]:
    def elsewhere(run: documents.Summary) -> str:
        return ", ".join(kind for kind in run.types if kind not in run.here)

    rows: list[Mapping[str, str]] = [
        {
            "run": run.run_id,
            "status": "cancelled" if run.cancelled_by else run.status,
            "start": render.time(run.start),
            "length": render.length(run.length) if run.end or not run.start else "being taken",
            "mode": run.mode,
            "tags": ", ".join(run.tags),
            "user": run.user,
            "here": ", ".join(run.here),
            "elsewhere": elsewhere(run),
        }
        for run in runs
    ]
    return {field: [row[field] for row in rows] for field, _, _ in _COLUMNS}


def _formatter(field: str) -> Any:
    if field in ("run", "status"):
        return HTMLTemplateFormatter(template=_LINK if field == "run" else _STATUS)
    return StringFormatter()


def _some(value: str) -> tuple[str, ...]:
    return (value,) if value else ()


def _date(text: str) -> date | None:
    text = text.strip()
    if not text:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise InvalidOption(f"{text!r} is no day: write it as 2024-01-31") from None


def _number(text: str) -> int | None:
    text = text.strip()
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise InvalidOption(f"{text!r} is no number of a run: write it as 6724")
    return int(text)

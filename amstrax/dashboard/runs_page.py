"""Pages of several runs: the list with search and filters, and the comparison of two runs."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import date
from typing import Any, NamedTuple

from bokeh.models import (
    AllIndices,
    CellEditor,
    Column,
    ColumnDataSource,
    DataTable,
    DatePicker,
    HTMLTemplateFormatter,
    Select,
    StringFormatter,
    TableColumn,
    TextInput,
)

from amstrax.dashboard import figures, render, run_overview
from amstrax.dashboard.actions import MOST_RUNS, ActionsPanel, exported, understood
from amstrax.dashboard.live_progress import LogPart
from amstrax.dashboard.page import (
    STYLE,
    Page,
    button,
    describe,
    select,
    text_input,
    wrapped,
)
from amstrax.exceptions import AmstraxError, InvalidOption, UsageError
from amstrax.rundb import connection, documents, transfer

#: Rows of the table
ROWS = 50

#: What the search finds words in
_TEXTS = "number, mode, user, tag, comment"
#: Choice of a filter that is not applied
_ANY = "any"

#: Data types of columns besides raw data
_EVENTS, _LED = "event_info", "led_calibration"


class _Column(NamedTuple):
    """Column of the table: its value is that of a run, and of the availability of its data."""

    field: str
    title: str
    width: int  # [pixels]
    value: Callable[[transfer.Summary, Mapping[str, str]], str]


_COLUMNS = (
    _Column("run", "Run", 90, lambda run, data: run.run_id),
    _Column("status", "Status", 110, lambda run, data: run.status),
    _Column("start", "Start (UTC)", 150, lambda run, data: render.time(run.start)),
    _Column("length", "Length", 90, lambda run, data: render.run_length(run)),
    _Column("mode", "Mode", 130, lambda run, data: run.mode),
    _Column("raw", "Raw data", 75, lambda run, data: data["raw_records"]),
    _Column("events", "Events", 75, lambda run, data: data[_EVENTS]),
    _Column("led", "LED", 75, lambda run, data: data[_LED]),
    _Column("tags", "Tags", 100, lambda run, data: ", ".join(run.tags)),
    _Column("reason", "Reason", 120, lambda run, data: run.reason),
    _Column("comment", "Newest comment", 140, lambda run, data: run.comment),
    _Column("class", "Class", 85, lambda run, data: run.run_class),
    _Column("source", "Source", 75, lambda run, data: run.source if run.source != "none" else ""),
    _Column("science_run", "Science run", 95, lambda run, data: run.science_run),
    _Column("user", "User", 80, lambda run, data: run.user),
)
#: Most runs in an export
_MOST_EXPORTED = 20_000
#: Columns by which the list can be sorted -> one of `run_overview.ORDERS`
_ORDERS = {"run": "number", **{name: name for name in ("status", "start", "mode", "user")}}
# <%- escapes, as StringFormatter does
_TEMPLATES = {
    "run": '<a href="run?id=<%- encodeURIComponent(value) %>"><%- value %></a>',
    "status": '<span class="status <%- value %>">'
    '<%- {"taking": "being taken", "no-end": "no end"}[value] || value %></span>',
}
_AVAILABLE = '<span class="data <%- value %>"><%- value %></span>'
_TEMPLATES |= dict.fromkeys(("raw", "events", "led"), _AVAILABLE)
_TABLE_STYLE = STYLE + ".slick-cell { font-size: 14px; } .slick-header-column { font-size: 14px; }"

_DIRECTIONS = (("down", "largest, newest first"), ("up", "smallest, oldest first"))
_NORMALIZE = (("rate", "rates"), ("counts", "numbers"), ("shape", "shapes"))

#: Most runs that are compared at once
_MOST_COMPARED = 12


class _Found(NamedTuple):
    """A page of the list of runs, and whether a filter is applied."""

    runs: list[transfer.Summary]
    total: int
    skipped: int
    filtered: bool
    lasts: run_overview.LiveTime | None
    data: list[dict[str, str]]
    contexts: list[str]


class RunsPage(Page):
    """The list of runs."""

    path, title = "runs", "Runs"
    has_table = True

    def __init__(self, *args: Any):
        super().__init__(*args)
        self._skip = max(self.number("skip") or 0, 0)
        self._make_filters()
        self._source = ColumnDataSource({column.field: [] for column in _COLUMNS})
        self._source.selected.on_change("indices", lambda attr, old, new: self._take_selection())
        #: Selected runs on all pages of the list
        self._selected: list[str] = []
        #: Run -> context and status, of those that the list has shown
        self._known: dict[str, tuple[str, str]] = {}
        self._panel: ActionsPanel | None = None
        self._is_loading = False
        # One for all columns: each model takes a millisecond of a page
        plain, editor = StringFormatter(), CellEditor()
        self._table = DataTable(
            source=self._source,
            columns=[
                TableColumn(
                    field=column.field,
                    title=column.title,
                    width=column.width,
                    formatter=HTMLTemplateFormatter(template=_TEMPLATES[column.field])
                    if column.field in _TEMPLATES
                    else plain,
                    editor=editor,
                    # Bokeh would sort the rows of this page alone: see `_sort_by`
                    sortable=False,
                )
                for column in _COLUMNS
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
        self._unselect = button("unselect", "Select none", self._select_none, 130)
        self._select_found = button("select_all", "Select all found", self._select_all, 150)
        self._retry_failed = button(
            "retry", "Retry failed", lambda: self._select_all("failed"), 120
        )
        self._export = button("export", "Export", self._on_export)
        self._exported = self.html("", name="exported")
        self._actions = Column(sizing_mode="stretch_width")
        self._logs = Column(sizing_mode="stretch_width")
        clear = button("clear", "Clear", self._clear_filters)
        # Set by page.html when a header is clicked
        self._pressed = TextInput(visible=False, name="header")
        self._pressed.on_change("value", lambda attr, old, new: self._sort_by(new))
        self._before = button("previous", "‹ Previous", lambda: self._go(-ROWS))
        self._after = button("next", "Next ›", lambda: self._go(ROWS))
        self.show(
            wrapped(*self._filters.values(), clear),
            wrapped(
                *(self._order, self._way, self._before, self._after),
                *(self._select_found, self._unselect, self._retry_failed, self._export),
            ),
            self._count,
            self._exported,
            self._selection,
            self._actions,
            self._table,
            self._logs,
            self._pressed,
        )
        self._show_selection()
        self.repeat(self.refresh)
        self.load(
            "the modes and tags of runs",
            lambda: self.site.shared(
                "choices", lambda: run_overview.modes_and_tags(self.site.collection()), 60
            ),
            self._take_choices,
        )

    def _make_filters(self) -> None:
        change = self._start_over

        def choice(name: str, title: str, options: tuple[str, ...] = ()) -> Select:
            given = self.argument(name) or _ANY
            values = dict.fromkeys([_ANY, *options, given])
            pairs = [(value, render.state(value)) for value in values]
            return select(name, title, pairs, change, given, 140)

        def day(name: str, title: str) -> DatePicker:
            try:
                value = _date(self.argument(name))
            except InvalidOption as error:
                self.report("the address", error)
                value = None
            picker = DatePicker(name=name, title=title, value=value, width=140)
            picker.on_change("value", lambda attr, old, new: change())
            return picker

        self._filters: dict[str, Any] = {
            "text": self.text_input("text", "Search", change, 250, placeholder=_TEXTS),
            "first": self.text_input("first", "From run", change, 95),
            "last": self.text_input("last", "To run", change, 95),
            "since": day("since", "Begun from (UTC)"),
            "until": day("until", "Begun until (UTC)"),
            "status": choice("status", "Status", documents.STATES),
            "mode": choice("mode", "Mode"),
            "tag": choice("tag", "Tag"),
        }
        orders = list(run_overview.ORDERS)
        self._order = select("order", "Sort by", orders, change, self.argument("order"), 130)
        self._way = select("way", "Direction", _DIRECTIONS, change, self.argument("way"), 190)

    def _values(self) -> dict[str, str]:
        return {
            name: "" if widget.value in (_ANY, None) else str(widget.value)
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
            if isinstance(widget, DatePicker):
                widget.value = None
            else:
                widget.value = _ANY if isinstance(widget, Select) else ""
        self._start_over()

    def refresh(self, again: bool = False) -> None:
        """Load the runs of this page of the table."""
        try:
            search, skip = _search(self._values()), self._skip
        except InvalidOption as error:
            self.report("the filters", error)
            return
        self.clear_report("the filters")
        order, descending = self._order.value, self._way.value == "down"

        def work() -> _Found:
            collection = self.site.collection()
            fields = (*transfer.SUMMARY_FIELDS, "data.location")
            followed = self.site.followed()
            wanted = replace(search, followed=followed)
            page = run_overview.page(collection, wanted, fields, order, descending, skip, ROWS)
            runs = [transfer.summary(run, followed) for run in page.runs]
            is_filtered = bool(search.filter())
            lasts = self._live_time(wanted) if is_filtered else None
            contexts = [self.site.context_for(run) for run in page.runs]
            data = self._availability(page.runs, contexts)
            return _Found(runs, page.total, page.skipped, is_filtered, lasts, data, contexts)

        key = ("runs", search, order, descending, skip)
        self.load("the list of runs", lambda: self.site.shared(key, work), self._take, again)

    def _live_time(self, search: run_overview.Search) -> run_overview.LiveTime:
        site = self.site

        def known() -> dict[str, float]:
            rows = connection.read_trends(site.trends())
            found = ((row.get("name"), row.get("values")) for row in rows)
            return {
                str(name): float(values["livetime"])
                for name, values in found
                if isinstance(values, Mapping) and "livetime" in values
            }

        return run_overview.live_time(
            site.collection(),
            search,
            site.shared(("live times",), known, 60),
            lambda document: site.context(site.context_for(document)),
        )

    def _availability(self, found: list[dict[str, Any]], names: list[str]) -> list[dict[str, str]]:
        with self.site.few:
            contexts = {name: self.site.context(name) for name in set(names)}
            return [
                run_overview.availability(run, contexts[name], (_EVENTS, _LED))
                for run, name in zip(found, names, strict=True)
            ]

    def _search_now(self) -> run_overview.Search:
        return replace(_search(self._values()), followed=self.site.followed())

    def _select_all(self, status: str = "") -> None:
        """Select all runs that the filters find, on all pages, as far as actions take them.

        With `status`, only those of that status, which are then to be submitted again.
        """

        def work() -> list[str]:
            search = self._search_now()
            if status:
                if search.statuses not in ((), (status,)):
                    raise UsageError(f"the filter is for others: choose {status} or {_ANY} status")
                search = replace(search, statuses=(status,))
            page = run_overview.page(
                self.site.collection(), search, ["name", "number"], limit=MOST_RUNS + 1
            )
            if page.total > MOST_RUNS:
                raise UsageError(
                    f"{page.total} runs are found, an action takes {MOST_RUNS}: use more filters"
                )
            if status and not page.total:
                raise UsageError(f"no run that the filters find is {status}")
            return [documents.name_of(run) or "?" for run in page.runs]

        def take(found: list[str]) -> None:
            self._selected = found
            names = self._source.data["run"]
            self._source.selected.indices = [i for i, name in enumerate(names) if name in found]
            self._show_selection()
            if status and self._panel is not None:
                self._panel.retry()

        self.load("the selection", work, take)

    def _on_export(self) -> None:
        """Show the runs that the filters find as a file and as a line for a notebook."""

        def work() -> str:
            search = self._search_now()
            fields = transfer.SUMMARY_FIELDS
            page = run_overview.page(
                self.site.collection(), search, fields, descending=False, limit=_MOST_EXPORTED
            )
            runs = [transfer.summary(run, search.followed) for run in page.runs]
            code = _snippet(search, [run.run_id for run in runs])
            return exported(runs, page.total, code)

        self.load("the export", work, self._exported)

    def _take(self, found: _Found) -> None:
        self._skip = found.skipped
        known = {
            run.run_id: (context, run.status)
            for run, context in zip(found.runs, found.contexts, strict=True)
        }
        chosen = [run_id for run_id in self._selected if run_id in known]
        is_changed = any(self._known.get(run_id) != known[run_id] for run_id in chosen)
        self._known |= known
        if is_changed:
            # As when a run that could be followed has ended
            self._show_selection()
        rows = list(zip(found.runs, found.data, strict=True))
        columns = {
            column.field: [column.value(run, data) for run, data in rows] for column in _COLUMNS
        }
        self._mark_order()
        if columns != self._source.data:
            self._is_loading = True
            try:
                self._source.data = columns
                # Bokeh (3.9.2) shows other values only when their number, or the view, changes
                self._table.view.filter = AllIndices()
                self._source.selected.indices = [
                    i for i, run_id in enumerate(columns["run"]) if run_id in self._selected
                ]
            finally:
                self._is_loading = False
        last = found.skipped + len(found.runs)
        self._before.disabled = found.skipped == 0
        self._after.disabled = last >= found.total
        self._count.text = render.html(
            "count.html",
            first=found.skipped + 1,
            last=last,
            total=found.total,
            filtered=found.filtered,
            lasts=found.lasts,
        )
        self.set_address(
            **self._values(),
            order=self._order.value if self._order.value != "number" else "",
            way=self._way.value if self._way.value != "down" else "",
            skip=found.skipped or "",
        )

    def _take_choices(self, found: tuple[list[str], list[str]]) -> None:
        for name, options in zip(("mode", "tag"), found, strict=True):
            widget = self._filters[name]
            widget.options = list(dict.fromkeys([_ANY, *options, widget.value]))

    def _take_selection(self) -> None:
        """Keep which runs of this page are selected; those of other pages stay."""
        if self._is_loading:
            return
        names = self._source.data["run"]
        rows = [i for i in self._source.selected.indices if i < len(names)]
        kept = [run_id for run_id in self._selected if run_id not in names]
        self._selected = kept + [names[i] for i in rows]
        self._show_selection()

    def _select_none(self) -> None:
        self._selected = []
        self._source.selected.indices = []
        self._show_selection()

    def _show_selection(self) -> None:
        self._selection.text = render.html("selection.html", runs=self._selected)
        self._unselect.visible = bool(self._selected)
        if self._selected and self._panel is None:
            # Only now, since its widgets take as long as the rest of the page
            self._panel = ActionsPanel(self, lambda: self._selected, self._acted)
            self.add_later(self._actions, self._panel.model)
            self._log = LogPart(self, lambda: self._selected[-1] if self._selected else "")
            self.add_later(self._logs, self._log.model)
            self._log.start()
        elif self._panel is not None:
            self._log.refresh(again=True)
        if self._panel is not None:
            known = [self._known[run_id] for run_id in self._selected if run_id in self._known]
            contexts, states = {context for context, _ in known}, {state for _, state in known}
            self._panel.runs_changed(contexts, "taking" in states)
        self._actions.visible = self._logs.visible = bool(self._selected)

    def _acted(self) -> None:
        self.site.forget("runs")
        self.refresh(again=True)

    def _sort_by(self, pressed: str) -> None:
        """Sort the list, not only this page of it, by the column whose header is clicked."""
        order = _ORDERS.get(pressed.partition(" ")[0])
        if order is None:
            return
        if self._order.value == order:
            self._way.value = "up" if self._way.value == "down" else "down"
        else:
            self._order.value = order

    def _mark_order(self) -> None:
        arrow = "▼" if self._way.value == "down" else "▲"
        for shown, column in zip(self._table.columns, _COLUMNS, strict=True):
            is_it = _ORDERS.get(column.field) == self._order.value
            shown.title = f"{column.title} {arrow}" if is_it else column.title


def _snippet(search: run_overview.Search, run_ids: list[str]) -> str:
    """Return a line of Python that selects the same runs."""
    given = []
    if search.modes:
        given.append(f"run_mode={search.modes[0]!r}")
    if search.tags:
        given.append(f"include_tags={search.tags[0]!r}")
    others = replace(search, modes=(), tags=(), followed=frozenset())
    if others != run_overview.Search():
        # strax's run ids are patterns
        given.append(f"run_id={run_ids!r}")
    return f"runs = st.select_runs({', '.join(given)})"


def _search(values: dict[str, str]) -> run_overview.Search:
    """Return the search for the values of the filters; raise InvalidOption for invalid ones."""

    def some(name: str) -> tuple[str, ...]:
        return (values[name],) if values[name] else ()

    return run_overview.Search(
        text=values["text"],
        statuses=some("status"),
        modes=some("mode"),
        tags=some("tag"),
        since=_date(values["since"]),
        until=_date(values["until"]),
        first=_number(values["first"]),
        last=_number(values["last"]),
    )


def _date(text: str) -> date | None:
    text = text.strip()
    try:
        return date.fromisoformat(text) if text else None
    except ValueError:
        raise InvalidOption(f"{text!r} is no day: write it as 2024-01-31") from None


def _number(text: str) -> int | None:
    text = text.strip()
    if text and not (text.isascii() and text.isdigit() and len(text) < 19):
        raise InvalidOption(f"{text!r} is no number of a run: write it as 6724")
    return int(text) if text else None


class ComparePage(Page):
    """Distributions of several runs in the same plots, and ratios to the first."""

    path, title = "compare", "Compare runs"

    def __init__(self, *args: Any):
        super().__init__(*args)
        # a and b are in addresses of before
        given = self.argument("runs") or f"{self.argument('a')} {self.argument('b')}"
        self._runs = text_input(
            "runs",
            "Runs (the first is the reference)",
            self._draw,
            320,
            value=given.strip(),
            placeholder="6724, 6730-6735",
        )
        given = self.argument("normalize")
        self._normalize = select("normalize", "Compare", _NORMALIZE, self._draw, given, 140)
        bins = self.argument("bins", "60")
        self._bins = select("bins", "Bins", ["30", "60", "120", "240"], self._draw, bins, 90)
        self._result = self.html("", name="compared")
        self._figures = wrapped()
        self.show(wrapped(self._runs, self._normalize, self._bins), self._result, self._figures)
        self._draw()

    def _draw(self) -> None:
        try:
            names = understood(self._runs.value)
            if len(names) > _MOST_COMPARED:
                raise UsageError(f"{len(names)} runs are too many: the limit is {_MOST_COMPARED}")
        except UsageError as error:
            self.report("the runs", error)
            return
        self.clear_report("the runs")
        normalize, bins = self._normalize.value, int(self._bins.value)
        self.set_address(runs=self._runs.value.strip(), normalize=normalize, bins=bins)
        if len(names) == 1:
            self._result.text = "<p>Looking for the run of the same mode before it …</p>"
            self.load("the run before", lambda: self._before(names[0]), self._take_before)
            return
        if not names:
            self._figures.children = []
            self._result.text = "<p>Name runs to compare; or select some in the list of runs.</p>"
            return
        self._result.text = "<p>Loading …</p>"
        self.load("the comparison", lambda: self._find(names, normalize, bins), self._take)

    def _before(self, name: str) -> str:
        """Return a run, and the last one before it of the same mode, as text."""
        collection = self.site.collection()
        run = documents.find_run(collection, name, projection=["name", "number", "mode"])
        condition = {"mode": run.get("mode"), "number": {"$lt": documents.number_of(run)}}
        found = documents.read(
            collection, condition, ["name", "number"], sort=[("number", -1)], limit=1
        )
        return ", ".join([name, *(documents.name_of(each) or "?" for each in found)])

    def _take_before(self, names: str) -> None:
        if "," in names:
            self._runs.value = names
        else:
            self._result.text = (
                f"<p>No run of its mode is before {render.text(names)}: add one.</p>"
            )

    def report(self, what: str, error: Exception) -> None:
        """Show an error, also in place of the plots."""
        super().report(what, error)
        self._result.text = "<p>No plot.</p>"
        self._figures.children = []

    def _find(self, names: list[str], normalize: str, bins: int) -> tuple[str, list[Any]]:
        """Return a table of the runs, as HTML, and figures."""
        collection = self.site.collection()
        found = [
            documents.find_run(collection, name, projection=transfer.SUMMARY_FIELDS)
            for name in names
        ]
        contexts = [self.site.context_for(document) for document in found]
        for name, context in zip(names, contexts, strict=True):
            if context != contexts[0]:
                raise UsageError(
                    f"run {names[0]} is one of context {contexts[0]}, and run {name} one of "
                    f"{context}: compare runs of one sort"
                )
        with self.site.few:
            st = self.site.context(contexts[0])
            sort = "peak_basics" if figures.name_of(st, "peak_basics") else "led_calibration"
            stored: list[str] = []
            errors: list[Exception] = []
            for name in names:
                try:
                    figures.span(st, name, sort)
                    stored.append(name)
                except (AmstraxError, OSError) as error:
                    errors.append(error)
            if len(stored) < 2:
                raise errors[0]
            layout = st.compare_runs(  # type: ignore[attr-defined]
                stored, normalize=normalize, n_bins=bins, progress_bar=False, interactive=True
            )
        followed = self.site.followed()
        runs = [
            transfer.summary(document, followed)
            for name, document in zip(names, found, strict=True)
            if name in stored
        ]
        left = [describe(error) for error in errors]
        return render.html("compared.html", runs=runs, left=left), layout.children

    def _take(self, found: tuple[str, list[Any]]) -> None:
        self._result.text, columns = found
        for column in columns:
            column.sizing_mode = "stretch_width"
            column.styles = {"flex": "1 1 400px", "min-width": "300px", "max-width": "640px"}
            for figure, height in zip(column.children, (280, 150), strict=True):
                figure.width, figure.height, figure.sizing_mode = None, height, "stretch_width"
        self._figures.children = columns

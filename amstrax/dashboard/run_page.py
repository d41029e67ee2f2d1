"""The page of one run: what is known of it, its data, options and corrections, log and document."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from bokeh.models import Select, TextInput

from amstrax import rundoc
from amstrax.dashboard import render, run_overview
from amstrax.dashboard.actions_panel import ActionsPanel
from amstrax.dashboard.live_part import LivePart
from amstrax.dashboard.log_part import LogPart
from amstrax.dashboard.page import STYLE, Page, wrapped
from amstrax.exceptions import AmstraxError, InvalidRunDocument, UsageError
from amstrax.rundb import documents


class OfRun(Page):
    """What the pages of one run have in common."""

    def __init__(self, *args: Any):
        super().__init__(*args)
        self.run_id = run_id_of(self.argument("id"))
        self.doc.title = (
            f"Run {self.run_id or '?'}{self.title} · amstrax {self.site.detector.upper()}"
        )
        self.links = self.html(
            render.html("run_links.html", run_id=self.run_id, page=self.path), name="links"
        )
        self.is_known = bool(self.run_id)
        if not self.is_known:
            self.report("the run", UsageError("the address names none, as run?id=006724"))

    def document(self) -> dict[str, Any]:
        """Return the document of the run, without secrets."""
        found = documents.find_run(self.site.collection(), self.run_id)
        return run_overview.without_secrets(found)

    def context(self) -> Any:
        """Return the context that is asked for, or that the run is processed with."""
        name = self.argument("context")
        if name not in self.site.contexts():
            name = self.site.context_for(self.document())
        return self.site.context(name, self.argument("version") or None)


def run_id_of(text: str) -> str:
    """Return a run id as it is in documents; empty for what is none."""
    text = text.strip()
    try:
        return rundoc.check_run_name(text).zfill(6)
    except InvalidRunDocument:
        return ""


class _About(NamedTuple):
    """What the run database says of a run."""

    summary: documents.Summary
    status: documents.Status
    timeline: list[run_overview.Moment]
    failures: int
    job: Mapping[str, Any]
    json: str


class _Data(NamedTuple):
    """What a context would do with a run."""

    context: str
    states: list[run_overview.State]
    options: list[Any]
    versions: dict[str, str]


class RunPage(OfRun):
    """One run."""

    path, title = "run", ""

    def __init__(self, *args: Any):
        super().__init__(*args)
        self._about = self.html("<p>Asking the run database …</p>", name="about")
        self._json = self.html("", name="document")
        self._data = self.html("", name="data")
        self._options = self.html("", name="options")
        contexts = ["as its mode says", *self.site.contexts()]
        context = self.argument("context", contexts[0])
        self._context = Select(
            title="Context",
            name="context",
            options=contexts,
            value=context if context in contexts else contexts[0],
            width=180,
        )
        self._version = TextInput(
            title="Corrections version",
            name="version",
            value=self.argument("version"),
            placeholder=self.site.corrections_version or "none",
            width=180,
        )
        for widget in (self._context, self._version):
            widget.stylesheets = [STYLE]
            widget.on_change("value", lambda attr, old, new: self._look_at_data(again=True))
        parts: list[Any] = [self.links]
        if self.is_known:
            self._actions = ActionsPanel(self, lambda: [self.run_id])
            self._log = LogPart(self, lambda: self.run_id)
            self._live = LivePart(self, self.run_id)
            parts += [
                self._about,
                self._live.model,
                self.html("<h2>Data</h2>"),
                wrapped(self._context, self._version),
                self._data,
                self._options,
                self._actions.model,
                self._log.model,
                self._json,
            ]
        self.show(*parts)
        if self.is_known:
            self.repeat(self._refresh)
            self._log.start()
            self._live.start()

    def _refresh(self) -> None:
        self.load("the run", self._ask, self._take_about, again=False)
        self._look_at_data()

    def _ask(self) -> _About:
        document = self.document()
        return _About(
            documents.summary(document),
            documents.status_of(document),
            run_overview.timeline(document),
            documents.failures_of(document),
            documents.job_of(document),
            render.pretty(document),
        )

    def _take_about(self, about: _About) -> None:
        self._set(self._about, render.html("about.html", **about._asdict()))
        self._set(self._json, render.html("document.html", json=about.json))

    def _look_at_data(self, again: bool = False) -> None:
        context, version = self._context.value, self._version.value.strip()

        def work() -> _Data:
            return self._find_data(context if context in self.site.contexts() else "", version)

        self.load("its data", work, self._take_data, again)

    def _find_data(self, context: str, version: str) -> _Data:
        from amstrax.corrections import versions

        document = self.document()
        context = context or self.site.context_for(document)
        st = self.site.context(context, version or None)
        return _Data(
            context,
            run_overview.states(st, self.run_id, document),
            versions.options_of(st, self.run_id),
            _versions(self.run_id, version or self.site.corrections_version),
        )

    def _take_data(self, data: _Data) -> None:
        self._set(
            self._data,
            render.html("data.html", states=data.states, context=data.context, run_id=self.run_id),
        )
        self._set(
            self._options,
            render.html("options.html", options=data.options, versions=data.versions),
        )
        own = "" if self._context.value not in self.site.contexts() else self._context.value
        self.set_address(id=self.run_id, context=own, version=self._version.value.strip())

    @staticmethod
    def _set(part: Any, text: str) -> None:
        # What is open, or selected, on the page stays so while nothing changes
        if part.text != text:
            part.text = text


def _versions(run_id: str, asked: str | None) -> dict[str, str]:
    """Return the versions of the corrections, and of each what keeps it from covering a run."""
    from amstrax.corrections import versions

    result = {}
    for version in dict.fromkeys([*versions.known_versions(), *([asked] if asked else [])]):
        try:
            missing = versions.missing(version, run_id)
            result[version] = f"no value for {', '.join(missing)}" if missing else ""
        except (AmstraxError, OSError) as error:
            result[version] = " ".join(str(error).split())
    return result

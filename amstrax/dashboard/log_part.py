"""The log of a run's last job, as it grows."""

from collections.abc import Callable

from bokeh.models import Column

from amstrax.dashboard import live_progress, render
from amstrax.dashboard.page import Page
from amstrax.exceptions import NotAvailable
from amstrax.rundb import documents

#: Time between two looks at a log [s]
EVERY = 2.0


class LogPart:
    """Part of a page that shows the log of a run.

    Parameters
    ----------
    page
        The page.
    run_id
        Returns the run; empty for none.
    """

    def __init__(self, page: Page, run_id: Callable[[], str]):
        self._page, self._run_id = page, run_id
        self._text = page.html("", name="log")
        self.model = Column(
            page.html("<h2>Log of the last job</h2>"), self._text, sizing_mode="stretch_width"
        )

    def start(self) -> None:
        """Show it from now on."""
        self._page.repeat(self.refresh, min(EVERY, self._page.site.refresh))

    def refresh(self, again: bool = False) -> None:
        """Look at the log."""
        run_id = self._run_id()
        if not run_id:
            self._take(None)
            return
        site = self._page.site

        def work() -> tuple[str, live_progress.Log | str]:
            document = documents.find_run(
                site.collection(), run_id, projection=["processing_job", "name", "number"]
            )
            try:
                return run_id, live_progress.read_log(document, site.log_folder)
            except NotAvailable as error:
                return run_id, str(error)

        self._page.load("the log", work, self._take, again)

    def _take(self, found: tuple[str, live_progress.Log | str] | None) -> None:
        if found is None:
            text = "<p>Name a run to see the log of its job.</p>"
        elif isinstance(found[1], str):
            text = render.html("log.html", run_id=found[0], log=None, why=found[1])
        else:
            text = render.html("log.html", run_id=found[0], log=found[1], why="")
        if self._text.text != text:
            self._text.text = text

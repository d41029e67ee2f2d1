#!/usr/bin/env python
"""Measure the dashboard in a real browser: first page, a run of many peaks, memory of the server.

It needs Chromium and the extra `test`. Times depend on the machine and on what else it does: the
load at the beginning and the end is printed, too.
"""

import argparse
import asyncio
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from tornado.httpclient import AsyncHTTPClient, HTTPRequest
from tornado.websocket import websocket_connect

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from dashboard_server import Lab, Server, new_page, part  # noqa: E402
from needs import CHROMIUM  # noqa: E402

RUN_ID = "123456"
#: Whether so many figures are there, and have been painted
_DRAWN = """(number) => {
    if (!window.Bokeh || !Bokeh.documents.length) return false
    const figures = Bokeh.documents[0].roots()[0].select({type: "Figure"})
    return figures.length == number && figures.every((each) => {
        const view = Bokeh.index.find_one(each)
        return view != null && view.has_finished()
    })
}"""


def main() -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=10_000, help="runs (%(default)s)")
    parser.add_argument("--peaks", type=int, default=1_000_000, help="peaks (%(default)s)")
    parser.add_argument("--views", type=int, default=1000, help="page views (%(default)s)")
    parser.add_argument("--clients", type=int, default=20, help="clients at once (%(default)s)")
    parser.add_argument("--idle", type=int, default=30, help="time of idle pages [s] (%(default)s)")
    parser.add_argument("--repeat", type=int, default=5, help="pages to time (%(default)s)")
    args = parser.parse_args()
    from playwright.sync_api import sync_playwright

    load()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        lab = Lab(Path(folder))
        lab.add_documents(args.runs)
        lab.runs.insert_one({"number": int(RUN_ID), "name": RUN_ID, "start": None})
        write_peaks(lab.out, args.peaks)
        # The interval of refreshes that users have
        server = Server(lab, "server", "--refresh=5")
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        try:

            def first_page(page: Any) -> None:
                page.goto(server.address)
                part(page, "runs").locator(".slick-row a").first.wait_for()

            def plots(page: Any) -> None:
                page.goto(f"{server.address}data?id={RUN_ID}")
                page.wait_for_function(_DRAWN, arg=3, polling=50)
                part(page, "loaded").get_by_text(f"{args.peaks:,} peaks").wait_for()

            measure(
                f"first page, {args.runs} runs, nothing in the browser's cache",
                browser,
                first_page,
                args.repeat,
            )
            measure(f"plots of a run of {args.peaks} peaks, the same", browser, plots, args.repeat)
            clients(server, args.clients)
            idle(server, args.idle)
            views(server, args.views)
        finally:
            browser.close()
            server.stop()
    load()
    return 0


def measure(what: str, browser: Any, function: Callable[[Any], None], repeat: int) -> None:
    """Print how long something takes in a new tab: the first time, and the median of those after.

    What it takes of the processors is printed as well, since that does not depend on what else
    the machine does: of the server and of the browser together.
    """
    times, worked = [], []
    for _ in range(repeat + 1):
        before = used()
        page = new_page(browser)
        began = time.monotonic()
        function(page)
        times.append(time.monotonic() - began)
        # The process that has drawn the page ends with it
        worked.append(used() - before)
        page.context.close()
    print(f"{what}: {statistics.median(times[1:]):.2f} s (the first time {times[0]:.2f} s),")
    print(f"  {statistics.median(worked[1:]):.2f} s of processors", flush=True)


def used() -> float:
    """Return what all processes that this one has started have used of the processors [s]."""
    total = 0.0
    for child in psutil.Process().children(recursive=True):
        try:
            times = child.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def views(server: Server, number: int) -> None:
    """Print what the server has after many page views.

    A view is what the server sees of one in a browser: the page is fetched, its websocket opened,
    and closed when the next page is there.
    """
    process = psutil.Process(server.process.pid)
    before = state(process)
    began = time.monotonic()
    print(f"before: {before}")
    # Playwright has a loop of its own in this thread
    with ThreadPoolExecutor(1) as pool:
        work = view_pages(server.address, number, process)
        peak = pool.submit(asyncio.run, work).result()
    seconds = time.monotonic() - began
    # Sessions are looked for every 5 s, and go 15 s after their page; memory is given back after 20
    end = time.monotonic() + 60
    while time.monotonic() < end and state(process).connections > before.connections:
        time.sleep(1)
    print(f"{number} page views in {seconds:.0f} s, {peak:.0f} MiB at most; after them:")
    print(f"  {state(process)}", flush=True)


async def view_at_once(address: str, number: int) -> tuple[list[float], list[float]]:
    """Let clients view a few pages each at once; return the times of GETs, and to documents [s]."""
    gets, opened = [], []

    async def client(which: int) -> None:
        http = AsyncHTTPClient(force_instance=True)
        pages = ("runs", f"run?id={which + 1}", "processing", f"data?id={RUN_ID}")
        for i in range(len(pages)):
            path = pages[(which + i) % len(pages)]
            began = time.monotonic()
            text = (await http.fetch(address + path, request_timeout=120)).body.decode()
            gets.append(time.monotonic() - began)
            new = await open_document(address, path, text)
            opened.append(time.monotonic() - began)
            # A shifter reads the page for a second
            await asyncio.sleep(1)
            new.close()

    await asyncio.gather(*map(client, range(number)))
    return gets, opened


def clients(server: Server, number: int) -> None:
    """Print how long pages take while many clients open some at once."""
    process = psutil.Process(server.process.pid)
    before = sum(process.cpu_times()[:2])
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(asyncio.run, view_at_once(server.address, number)).result()
    spent = (sum(process.cpu_times()[:2]) - before) / len(found[0])
    print(f"{number} clients at once, {len(found[0])} views of {spent:.2f} s of processors each:")
    for what, times in zip(("page", "page and its document"), found, strict=True):
        late = statistics.quantiles(times, n=20)[-1]
        print(f"  {what}: median {statistics.median(times):.2f} s, 95 % below {late:.2f} s")


async def open_document(address: str, path: str, text: str) -> Any:
    """Open the websocket of a page with this text, and wait for its document."""
    new = await open_websocket(address, path, text)
    for part_of_message in ('{"msgid": "1", "msgtype": "PULL-DOC-REQ"}', "{}", "{}"):
        await new.write_message(part_of_message)
    while "PULL-DOC-REPLY" not in str(await new.read_message()):
        pass
    return new


def idle(server: Server, seconds: int) -> None:
    """Print what pages that are open, each in a browser that does nothing, take of a core."""
    process = psutil.Process(server.process.pid)
    others = ("runs", "runs?text=ann", "processing", "log", "compare", f"data?id={RUN_ID}")
    kinds = {
        "10 pages of runs": [f"run?id={i + 1}" for i in range(10)],
        **{path: [path] for path in others},
    }

    async def measure_each() -> None:
        for what, paths in kinds.items():
            opened = []
            for path in paths:
                http = AsyncHTTPClient(force_instance=True)
                text = (await http.fetch(server.address + path)).body.decode()
                opened.append(await open_document(server.address, path, text))
            # Until they are drawn, and sessions of before and their memory are tidied up
            await asyncio.sleep(45)
            before = sum(process.cpu_times()[:2])
            await asyncio.sleep(seconds)
            share = (sum(process.cpu_times()[:2]) - before) / seconds
            print(f"idle, {what}: {share:.1%} of a core", flush=True)
            for each in opened:
                each.close()

    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, measure_each()).result()


async def open_websocket(address: str, path: str, text: str) -> Any:
    """Open the websocket of a page with this text, as a browser does."""
    token = re.search(r'"token":\s*"([^"]+)"', text)[1]
    request = HTTPRequest(
        f"ws{address.removeprefix('http')}{path.partition('?')[0]}/ws",
        headers={"Origin": address.rstrip("/")},
        connect_timeout=120,
        request_timeout=120,
    )
    new = await websocket_connect(request, subprotocols=["bokeh", token])
    assert "ACK" in await new.read_message()
    return new


async def view_pages(address: str, number: int, process: psutil.Process) -> float:
    """View pages one after the other, and return the most memory that the server had [MiB].

    What it has is printed ten times meanwhile: whether that grows is what counts.
    """
    line, peak = None, 0.0
    client = AsyncHTTPClient()
    pages = ("runs", "processing", "run?id={}", "compare", f"data?id={RUN_ID}", "events?id={}")
    for i in range(number):
        if i and i % max(number // 10, 1) == 0:
            print(f"  after {i} views: {state(process)}", flush=True)
        path = pages[i % len(pages)].format(1 + i)
        text = (await client.fetch(address + path, request_timeout=120)).body.decode()
        new = await open_websocket(address, path, text)
        if line is not None:
            line.close()
        line = new
        peak = max(peak, process.memory_info().rss / 2**20)
    if line is not None:
        line.close()
    return peak


class State(NamedTuple):
    """Memory of a server [MiB], and what it has open."""

    memory: float
    connections: int
    files: int
    threads: int
    children: int

    def __str__(self) -> str:
        return (
            f"{self.memory:.0f} MiB, {self.connections} connections, {self.files} files, "
            f"{self.threads} threads, {self.children} processes"
        )


def state(process: psutil.Process) -> State:
    """Return what a server has."""
    connections = [c for c in process.net_connections() if c.status == psutil.CONN_ESTABLISHED]
    return State(
        process.memory_info().rss / 2**20,
        len(connections),
        process.num_fds(),
        process.num_threads(),
        len(process.children(recursive=True)),
    )


def write_peaks(folder: Path, n_peaks: int) -> None:
    """Store peak_basics of a run, drawn at random, as strax would."""
    import numpy as np
    import strax

    from amstrax import contexts

    st = contexts.xams(output_folder=folder, init_rundb=False)
    plugin = st.get_single_plugin(RUN_ID, "peak_basics")
    key = st.key_for(RUN_ID, "peak_basics")
    rng = np.random.default_rng(1)
    n_chunks = max(n_peaks // 100_000, 1)
    spacing, length = 100_000, n_peaks // n_chunks

    def chunks():
        for i in range(n_chunks):
            peaks = np.zeros(length, dtype=plugin.dtype_for("peak_basics"))
            start = 1_700_000_000_000_000_000 + i * length * spacing
            peaks["time"] = start + np.arange(length) * spacing
            peaks["endtime"] = peaks["time"] + 1000
            is_s2 = rng.random(length) < 0.4
            peaks["area"] = rng.lognormal(np.where(is_s2, 8, 3), 1)
            peaks["range_50p_area"] = rng.lognormal(np.where(is_s2, 6.5, 4), 0.3)
            peaks["area_fraction_top"] = rng.beta(5, 5, length)
            peaks["type"] = np.where(is_s2, 2, 1)
            yield plugin.chunk(
                start=start,
                end=start + length * spacing,
                data=peaks,
                data_type="peak_basics",
            )

    saver = st.storage[-1].saver(key, metadata=plugin.metadata(RUN_ID, "peak_basics"))
    saver.save_from(chunks(), rechunk=False)
    assert isinstance(st.storage[-1], strax.DataDirectory) and st.is_stored(RUN_ID, "peak_basics")


def load() -> None:
    """Print what else the machine does."""
    print(f"load of the machine {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores", flush=True)


if __name__ == "__main__":
    sys.exit(main())

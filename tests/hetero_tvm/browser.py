"""A headless Chromium to open reports in; tests that need it are skipped where there is none."""

import atexit
import contextlib
import functools
import shutil

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


@functools.cache
def _browser():
    """One for all tests of a process: starting one takes seconds."""
    api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    program = next(filter(None, map(shutil.which, _NAMES)), None)
    if program is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    play = api.sync_playwright().start()
    # Without a sandbox, which needs rights that a container rarely gives; the pages are ours.
    browser = play.chromium.launch(executable_path=program, args=["--no-sandbox"])
    atexit.register(play.stop)
    atexit.register(browser.close)
    return browser


@contextlib.contextmanager
def opened(html, *, width=1280, height=800, scheme="light"):
    """The page of a file, drawn; fails where a script failed or anything was fetched."""
    wrong = []
    page = _browser().new_page(
        viewport={"width": width, "height": height}, color_scheme=scheme, offline=True
    )
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda line: wrong.append(line.text) if line.type == "error" else None)
    page.on(
        "request", lambda asked: wrong.append(asked.url) if asked.url != html.as_uri() else None
    )
    try:
        page.goto(html.as_uri())
        page.wait_for_selector("html[data-ready=yes]", timeout=20_000)
        yield page
    finally:
        page.close()
    assert not wrong

"""The page: one file, closed to strangers' names and to the network, and what it draws."""

import copy
import re
from html.parser import HTMLParser

import pytest
import report_model
from browser import opened
from report_model import HOSTILE

from hetero_tvm.graph_layout import layout
from hetero_tvm.report_page import page


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page(*report_model.data()), encoding="utf-8")
    return path


class _Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.seen = []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))


def test_names_of_the_model_are_no_markup(html):
    parser = _Tags()
    parser.feed(html.read_text())
    assert "img" not in {tag for tag, _ in parser.seen}
    assert not any("src" in attrs or "onerror" in attrs for _, attrs in parser.seen)
    assert HOSTILE not in html.read_text()


def test_only_its_own_scripts_may_run_and_nothing_may_be_fetched(html):
    text = html.read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)[1]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy and "http" not in policy
    assert text.count("<script>") == policy.count("'sha256-") - 1  # the style has one too
    assert not re.search(r"<(link|img|iframe|script src)", text)


def test_a_title_is_text():
    data, kernels = report_model.data()
    data = {**data, "model": {"name": "<b>&{title}", "sha256": ""}}
    assert "<title>&#60;b&#62;&#38;&#123;title&#125; on host</title>" in page(data, kernels)


def test_licences_travel_with_what_they_are_of(html):
    assert "Permission is hereby granted" in html.read_text()
    assert "Permission to use, copy, modify" in html.read_text()


def test_draws_every_operator_by_its_device(html):
    (main,) = report_model.data()[0]["functions"]
    with opened(html) as shown:
        assert shown.locator("g.node").count() == len(main["operators"])
        both = sum(op["device"] == "gpu+npu" for op in main["operators"])
        assert shown.locator("g.node.both").count() == both > 0
        assert shown.evaluate("window.hacked") is None
        shown.locator("g.node").first.click()
        details = shown.locator("#details").inner_text()
        assert f"first{HOSTILE}" in details and "ALTERNATIVES" in details.upper()
        assert main["operators"][0]["reason"] in details


def test_search_finds_and_dims(html):
    with opened(html) as shown:
        shown.fill("#search", "second")
        total = shown.locator("g.node").count()
        assert shown.locator("#found").inner_text() == f"1 of {total}"
        assert shown.locator("g.node.dim").count() == total - 1
        shown.press("#search", "Enter")
        assert "second" in shown.locator("#details .node-name").inner_text()


def test_every_part_is_drawn_in_both_lights(html):
    said = {
        "overview": "Modes side by side",
        "operators": "GPU alone",
        "refusals": "No device refuses",
        "timeline": "The plan, simulated",
        "memory": "Memory over one run",
        "kernels": "_kernel",
        "provenance": "What the words mean",
    }
    for scheme, ground in (("light", "rgb(246, 247, 249)"), ("dark", "rgb(16, 21, 28)")):
        with opened(html, scheme=scheme) as shown:
            body = "getComputedStyle(document.body).backgroundColor"
            assert shown.evaluate(body) == ground
            for name, words in said.items():
                shown.click(f"#tab-{name}")
                shown.wait_for_selector(f"#view-{name}:visible")
                shown.locator(f"#view-{name}", has_text=words).wait_for()
            shown.click("#theme")
            assert shown.evaluate(body) != ground


def test_the_timeline_has_lanes_and_leads_to_the_operator(tmp_path):
    """The plan beside what was recorded; a block says what it is, a click opens the operator."""
    data, kernels = report_model.data()
    data = copy.deepcopy(data)
    (function,) = data["functions"]
    name = function["operators"][0]["name"]
    empty = {
        "cpu": [],
        "npu": [],
        "copies": [],
        "waits": [[80.0, 100.0, "GPU waits for NPU", None, None]],
    }
    lanes = {**empty, "gpu": [[0.0, 80.0, "kernel_of_mine", name, 0]]}
    function["timeline"]["measured"] = {"us": 100.0, "provenance": "measured", "lanes": lanes}
    path = tmp_path / "r.html"
    path.write_text(page(data, kernels))
    with opened(path, width=390, height=844) as shown:
        shown.click("#tab-timeline")
        labels = [one.get_attribute("aria-label") for one in shown.locator("canvas").all()]
        assert labels[0].startswith("The plan, simulated. ") and "GPU and NPU at once" in labels[0]
        assert labels[1] == (
            "One run, recorded. 100 µs: CPU 0.0 µs, GPU 80.0 µs, NPU 0.0 µs at work; "
            "GPU and NPU at once 0.0 µs; 1 waits, 0 copies"
        )
        recorded = shown.locator("canvas").nth(1)
        box = recorded.bounding_box()
        middle = {"x": 58 + (box["width"] - 58) * 0.3, "y": 45}  # the GPU's lane
        recorded.hover(position=middle)
        assert "kernel_of_mine 80.0 µs, from 0.0 µs to 80.0 µs" in shown.inner_text(".lanes-said")
        painted = "c => c.getContext('2d').getImageData(c.width * 0.5, 45, 1, 1).data[3]"
        assert recorded.evaluate(painted) == 255
        assert shown.evaluate("document.documentElement.scrollWidth") <= 390
        recorded.click(position=middle)
        shown.wait_for_selector("#view-graph:visible")
        assert shown.evaluate("state.selected") == name


def test_kernels_show_their_source(html):
    _data, kernels = report_model.data()
    with opened(html) as shown:
        shown.click("#tab-kernels")
        shown.wait_for_selector("#kernel-source pre")
        name = shown.locator(".source-head .mono").first.inner_text()
        assert shown.locator("#kernel-source pre").first.inner_text().strip() == (
            kernels[name].strip()
        )


@pytest.mark.nightly
def test_a_phone_shows_it_without_scrolling_sideways(html):
    with opened(html, width=390, height=844) as shown:
        for name in ("graph", "overview", "operators", "memory", "kernels", "provenance"):
            shown.click(f"#tab-{name}")
            wide = "document.documentElement.scrollWidth"
            assert shown.evaluate(wide) <= 390, name
        shown.click("#tab-graph")
        shown.evaluate("select(state.fn.operators[0].name, true)")
        shown.locator("#details.open").wait_for()


@pytest.mark.nightly
def test_five_hundred_operators_and_two_functions(tmp_path):
    """A long chain with branches, beside a short one: each is drawn when it is chosen."""
    data, kernels = copy.deepcopy(report_model.data())
    (main,) = data["functions"]
    long = {**main, "name": "long", "length": 64, "operators": [], "calls": []}
    for n in range(500):
        op = copy.deepcopy(main["operators"][n % len(main["operators"])])
        op |= {"name": f"op{n}", "node": f"/layer.{n // 10}/op{n}", "calls": []}
        op["inputs"] = [f"op{n - back}" for back in (1, 7) if n >= back and (back == 1 or n % 5)]
        op |= {"from_model_input": n == 0, "is_output": n == 499}
        long["operators"].append(op)
    names = {f"op{n}": 168.0 for n in range(500)}
    edges = [(one, op["name"]) for op in long["operators"] for one in op["inputs"]]
    placed, number = layout(names, edges, 44.0), {name: n for n, name in enumerate(names)}
    long["drawing"] = {
        "box": [168, 44],
        "nodes": [{"name": name, "border": False, "at": placed.at[name]} for name in names],
        "edges": [[number[a], number[b], way] for (a, b), way in placed.ways.items()],
        "size": [placed.width, placed.height],
    }
    main["length"] = 32
    data["functions"].append(long)
    path = tmp_path / "long.html"
    path.write_text(page(data, kernels))
    with opened(path) as shown:
        assert shown.locator("g.node").count() == 500
        print(f"500 operators drawn after {shown.evaluate('performance.now()'):.0f} ms")
        shown.select_option("#function", label="32")
        assert shown.locator("g.node").count() == len(main["operators"])

"""The report as one HTML file that needs nothing else: no network, no folder beside it.

Names in a model are a stranger's. They reach the page as JSON without a `<`, its scripts write them
as text only, and a content security policy lets nothing run but those very scripts.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import math
from collections.abc import Mapping
from importlib import resources
from typing import Any

# In this order: each uses what stands before it. How `vendor/` came to be: scripts/vendor_page.py.
VENDOR = (
    "d3-color",
    "d3-dispatch",
    "d3-ease",
    "d3-interpolate",
    "d3-selection",
    "d3-timer",
    "d3-transition",
    "d3-drag",
    "d3-zoom",
    "uplot",
)
_OURS = ("core", "overview", "graph", "details", "tables", "timeline", "memory", "kernels", "main")
_STYLES = ("vendor/uplot.css", "style.css")


def page(data: Mapping[str, Any], kernels: Mapping[str, str]) -> str:
    """The whole file.

    Args:
        data: as `report_data` gives it.
        kernels: kernel -> its source.
    """
    style = "\n".join(_asset(name) for name in _STYLES)
    scripts = [_asset(f"vendor/{name}.js") for name in VENDOR]
    scripts.append("\n".join(_asset(f"{name}.js") for name in _OURS))
    for text in scripts:
        assert "</script" not in text.lower(), "a script of ours would end its own element"
    allowed = " ".join(_hash(text) for text in scripts)
    policy = (
        f"default-src 'none'; script-src {allowed}; style-src {_hash(style)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    packed = base64.b64encode(gzip.compress(json.dumps(kernels).encode(), mtime=0)).decode()
    title = f"{data['model']['name']} on {data['target']['name']}"
    return _asset("page.html").format(
        policy=policy,
        title=_text(title),
        style=style,
        body=_asset("body.html"),
        data=_json(
            {**data, "licences": {name: _asset(f"vendor/{name}.LICENSE") for name in VENDOR}}
        ),
        kernels=packed,
        scripts="\n".join(f"<script>{text}</script>" for text in scripts),
    )


def _asset(name: str) -> str:
    folder = resources.files("hetero_tvm").joinpath("page")
    return folder.joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _json(value: Any) -> str:
    """JSON that cannot end the element it stands in, nor begin another."""
    text = json.dumps(_finite(value), separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _text(text: str) -> str:
    return "".join(c if c.isalnum() or c in " .,_-+" else f"&#{ord(c)};" for c in text)

"""Pages that are made of the code and of the folders' READMEs when the site is built.

They are written to `_generated/`: a page for each verb from its argparse table and its examples,
the catalogue of errors, the codes of drivers, the JSON Schemas; and the repository's own Markdown
under `tree/`, so that nothing has to be said twice. Its links to files that are no pages become
their paths.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from hetero_tvm.catalogue import entries
from hetero_tvm.cli import VERBS
from hetero_tvm.explain import schema_file
from hetero_tvm.vendor_codes import every

ROOT = Path(__file__).resolve().parent.parent
# Written by hand elsewhere, and part of the site as they are.
TREE = (
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "benchmarks/README.md",
    "examples/README.md",
    "hetero_tvm/README.md",
    "hetero_tvm/frontend/README.md",
    "relay_passes/README.md",
    "runtime/README.md",
    "schedules/README.md",
    "target_specs/README.md",
    "tests/README.md",
)
_LINK = re.compile(r"\[([^\]]+)\]\((?!https?:|#|mailto:)([^)#\s]+)(#[^)\s]*)?\)")


def write(folder: Path) -> None:
    """Write every page anew."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, text in pages():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def pages() -> Iterator[tuple[str, str]]:
    """Path below the folder, and Markdown, of each page."""
    for verb, summary in VERBS.items():
        yield f"verbs/{verb}.md", _verb(verb, summary)
    yield "errors.md", _errors()
    yield "codes.md", _codes()
    yield "json.md", _json()
    for name in TREE:
        yield f"tree/{name}", in_tree(name, (ROOT / name).read_text())


def in_tree(name: str, text: str) -> str:
    """`text` of the file `name`, with links that hold in the site."""
    here = Path(name).parent

    def replaced(link: re.Match[str]) -> str:
        words, path, anchor = link[1], link[2], link[3] or ""
        target = Path(os.path.normpath(here / path))
        if not (ROOT / target).exists():
            raise ValueError(f"{name}: links to {path}, which does not exist")
        page = target / "README.md" if (ROOT / target).is_dir() else target
        if page.as_posix() in TREE:
            return f"[{words}]({os.path.relpath(page, here)}{anchor})"
        plain = words.strip("`")
        return f"`{target}`" if plain in str(target) else f"{words} (`{target}`)"

    return _LINK.sub(replaced, text)


def _verb(verb: str, summary: str) -> str:
    examples = importlib.import_module(f"hetero_tvm.{verb}").EXAMPLES
    return (
        f"# {verb}\n\n{summary[0].upper() + summary[1:]}.\n\n"
        f"```text\n{examples.rstrip()}\n```\n\n"
        "```{argparse}\n:module: hetero_tvm.cli\n:func: build_parser\n:prog: hetero-tvm\n"
        f":path: {verb}\n:nodescription:\n:noepilog:\n:nodefault:\n```\n"
    )


def _errors() -> str:
    lines = ["# Errors", "", "`hetero-tvm explain ID` prints the same.", ""]
    for entry in entries().values():
        lines += [f"## {entry.id}", "", f"**{entry.title}.** Exit code {entry.exit_code}.", ""]
        lines += [entry.means, "", "Likely causes:", ""]
        lines += [f"- {cause}" for cause in entry.causes]
        lines += ["", "Next:", "", "```text", *entry.next, "```", ""]
    return "\n".join(lines)


def _codes() -> str:
    lines = ["# Codes of drivers and libraries", ""]
    families = dict.fromkeys(code.family for code in every())
    for family in families:
        codes = [code for code in every() if code.family == family]
        lines += [f"## {family}", "", f"From {codes[0].source}.", ""]
        lines += ["| number | name | means | next |", "|---|---|---|---|"]
        for code in codes:
            number = code.words.split()[1]
            lines.append(f"| {number} | `{code.name}` | {code.means} | {code.next or ''} |")
        lines.append("")
    return "\n".join(lines)


def _json() -> str:
    lines = [
        "# What `--json` prints",
        "",
        "One document on stdout with `schema_version` and `verb`. Keys may be added within a "
        "version; none is removed or changed. `hetero-tvm explain --schema VERB` prints these.",
        "",
    ]
    for verb in VERBS:
        lines += [f"## {verb}", "", "```json", schema_file(verb).read_text().rstrip(), "```", ""]
    return "\n".join(lines)

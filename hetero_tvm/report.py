"""Verb: one HTML file that shows what is in an artefact and why; or its graph for other viewers."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hetero_tvm import cli
from hetero_tvm.errors import CannotWrite

EXAMPLES = """\
examples:
  hetero-tvm report detector.so                       writes detector.html
  hetero-tvm profile detector.so --trace t.json && hetero-tvm report detector.so --profile t.json
  hetero-tvm build detector.onnx --input x=1x3x320x320 --report detector.html
  hetero-tvm report detector.so --format dot && dot -Tsvg detector.dot -o detector.svg
  hetero-tvm report detector.so --format model-explorer && model-explorer detector.json

The HTML file needs nothing beside it and no network. It shows the graph by device, every operator's
time, splits and refusals, memory, and the kernels with their source.

exit codes: 0 written, 2 bad input, 3 it cannot be written
"""

_ENDINGS = {"html": ".html", "dot": ".dot", "model-explorer": ".json"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `hetero-tvm report`."""
    parser.add_argument("artefact", type=Path, help="what `build` wrote")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="default: beside the artefact"
    )
    parser.add_argument(
        "--format",
        choices=tuple(_ENDINGS),
        default="html",
        help="html: all of it (default); dot: the placed graph for Graphviz; model-explorer: the "
        "same as JSON for Google's Model Explorer",
    )
    parser.add_argument(
        "--profile",
        type=Path,
        metavar="FILE.json",
        help="measured times: what `profile --json` or `profile --trace` wrote for this artefact",
    )


def run(args: argparse.Namespace) -> int:
    """Write the report."""
    output = args.output or args.artefact.with_suffix(_ENDINGS[args.format])
    write(args.artefact, output, args.profile, args.format)
    if args.json:
        said = {"artefact": str(args.artefact), "report": str(output), "format": args.format}
        cli.emit_json("report", said)
    else:
        cli.say(f"wrote {output} ({output.stat().st_size / 1e3:.0f} kB)", quiet=args.quiet)
    return 0


def write(artefact: Path, output: Path, profile: Path | None = None, format: str = "html") -> None:
    """Write the report of `artefact` to `output`, whole or not at all.

    Args:
        artefact: what `build` wrote.
        output: where.
        profile: measured times, see `report_data.read_profile`.
        format: "html", or the graph alone as "dot" or "model-explorer".

    Raises:
        BadInput: no artefact, one without a record, or a profile of another one.
        CannotWrite: `output` cannot be written.
    """
    from hetero_tvm import graph_export
    from hetero_tvm.bundle import read_manifest, whole_file
    from hetero_tvm.report_data import read_profile, report_data
    from hetero_tvm.report_page import page
    from hetero_tvm.run import check_save

    check_save(output, [artefact, profile], flag="--output")
    manifest = read_manifest(artefact)
    recorded = read_profile(profile, manifest) if profile is not None else None
    data, kernels = report_data(artefact, manifest, recorded)
    if format == "html":
        text = page(data, kernels)
    else:
        text = graph_export.dot(data) if format == "dot" else graph_export.model_explorer(data)
    try:
        with whole_file(output) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CannotWrite(f"cannot write {output}: {error.strerror or error}") from error


if __name__ == "__main__":
    sys.exit(cli.verb_main("report"))

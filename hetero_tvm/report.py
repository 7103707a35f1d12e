"""Verb: one HTML file that shows what is in an artefact and why."""

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

The file needs nothing beside it and no network. It shows the graph by device, every operator's
time, splits and refusals, memory, and the kernels with their source.

exit codes: 0 written, 2 bad input, 3 it cannot be written
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `hetero-tvm report`."""
    parser.add_argument("artefact", type=Path, help="what `build` wrote")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE.html", help="default: beside the artefact"
    )
    parser.add_argument(
        "--profile",
        type=Path,
        metavar="FILE.json",
        help="measured times: what `profile --json` or `profile --trace` wrote for this artefact",
    )


def run(args: argparse.Namespace) -> int:
    """Write the report."""
    output = args.output or args.artefact.with_suffix(".html")
    write(args.artefact, output, args.profile)
    if args.json:
        cli.emit_json("report", {"artefact": str(args.artefact), "report": str(output)})
    else:
        cli.say(f"wrote {output} ({output.stat().st_size / 1e3:.0f} kB)", quiet=args.quiet)
    return 0


def write(artefact: Path, output: Path, profile: Path | None = None) -> None:
    """Write the report of `artefact` to `output`, whole or not at all.

    Raises:
        BadInput: no artefact, one without a record, or a profile of another one.
        CannotWrite: `output` cannot be written.
    """
    from hetero_tvm.bundle import read_manifest, whole_file
    from hetero_tvm.report_data import read_profile, report_data
    from hetero_tvm.report_page import page
    from hetero_tvm.run import check_save

    check_save(output, [artefact, profile], flag="--output")
    manifest = read_manifest(artefact)
    recorded = read_profile(profile, manifest) if profile is not None else None
    text = page(*report_data(artefact, manifest, recorded))
    try:
        with whole_file(output) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CannotWrite(f"cannot write {output}: {error.strerror or error}") from error


if __name__ == "__main__":
    sys.exit(cli.verb_main("report"))

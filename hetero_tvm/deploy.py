"""Verb: put an artefact on a device, prove it there, and leave a command that runs it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hetero_tvm import cli, signing
from hetero_tvm.arguments import add_device_arguments
from hetero_tvm.config import default_cache_dir
from hetero_tvm.errors import BadInput, KeyUnusable
from hetero_tvm.report_deployment import bundles_table, deployed_text

EXAMPLES = """\
examples:
  hetero-tvm deploy encoder.so --to ssh://me@board
  hetero-tvm run encoder.so --to ssh://me@board --compare encoder.onnx
  hetero-tvm deploy encoder.so --to ssh://me@board --allow-fallback encoder-gpu.so
  hetero-tvm deploy encoder.so --to ssh://me@board --allow-fallback
  hetero-tvm deploy --list --to ssh://me@board
  hetero-tvm deploy --remove encoder --to ssh://me@board

Only what is not there yet travels; what was interrupted goes on with the same command.
exit codes: 0 deployed, 2 bad input, 3 something is missing here, 4 the device failed
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `hetero-tvm deploy`."""
    parser.add_argument("artefact", type=Path, nargs="?", help="what `hetero-tvm build` wrote")
    add_device_arguments(parser, required=True)
    parser.add_argument("--name", help="what it is called there (default: the file's name)")
    parser.add_argument("--list", action="store_true", help="what is deployed there")
    parser.add_argument("--remove", metavar="NAME", help="take it away, and what only it needs")
    parser.add_argument(
        "--accept-only",
        type=Path,
        metavar="KEYS",
        help="let the device load only what a key of this file has signed, from now on",
    )
    parser.add_argument(
        "--allow-fallback",
        type=Path,
        action="append",
        nargs="?",
        default=[],
        metavar="ARTEFACT",
        help="another build of the same model, which is deployed where the first cannot run, with "
        "the reason, as one of --devices gpu where there is no NPU; once for each, in order. "
        "Without ARTEFACT: what the artefact itself carries for that (build --with-fallback)",
    )
    parser.add_argument(
        "--sign",
        type=Path,
        metavar="KEY",
        help="private key for the tests of the device's parts, where it accepts only signed ones",
    )
    parser.add_argument(
        "--opencl-library", metavar="PATH", help="the device's OpenCL library, where it lies oddly"
    )
    parser.add_argument(
        "--opencl-device", metavar="NAME", help="its OpenCL device, by index or part of its name"
    )


def run(args: argparse.Namespace) -> int:
    """Deploy, list or remove."""
    from hetero_tvm.device_store import DeviceStore
    from hetero_tvm.progress import Progress
    from hetero_tvm.transports.address import open_transport

    keys = args.accept_only
    asked = [args.artefact is not None, args.list, args.remove is not None]
    if sum(asked) > 1 or not (any(asked) or keys):
        raise BadInput("name an artefact to deploy, or --list, or --remove NAME: one of them")
    if keys is not None and not signing.read_keys(keys):
        raise KeyUnusable(f"{keys}: holds no key; make one with `hetero-tvm sign --new-key FILE`")
    with open_transport(args.to) as transport:
        if keys is not None:
            DeviceStore(transport, args.root).accept_only(keys.read_text())
            cli.say(f"{transport.where}: accepts only what {keys} signs", quiet=args.quiet)
        if args.artefact is None:
            store = DeviceStore(transport, args.root)
            if args.remove is not None:
                store.remove(args.remove)
            found = store.bundles() if args.list else []
            if args.list and not found:
                store.collect()  # the empty folders that looking made
            rows = [{"name": bundle.name, **bundle.record} for bundle in found]
            if args.json:
                cli.emit_json("deploy", {"where": transport.where, "bundles": rows})
            elif args.list:
                cli.emit(bundles_table(transport.where, rows))
            return 0
        from hetero_tvm import deployment

        wish = deployment.Wish(
            artefact=args.artefact,
            name=args.name or deployment.default_name(args.artefact),
            cache_dir=default_cache_dir(),
            fallbacks=tuple(path for path in args.allow_fallback if path is not None),
            use_substitutes=None in args.allow_fallback,
            sign=args.sign,
            environment=deployment.environment_of(args.opencl_library, args.opencl_device),
        )
        with Progress(quiet=args.quiet) as progress:
            done = deployment.deploy(wish, transport, args.root, progress)
    if args.json:
        cli.emit_json("deploy", done.to_dict())
    else:
        cli.emit(deployed_text(done, args.to))
    return 0


if __name__ == "__main__":
    sys.exit(cli.verb_main("deploy"))

"""Verb: sign artefacts, make keys, say who signed one."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hetero_tvm import cli, signing
from hetero_tvm.bundle import read_manifest
from hetero_tvm.errors import BadInput

EXAMPLES = """\
examples:
  hetero-tvm sign --new-key release_key       also writes release_key.pub
  hetero-tvm sign encoder.so --key release_key
  hetero-tvm sign encoder.so                  who signed it?
  hetero-tvm build encoder.onnx --sign release_key
  hetero-tvm deploy --accept-only release_key.pub --to ssh://me@board

Where HETERO_TRUSTED_KEYS names a file of public keys, or one is ~/.config/hetero_tvm/trusted_keys,
only artefacts that one of them signed are loaded on this machine.
exit codes: 0 signed, or signed by a trusted key; 1 not signed; 2 bad input
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `hetero-tvm sign`."""
    parser.add_argument("artefact", type=Path, nargs="?", help="what `hetero-tvm build` wrote")
    parser.add_argument("--key", type=Path, metavar="FILE", help="sign it with this private key")
    parser.add_argument("--new-key", type=Path, metavar="FILE", help="make a key")


def run(args: argparse.Namespace) -> int:
    """Make a key, sign, or say who signed."""
    if args.new_key is not None:
        if args.artefact is not None or args.key is not None:
            raise BadInput("--new-key stands alone: it makes a key")
        public = signing.new_key(args.new_key)
        if args.json:
            cli.emit_json("sign", {"private": str(args.new_key), "public": str(public)})
        else:
            cli.say(f"wrote {args.new_key}; keep it secret", quiet=args.quiet)
            cli.say(f"wrote {public}; give it to those who are to trust it", quiet=args.quiet)
        return 0
    if args.artefact is None:
        raise BadInput("name an artefact, or --new-key FILE")
    read_manifest(args.artefact)  # nothing that is damaged is signed, or called signed
    if args.key is not None:
        signing.append_signature(args.artefact, signing.load_key(args.key))
    found = signing.signer(args.artefact)
    shown = signing.public_line(found) if found else None
    if args.json:
        cli.emit_json("sign", {"artefact": str(args.artefact), "signed_by": shown})
    else:
        cli.emit(f"{args.artefact}: {f'signed by {shown}' if shown else 'not signed'}")
    if args.key is None:
        signing.check_trusted(args.artefact)
    return 0 if found else 1


if __name__ == "__main__":
    sys.exit(cli.verb_main("sign"))

"""Verb: serve a language model to programs that speak OpenAI's interface."""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import os
import socket
import sys
from pathlib import Path

from hetero_tvm import cli, workload_arguments
from hetero_tvm.errors import BadInput, MissingPackage, OpenToNetwork

EXAMPLES = """\
examples:
  hetero-tvm serve model.so
  hetero-tvm serve model.so --port 8080 --name smollm
  hetero-tvm serve model.so --host 0.0.0.0 --token-file secret.txt

Then: OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="-"). Requests are answered one after the
other. Outside this machine it serves only with a token, from --token-file or HETERO_SERVE_TOKEN;
what is sent is not encrypted. Ctrl-C ends it. exit codes: 0 ended, 2 bad input, 3 something is
missing, 4 device
"""

_TOKEN_VARIABLE = "HETERO_SERVE_TOKEN"
_SHORTEST_TOKEN = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `hetero-tvm serve`."""
    parser.add_argument("artefact", type=Path, help="what `hetero-tvm build` made of the model")
    parser.add_argument("--host", default="127.0.0.1", help="address (default 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="0: any free one (default 8000)")
    parser.add_argument("--name", help="of the model in requests (default: the file's)")
    parser.add_argument(
        "--token-file", type=Path, metavar="FILE", help="requests must carry the token in FILE"
    )
    parser.add_argument(
        "--max-waiting",
        type=int,
        default=8,
        metavar="N",
        help="requests that may wait while one is answered (default 8)",
    )
    workload_arguments.add_opencl(parser)


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C."""
    import dataclasses

    from hetero_tvm import text_model

    token = read_token(args.token_file)
    if token is None and not is_loopback(args.host):
        raise OpenToNetwork(
            f"--host {args.host} can be reached from other machines: give --token-file FILE, or "
            f"set {_TOKEN_VARIABLE}"
        )
    if args.max_waiting < 0:
        raise BadInput(f"--max-waiting {args.max_waiting}: at least 0")
    try:
        import uvicorn

        from hetero_tvm.openai_app import Limits, make_app
    except ImportError as error:
        raise MissingPackage(f"{error}: pip install 'hetero-tvm[llm,serve]'") from error
    listening = listen(args.host, args.port)  # before the model is loaded, which takes seconds
    with contextlib.closing(listening):
        model = text_model.open_text_model(args.artefact, args.device)
        if args.name is not None:
            model = dataclasses.replace(model, name=args.name)

        def note(line: str) -> None:
            cli.say(line, quiet=args.quiet)

        app = make_app(model, token=token, limits=Limits(waiting=args.max_waiting), note=note)
        host, port = listening.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        url = f"http://{shown}:{port}/v1"
        cli.say(f"serving {model.name} on {url}; Ctrl-C ends it", quiet=args.quiet)
        if args.json:
            cli.emit_json("serve", {"name": model.name, "url": url})
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                log_level="debug" if args.verbose > 1 else "warning",
                access_log=args.verbose > 0,
                timeout_graceful_shutdown=5,
            )
        )
        # Having shut down, uvicorn raises the signal that made it do so once more.
        with contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[listening])
    return 0


def read_token(file: Path | None) -> str | None:
    """The token of `file`, else of the environment; None where neither is given.

    Raises:
        BadInput: it cannot be read, or is too short to be a secret.
    """
    if file is None:
        token, where = os.environ.get(_TOKEN_VARIABLE), _TOKEN_VARIABLE
    else:
        where = f"--token-file {file}"
        try:
            token = file.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"{where}: {error}") from None
    if token is not None and (len(token) < _SHORTEST_TOKEN or not token.isascii()):
        raise BadInput(f"{where}: a token has at least {_SHORTEST_TOKEN} ASCII characters")
    return token


def is_loopback(host: str) -> bool:
    """Can only this machine reach `host`?"""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        BadInput: no such address on this machine, or the port is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise BadInput(f"cannot listen on {host}, port {port}: {error}") from None


if __name__ == "__main__":
    sys.exit(cli.verb_main("serve"))

"""Verb: check everything that has to be right, here or on a device, and how to repair it."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterator

from hetero_tvm import __version__, cli
from hetero_tvm.arguments import add_device_arguments
from hetero_tvm.config import default_cache_dir
from hetero_tvm.doctor_checks import CHECKS, Result

EXAMPLES = """\
examples:
  hetero-tvm doctor
  hetero-tvm doctor --json > doctor.json       to attach to a bug report
  hetero-tvm doctor --quick                    without running anything on a device
  hetero-tvm doctor --to ssh://me@board        a device: drivers, rights, libraries, every part

Kernels and regions run in processes of their own, so that a driver that crashes is a line too.

exit codes: 0 all is well, 3 something is missing or of a wrong version, 4 a device fails
"""
_RUNS = ("opencl", "npu", "split")  # checks that start devices


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `hetero-tvm doctor`."""
    parser.add_argument(
        "--quick", action="store_true", help="only look, run nothing on a device (seconds)"
    )
    add_device_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Check one after the other; each is printed as soon as it is known."""
    results: list[Result] = []
    for result in _there(args) if args.to else _here(args):
        results.append(result)
        if not args.json and not (args.quiet and result.status == "ok"):
            cli.emit(line(result))
    code = exit_code(results)
    if args.json:
        data = [dataclasses.asdict(result) for result in results]
        about = {"hetero_tvm": __version__, "device": args.to, "results": data, "exit_code": code}
        cli.emit_json("doctor", about)
    elif not args.quiet:
        cli.emit(verdict(results))
    return code


def _here(args: argparse.Namespace) -> Iterator[Result]:
    """Of the machine that it runs on."""
    for check in CHECKS:
        if not (args.quick and check.__name__ in _RUNS):
            yield from check()


def _there(args: argparse.Namespace) -> Iterator[Result]:
    """Of a device."""
    from hetero_tvm.device_doctor import device_checks

    return device_checks(args.to, args.root, default_cache_dir(), quick=args.quick)


def line(result: Result) -> str:
    """One line, and under it what to do."""
    said = f"{result.status:<5}{result.name:<18}{result.words}"
    return f"{said}\n{'':<23}fix: {result.fix}" if result.fix else said


def exit_code(results: list[Result]) -> int:
    """0; of what fails the environment's first, since devices fail for want of it."""
    return min((result.exit_code for result in results if result.status == "FAIL"), default=0)


def verdict(results: list[Result]) -> str:
    """The last line."""
    failed = sum(result.status == "FAIL" for result in results)
    warned = sum(result.status == "warn" for result in results)
    if failed:
        return f"{failed} of {len(results)} checks failed, {warned} warnings"
    return f"all is well: {len(results)} checks" + (f", {warned} warnings" if warned else "")


if __name__ == "__main__":
    sys.exit(cli.verb_main("doctor"))

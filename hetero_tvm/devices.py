"""Verb: devices that can be reached, what they are, and what they lack."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hetero_tvm import cli
from hetero_tvm.errors import BadInput, DeviceFailure, HeteroError
from hetero_tvm.transports import rpc
from hetero_tvm.transports.address import FORMS, open_transport

if TYPE_CHECKING:
    from hetero_tvm.device_facts import DeviceFacts
    from hetero_tvm.remote import Session

EXAMPLES = """\
examples:
  hetero-tvm devices
  hetero-tvm devices --to ssh://me@board --json
  hetero-tvm devices --to rpc://127.0.0.1:9180         a device server; HETERO_RPC_TOKEN as for run

Without --to: what the adb server has, and the addresses in devices.toml, in
$XDG_CONFIG_HOME/hetero_tvm or ~/.config/hetero_tvm:

  devices = ["ssh://me@board", "ssh://lab-phone:8022"]

exit codes: 0 all were reached, 2 bad input, 4 one was not
"""
_FILE = "devices.toml"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """One address: the device's facts, or why there are none."""

    address: str
    facts: DeviceFacts | None = None
    bundles: tuple[str, ...] = ()
    error: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        facts = self.facts.to_dict() if self.facts else None
        return {**dataclasses.asdict(self), "facts": facts}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `hetero-tvm devices`."""
    parser.add_argument(
        "--to",
        action="append",
        default=[],
        metavar="DEVICE",
        help=f"look at this one: {FORMS}, rpc[s]://host[:port]",
    )


def run(args: argparse.Namespace) -> int:
    """Look at every device in turn."""
    addresses = args.to or known_addresses()
    found = [look(address) for address in addresses]
    if args.json:
        cli.emit_json("devices", {"devices": [each.to_dict() for each in found]})
    elif found:
        cli.emit("\n\n".join(text(each) for each in found))
    else:
        cli.say(
            f"no devices: none on adb, none in {config_file()}; name one with --to",
            quiet=args.quiet,
        )
    return 4 if any(each.error for each in found) else 0


def known_addresses() -> list[str]:
    """What adb has and what the user's file names.

    Raises:
        BadInput: the file is not as it should be.
    """
    from hetero_tvm.transports.adb import serials

    path = config_file()
    try:
        listed = tomllib.loads(path.read_text()).get("devices", []) if path.is_file() else []
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: {error}") from None
    if not isinstance(listed, list) or not all(isinstance(each, str) for each in listed):
        raise BadInput(f'{path}: write devices = ["ssh://me@board"]')
    return [*(f"adb:{serial}" for serial in serials()), *listed]


def config_file() -> Path:
    """Where the user names devices."""
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "hetero_tvm" / _FILE


def look(address: str) -> Found:
    """The device at `address`, or why it does not answer; only a wrong address raises."""
    from hetero_tvm.device_facts import read_facts
    from hetero_tvm.device_store import DeviceStore, bundle_names
    from hetero_tvm.remote import Session

    try:
        if address.partition(":")[0] in ("rpc", "rpcs"):
            with Session.of_server(rpc.parse(address)) as session:
                facts = _with_driver(session.facts(), session)
                return Found(address=address, facts=facts)
        with open_transport(address) as transport:
            facts, bundles = read_facts(transport), bundle_names(transport)
            if bundles:  # then there is a program that asks OpenCL itself
                script = f"{DeviceStore(transport).root}/bundles/{bundles[0]}/run"
                with (
                    contextlib.suppress(DeviceFailure),
                    Session.of_bundle(transport, script) as session,
                ):
                    facts = _with_driver(facts, session)
            return Found(address=address, facts=facts, bundles=bundles)
    except BadInput:
        raise
    except HeteroError as error:
        return Found(address=address, error=str(error))


def _with_driver(facts: DeviceFacts, session: Session) -> DeviceFacts:
    """`facts` with GPU and driver by OpenCL's own word, of its first GPU if it has one."""
    gpus = sorted(session.gpus(), key=lambda device: device["type"] != "gpu")
    if not gpus:
        return facts
    first = gpus[0]
    words = f"{first['driver_version']} ({first['platform']})"
    gpu = facts.gpu or str(first["name"])
    opencl = facts.opencl or str(first["library"])
    return dataclasses.replace(facts, gpu=gpu, gpu_driver=words, opencl=opencl)


def text(found: Found) -> str:
    """One device as a paragraph."""
    if found.facts is None:
        return f"{found.address}\n  not reached: {found.error}"
    facts = found.facts
    soc = facts.soc or ("no Snapdragon" if facts.soc_id is None else f"SoC {facts.soc_id}")
    arch = f", HTP v{facts.htp_arch}" if facts.htp_arch else ""
    lines = [
        found.address,
        f"  system       {' '.join(_words(facts))}",
        f"  SoC          {soc}{arch}",
        f"  GPU          {facts.gpu or 'not named by its kernel'}; "
        f"OpenCL {facts.opencl or 'not found'}",
        f"  GPU driver   {facts.gpu_driver or 'not known: it is asked once something is deployed'}",
        f"  NPU driver   {facts.fastrpc or 'not found'}",
        f"  memory       {_gigabytes(facts.memory_bytes)}, "
        f"free {_gigabytes(facts.memory_free_bytes)}",
        f"  storage      free {_gigabytes(facts.storage_free_bytes)}",
    ]
    if facts.temperature_c is not None:
        lines.append(f"  temperature  {facts.temperature_c:.0f} °C, its hottest sensor")
    if found.bundles:
        lines.append(f"  deployed     {', '.join(found.bundles)}")
    lines += [f"  missing      {line}" for line in facts.missing()]
    return "\n".join(lines)


def _words(facts: DeviceFacts) -> Sequence[str]:
    count = f"({facts.processors} processors)" if facts.processors else ""
    words = (facts.name, facts.system, facts.machine, facts.libc, count)
    return [word for word in words if word]


def _gigabytes(count: int | None) -> str:
    return "not known" if count is None else f"{count / 1e9:.1f} GB"


if __name__ == "__main__":
    sys.exit(cli.verb_main("devices"))

"""Runs candidate kernels on the OpenCL device of this machine: checks them and times them.

    python3 run.py                    every candidate of this folder -> results.json
    python3 run.py --list             the OpenCL devices that there are
    python3 run.py --who              the one that would be measured, as JSON
    python3 run.py --device adreno    on the first one whose name has this in it

Needs Python 3.9 or newer and an OpenCL library, nothing else. Every candidate is held against
expected results that came along, then timed by the device's own clock, in turns with the kernel
that is used without tuning. A candidate that crashes or hangs ends a process of its own, and costs
itself. The same command goes on where the last one ended.

exit codes: 0 done, 2 these files or flags cannot be used, 3 no OpenCL device, 130 interrupted
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import queue
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from hetero_tvm.candidates.opencl import OpenCl, OpenClError
from hetero_tvm.candidates.server import Server
from hetero_tvm.candidates.values import Refused
from schedules.race import longest

FORMAT = 1
PROGRAM = "run.py"  # what this is called in the tar
START_S = 60.0
_RACERS = 3


class Folder:
    """What the tar had in it, checked."""

    def __init__(self, path: Path) -> None:
        """Raise `Refused` where a file is missing or damaged."""
        self.path = path
        listing = path / "candidates.json"
        try:
            self.about = json.loads(listing.read_text())
            files = dict(self.about["files"])
        except (OSError, ValueError, KeyError, TypeError):
            raise Refused(f"{listing}: missing or damaged; copy and unpack the tar again") from None
        if self.about.get("format") != FORMAT:
            raise Refused(f"{listing}: made for another version of this program")
        for name, wanted in sorted(files.items()):
            try:
                found = hashlib.sha256((path / name).read_bytes()).hexdigest()
            except OSError:
                found = ""
            if found != wanted:
                what = "damaged" if found else "missing"
                raise Refused(f"{path / name}: {what}; copy and unpack the tar again")
        self.kernels: list[dict[str, Any]] = self.about["kernels"]

    def read(self, name: str) -> bytes:
        """A file's contents."""
        return (self.path / name).read_bytes()


def serve(folder: Folder, options: argparse.Namespace) -> int:
    """Answer requests on standard input until it ends: the process that touches the device."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # drivers print
    try:
        server = Server(folder, OpenCl(options.library, options.device))
    except OpenClError as error:
        print(json.dumps({"none": str(error)}), file=answers, flush=True)
        return 3
    lines: queue.Queue[str] = queue.Queue()

    def listen() -> None:
        for line in sys.stdin:
            lines.put(line)
        os._exit(0)  # nobody asks any more; a kernel that hangs must not keep us

    threading.Thread(target=listen, daemon=True).start()
    while True:
        request = json.loads(lines.get())
        try:
            answer = getattr(server, request.pop("do"))(**request)
        except OpenClError as error:
            answer = {"failed": " | ".join(str(error).splitlines())[:400]}
        except Refused as error:
            answer = {"refused": str(error)}
        print(json.dumps(answer), file=answers, flush=True)


class Gone(Exception):
    """The process that touches the device ended, or did not answer in time."""


class Worker:
    """That process, started again after each end."""

    def __init__(self, folder: Folder, options: argparse.Namespace) -> None:
        self.folder = folder
        self.options = options
        self.process: subprocess.Popen[str] | None = None
        self.lines: queue.Queue[str | None] = queue.Queue()

    def ask(self, limit_s: float, **request: Any) -> dict[str, Any]:
        """The answer to one request; raises `Gone` where there is none."""
        process = self.process or self._start()
        assert process.stdin is not None
        line: str | None = None
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            line = self.lines.get(timeout=limit_s)
        except queue.Empty:
            self.stop()
            raise Gone(f"timeout: no answer within {limit_s:.0f} s") from None
        except OSError:
            pass
        if line is None:
            code = process.wait()
            self.stop()
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            raise Gone(f"crash: its process ended ({how})")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-I", str(self.folder.path / PROGRAM), "--serve"]
        for flag in ("library", "device"):
            if getattr(self.options, flag) is not None:
                command += [f"--{flag}", getattr(self.options, flag)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        self.lines = queue.Queue()
        threading.Thread(target=_listen, args=(self.process, self.lines), daemon=True).start()
        return self.process

    def stop(self) -> None:
        """End it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def _listen(process: subprocess.Popen[str], lines: queue.Queue[str | None]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.put(line)
    lines.put(None)


class Session:
    """One run over all candidates."""

    def __init__(self, folder: Folder, options: argparse.Namespace) -> None:
        self.folder = folder
        self.options = options
        self.worker = Worker(folder, options)
        self.results: dict[str, Any] = {}

    def run(self) -> int:
        """Try every candidate that has no result yet; the exit code."""
        try:
            device = self.worker.ask(START_S, do="hello")
        except Gone as error:
            raise Refused(f"the OpenCL device cannot be opened: {error}") from None
        if "none" in device:
            raise OpenClError(device["none"])
        only = self.folder.about["only"]
        if only is not None and only != device:
            raise Refused(
                f"these candidates are for {only['device']} with driver {only['driver']}, this is "
                f"{device['device']} with {device['driver']}; start a search for it with "
                "`hetero-tvm tune --emit FILE --on new`"
            )
        self.results = self._begun(device)
        total = sum(len(kernel["candidates"]) for kernel in self.folder.kernels)
        say(f"{total} candidates on {device['device']}, driver {device['driver']}")
        started, before = time.monotonic(), len(self.results["results"])
        for number, kernel in enumerate(self.folder.kernels):
            for place, chosen in enumerate(kernel["candidates"]):
                if chosen["name"] in self.results["results"]:
                    continue
                result = self._trial(number, place)
                result["sha256"] = self.folder.about["files"][chosen["file"]]
                self.results["results"][chosen["name"]] = result
                self._save()
                done = len(self.results["results"])
                left = int((time.monotonic() - started) / (done - before) * (total - done))
                say(
                    f"{done} of {total}  {kernel['name']}: {_shown(result)}; "
                    f"{left // 60}:{left % 60:02} left"
                )
            if kernel["key"] not in self.results["races"]:
                self.results["races"][kernel["key"]] = self._race(number)
                self._save()
        file = self.options.results
        say(f"wrote {file}. Take it back: hetero-tvm tune --absorb {file.name}")
        return 0

    def _begun(self, device: dict[str, Any]) -> dict[str, Any]:
        """What an earlier run left, or the beginning of new results."""
        path = self.options.results
        ours = {"format": FORMAT, "id": self.folder.about["id"], **device}
        if not path.exists():
            return {**ours, "results": {}, "races": {}}
        try:
            found: dict[str, Any] = json.loads(path.read_text())
            same = all(found[key] == value for key, value in ours.items())
        except (ValueError, KeyError, TypeError):
            same = False
        if not same:
            raise Refused(
                f"{path}: holds other results than of these candidates on this device; it is left "
                "as it is. Name another file with --results"
            )
        return found

    def _save(self) -> None:
        path = self.options.results
        beside = path.with_name(path.name + ".part")
        beside.write_text(json.dumps(self.results, indent=1))
        beside.replace(path)

    def _trial(self, number: int, place: int) -> dict[str, Any]:
        """The result of one candidate."""
        best = min((s for s in map(self._seconds, self._names(number)) if s), default=None)
        try:
            answer = self.worker.ask(
                self.options.limit, do="trial", kernel=number, candidate=place, slow_s=best
            )
        except Gone as error:
            return {"how": str(error)}
        if "refused" in answer:
            raise Refused(answer["refused"])
        if "failed" in answer:
            return {"how": f"error: {answer['failed']}"}
        return answer

    def _race(self, number: int) -> dict[str, dict[str, float]]:
        """The fastest few in pairs with the default: name -> what came out."""
        default, *names = self._names(number)
        ranked = []
        for place, name in enumerate(names):
            result = self.results["results"][name]
            if result.get("beside"):
                beside = statistics.median(result["beside"])
                ranked.append((statistics.median(result["seconds"]) / beside, place + 1))
        racers = [place for _, place in sorted(ranked)[:_RACERS]]
        if not racers or self._seconds(default) is None:
            return {}
        limit_s = self.options.limit
        request = {"kernel": number, "candidates": racers, "most_s": longest(len(racers), limit_s)}
        try:
            answer = self.worker.ask(limit_s, do="race", **request)
        except Gone:
            return {}
        raced = answer.get("raced", [])
        return {names[place - 1]: raced[lane] for lane, place in enumerate(racers) if raced}

    def _names(self, number: int) -> list[str]:
        return [chosen["name"] for chosen in self.folder.kernels[number]["candidates"]]

    def _seconds(self, name: str) -> float | None:
        seconds = self.results["results"].get(name, {}).get("seconds")
        return statistics.median(seconds) if seconds else None


def _shown(result: dict[str, Any]) -> str:
    if result["how"] != "ok":
        return str(result["how"])
    text = f"{statistics.median(result['seconds']) * 1e6:.1f} us"
    if result["beside"]:
        text += f", default {statistics.median(result['beside']) * 1e6:.1f} us"
    return text


def say(line: str) -> None:
    """One line for the user."""
    print(line, file=sys.stderr, flush=True)


def main(path: Path) -> int:
    """Run what lies in the folder `path`; see the top of this file."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", metavar="TEXT", help="part of a device's name, or its number")
    parser.add_argument("--library", metavar="PATH", help="the OpenCL library (else the system's)")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds for a candidate (60)")
    parser.add_argument("--results", type=Path, default=Path("results.json"), metavar="FILE")
    parser.add_argument("--list", action="store_true", help="print the OpenCL devices")
    parser.add_argument("--who", action="store_true", help="print the device to be measured")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    try:
        if options.list:
            print("\n".join(OpenCl.devices(options.library)))
            return 0
        if options.who:
            chosen = OpenCl(options.library, options.device)
            print(json.dumps({"device": chosen.name, "driver": chosen.driver}))
            return 0
        folder = Folder(path)
        if options.serve:
            return serve(folder, options)
        session = Session(folder, options)
        try:
            return session.run()
        finally:
            session.worker.stop()
    except Refused as error:
        say(f"{PROGRAM}: error: {error}")
        return 2
    except OpenClError as error:
        say(f"{PROGRAM}: error: {error}")
        return 3
    except OSError as error:
        say(f"{PROGRAM}: error: {error.filename}: {error.strerror}")
        return 2
    except KeyboardInterrupt:
        say("interrupted; every finished candidate is kept. The same command goes on")
        return 130

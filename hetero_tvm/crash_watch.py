"""A process of its own for every verb, so that one which a signal ends still leaves a report.

    parent   waits, passes signals on, gives the child's exit code; writes the report where it died
    child    the verb; notes in a file that both have open what it is at

A signal that went to both, as `kill` to a process group or `pkill` sends it, reaches the verb once:
the child's handlers leave each signal's number in a pipe, and the parent looks there first.

The parent is made before anything heavy is imported, so it costs a fork and a few MB. The notes are
the Python stacks (`faulthandler`) and what the C++ runtime knows: which driver's function each
thread is in and for which NPU region, the last kernel, the native stack. They are in memory only.
"""

from __future__ import annotations

import collections
import ctypes
import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

# What a fault in native code raises: a bad address, a bad instruction, `abort`.
_FAULTS = (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT)
_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_SI_KERNEL = 0x80  # a signal of the terminal, which the child has had too
_PR_SET_PDEATHSIG = 1
_PAUSES_S = (0.0, 0.02, 0.1)  # before looking whether the child has a signal too
_MOST_BYTES = 1 << 20  # of notes that are read

_notes: int | None = None  # the file of the notes, in a child
_native = False  # whether the runtime writes to it too


def watched(verb: Callable[[], int], died: Callable[[signal.Signals, str], int]) -> int:
    """Run `verb` in a child and give its exit code; where a signal ended it, that of `died`.

    Args:
        verb: what the child does.
        died: says what happened, by the signal and the notes; runs in the parent.

    Returns only in the child; the parent ends here. A process with threads is not forked, since
    locks that they hold would be held for ever in the child: there the verb has no parent.
    """
    if sys.platform != "linux" or has_threads():
        faulthandler.enable()
        return verb()
    notes = os.memfd_create("hetero-tvm-notes")
    echo, handled = os.pipe()
    for end in (echo, handled):
        os.set_blocking(end, False)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    awaited = {signal.SIGCHLD, *_PASSED_ON}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        os.close(echo)
        signal.set_wakeup_fd(handled, warn_on_full_buffer=False)
        _begin_child(notes, parent, before)
        return verb()
    os.close(handled)
    status = _wait(child, awaited, _Echo(echo))
    if os.WIFEXITED(status):
        code = os.WEXITSTATUS(status)
    else:
        number = signal.Signals(os.WTERMSIG(status))
        code = died(number, _read(notes))
    os._exit(code)


def has_threads() -> bool:
    """Whether this process has more than one thread, Python's or not."""
    try:
        return len(list(Path("/proc/self/task").iterdir())) > 1
    except OSError:
        return threading.active_count() > 1


def note(what: str) -> None:
    """Keep one line for the report, if there will be one."""
    if _notes is not None:
        os.write(_notes, f"{what}\n".encode(errors="replace"))


def arm_native(install: Callable[[int], None]) -> None:
    """The runtime was loaded: its notes come before Python's; `install` takes the file."""
    global _native
    if _notes is None or _native:
        return
    _native = True
    # tvm-ffi, loaded before, prints a native stack to the user's terminal; ours goes to the report.
    faulthandler.disable()
    signal.signal(signal.SIGSEGV, signal.SIG_DFL)
    faulthandler.enable(file=_notes, all_threads=True)
    install(_notes)


def is_fault(number: signal.Signals) -> bool:
    """Whether the signal is a fault of code, not somebody's wish."""
    return number in _FAULTS


def _begin_child(notes: int, parent: int, mask: Iterable[int]) -> None:
    global _notes
    # Whoever kills the parent means the verb.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(128 + signal.SIGKILL)
    _notes = notes
    faulthandler.enable(file=notes, all_threads=True)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


class _Echo:
    """What signals the child has had, so far as it has handlers of its own for them."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe
        self._due: collections.Counter[int] = collections.Counter()  # passed on, not yet seen

    def has(self, child: int, number: int) -> bool:
        """Whether the child got this signal from its sender too, or is about to."""
        for pause_s in _PAUSES_S:
            time.sleep(pause_s)
            if number in self._seen():
                return True
            if _is_pending(child, number):
                self._due[number] += 1
                return True
        return False

    def passed_on(self, number: int) -> None:
        """What comes of it is no news."""
        self._due[number] += 1

    def _seen(self) -> set[int]:
        """Signals that were handled since the last look, without those that came from here."""
        try:
            handled = os.read(self._pipe, 1 << 12)
        except BlockingIOError:
            return set()
        news = collections.Counter(handled)
        late = news & self._due
        self._due -= late
        return set(news - late)


def _is_pending(child: int, number: int) -> bool:
    try:
        said = Path(f"/proc/{child}/status").read_text(encoding="ascii", errors="replace")
        fields = dict(line.split(":", 1) for line in said.splitlines() if ":" in line)
        return bool(int(fields["ShdPnd"], 16) >> (number - 1) & 1)
    except (OSError, KeyError, ValueError):
        return False


def _wait(child: int, awaited: Iterable[signal.Signals], echo: _Echo) -> int:
    """The status of `child` at its end; signals that only its parent got are passed on."""
    while True:
        found = signal.sigwaitinfo(awaited)
        number = found.si_signo
        if number == signal.SIGCHLD:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return status
        elif found.si_code != _SI_KERNEL and not echo.has(child, number):
            echo.passed_on(number)
            os.kill(child, number)


def _read(notes: int) -> str:
    return os.pread(notes, _MOST_BYTES, 0).decode(errors="replace")

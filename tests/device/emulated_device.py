"""An emulated 64-bit ARM Linux device: Debian's arm64 packages under qemu, reached over ssh.

    python tests/device/emulated_device.py            set up, start, say how to log in, until Ctrl-C
    python tests/device/emulated_device.py COMMAND…   run one command on it

Nothing of the host is changed: the device is a folder of unpacked packages, entered in namespaces
of its own (user, mount, process), where the kernel runs arm64 programs through qemu. It shares the
host's network; its ssh server listens on the loopback address and knows one key, made for it.

What it has: OpenCL (PoCL on the emulated CPU, no half precision), Python 3.11, ssh, sftp. What it
has not: TVM, ONNX Runtime, anything of ours; those are for a deployment to bring.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import functools
import hashlib
import os
import platform
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ARCHIVE = "http://deb.debian.org/debian"
SUITE = "bookworm"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
PACKAGES = (
    *("bash", "coreutils", "dash", "findutils", "grep", "gzip", "procps", "sed", "tar", "mawk"),
    *("libstdc++6", "python3", "openssh-server", "openssh-sftp-server"),
    *("pocl-opencl-icd", "ocl-icd-libopencl1"),
)
EMULATOR = "qemu-user-static"  # a host's package
USER = "device"
_UID = 1000
_LAYOUT = 3  # raise when what `_unpack` writes changes
_SERVER = ("/usr/sbin/sshd", "-D", "-e", "-f", "/run/sshd.conf")
_PR_SET_PDEATHSIG = 1  # of linux/prctl.h
_NEEDED = ("apt-get", "dpkg", "dpkg-deb", "unshare", "mount", "ssh", "ssh-keygen", "tar")

# By the kernel's documentation of binfmt_misc: 64-bit little-endian ELF programs and libraries for
# machine 0xb7 (AArch64). F opens the interpreter now, so that it is found inside the device's root.
_BINFMT = (
    r":qemu-aarch64:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
    r":\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:{qemu}:F"
)
# As Linux shows a Cortex-A76. ONNX Runtime's CPU detection reads it, and crashes on an x86 one.
_CPU = """\
processor\t: {index}
BogoMIPS\t: 50.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x3
CPU part\t: 0xd0b
CPU revision\t: 1

"""


class Unavailable(Exception):
    """The device cannot be had on this machine; the text says why."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Device:
    """A running device. `home` is the folder on this machine that is its user's home there."""

    port: int
    key: Path
    known_hosts: Path
    home: Path
    user: str = USER
    host: str = "127.0.0.1"

    @property
    def url(self) -> str:
        """As `--to` takes it; `ssh_config` says which key."""
        return f"ssh://{self.user}@{self.host}:{self.port}"

    @property
    def ssh_options(self) -> list[str]:
        """What ssh, scp and sftp need to log in, but the port (-p or -P)."""
        return [
            *("-F", "none", "-i", str(self.key), "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"),
            *("-o", f"UserKnownHostsFile={self.known_hosts}", "-o", "LogLevel=ERROR"),
            # A handshake takes the emulated processor two seconds: log in once.
            *("-o", "ControlMaster=auto", "-o", "ControlPersist=60"),
            *("-o", f"ControlPath={self.key.parent / 'ssh'}"),
        ]

    def run(
        self, command: str | Sequence[str], *, timeout: float = 120, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell line, or words, on the device as its user."""
        line = command if isinstance(command, str) else shlex.join(command)
        login = [*self.ssh_options, "-p", str(self.port), f"{self.user}@{self.host}"]
        done = subprocess.run(
            ["ssh", *login, line], capture_output=True, text=True, timeout=timeout, check=False
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{line}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done


@contextlib.contextmanager
def started(cache_dir: Path) -> Iterator[Device]:
    """Set up what is not there yet, and run the device until the end of the block.

    Raises:
        Unavailable: no namespaces, no archive, a tool that is not installed.
    """
    image = set_up(cache_dir)
    with tempfile.TemporaryDirectory(prefix="hetero-device-") as name:
        state = Path(name)
        device = _prepare(state)
        log = state / "log"
        with log.open("wb") as said:
            process = subprocess.Popen(
                _enter(
                    image, state, cache_dir, ["/usr/sbin/sshd", "-D", "-e", "-f", "/run/sshd.conf"]
                ),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )
            try:
                _wait_for(device.port, process, log)
                yield device
            finally:
                # The first process of a process namespace takes all others with it.
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _end_with_parent() -> None:
    """Whatever ends this process, also without a chance to clean up, ends the device."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _prepare(state: Path) -> Device:
    """Keys, settings and folders of one run."""
    for folder in ("home", "tmp", "run"):
        (state / folder).mkdir()
    for name in ("client", "server"):
        _run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(state / name)])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    public = (state / "server.pub").read_text().split()
    (state / "known_hosts").write_text(f"[127.0.0.1]:{port} {public[0]} {public[1]}\n")
    shutil.copy(state / "client.pub", state / "run" / "authorized_keys")
    shutil.move(state / "server", state / "run" / "host_key")
    (state / "run" / "sshd.conf").write_text(
        f"""\
ListenAddress 127.0.0.1:{port}
HostKey /run/host_key
AuthorizedKeysFile /run/authorized_keys
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
PidFile none
MaxStartups 100
Subsystem sftp /usr/lib/openssh/sftp-server
SetEnv POCL_CACHE_DIR=/var/cache/pocl PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin
"""
    )
    cpus = os.cpu_count() or 1
    (state / "run" / "cpuinfo").write_text("".join(_CPU.format(index=i) for i in range(cpus)))
    return Device(
        port=port,
        key=state / "client",
        known_hosts=state / "known_hosts",
        home=state / "home",
    )


def _enter(image: Path, state: Path, cache_dir: Path, command: Sequence[str]) -> list[str]:
    """The command line that runs `command` as the device's user on the device."""
    root = image / "root"
    kernels = cache_dir / "pocl"
    kernels.mkdir(parents=True, exist_ok=True)
    binds = {
        state / "home": root / "home" / USER,
        state / "tmp": root / "tmp",
        state / "run": root / "run",
        kernels: root / "var/cache/pocl",
    }
    binfmt = state / "binfmt"
    binfmt.mkdir(exist_ok=True)
    steps = [
        "set -e",
        f"mount -t binfmt_misc none {_q(binfmt)}",
        f"printf %s {_q(_BINFMT.format(qemu=image / 'qemu-aarch64'))} > {_q(binfmt / 'register')}",
        f"mount --bind {_q(root)} {_q(root)}",
        *(f"mount --bind {_q(here)} {_q(there)}" for here, there in binds.items()),
        f"mount --rbind /dev {_q(root / 'dev')}",
        f"mount --rbind /sys {_q(root / 'sys')}",  # PoCL asks it for the processors
        f"mount -t proc proc {_q(root / 'proc')}",
        f"mount --bind {_q(state / 'run/cpuinfo')} {_q(root / 'proc/cpuinfo')}",
        f"mount -o remount,bind,ro {_q(root)}",
        f"mount -t tmpfs -o size=8m,mode=777 small {_q(root / 'mnt')}",  # a disk that is soon full
        # Not root on the device: its server would want to become others, which nobody mapped.
        f"exec env -i HOME=/home/{USER} PATH=/usr/bin:/bin:/usr/sbin unshare --user "
        f"--map-user={_UID} --map-group={_UID} --root={_q(root)} --wd=/home/{USER} "
        + shlex.join(command),
    ]
    inside = "\n".join(steps)
    return ["unshare", "-Urmpf", "--kill-child", "bash", "-c", inside]


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if process.poll() is not None:
            raise Unavailable(f"the emulated device ended at once: {_last_line(log.read_text())}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5) as link:
            if link.recv(4) == b"SSH-":
                return
        time.sleep(0.1)
    raise Unavailable(f"the emulated device's ssh did not answer: {_last_line(log.read_text())}")


def set_up(cache_dir: Path) -> Path:
    """Return the folder of the device's root and emulator; made once, in about a minute.

    Raises:
        Unavailable: see `started`.
    """
    _check()
    asked = repr((_LAYOUT, ARCHIVE, SUITE, PACKAGES, EMULATOR))
    image = cache_dir / f"image-{hashlib.sha256(asked.encode()).hexdigest()[:12]}"
    if image.is_dir():
        return image
    cache_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="image-", dir=cache_dir) as name:
        work = Path(name)
        made = work / "image"
        (made / "root").mkdir(parents=True)
        emulator = _download(work / "host", platform_architecture(), [EMULATOR], alone=True)
        _unpack_emulator(emulator[0], made)
        _unpack(_download(work / "device", "arm64", PACKAGES), made / "root")
        with contextlib.suppress(OSError):  # somebody else was faster
            made.rename(image)
    return image


@functools.cache
def _check() -> None:
    """Raise Unavailable where the device cannot run."""
    if platform.system() != "Linux":
        raise Unavailable("the emulated device needs Linux")
    for tool in _NEEDED:
        if shutil.which(tool) is None:
            raise Unavailable(f"the emulated device needs {tool}")
    if not KEYRING.is_file():
        raise Unavailable(f"the emulated device needs Debian's keys in {KEYRING}")
    with tempfile.TemporaryDirectory() as folder:
        tried = subprocess.run(
            [
                *("unshare", "-Urmpf", "sh", "-c"),
                f"mount -t binfmt_misc none {folder} && mount -t proc proc /proc",
            ],
            capture_output=True,
            text=True,
            check=False,
        )
    if tried.returncode != 0:
        raise Unavailable(
            "the emulated device needs user namespaces with binfmt_misc of their own (Linux 6.7): "
            + _last_line(tried.stderr)
        )


def platform_architecture() -> str:
    """Debian's name for this machine."""
    return _run(["dpkg", "--print-architecture"]).strip()


def _download(
    folder: Path, architecture: str, packages: Sequence[str], *, alone: bool = False
) -> list[Path]:
    """Fetch packages, with all that they depend on unless `alone`, by an apt of their own."""
    for part in (
        *("var/lib/dpkg", "var/lib/apt/lists/partial", "var/cache/apt/archives/partial"),
        *("etc/apt/apt.conf.d", "etc/apt/preferences.d", "etc/apt/sources.list.d"),
    ):
        (folder / part).mkdir(parents=True)
    (folder / "var/lib/dpkg/status").touch()
    (folder / "etc/apt/sources.list").write_text(
        f"deb [signed-by={KEYRING}] {ARCHIVE} {SUITE} main\n"
    )
    settings = folder / "apt.conf"
    settings.write_text(
        f'Dir "{folder}";\nDir::State::status "{folder}/var/lib/dpkg/status";\n'
        f'APT::Architecture "{architecture}"; APT::Architectures {{"{architecture}";}};\n'
        'APT::Sandbox::User "root"; Acquire::Languages "none"; Acquire::Retries "3";\n'
        'APT::Update::Error-Mode "any";\n'
    )
    apt = {"APT_CONFIG": str(settings)}
    _run(["apt-get", "-q", "update"], env=apt)
    if alone:
        _run(["apt-get", "-q", "download", *packages], env=apt, cwd=folder)
        return sorted(folder.glob("*.deb"))
    words = ["--no-install-recommends", "--download-only", "-y", "install"]
    _run(["apt-get", "-q", *words, *packages], env=apt)
    return sorted((folder / "var/cache/apt/archives").glob("*.deb"))


def _unpack_emulator(package: Path, image: Path) -> None:
    """Take the one program out of a package of thirty."""
    _run(["dpkg-deb", "-x", str(package), str(image / "emulators")])
    shutil.move(image / "emulators/usr/bin/qemu-aarch64-static", image / "qemu-aarch64")
    shutil.rmtree(image / "emulators")


def _unpack(packages: Sequence[Path], root: Path) -> None:
    """Unpack without running any package's scripts, and write what they would have written."""
    for package in packages:
        _run(["dpkg-deb", "-x", str(package), str(root)])
    for folder in ("dev", "proc", "sys", "tmp", "run", "mnt", "var/cache/pocl", f"home/{USER}"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "etc/passwd").write_text(
        f"root:x:0:0:root:/root:/bin/bash\n{USER}:x:{_UID}:{_UID}::/home/{USER}:/bin/bash\n"
    )
    (root / "etc/group").write_text(f"root:x:0:\n{USER}:x:{_UID}:\n")
    (root / "etc/hosts").write_text("127.0.0.1 localhost emulated-device\n")
    (root / "etc/nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files dns\n")
    for name, target in (("sh", "dash"), ("awk", "mawk")):
        link = root / "usr/bin" / name
        if not link.exists() and not (root / "bin" / name).exists():
            link.symlink_to(target)


def _run(
    command: Sequence[str], *, env: dict[str, str] | None = None, cwd: Path | None = None
) -> str:
    done = subprocess.run(
        list(command),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **(env or {})},
        cwd=cwd,
    )
    if done.returncode != 0:
        said = _last_line(done.stderr or done.stdout)
        raise Unavailable(
            f"setting up the emulated device failed at {' '.join(command[:3])}: {said}"
        )
    return done.stdout


def _q(path: object) -> str:
    return shlex.quote(str(path))


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"


def default_cache() -> Path:
    """Where the device is kept between runs; safe to delete."""
    ours = os.environ.get("HETERO_CACHE_DIR")
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return (Path(ours) if ours else caches / "hetero_tvm") / "emulated_device"


def main(words: Sequence[str]) -> int:
    """Run a command on a device, or keep one running."""
    try:
        with started(default_cache()) as device:
            if words:
                done = device.run(" ".join(words), check=False)
                sys.stdout.write(done.stdout)
                sys.stderr.write(done.stderr)
                return done.returncode
            login = ["ssh", *device.ssh_options, "-p", str(device.port), f"{USER}@{device.host}"]
            print(shlex.join(login))
            with contextlib.suppress(KeyboardInterrupt):
                signal.pause()
    except Unavailable as error:
        print(error, file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

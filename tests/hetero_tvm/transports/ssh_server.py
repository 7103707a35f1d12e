"""A real ssh server on this machine's loopback, for OpenSSH's client; its line can be cut.

It is a process of its own, because calls into TVM hold Python's lock while they wait for a device.
"""

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

USERS = ("tester", "me")


class SshServer:
    """The server as its tests see it: `home` is the device's home folder."""

    def __init__(self, folder, environment=None):
        self.folder, self.home = folder, folder / "home"
        self.home.mkdir()
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(folder)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.port = int(self._process.stdout.readline())

    def _ask(self, words):
        self._process.stdin.write(f"{words}\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    @property
    def received(self):
        """Bytes that commands have read from the line so far."""
        return self._ask("received")

    def cut_after(self, count):
        """Break the connection off when `received` has grown by `count`; None: never.

        None also waits until the commands of a line that broke have written what they had read.
        """
        self._ask(f"cut {-1 if count is None else count}")

    def stop(self):
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


@contextlib.contextmanager
def ssh_server(folder, environment=None):
    """A server that is up; its commands get `environment`."""
    if shutil.which("ssh") is None:
        pytest.skip("no ssh client here (Debian: apt-get install openssh-client)")
    server = SshServer(folder, environment)
    try:
        yield server
    finally:
        server.stop()


class _Server:
    """The server's side; `folder` gets a client's configuration and key."""

    def __init__(self, folder):
        self.folder, self.received, self.cut_at = folder, 0, None
        self.connections, self.children = [], set()

    async def serve(self):
        import asyncssh

        key = asyncssh.generate_private_key("ssh-ed25519")
        key.write_private_key(self.folder / "key")
        (self.folder / "key").chmod(0o600)
        host_key = asyncssh.generate_private_key("ssh-ed25519")
        owner, public = self, key.convert_to_public()

        class Session(asyncssh.SSHServer):
            def connection_made(self, connection):
                owner.connections.append(connection)

            def public_key_auth_supported(self):
                return True

            def validate_public_key(self, username, key):
                return username in USERS and key == public

            def connection_requested(self, host, port, orig_host, orig_port):
                return host == "127.0.0.1"

        server = await asyncssh.listen(
            "127.0.0.1",
            0,
            server_factory=Session,
            server_host_keys=[host_key],
            process_factory=self.run,
            encoding=None,
        )
        port = server.sockets[0].getsockname()[1]
        known = host_key.export_public_key().decode()
        (self.folder / "known").write_text(f"[127.0.0.1]:{port} {known}")
        (self.folder / "config").write_text(
            f"Host *\n  IdentityFile {self.folder}/key\n  IdentitiesOnly yes\n"
            f"  UserKnownHostsFile {self.folder}/known\n  GlobalKnownHostsFile none\n"
        )
        print(port, flush=True)
        await self.obey()

    async def obey(self):
        """Do what the test asks for, until it goes away."""
        loop = asyncio.get_running_loop()
        while words := (await loop.run_in_executor(None, sys.stdin.readline)).split():
            if words[0] == "cut":
                self.cut_at = None if words[1] == "-1" else self.received + int(words[1])
                if self.cut_at is None:
                    await asyncio.gather(*(child.wait() for child in self.children))
            print(self.received, flush=True)

    async def run(self, process):
        child = await asyncio.create_subprocess_shell(
            process.command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=self.folder / "home",
            env={**os.environ, "HOME": str(self.folder / "home")},
        )
        self.children.add(child)
        feeding = asyncio.ensure_future(self.feed(process, child))
        # Who asked may be gone by then; an error here would end the connection for everybody.
        with contextlib.suppress(OSError):
            await asyncio.gather(
                _copy(child.stdout, process.stdout), _copy(child.stderr, process.stderr)
            )
        code = await child.wait()
        self.children.discard(child)
        feeding.cancel()
        with contextlib.suppress(OSError):
            process.exit(code if code >= 0 else 128 - code)

    async def feed(self, process, child):
        try:
            while data := await process.stdin.read(1 << 16):
                self.received += len(data)
                child.stdin.write(data)
                await child.stdin.drain()
                if self.cut_at is not None and self.received > self.cut_at:
                    for connection in self.connections:
                        connection.abort()
                    break
        except OSError:  # the command did not want it
            pass
        finally:
            child.stdin.close()


async def _copy(source, target):
    while data := await source.read(1 << 16):
        target.write(data)
        await target.drain()


if __name__ == "__main__":
    asyncio.run(_Server(Path(sys.argv[1])).serve())

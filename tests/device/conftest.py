"""How verbs log in to the emulated device."""

import pytest


@pytest.fixture(scope="session")
def login(emulated_device, tmp_path_factory):
    """Variables for verbs; as a user's ~/.ssh/config would say how to log in."""
    pytest.importorskip("ziglang")
    config = tmp_path_factory.mktemp("login") / "config"
    config.write_text(
        f"Host emulated\n HostName {emulated_device.host}\n Port {emulated_device.port}\n"
        f" User {emulated_device.user}\n IdentityFile {emulated_device.key}\n"
        f" UserKnownHostsFile {emulated_device.known_hosts}\n"
    )
    return {"HETERO_SSH": f"ssh -F {config}"}

"""The emulated device is one: another processor, its own disk, nothing else of this machine."""

import subprocess


def test_it_is_an_arm_machine_reached_over_ssh(emulated_device):
    assert emulated_device.run("uname -m").stdout == "aarch64\n"
    assert emulated_device.run(["echo", "two  words"]).stdout == "two  words\n"
    assert "sshd" in emulated_device.run("ps aux").stdout
    assert emulated_device.run("id -un").stdout == "device\n"


def test_its_root_is_read_only_and_its_home_is_not(emulated_device, tmp_path):
    assert emulated_device.run("touch /etc/x", check=False).returncode != 0
    (tmp_path / "sent").write_text("hello")
    there = f"{emulated_device.user}@{emulated_device.host}:"
    scp = ["scp", *emulated_device.ssh_options, "-P", str(emulated_device.port)]
    subprocess.run([*scp, str(tmp_path / "sent"), there], check=True, capture_output=True)
    assert emulated_device.run("cat sent; rm sent").stdout == "hello"


def test_it_knows_one_key(emulated_device, tmp_path):
    key = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    known = f"UserKnownHostsFile={emulated_device.known_hosts}"
    login = ["-p", str(emulated_device.port), f"{emulated_device.user}@{emulated_device.host}"]
    options = ["-F", "none", "-i", key, "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"]
    refused = subprocess.run(
        ["ssh", *options, "-o", known, *login, "true"], capture_output=True, text=True, check=False
    )
    assert refused.returncode == 255 and "Permission denied" in refused.stderr


def test_a_full_disk_can_be_had(emulated_device):
    full = emulated_device.run("head -c 9000000 /dev/zero > /mnt/x; rm -f /mnt/x", check=False)
    assert "No space left" in full.stderr

"""Ways to a device: ssh, adb, a folder of this machine."""

"""Words to the service manager: sd_notify(3), spoken by the launcher, which is the service's main process."""

import os
import socket


def send(*lines: str) -> None:
    """Send assignments such as READY=1 to $NOTIFY_SOCKET; silently nothing where there is none or nobody reads it.

    Never waits: a service manager that is stuck must not hold up the launcher.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address[0] == "@":
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.sendto("\n".join(lines).encode(), socket.MSG_DONTWAIT, address)
    except OSError:  # that there is no descriptor for a socket is no reason to end, either
        pass

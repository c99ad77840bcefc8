"""One boot of the machine: qemu under software emulation, an order for the guest, and what comes back from it.

The guest has two serial lines. On the first it reports, a JSON object a line, and its wishes are read from there; the second
is its console. It has no network, and no clock but the host's. Its power is cut by killing qemu: what it has not synced to
its disk is lost then, as in life.
"""

import json
import subprocess
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from vm import build

#: How a boot ended: the guest switched itself off or rebooted; its power was cut, as it asked; its time was over.
OFF, CUT, LATE = "off", "cut", "late"

_KERNEL_LINE = (
    "console=ttyS1 panic=-1 quiet loglevel=3 systemd.unit=vm.target systemd.show_status=no mitigations=off nokaslr"
)


class Machine:
    def __init__(self, image: Path, *, memory: int = 1024, processors: int = 2, disk: Path | None = None) -> None:
        """`image` is the disk with what is under test, `memory` in MiB; `disk` is /dev/vdd of every boot, and kept."""
        self._images = build.ready()
        self._payload = image
        self._memory = memory
        self._processors = processors
        self._disk = disk

    def boot(self, order: str, *, seconds: float, console: IO[bytes], told: Callable[[dict[str, Any]], None]) -> str:
        """Boot, have the guest run the shell script `order`, and wait for its end; how that came.

        `told` gets each object that the guest reports. One with `cut` in it has its power cut there and then.
        """
        with tempfile.NamedTemporaryFile(prefix="order-", dir=build.FOLDER) as file:
            text = order.encode() + b"\nexit\n"
            file.write(text + b"\n" * (-len(text) % 512))
            file.flush()
            # Should we be killed, it goes too.
            bound = ["setpriv", "--pdeathsig", "KILL", *self._command(file.name)]
            process = subprocess.Popen(bound, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            passing = threading.Thread(target=_pass_on, args=(process.stderr, console))
            passing.start()
            late = threading.Event()
            timer = threading.Timer(seconds, lambda: (late.set(), process.kill()))
            timer.start()
            try:
                return self._listen(process, told) or (LATE if late.is_set() else OFF)
            finally:
                timer.cancel()
                process.kill()
                process.wait()
                passing.join()

    def _listen(self, process: subprocess.Popen[bytes], told: Callable[[dict[str, Any]], None]) -> str | None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                try:
                    said = json.loads(line)
                except ValueError:  # the firmware's words, or a line that a power cut tore
                    continue
                if not isinstance(said, dict):
                    continue
                told(said)
                if "cut" in said:
                    return CUT
        return None

    def _command(self, order: str) -> list[str]:
        disks = [(str(self._images / "root.ext4"), "on"), (str(self._payload), "on"), (order, "on")]
        if self._disk is not None:
            disks.append((str(self._disk), "off"))
        drives = [f"file={path},if=virtio,format=raw,readonly={readonly}" for path, readonly in disks]
        return [
            *("qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max"),
            *("-smp", str(self._processors), "-m", str(self._memory)),
            *("-nodefaults", "-display", "none", "-no-reboot", "-kernel", str(self._images / "vmlinuz")),
            *("-initrd", str(self._images / "initrd.gz"), "-append", _KERNEL_LINE),
            *(
                "-serial",
                "stdio",
                "-chardev",
                "file,id=console,path=/dev/stderr,append=on",
                "-serial",
                "chardev:console",
            ),
            *(word for drive in drives for word in ("-drive", drive)),
        ]


def _pass_on(source: IO[bytes] | None, sink: IO[bytes]) -> None:
    """The console, as it comes: the guest's terminal ends its lines in two characters."""
    assert source is not None
    with source:
        for line in source:
            sink.write(line.replace(b"\r\n", b"\n"))
            sink.flush()


def make_disk(path: Path, mib: int) -> Path:
    """An empty disk."""
    with path.open("wb") as file:
        file.truncate(mib << 20)
    return path

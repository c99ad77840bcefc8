"""The virtual machine, built once: a Debian 12 kernel, a root image with systemd, and an initrd that puts them together.

`ready()` gives the folder of kernel, initrd and root image, and builds it where it is missing or its ingredients have
changed. Nothing of the host gets into it but busybox. What is under test comes on a disk of its own: see `payload`.
"""

import glob
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER = ROOT / "build" / "vm"
GUEST = Path(__file__).resolve().parent / "guest"

SUITE, KERNEL = "bookworm", "linux-image-cloud-amd64"
#: In the root image, besides what every Debian has.
PACKAGES = (
    "systemd",
    "systemd-sysv",
    "dbus",
    "python3",
    "python3-venv",
    "procps",
    "dmsetup",
    "strace",
    "sqlite3",
    "sudo",
)
#: Loaded by the initrd, with what they need.
MODULES = ("virtio_pci", "virtio_blk", "overlay", "loop", "dm-flakey")
#: Of nobody's use in a guest, and a third of its size.
_LEFT_OUT = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*")

#: Command -> its Debian package.
_TOOLS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "mmdebstrap": "mmdebstrap",
    "busybox": "busybox-static",
    "cpio": "cpio",
    "depmod": "kmod",
    "mke2fs": "e2fsprogs",
}


def ready() -> Path:
    """The folder with `vmlinuz`, `initrd.gz` and `root.ext4`. Exits with a line that says what to do if it cannot be had."""
    if platform.machine() != "x86_64":
        sys.exit(f"make test-vm: the machine is an x86-64 one, built on such a host; this is {platform.machine()}")
    _need_tools()
    made, stamp = FOLDER / "machine", _stamp()
    try:
        if (made / "stamp").read_text() == stamp:
            return made
    except FileNotFoundError:
        pass
    if os.geteuid() != 0:
        sys.exit("make test-vm: root builds the machine, once: sudo make test-vm")
    began = time.monotonic()
    print(f"building the machine in {made}", flush=True)
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER, prefix="new-") as new:
        work, out = Path(new, "work"), Path(new, "machine")
        work.mkdir()
        out.mkdir()
        _make_images(work, out)
        (out / "stamp").write_text(stamp)
        shutil.rmtree(made, ignore_errors=True)
        out.rename(made)
    owner = ROOT.stat()
    for path in (FOLDER.parent, FOLDER):  # whoever the tree belongs to goes on from here
        os.chown(path, owner.st_uid, owner.st_gid)
    print(f"built in {time.monotonic() - began:.0f} s", flush=True)
    return made


def make_ext4(image: Path, tree: Path, size: str) -> None:
    """An image with the files of `tree`, which are root's in it. It is mounted read-only, so it needs no journal."""
    as_root = () if os.geteuid() == 0 else ("unshare", "--map-root-user")
    run(*as_root, "mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", str(tree), str(image), size)


def run(*command: str, cwd: Path | None = None) -> None:
    """Run a command; its output is shown only if it fails, and that ends the program."""
    done = subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        sys.exit(f"{done.stdout}\nmake test-vm: `{shlex.join(command)}` ended with {done.returncode}")


def _need_tools() -> None:
    os.environ["PATH"] += ":/usr/sbin:/sbin"  # of ordinary accounts
    missing = [package for command, package in _TOOLS.items() if shutil.which(command) is None]
    if not missing:
        return
    install = ("apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing)
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        sys.exit(f"make test-vm: this is missing, and here is how to get it: sudo {' '.join(install)}")
    print(f"installing {', '.join(missing)}", flush=True)
    os.environ["DEBIAN_FRONTEND"] = "noninteractive"
    run("apt-get", "update", "-qq")
    run(*install)


def _stamp() -> str:
    parts = [Path(__file__).read_bytes(), (GUEST / "init").read_bytes()]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def _make_images(work: Path, out: Path) -> None:
    tar, root, kernel = work / "root.tar", work / "root", work / "kernel"
    kernel.mkdir()
    # By the sources of the image, whatever the host's are.
    download = (
        f'cd {shlex.quote(str(kernel))} && export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" && apt-get download -qq'
        f" $(apt-cache depends {KERNEL} | awk '/Depends: linux-image-/ {{print $2; exit}}')"
    )
    leave_out = [f"--dpkgopt=path-exclude={pattern}" for pattern in _LEFT_OUT]
    hook = f"--customize-hook={download}"
    run(
        "mmdebstrap",
        "--quiet",
        "--variant=minbase",
        *leave_out,
        f"--include={','.join(PACKAGES)}",
        hook,
        SUITE,
        str(tar),
    )
    root.mkdir()
    run("tar", "-C", str(root), "-xf", str(tar))
    make_ext4(out / "root.ext4", root, "900M")

    (package,) = kernel.glob("*.deb")
    run("dpkg-deb", "-x", str(package), str(kernel))
    (image,) = kernel.glob("boot/vmlinuz-*")
    version = image.name.removeprefix("vmlinuz-")
    run("depmod", "-b", str(kernel), version)
    shutil.copy(image, out / "vmlinuz")
    _make_initrd(work / "initrd", _modules(kernel, version), out / "initrd.gz")


def _modules(kernel: Path, version: str) -> list[str]:
    """Files of the modules, each after those that it needs."""
    files: dict[str, None] = {}
    for name in MODULES:
        command = ["modprobe", "-d", str(kernel), "-S", version, "--show-depends", name]
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        files |= dict.fromkeys(line.split()[1] for line in shown.splitlines() if line.startswith("insmod "))
    return list(files)


def _make_initrd(tree: Path, modules: list[str], out: Path) -> None:
    for name in ("bin", "modules", "proc", "sys", "dev", "run", "image", "new"):
        (tree / name).mkdir(parents=True)
    shutil.copy(str(shutil.which("busybox")), tree / "bin" / "busybox")
    shutil.copy(GUEST / "init", tree / "init")
    (tree / "init").chmod(0o755)
    for number, file in enumerate(modules):
        shutil.copy(file, tree / "modules" / f"{number:02}-{os.path.basename(file)}")
    names = "\n".join(sorted(glob.glob("**", root_dir=tree, recursive=True)))
    with out.open("wb") as file:
        archive = subprocess.Popen(["cpio", "-o", "-H", "newc", "--quiet"], cwd=tree, stdin=-1, stdout=-1)
        packed = subprocess.Popen(["gzip", "-1"], stdin=archive.stdout, stdout=file)
        assert archive.stdin is not None
        archive.stdin.write(names.encode())
        archive.stdin.close()
        if archive.wait() or packed.wait():
            sys.exit("make test-vm: the initrd could not be packed")

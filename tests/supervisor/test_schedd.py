"""Where a state directory may be."""

import pytest

from lnmt_scheduler.supervisor import schedd

MOUNTS = """\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 22 0:26 / /srv rw,relatime shared:5 - nfs4 host:/export rw,vers=4.2
31 30 254:1 / /srv/local rw,relatime - xfs /dev/vdb rw
32 22 0:27 / /mnt/with\\040space rw,relatime - fuse.sshfs me@host:/ rw
33 22 0:28 / /run rw - tmpfs tmpfs rw
34 22 0:29 / /host rw - 9p hostshare rw
35 34 0:30 / /host rw - tmpfs over rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/lnmt-scheduler", None),
        ("/srv", "nfs4"),
        ("/srv/lnmt", "nfs4"),
        ("/srv/local/lnmt", None),
        ("/srvother", None),
        ("/mnt/with space/lnmt", "fuse.sshfs"),
        ("/run/lnmt", None),
        ("/host/x", None),
    ],
)
def test_a_remote_file_system_is_known(path, kind):
    assert schedd.remote_kind(path, MOUNTS) == kind


def test_a_daemon_keeps_of_its_environment_what_it_goes_by():
    ours = ["PATH", "HOME", "TZ", "LC_ALL", "NOTIFY_SOCKET", "WATCHDOG_USEC", "STATE_DIRECTORY", "LNMT_PRETEND"]
    others = ["SECRET", "AWS_SESSION_TOKEN", "PYTHONPATH", "SSH_AUTH_SOCK", "LNMT_OTHER", "MY_TZ", "path", "PATHS"]
    assert list(schedd.kept(dict.fromkeys([*ours, *others], "x"))) == ours


def test_this_host_is_read():
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        schedd.remote_kind("/", file.read())

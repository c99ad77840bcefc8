"""A crontab, imported into a real daemon, does what it did under cron."""

import os
import pwd

import pytest

TAB = """\
PATH=/usr/bin:/bin
GREETING=hello there
0 0 1 1 * cat; echo "$GREETING" "$SHELL" "$PATH"%first%second \\% third
1 0 1 1 * pwd; exit 3
"""


@pytest.mark.slow
def test_an_imported_line_runs_as_cron_would_run_it(daemon, folder):
    (folder / "tab").write_text(TAB)
    done = daemon.ctl("import-crontab", str(folder / "tab"), "-o", "json")
    assert done.code == 0, done
    found = done.json
    assert [line["equal_fires"] for line in found["lines"]] == [50, 50]
    first, second = (line["job_id"] for line in found["lines"])
    row = daemon.run_to_end(first)
    assert (row["status"], row["exit_code"]) == ("completed", 0)
    assert daemon.output(row["run_id"]) == b"first\nsecond % third\nhello there /bin/sh /usr/bin:/bin\n"
    row = daemon.run_to_end(second)
    assert (row["status"], row["exit_code"], row["retry_count"]) == ("failed", 3, 0)
    home = pwd.getpwuid(os.geteuid()).pw_dir
    assert daemon.output(row["run_id"]).decode().splitlines()[0] == (home if os.path.isdir(home) else "/")
    # And the way out.
    out = daemon.ctl("export", "--crontab").stdout
    assert out.splitlines()[-1].endswith("; pwd; exit 3")
    assert '; cat; echo "$GREETING" "$SHELL" "$PATH"%first%second \\% third\n' in out

"""The daemon's log as journald reads it, and as a person does."""

import os
import re
import subprocess
import sys

PROGRAM = "from lnmt_scheduler.supervisor import journal; journal.error('two\\nlines \\x1b[31m, a colour'); journal.debug('no')"


def said(tmp_path, stream):
    log = tmp_path / "log"
    with log.open("wb") as file:
        info = os.fstat(file.fileno())
        environment = {**os.environ, "JOURNAL_STREAM": stream.format(info.st_dev, info.st_ino)}
        subprocess.run([sys.executable, "-c", PROGRAM], stderr=file, env=environment, check=True)
    return log.read_text()


def test_journald_gets_one_line_with_its_priority(tmp_path):
    assert said(tmp_path, "{}:{}") == "<3>schedd: two\\nlines \\x1b[31m, a colour\n"


def test_a_stderr_that_leads_elsewhere_gets_the_time(tmp_path):
    """The variable is inherited by whatever a service starts, and says nothing of a stderr that was redirected since."""
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d schedd: two.*\n", said(tmp_path, "{}:0"))
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d schedd: two.*\n", said(tmp_path, ""))

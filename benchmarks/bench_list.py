"""`schedctl list`: what does a command of the CLI cost beside the start of Python itself?"""

import subprocess
import sys

import common
import harness


def main() -> None:
    with common.daemon() as running:
        for number in range(20):
            running.add(id=f"job{number}", command="true", schedule="0 2 * * *", sandbox=common.PLAIN)
        command = [harness.SCHEDCTL, "--state-dir", str(running.state_dir), "list"]
        ours = common.median(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL), 20)
        json = common.median(
            lambda: subprocess.run([*command, "-o", "json"], check=True, stdout=subprocess.DEVNULL), 20
        )
    theirs = common.median(lambda: subprocess.run([sys.executable, "-c", "pass"], check=True), 20)
    common.say(
        "`schedctl list`, 20 jobs", f"{ours * 1e3:.0f} ms", f"`python -c pass` {theirs * 1e3:.0f} ms", ours / theirs
    )
    common.say(
        "`schedctl list -o json`", f"{json * 1e3:.0f} ms", f"`python -c pass` {theirs * 1e3:.0f} ms", json / theirs
    )


if __name__ == "__main__":
    main()

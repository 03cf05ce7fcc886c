"""Runs the commands that README.md promises: its ```sh blocks with a given mark.

A block opens with ```sh MARK, for instance ```sh checked. Each line of it runs in bash, as
it stands, from the repository's root. Stops at the first that fails and says which.
"""

import re
import subprocess
import sys
from pathlib import Path

BLOCK = re.compile(r"^```sh (?P<mark>\w+)\n(?P<commands>.*?)^```$", re.MULTILINE | re.DOTALL)


def commands(readme: str, mark: str) -> list[str]:
    """The lines of all blocks with this mark, in order, without comments and blanks."""
    blocks = (b["commands"] for b in BLOCK.finditer(readme) if b["mark"] == mark)
    lines = (line.strip() for block in blocks for line in block.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def main(mark: str) -> int:
    promised = commands(Path("README.md").read_text(encoding="utf-8"), mark)
    if not promised:
        print(f"error: README.md has no command marked ```sh {mark}", file=sys.stderr)
        return 1
    for command in promised:
        print(f"\n$ {command}", flush=True)
        status = subprocess.run(["bash", "-euo", "pipefail", "-c", command], check=False).returncode
        if status:
            print(f"error: README.md promises `{command}`: exit {status}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

"""Runs what hypothesis draws, afresh, for as long as asked: `python tests/fuzz.py MINUTES`, or `make fuzz MINUTES=60`.

It goes in rounds. The first that fails ends it: the smallest example that fails is shown, kept in .hypothesis, and
tried before all else whenever this is run, until it no longer fails.
"""

import subprocess
import sys
import time
from pathlib import Path

HERE = str(Path(__file__).parent)
ROUND = [sys.executable, "-m", "pytest", HERE, "-m", "hypothesis", "--hypothesis-profile=fuzz", "-vv", "--no-header"]


def main(minutes: float, *options: str) -> int:
    start, rounds = time.monotonic(), 0
    while (passed := (time.monotonic() - start) / 60) < minutes:
        rounds += 1
        print(f"\n--- round {rounds}, at {passed:.1f} of {minutes:g} minutes", flush=True)
        done = subprocess.run([*ROUND, *options])
        if done.returncode != 0:
            return done.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), *sys.argv[2:]))

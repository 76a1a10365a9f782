"""Run a command that ends when the process that asked for it ends.

python -I leash.py COMMAND...

Standard input is a pipe that only the asking process holds open. However
that process ends, killed included, the pipe closes; then the command is
killed, and with it what it has started.
"""

import os
import signal
import subprocess
import sys
import threading


def _watch() -> None:
    sys.stdin.buffer.read()
    os.killpg(0, signal.SIGKILL)


if __name__ == '__main__':
    threading.Thread(target=_watch, daemon=True).start()
    code = subprocess.call(sys.argv[1:], stdin=subprocess.DEVNULL)
    # At once: a reading thread would be waited for.
    os._exit(code if code >= 0 else 128 - code)

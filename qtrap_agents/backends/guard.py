"""Children that outlive nobody: `python -m qtrap_agents.backends.guard FD COMMAND…` ends with whoever holds FD's far end."""

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from typing import NoReturn


def end_with_parent(fd: int) -> None:
    """Wait until the far end of `fd` closes, then kill this process group. The kernel closes it even on `kill -9`."""
    with suppress(ConnectionError):
        while os.read(fd, 4096):
            pass
    kill_own_group()


def kill_own_group() -> NoReturn:
    """End this process and everything that it started; the parent gave it a group of its own."""
    os.killpg(0, signal.SIGKILL)
    os._exit(1)


def main() -> int:
    """Run the command in this process group; its exit status is ours."""
    child = subprocess.Popen(sys.argv[2:])
    threading.Thread(target=end_with_parent, args=(int(sys.argv[1]),), daemon=True).start()
    status = child.wait()
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main())

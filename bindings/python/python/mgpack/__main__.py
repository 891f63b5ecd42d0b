"""The `mgpack` command: the same words, output and exit codes as the program that cargo builds."""

import signal
import sys

from . import _mgpack


def main() -> None:
    """Runs the command with this process's arguments and ends the process with its exit code."""
    # Python's own handler would only set a flag while the command runs; the command sets one of its own.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    code = _mgpack.run_command(["mgpack", *sys.argv[1:]])
    sys.exit(code)


if __name__ == "__main__":
    main()

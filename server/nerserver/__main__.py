"""The command `nerserver`, which the base install has without what it needs."""

import signal
import sys


def main() -> None:
    """Run the command, or say what to install."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the server takes it, Ctrl-C ends all without a word
    try:
        from nerserver.cli import main as run  # noqa: PLC0415
    except ModuleNotFoundError as error:
        sys.exit(f"nerserver: {error.name} is not installed; run pip install 'nerstream[server]'")
    run()


if __name__ == "__main__":
    main()

"""The command `selfinformed`, and python -m selfinformed, for torchrun -m."""

import sys


def main() -> None:
    """Runs the command line; Ctrl-C while that is still imported is one line and exit code 130, too."""
    try:
        from selfinformed.cli import main as command
    except KeyboardInterrupt:
        print("\nstopped; nothing had begun", file=sys.stderr)  # noqa: T201
        sys.exit(130)
    command()


if __name__ == "__main__":
    main()

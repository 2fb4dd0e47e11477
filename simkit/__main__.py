"""``python -m simkit`` and the ``simkit`` command."""

from __future__ import annotations

import sys


def main() -> None:
    from simkit.cli import entry

    sys.exit(entry())


if __name__ == "__main__":
    main()

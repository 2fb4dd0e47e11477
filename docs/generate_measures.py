"""Pages of the documentation that are made from the code: all measures, sources and extractors.

docs/hooks.py adds them to the site without writing a file. ``python docs/generate_measures.py FOLDER`` writes them there, to be looked at;
``python docs/generate_measures.py --readme`` puts the table of measures into README.md, between its marks.
"""

from __future__ import annotations

import sys
from pathlib import Path

from simkit.files import write_text
from simkit.report.catalogue import catalogue
from simkit.report.catalogue_text import BEGIN, END, documentation_pages, readme_block


def with_table(readme: str) -> str:
    """The README's text with the table of measures as the code has it.

    Raises:
        ValueError: it does not hold each mark once.
    """
    if readme.count(BEGIN) != 1 or readme.count(END) != 1:
        raise ValueError(f"README.md must hold {BEGIN} and {END} once each")
    return readme[: readme.index(BEGIN)] + readme_block(catalogue()) + readme[readme.index(END) + len(END) :]


def main(arguments: list[str]) -> None:
    """Writes the pages below a folder, or the README's table."""
    if arguments == ["--readme"]:
        readme = Path(__file__).parents[1] / "README.md"
        write_text(readme, with_table(readme.read_text(encoding="utf-8")))
        return
    folder = Path(arguments[0] if arguments else "docs")
    for path, text in documentation_pages().items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        write_text(folder / path, text)


if __name__ == "__main__":
    main(sys.argv[1:])

"""The pictures of the documentation, made from a real run of the quickstart study: ``python docs/make_pictures.py [--chromium FILE]``.

A maintainer runs it when the page of a study changes; the pictures are kept in git. It runs ``simkit run examples/quickstart.toml`` (a few minutes, unless the
store has it), ``simkit map``, ``simkit explain`` and ``simkit leakage`` on pictures that ship in scikit-learn and scikit-image, and photographs the pages.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from simkit.files import write_bytes

HERE = Path(__file__).parent
LIMIT = 200_000
"""Bytes that a picture may have."""
EXTRACTOR = ["--extractor", "torchvision"]
NETWORK = ["network=squeezenet1_1", "weights=random", "image_size=64"]
SETS = ["samples:histology", "samples:retina", "samples:textures", "samples:digits"]


def simkit(*arguments: str) -> str:
    """Runs a command of simkit; its standard output.

    Raises:
        subprocess.CalledProcessError: it ended with another status than 0.
    """
    return subprocess.run([sys.executable, "-m", "simkit", *arguments], check=True, stdout=subprocess.PIPE, text=True, cwd=HERE.parent).stdout


def pages(folder: Path) -> dict[str, Path]:
    """Name of a picture, with the page that it shows."""
    options = [word for one in NETWORK for word in ("--set", one)]
    of_pair = [word for one in NETWORK for word in ("--extractor-set", one)]
    simkit("run", "examples/quickstart.toml", "--out", str(folder / "report"))
    simkit("map", *SETS, *EXTRACTOR, *options, "--max-images", "200", "--out", str(folder / "map"))
    simkit("explain", "samples:textures", "samples:histology", *EXTRACTOR, *of_pair, "--max-images", "200", "--out", str(folder / "explain"))
    simkit("leakage", "samples:histology", "--source", "samples:textures", "--out", str(folder / "leakage"))
    return {"report": folder / "report" / "report.html", "map": folder / "map" / "map.html", "explain": folder / "explain" / "explanation.html",
            "leakage": folder / "leakage" / "leakage.html"}


def photograph(browser: Any, page: Path, *, skip: str = "", height: int = 900) -> bytes:
    """The top of a page (or what follows the element ``skip``) in light mode, 1120 pixels wide, as WebP."""
    from PIL import Image

    tab = browser.new_page(viewport={"width": 1120, "height": height}, color_scheme="light")
    tab.goto(page.resolve().as_uri())
    if skip:
        tab.locator(skip).first.evaluate("element => element.scrollIntoView()")
    picture = Image.open(io.BytesIO(tab.screenshot()))
    tab.close()
    for quality in (80, 65, 50, 35):
        out = io.BytesIO()
        picture.convert("RGB").save(out, "WEBP", quality=quality, method=6)
        if out.tell() < LIMIT:
            return out.getvalue()
    raise ValueError(f"{page.name}: more than {LIMIT} bytes at quality 35")


def main() -> None:
    """Makes every picture."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chromium", default="/usr/bin/chromium", help="the browser")
    parser.add_argument("--pages", type=Path, help="folder of the pages (report/, map/, explain/, leakage/) where they are made already")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as play:
        made = pages(Path(scratch)) if chosen.pages is None else {path.parent.name: path for path in sorted(chosen.pages.glob("*/*.html"))}
        browser = play.chromium.launch(executable_path=chosen.chromium, args=["--no-sandbox"])
        for name, page in made.items():
            write_bytes(HERE / "pictures" / f"{name}.webp", photograph(browser, page))
        write_bytes(HERE / "pictures" / "report-agreement.webp", photograph(browser, made["report"], skip="#agreement"))
        browser.close()


if __name__ == "__main__":
    main()

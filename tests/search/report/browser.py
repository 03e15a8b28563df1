"""A page in headless Chromium, in a frame of a given width, and what a script measures of it there."""

from __future__ import annotations

import shutil
import subprocess
from html import escape, unescape
from pathlib import Path

import pytest


def measured(text: str, width: int, script: str, folder: Path, dark: bool = False) -> str:
    """What `script` leaves in `document.title`: it runs when the page is shown, and finds that as `page`; fails on a console message."""
    browser = next((path for name in ("chromium", "google-chrome") if (path := shutil.which(name))), None)
    if browser is None:
        pytest.skip("no headless browser: apt-get install chromium")
    script = f"const page = frame.contentDocument; {script}"
    frame = f'<iframe id="frame" style="width:{width}px;height:900px;border:0" srcdoc="{escape(text)}" onload="{escape(script)}"></iframe>'
    (folder / "frame.html").write_text(f"<!DOCTYPE html><title></title>{frame}", encoding="utf-8")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
    command += [f"--user-data-dir={folder / 'profile'}", *["--blink-settings=preferredColorScheme=0"] * dark]
    done = subprocess.run(
        [*command, f"file://{folder / 'frame.html'}"], capture_output=True, text=True, timeout=120, check=True
    )
    assert "CONSOLE" not in done.stderr, done.stderr
    return unescape(done.stdout.partition("<title>")[2].partition("</title>")[0])

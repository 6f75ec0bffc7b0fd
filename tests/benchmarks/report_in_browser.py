"""Open a report in a real browser: no message on its console, nothing wider than the window, readable contrast.

python tests/benchmarks/report_in_browser.py runs/laptop/report/report.html --pictures /tmp/pictures

At 400 and 1600 pixels, light and dark. Needs Chromium or Chrome on the PATH (apt-get install chromium).
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WIDTHS = (400, 1600)
LEAST_CONTRAST = 4.5  # WCAG 2.2, AA, for text of usual size

# Runs in a frame of the wanted width: a window cannot be as narrow as a telephone.
PROBE = """
<script>
addEventListener("load", () => {
  const light = (color) => {
    const [r, g, b] = color.match(/[\\d.]+/g).slice(0, 3).map((value) => value / 255)
      .map((value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = getComputedStyle(at).backgroundColor;
      if (!/, 0\\)$|transparent/.test(color)) return color;
    }
    return "rgb(255, 255, 255)";
  };
  const root = document.documentElement;
  const wide = [...document.querySelectorAll("body *")].filter((element) => !element.closest(".scroll, svg, pre")
    && element.getBoundingClientRect().right > root.clientWidth + 1).map((element) => element.tagName);
  let least = 99, where = "";
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || element.closest("svg, details:not([open]) > pre")) continue;
    const values = [light(getComputedStyle(element).color), light(behind(element))].sort((a, b) => b - a);
    const contrast = (values[0] + 0.05) / (values[1] + 0.05);
    if (contrast < least) [least, where] = [contrast, element.tagName + "." + element.className];
  }
  const small = Math.min(...[...document.querySelectorAll("p, td, th, pre, figcaption")]
    .map((element) => parseFloat(getComputedStyle(element).fontSize)));
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const found = {width: root.clientWidth, scroll: root.scrollWidth, wide, least, where, small, dark};
  console.log("PROBE " + JSON.stringify(found));
});
</script>
"""


def browser() -> str:
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        sys.exit(f"none of {', '.join(BROWSERS)} is on the PATH: apt-get install chromium")
    return found


def open_page(
    program: str, page: Path, width: int, dark: bool, picture: Path | None
) -> tuple[dict[str, Any], list[str]]:
    """What the probe found, and every other message on the console."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "page.html").write_text(page.read_text().replace("</body>", f"{PROBE}</body>"))
        frame = (
            f'<body style="margin:0"><iframe src="page.html" style="border:0;width:{width}px;height:2400px"></iframe>'
        )
        (Path(folder) / "frame.html").write_text(frame)
        shown = [f"--screenshot={picture}"] if picture else ["--dump-dom"]
        done = subprocess.run(
            [
                *(program, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *shown),
                *(f"--window-size={max(width, 500)},2400", "--virtual-time-budget=5000", "--enable-logging=stderr"),
                *(f"--user-data-dir={folder}/profile", f"--blink-settings=preferredColorScheme={0 if dark else 1}"),
                f"file://{folder}/frame.html",
            ],
            capture_output=True,
            text=True,
            timeout=120,
        )
    messages = re.findall(r'CONSOLE[^"]*"(.*)", source', done.stderr)
    probes = [json.loads(message[6:]) for message in messages if message.startswith("PROBE ")]
    if not probes:
        sys.exit(f"the browser did not open the page: {done.stderr[-2000:]}")
    return probes[0], [message for message in messages if not message.startswith("PROBE ")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("--pictures", type=Path, help="folder for four pictures of the page")
    options = parser.parse_args()
    if options.pictures:
        options.pictures.mkdir(parents=True, exist_ok=True)
    program, failed = browser(), False
    for width in WIDTHS:
        for dark in (False, True):
            name = f"{'dark' if dark else 'light'}_{width}"
            picture = options.pictures / f"{name}.png" if options.pictures else None
            found, messages = open_page(program, options.report, width, dark, picture)
            faults = [f"console: {message}" for message in messages]
            faults += [f"wider than the page: {tag}" for tag in found["wide"][:3]]
            if found["scroll"] > found["width"]:
                faults.append(f"the page scrolls sideways: {found['scroll']} px")
            if found["least"] < LEAST_CONTRAST:
                faults.append(f"contrast {found['least']:.1f} at {found['where']}")
            if found["dark"] != dark:
                faults.append("the colour scheme was not taken")
            smallest = f"smallest text {found['small']:.0f} px, least contrast {found['least']:.1f}"
            print(f"{name}: {smallest}, {len(messages)} console messages{''.join(f'; {fault}' for fault in faults)}")
            failed = failed or bool(faults)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()

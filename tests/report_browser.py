"""A report in a real headless Chromium: the one on the PATH, else the one of `playwright install chromium`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDTHS = (400, 1600)
LEAST_CONTRAST = 4.5  # WCAG 2.2, level AA, for text of usual size
LEAST_TEXT_PX = 12
PATIENCE_MS = 300_000  # of a machine that is busy with other work

PROBE = """
() => {
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
    return getComputedStyle(document.documentElement).colorScheme.includes("dark")
      && matchMedia("(prefers-color-scheme: dark)").matches ? "rgb(18, 18, 18)" : "rgb(255, 255, 255)";
  };
  const root = document.documentElement;
  const wide = [...document.querySelectorAll("body *")].filter((element) => !element.closest(".scroll, svg, pre")
    && element.getBoundingClientRect().right > root.clientWidth + 1).map((element) => element.tagName);
  let contrast = 99, where = "";
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || element.closest("svg") || !element.checkVisibility()) continue;
    const [high, low] = [light(getComputedStyle(element).color), light(behind(element))].sort((a, b) => b - a);
    if ((high + 0.05) / (low + 0.05) < contrast) {
      [contrast, where] = [(high + 0.05) / (low + 0.05), element.outerHTML.slice(0, 60)];
    }
  }
  const text_px = Math.min(...[...document.querySelectorAll("p, td, th, pre, figcaption, span")]
    .map((element) => parseFloat(getComputedStyle(element).fontSize)));
  return {contrast, where, text_px, wide, sideways: root.scrollWidth - root.clientWidth};
}
"""


@dataclass(frozen=True)
class Look:
    """What the page looks like in one window."""

    messages: list[str]  # on the console, and failed requests
    contrast: float  # the least of any text
    where: str  # it is
    text_px: float  # the smallest
    wide: list[str]  # elements that reach beyond the window
    sideways: int  # pixels that the page scrolls to the side

    @property
    def faults(self) -> list[str]:
        found = [f"console: {message}" for message in self.messages]
        found += [f"wider than the window: {tag}" for tag in self.wide]
        found += [f"scrolls {self.sideways} px to the side"] if self.sideways > 0 else []
        found += [f"contrast {self.contrast:.1f}: {self.where}"] if self.contrast < LEAST_CONTRAST else []
        return found + ([f"text of {self.text_px} px"] if self.text_px < LEAST_TEXT_PX else [])


@contextmanager
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    with sync_playwright() as playwright:
        # Containers have neither the kernel's sandbox nor much shared memory.
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


def look(browser: Any, report: Path, width: int, scheme: str, picture: Path | None = None) -> Look:
    """Open `report` in a window of `width` pixels; `scheme` is light or dark."""
    page = browser.new_page(viewport={"width": width, "height": 1000}, color_scheme=scheme)
    messages: list[str] = []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("requestfailed", lambda request: messages.append(f"{request.url} could not be loaded"))
    page.set_default_timeout(PATIENCE_MS)
    page.goto(report.resolve().as_uri())
    found = page.evaluate(PROBE)
    if picture is not None:
        page.screenshot(path=picture, full_page=True)
    page.close()
    return Look(messages, **found)

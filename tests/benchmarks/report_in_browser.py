"""Look at a report as a reader does: in a real browser, at 400 and 1600 pixels, light and dark.

python tests/benchmarks/report_in_browser.py runs/laptop/report/report.html --pictures /tmp/pictures
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from report_browser import WIDTHS, chromium, look


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("--pictures", type=Path, help="folder for a picture of the page in each window")
    options = parser.parse_args()
    if options.pictures:
        options.pictures.mkdir(parents=True, exist_ok=True)
    faults: list[str] = []
    with chromium() as browser:
        for width in WIDTHS:
            for scheme in ("light", "dark"):
                picture = options.pictures / f"{scheme}_{width}.png" if options.pictures else None
                found = look(browser, options.report, width, scheme, picture)
                faults += found.faults
                numbers = f"smallest text {found.text_px:.0f} px, least contrast {found.contrast:.1f}"
                print(f"{scheme}, {width} px: {numbers}, {'; '.join(found.faults) or 'no fault'}")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()

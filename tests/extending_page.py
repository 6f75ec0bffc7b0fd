"""The examples of docs/extending.md: name of the file to its text."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"


def examples() -> dict[str, str]:
    blocks = re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return dict(blocks)

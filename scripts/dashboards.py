"""Writes the Grafana dashboards into the package: ``python scripts/dashboards.py [DIRECTORY]``.

They are written in Python so that Grafana's own SDK checks each panel's options; a test holds the written files to be
what this makes. Needs ``requirements/dashboards.txt``.
"""

import json
import sys
from pathlib import Path
from typing import Any, Final

from grafana_endpoints import endpoints
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_overview import overview

PACKAGE: Final = Path(__file__).parents[1] / "src" / "projkit" / "assets" / "grafana"


def dashboards() -> dict[str, dict[str, Any]]:
    """Each dashboard as Grafana reads it, by the name of its file."""
    made = {"overview.json": overview(), "endpoints.json": endpoints()}
    found = {name: json.loads(json.dumps(board.build(), cls=JSONEncoder)) for name, board in made.items()}
    for content in found.values():
        for number, panel in enumerate(content["panels"], start=1):
            panel["id"] = number  # what a link to a panel names
    return found


def main() -> None:
    """Writes them."""
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else PACKAGE
    for name, content in dashboards().items():
        (directory / name).write_text(
            json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()

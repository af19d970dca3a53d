"""Write the Grafana dashboards into the package: ``python scripts/dashboards.py [DIRECTORY]``.

They are generated in Python so that Grafana's own SDK checks each panel's options; a test compares the shipped files
with the output. Requires ``requirements/dashboards.txt``.
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
    """Return each dashboard in Grafana's JSON model by file name."""
    boards = {"overview.json": overview(), "endpoints.json": endpoints()}
    models = {name: json.loads(json.dumps(board.build(), cls=JSONEncoder)) for name, board in boards.items()}
    for content in models.values():
        for number, panel in enumerate(content["panels"], start=1):
            panel["id"] = number  # referenced by links to a panel
    return models


def main() -> None:
    """Write the files."""
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else PACKAGE
    for name, content in dashboards().items():
        (directory / name).write_text(
            json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()

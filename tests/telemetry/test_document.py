"""``docs/metrics.md`` describes exactly the series of the code."""

import re
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pytest
import sqlalchemy as sa

from projkit.db.statement import Statement
from projkit.db.tables import build_tables
from projkit.telemetry.collector import RecorderCollector
from projkit.telemetry.exposition import KitRegistry, render
from projkit.telemetry.recorder import Recorder
from projkit.telemetry.snapshot import KitInfo
from tests.corpora import ROOT
from tests.services import missing
from tests.telemetry.test_yielding import fill

DOCUMENT = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
SAMPLE = re.compile(r"(?P<name>[a-z_]+?)(?P<part>_bucket|_count|_sum)?(\{(?P<labels>.*)\})? \S+")
LABEL = re.compile(r'([a-z_]+)="')


class Series(NamedTuple):
    """The type and labels of a metric."""

    kind: str
    labels: frozenset[str]


def sections() -> dict[str, str]:
    """Return the sections of the document by metric name."""
    parts = re.split(r"^#{2,3} ", DOCUMENT, flags=re.MULTILINE)
    titled = (part.partition("\n") for part in parts)
    return {title.strip("`"): text for title, _, text in titled if title.startswith("`")}


def documented() -> dict[str, Series]:
    """Return the metrics of the document."""
    found = {}
    for name, text in sections().items():
        kind = re.match(r"[a-z]+", text)
        assert kind is not None, name
        labels = re.findall(r"^\| `([a-z_]+)` \| \S", text, flags=re.MULTILINE)
        assert len(labels) == len(set(labels)), name
        assert bool(labels) != ("no labels" in text), f"{name}: a table of labels, or none said"
        found[name] = Series(kind[0], frozenset(labels))
    return found


async def given() -> dict[str, Series]:
    """Return the metrics of a scrape after every event has happened."""
    recorder = Recorder()
    fill(recorder)
    recorder.record_transaction(committed=True)
    statement = Statement(sa.select(build_tables("").projects.c.id))
    recorder.record_statement(statement.for_sqlite(), 0.001, ValueError())
    info = KitInfo("1.2.3", datetime(2027, 1, 1, tzinfo=UTC))
    body, _ = await render(KitRegistry(RecorderCollector(recorder, info)), "")
    kinds: dict[str, str] = {}
    labels: dict[str, set[str]] = {}
    for line in body.decode().splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kinds[name] = line.split(" ")
        elif not line.startswith("#"):
            sample = SAMPLE.fullmatch(line)
            assert sample is not None, line
            labels.setdefault(sample["name"], set()).update(LABEL.findall(sample["labels"] or ""))
    assert labels.keys() == kinds.keys(), "each has samples"
    return {name: Series(kind, frozenset(labels[name] - {"le"})) for name, kind in kinds.items()}


@pytest.mark.anyio
async def test_every_series_is_documented() -> None:
    """The document has each metric with its type and labels, and no other."""
    assert documented() == await given()


@pytest.mark.parametrize("name", sections())
def test_every_series_has_an_example(name: str) -> None:
    """Each metric has a description and a query that uses it."""
    text = sections()[name]
    queries = re.findall(r"```promql\n(.*?)```", text, flags=re.DOTALL)
    assert queries
    assert any(name in query for query in queries)
    assert re.match(r"(counter|gauge|histogram)(, [\w ]+)?\. [A-Z0-9`]", text)


def test_the_examples_are_queries(tmp_path: Path) -> None:
    """promtool accepts every example."""
    if shutil.which("promtool") is None:
        missing("promtool is not installed; Debian has it in the package prometheus")
    queries = re.findall(r"```promql\n(.*?)```", DOCUMENT, flags=re.DOTALL)
    rules = "".join(
        f"  - record: example:{number}\n    expr: >-\n      {' '.join(query.split())}\n"
        for number, query in enumerate(queries)
    )
    path = tmp_path / "rules.yml"
    path.write_text(f"groups:\n- name: examples\n  rules:\n{rules}")
    done = subprocess.run(["promtool", "check", "rules", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{len(queries)} rules found" in done.stdout

"""The page of benchmark results is made from the stored results, and is up to date with them."""

import importlib.util
import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SPEC = importlib.util.spec_from_file_location("benchmark_report", ROOT / "benchmarks" / "report.py")
report = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(report)


def result(name, title, cpu="CPU A"):
    return {
        "name": name,
        "title": title,
        "quick": False,
        "method": "How it was done.",
        "machine": {
            "cpu": cpu,
            "cores": 2,
            "memory_gib": 24,
            "system": "Linux x86_64",
            "device": "cpu",
            "versions": {"jax": "0.10.2", "torch": "2.13.0"},
            "date": "2030-01-31",
        },
        "values": {},
        "tables": [
            {
                "caption": "Speed",
                "columns": ["", "ms", "bytes"],
                "rows": [["ours", 0.012345, 1234567], ["theirs", 123.456, None]],
            }
        ],
        "targets": [
            {"what": "ratio", "measured": 0.5, "sense": "at least", "aim": 2.0, "is_met": False},
            {"what": "share", "measured": 1.0, "sense": "at most", "aim": 1.15, "is_met": True},
        ],
    }


def test_tables_and_missed_aims_are_shown():
    page = report.render([result("loading", "Loading")])
    assert "## Loading" in page
    assert "| --- | ---: | ---: |\n| ours | 0.0123 | 1,234,567 |\n| theirs | 123 | – |" in page
    assert "| ratio | 0.5 | at least 2 | **no** |" in page
    assert "| share | 1 | at most 1.15 | yes |" in page
    assert "CPU A, 2 cores, 24 GiB of memory" in page
    assert "jax 0.10.2, torch 2.13.0; 2030-01-31" in page


def test_each_machine_names_what_was_measured_on_it():
    page = report.render([result("a", "First"), result("b", "Second", cpu="CPU B"), result("c", "Third")])
    assert "CPU A" in page and "Measured on it: First, Third." in page
    assert "CPU B" in page and "Measured on it: Second." in page


def test_results_are_ordered_as_the_page_is(tmp_path):
    for name in ("unknown", "loading", "context_scaling"):
        (tmp_path / f"{name}.json").write_text(json.dumps({"name": name}), "utf-8")
    assert [it["name"] for it in report.load_results(tmp_path)] == ["context_scaling", "loading", "unknown"]


def test_page_is_up_to_date_with_the_stored_results():
    stored = report.load_results(ROOT / "benchmarks" / "results")
    assert (ROOT / "docs" / "benchmarks.md").read_text("utf-8") == report.render(stored), (
        "run `python benchmarks/report.py`"
    )
    assert not any(it["quick"] for it in stored), "results of a --quick run are stored"


def test_the_page_on_parallel_decoding_shows_the_stored_results():
    page = (ROOT / "docs" / "parallel_bench.md").read_text("utf-8")
    stored = json.loads((ROOT / "benchmarks" / "results" / "parallel_decoding.json").read_text("utf-8"))
    shown = [table for table in stored["tables"] if table["caption"] in page]
    assert len(shown) == 2
    for table in shown:
        assert "\n".join(report.table_lines(table["columns"], table["rows"])) in page

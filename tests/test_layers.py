"""Imports go one way, downwards, and the lower layers load neither Beam nor (at the bottom) pyarrow."""

import subprocess
import sys
from pathlib import Path

import drawing
import pytest
from drawing import imports_of, module_of

ROOT = Path(__file__).parent.parent

# Lowest first: a module imports from the lines above its own. Which of the heavy packages it may import beside.
HEAVY = {"pyarrow", "apache_beam"}
LAYERS: dict[str, set[str]] = {
    "lse_stream.__version__": set(),
    "lse_stream._kernel": set(),
    "lse_stream.errors": set(),
    "lse_stream.files": {"pyarrow", "apache_beam"},  # for paths that are not local, and not before
    "lse_stream.buffers": {"pyarrow"},
    "lse_stream.float64": {"pyarrow"},  # once it is handed Arrow data, and not before: see the last test
    "lse_stream.columns": {"pyarrow"},
    "lse_stream.scales": set(),
    "lse_stream.states.aggregations": set(),
    "lse_stream.states.extremes": set(),
    "lse_stream.states.arrays": set(),
    "lse_stream.states.codec": set(),
    "lse_stream.states.leave_one_out": set(),
    "lse_stream.states.results": set(),
    "lse_stream.states": set(),
    "lse_stream.integers": {"pyarrow"},
    "lse_stream.accumulators": set(),
    "lse_stream.functions": set(),
    "lse_stream.list_functions": {"pyarrow"},
    "lse_stream.event_times": {"pyarrow"},
    "lse_stream.keys": {"pyarrow"},
    "lse_stream.reduction": {"pyarrow"},
    "lse_stream.state_column": {"pyarrow"},
    "lse_stream.state_table": {"pyarrow"},
    "lse_stream.key_accumulators": {"pyarrow"},
    "lse_stream.look_up": {"pyarrow"},
    "lse_stream.keyed_softmax": {"pyarrow"},
    "lse_stream.observations": {"pyarrow"},
    "lse_stream.layouts": {"pyarrow"},
    "lse_stream.losses": {"pyarrow"},
    "lse_stream.model_comparison": {"pyarrow"},
    "lse_stream.coarsening": {"pyarrow"},
    "lse_stream.predicates": {"pyarrow"},
    "lse_stream.messages": {"pyarrow"},
    "lse_stream.table_functions": {"pyarrow"},
    "lse_stream.adapters": {"pyarrow"},
    "lse_stream.sessions": {"pyarrow"},
    "lse_stream.parquet": {"pyarrow", "apache_beam"},  # for paths that are not local, and not before
    "lse_stream.plan": {"pyarrow"},
    "lse_stream.local": {"pyarrow"},
    "lse_stream.beam.version": {"apache_beam"},
    "lse_stream.beam.internals": {"apache_beam"},
    "lse_stream.beam.bundle_policy": set(),
    "lse_stream.beam.coders": {"pyarrow", "apache_beam"},
    "lse_stream.beam.combine_fns": {"apache_beam"},
    "lse_stream.beam.exception_handling": {"apache_beam"},
    "lse_stream.beam.pre_aggregate": {"apache_beam"},
    "lse_stream.beam.tables": {"pyarrow", "apache_beam"},
    "lse_stream.beam.transforms": {"pyarrow", "apache_beam"},
    "lse_stream.beam.softmax": {"pyarrow", "apache_beam"},
    "lse_stream.beam.windows": {"pyarrow", "apache_beam"},
    "lse_stream.beam.window_panes": {"apache_beam"},
    "lse_stream.beam.sessions": {"pyarrow", "apache_beam"},
    "lse_stream.beam.window_states": {"pyarrow", "apache_beam"},
    "lse_stream.beam.parquet_io": {"pyarrow", "apache_beam"},
    "lse_stream.beam.kafka": {"pyarrow", "apache_beam"},
    "lse_stream.beam.engine": {"pyarrow", "apache_beam"},
    "lse_stream.beam.rows": {"pyarrow", "apache_beam"},
    "lse_stream.beam.yaml": {"pyarrow", "apache_beam"},
    "lse_stream.beam": {"pyarrow", "apache_beam"},
    "lse_stream.testing": {"apache_beam"},
    "pipelines": {"pyarrow", "apache_beam"},
}
HEIGHT = {layer: height for height, layer in enumerate(LAYERS)}


def layer_of(module: str) -> str | None:
    """The layer that a module belongs to: its own name, or its package's."""
    return next((layer for layer in LAYERS if module == layer or module.startswith(layer + ".")), None)


SOURCES = [path for path in sorted(ROOT.glob("lse_stream/**/*.py")) if path != ROOT / "lse_stream/__init__.py"]
SOURCES += sorted(ROOT.glob("pipelines/**/*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_imports_go_downwards(path: Path) -> None:
    layer = layer_of(module_of(path))
    assert layer is not None, "a new module: give it its place in LAYERS"
    for imported in imports_of(path):
        top = imported.partition(".")[0]
        if top in ("lse_stream", "pipelines"):
            below = layer_of(imported)
            assert below is not None, f"{imported} is no layer: import from the module that defines it"
            assert below == layer or HEIGHT[below] < HEIGHT[layer], f"imports {imported}, which is above it"
        else:
            assert top not in HEAVY - LAYERS[layer], f"imports {imported}"


def test_the_drawing_has_every_part_above_what_it_imports() -> None:
    level = drawing.heights(edges := drawing.imports())
    assert all(level[part] > level[other] for part, others in edges.items() for other in others)
    drawn = drawing.draw()
    assert all(f">{part}<" in drawn for part in drawing.PARTS)


def test_the_check_sees_every_form_of_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "lse_stream" / "_kernel" / "sample.py"
    source.parent.mkdir(parents=True)
    source.write_text(
        "import os.path, numpy as np\nfrom . import sums\nfrom ..table_functions import merge_states\n"
        "from ..beam import coders\ndef late():\n    from lse_stream.keys import sort_by_keys\n"
    )
    monkeypatch.setattr(drawing, "ROOT", tmp_path)
    assert set(imports_of(source)) == {
        "os.path",
        "numpy",
        "lse_stream._kernel.sums",
        "lse_stream.table_functions.merge_states",
        "lse_stream.beam.coders",
        "lse_stream.keys.sort_by_keys",
    }
    assert module_of(source) == "lse_stream._kernel.sample"


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("lse_stream", "apache_beam"),
        ("lse_stream.accumulators", "apache_beam"),
        ("lse_stream.accumulators", "pyarrow"),
        ("lse_stream.table_functions", "apache_beam"),
        *((f"lse_stream.adapters.{engine}", engine) for engine in ("pandas", "polars", "duckdb", "datafusion")),
    ],
)
def test_lower_layers_load_nothing_heavier(module: str, unwanted: str) -> None:
    program = f"import sys, {module}; sys.exit({unwanted!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0

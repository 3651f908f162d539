"""The parts of the code and what imports what, drawn from the code itself."""

import ast
from collections.abc import Iterator
from html import escape
from pathlib import Path

ROOT = Path(__file__).parent.parent

# The parts, by the packages and modules that they are made of.
PARTS = {
    "programs": ["pipelines"],
    "Beam": ["lse_stream.beam", "lse_stream.testing"],
    "local engine": ["lse_stream.local"],
    "plan": ["lse_stream.plan"],
    "adapters to other engines": ["lse_stream.adapters"],
    "Parquet": ["lse_stream.parquet"],
    "steps of programs": [
        *("lse_stream.observations", "lse_stream.layouts", "lse_stream.losses", "lse_stream.model_comparison"),
        *("lse_stream.keyed_softmax", "lse_stream.sessions", "lse_stream.table_functions"),
    ],
    "tables": [
        *("lse_stream.keys", "lse_stream.reduction", "lse_stream.state_column", "lse_stream.state_table"),
        *("lse_stream.key_accumulators", "lse_stream.look_up", "lse_stream.messages", "lse_stream.event_times"),
        *("lse_stream.predicates", "lse_stream.coarsening"),
    ],
    "single states, arrays, lists": [
        "lse_stream.accumulators",
        "lse_stream.functions",
        "lse_stream.list_functions",
    ],
    "states": ["lse_stream.states", "lse_stream.scales", "lse_stream.integers"],
    "memory, numbers, files": [
        *("lse_stream.buffers", "lse_stream.columns", "lse_stream.float64", "lse_stream.files", "lse_stream.errors"),
    ],
    "kernel": ["lse_stream._kernel"],
}
WIDTH, HEIGHT, GAP_X, GAP_Y = 210, 58, 30, 46


def part_of(module: str) -> str | None:
    """The part that a module belongs to."""
    for part, members in PARTS.items():
        if any(module == member or module.startswith(member + ".") for member in members):
            return part
    return None


def module_of(path: Path) -> str:
    """The name of the module in a source file."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports_of(path: Path) -> Iterator[str]:
    """Full names of what a source file imports, wherever in it: ``from a import b`` gives ``a.b``."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            yield from (".".join([*base, *filter(None, [node.module]), alias.name]) for alias in node.names)


def imports() -> dict[str, set[str]]:
    """Of each part, the others that it imports from."""
    found: dict[str, set[str]] = {part: set() for part in PARTS}
    for path in [*ROOT.glob("lse_stream/**/*.py"), *ROOT.glob("pipelines/**/*.py")]:
        part = part_of(module_of(path))
        if part is not None:
            found[part] |= {other for name in imports_of(path) if (other := part_of(name)) not in (None, part)}
    return found


def reduced(edges: dict[str, set[str]]) -> dict[str, set[str]]:
    """Without what follows from other imports."""

    def below(part: str) -> set[str]:
        return edges[part].union(*(below(other) for other in edges[part]))

    return {part: others - set().union(*(below(other) for other in others)) for part, others in edges.items()}


def heights(edges: dict[str, set[str]]) -> dict[str, int]:
    """How many parts are below each, at most."""
    found: dict[str, int] = {}

    def height(part: str) -> int:
        if part not in found:
            found[part] = 1 + max(map(height, edges[part]), default=-1)
        return found[part]

    for part in edges:
        height(part)
    return found


def draw() -> str:
    """The drawing, as SVG: an arrow leads from a part to what it imports."""
    edges = imports()
    level = heights(edges)
    rows = [[part for part in edges if level[part] == i] for i in range(max(level.values()), -1, -1)]
    width = max(map(len, rows)) * (WIDTH + GAP_X) + GAP_X
    places: dict[str, tuple[float, float]] = {}
    for i, row in enumerate(rows):
        left = (width - len(row) * (WIDTH + GAP_X) + GAP_X) / 2
        places |= {part: (left + j * (WIDTH + GAP_X), GAP_Y / 2 + i * (HEIGHT + GAP_Y)) for j, part in enumerate(row)}
    height = len(rows) * (HEIGHT + GAP_Y)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">',
        '<marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L10 5L0 10z" fill="#607d8b"/></marker>',
    ]
    for part, others in reduced(edges).items():
        x, y = places[part]
        for other in sorted(others):
            to_x, to_y = places[other]
            lines.append(
                f'<path d="M{x + WIDTH / 2} {y + HEIGHT}C{x + WIDTH / 2} {y + HEIGHT + GAP_Y} {to_x + WIDTH / 2} '
                f'{to_y - GAP_Y} {to_x + WIDTH / 2} {to_y}" fill="none" stroke="#607d8b" marker-end="url(#tip)"/>'
            )
    for part, (x, y) in places.items():
        names = [member.removeprefix("lse_stream.") for member in PARTS[part]]
        shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
        lines += [
            f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="6" fill="#eceff1" stroke="#607d8b"/>',
            f'<text x="{x + WIDTH / 2}" y="{y + 24}" text-anchor="middle" font-size="15" fill="#263238">'
            f"{escape(part)}</text>",
            f'<text x="{x + WIDTH / 2}" y="{y + 44}" text-anchor="middle" font-size="10" fill="#455a64">'
            f"{escape(shown)}</text>",
        ]
    return "\n".join([*lines, "</svg>"])

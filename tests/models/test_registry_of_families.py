"""How families are laid out: each on its own, all of them found."""

import ast
from pathlib import Path

import pytest

from jaxmodels.models import families, readers
from jaxmodels.models.families import FAMILIES

MODULES = sorted(Path(families.__file__).parent.glob("[a-z]*.py"))
READERS = sorted(Path(readers.__file__).parent.glob("[a-z]*.py"))


def imported(path):
    """The dotted names that a file imports, with those of the members taken from a package."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{'.' * node.level}{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", [*MODULES, *READERS], ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_no_family_is_imported_by_another_or_by_what_families_share(path):
    siblings = [n for n in imported(path) if n.startswith((".", "jaxmodels.models.families"))]
    assert siblings == []


def test_every_module_holds_a_family_and_every_family_is_found():
    text = {path.stem: path.read_text(encoding="utf-8") for path in MODULES}
    assert [name for name, source in text.items() if "\nFAMILY = Family(" not in source] == []
    lines = [line for source in text.values() for line in source.splitlines()]
    types = [line.split('"')[1] for line in lines if line.startswith('    model_type="')]
    assert len(types) == len(set(types))
    assert set(types) <= FAMILIES.keys()

import re

from configurations import ELSEWHERE
from families_table import DOCUMENT, document

import jaxmodels as jm


def test_the_committed_document_is_what_the_script_writes():
    assert DOCUMENT.read_text("utf-8") == document(), "run `python tests/families_table.py`"


def test_every_family_has_a_row():
    rows = re.findall(r"^\| `([^`]+)` \|", DOCUMENT.read_text("utf-8"), re.MULTILINE)
    assert rows == ["model_type", *jm.list_families()]


def test_layouts_without_transformers_have_tests_of_their_own():
    for family, module in ELSEWHERE.items():
        assert family in (DOCUMENT.parent.parent / "tests" / "models" / module).read_text("utf-8")

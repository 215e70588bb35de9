import ast

import pytest

from jaxmodels.training.edits_corpus import edits, write_edits

SOURCE = '''
class Shelf:
    def add(self, book):
        """Puts a book on the shelf."""
        books = self.books
        books.append(book)
        return len(books)

def short(): return 1
'''


def test_an_edit_is_a_function_and_the_same_with_one_name_changed(tmp_path):
    path = tmp_path / "shelf.py"
    path.write_text(SOURCE)
    (edit,) = edits([path])
    before, _, after = (edit.prompt + edit.answer).partition("\n\n\n# The same with ")
    asked, _, renamed = after.partition(":\n")
    new, old = asked.split(" for ")
    assert before.startswith("def add(self, book):\n")
    assert old in before and new not in before and new in renamed
    assert renamed.rstrip("\n").replace(new, old) == before
    ast.parse(renamed)


def test_the_same_files_give_the_same_edits_and_those_without_python_none(tmp_path):
    path, broken = tmp_path / "shelf.py", tmp_path / "broken.py"
    path.write_text(SOURCE)
    broken.write_text("def f(:\n")
    assert list(edits([path, broken])) == list(edits([broken, path]))


@pytest.mark.sweep
def test_both_halves_of_the_library_are_written(tmp_path):
    write_edits(tmp_path, 3)
    for half in ("train", "held-out"):
        assert len(list((tmp_path / half).iterdir())) == 3

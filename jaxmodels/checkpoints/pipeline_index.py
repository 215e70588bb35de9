"""The file that marks a directory as a model of several components, for those who need to know no more."""

from pathlib import Path

INDEX_FILE = "model_index.json"


def is_pipeline(directory: Path) -> bool:
    """Whether a directory holds a model of several components."""
    return directory.is_dir() and (directory / INDEX_FILE).is_file()

"""The files that make a tokenizer, by name."""

from pathlib import Path

from jaxmodels.checkpoints.chat_templates import TEMPLATE_FILE, TEMPLATE_JSON_FILE, TEMPLATES_DIRECTORY
from jaxmodels.checkpoints.files import read_text
from jaxmodels.checkpoints.special_tokens import ADDED_TOKENS_FILE, CONFIG_FILE, SPECIAL_TOKENS_FILE

TOKENIZER_FILE = "tokenizer.json"
_FILES = (
    TOKENIZER_FILE,
    CONFIG_FILE,
    SPECIAL_TOKENS_FILE,
    ADDED_TOKENS_FILE,
    TEMPLATE_FILE,
    TEMPLATE_JSON_FILE,
)


def read_tokenizer_files(directory: Path) -> dict[str, str]:
    """Text of each file that there is, by path relative to the directory.

    Raises:
        CheckpointError: a file cannot be read as UTF-8 text.
    """
    templates = sorted((directory / TEMPLATES_DIRECTORY).glob("*.jinja"))
    names = [*_FILES, *(f"{TEMPLATES_DIRECTORY}/{path.name}" for path in templates)]
    return {name: read_text(directory / name) for name in names if (directory / name).is_file()}

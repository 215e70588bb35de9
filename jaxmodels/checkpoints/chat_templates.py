"""Where a checkpoint keeps its chat templates: Jinja files of their own, or strings in its JSON files."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.token_inputs import check_text
from jaxmodels.checks import shown

TEMPLATE_FILE = "chat_template.jinja"
TEMPLATE_JSON_FILE = "chat_template.json"
TEMPLATES_DIRECTORY = "additional_chat_templates"
DEFAULT = "default"
TOOL_USE = "tool_use"


def read_chat_templates(
    texts: Mapping[str, str], configs: Mapping[str, Mapping[str, Any]], directory: Path
) -> dict[str, str]:
    """Chat templates by name.

    Files of their own win over those in JSON files, all together, as in `transformers`: `TEMPLATE_FILE` holds
    the usual one, "default", and `TEMPLATES_DIRECTORY` the others by file name.

    Args:
        texts: the checkpoint's text files by path.
        configs: its JSON files that may hold "chat_template", by name, the most telling first.
        directory: where they are, for messages.

    Raises:
        CheckpointError: an entry "chat_template" is not what it should be.
    """
    own = {DEFAULT: texts[TEMPLATE_FILE]} if TEMPLATE_FILE in texts else {}
    for name, text in texts.items():
        path = PurePosixPath(name)
        if path.parent.name == TEMPLATES_DIRECTORY and path.suffix == ".jinja":
            own[path.stem] = text
    if own:
        return own
    for file, config in configs.items():
        if (value := config.get("chat_template")) is not None:
            return _from_json(value, directory / file)
    return {}


def choose_template(templates: Mapping[str, str], wanted: str | None, *, for_tools: bool) -> tuple[str, str]:
    """Name and source of the template for a conversation.

    Args:
        templates: sources by name.
        wanted: a name, or a Jinja source of one's own; None for the usual one.
        for_tools: take "tool_use", where there is one, for the usual one.

    Raises:
        CheckpointError: there is no such template.
    """
    if wanted is None:
        wanted = TOOL_USE if for_tools and TOOL_USE in templates else DEFAULT
    if wanted in templates:
        return wanted, templates[wanted]
    if "{{" in wanted or "{%" in wanted:
        return "given with the call", wanted
    raise CheckpointError(
        f"this tokenizer has no chat template {wanted!r}, only {sorted(templates)}; "
        f"encode a prompt instead, give a Jinja source, or load it with a {TEMPLATE_FILE}"
    )


def _from_json(value: Any, file: Path) -> dict[str, str]:
    entries = [{"name": DEFAULT, "template": value}] if isinstance(value, str) else value
    found = {}
    for entry in entries if isinstance(entries, list) else [None]:
        match entry:
            case {"name": str(name), "template": str(template)}:
                found[name] = template
            case _:
                raise CheckpointError(
                    f"{file}: chat_template is {shown(value)}; it must be a string or a list of objects with "
                    "'name' and 'template'"
                )
        try:
            check_text(template, f"{file}: chat_template {name!r}")
        except ValueError as error:
            raise CheckpointError(str(error)) from error
    return found

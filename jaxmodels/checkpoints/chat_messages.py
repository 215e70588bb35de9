"""Messages of a conversation in the form that chat templates read.

Templates differ in which of several names they read a model's reasoning from, and in whether the arguments of
a tool call are JSON text, as in OpenAI's API, or a mapping, as in most templates on the Hugging Face hub.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.token_inputs import check_text
from jaxmodels.checks import shown

Message: TypeAlias = Mapping[str, Any]

REASONING = ("reasoning_content", "thinking", "reasoning")
_TAG = "CONTINUE_FINAL_MESSAGE_TAG "


class ToolArguments(str):
    """JSON text of a tool call's arguments that a template can also read as the mapping that it stands for.

    It is the text itself where a template joins or writes it; `tojson` writes the mapping, and its items can
    be looked up and gone over.
    """

    def __new__(cls, text: str, values: Mapping[str, Any]) -> "ToolArguments":
        made = super().__new__(cls, text)
        made.values_by_name = dict(values)
        return made

    values_by_name: dict[str, Any]

    def __getitem__(self, key: Any) -> Any:
        return self.values_by_name[key] if isinstance(key, str) else super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        """The value of one argument."""
        return self.values_by_name.get(key, default)

    def keys(self) -> Iterable[str]:
        """Names of the arguments."""
        return self.values_by_name.keys()

    def values(self) -> Iterable[Any]:
        """Values of the arguments."""
        return self.values_by_name.values()

    def items(self) -> Iterable[tuple[str, Any]]:
        """Names and values of the arguments."""
        return self.values_by_name.items()


def plain(value: Any, name: str) -> Any:
    """A copy made of JSON types only: a template must not reach the methods of the caller's objects.

    Raises:
        CheckpointError: it holds something else, or itself.
        ValueError: it holds half of a surrogate pair; the message says where.
    """
    try:
        copy = json.loads(json.dumps(value))
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{name} must hold only strings, numbers, lists and mappings: {error}"
        ) from error
    waiting = [(name, copy)]
    while waiting:
        path, part = waiting.pop()
        if isinstance(part, str):
            check_text(part, path)
        elif isinstance(part, list):
            waiting += [(f"{path}[{at}]", item) for at, item in enumerate(part)]
        elif isinstance(part, dict):
            waiting += [(f"{path}[{key!r}]", item) for key, item in part.items()]
            waiting += [(f"a key of {path}", key) for key in part]
    return copy


def prepared(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Copies of the messages, without what is None, with reasoning and arguments under all their names.

    Raises:
        CheckpointError: there is no message, or one is not a mapping with "role", or cannot be copied.
        ValueError: a text has half of a surrogate pair.
    """
    if isinstance(messages, str | Mapping) or not isinstance(messages, Sequence):
        raise CheckpointError(f"messages must be a list of mappings, got {shown(messages)}")
    if not messages:
        raise CheckpointError("messages is empty; give at least one message")
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping) or "role" not in message:
            raise CheckpointError(
                f"messages[{number}] is {shown(message)}; it must be a mapping with 'role' and 'content'"
            )
    given = [{key: value for key, value in message.items() if value is not None} for message in messages]
    return [_with_arguments(_with_reasoning(message)) for message in plain(given, "messages")]


def _with_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    """The reasoning under each of its names; what the caller gave under one of them stays."""
    given = [message[name] for name in REASONING if name in message]
    return dict.fromkeys(REASONING, given[0]) | message if given else message


def _with_arguments(message: dict[str, Any]) -> dict[str, Any]:
    for call in message.get("tool_calls") or []:
        function = call.get("function", call) if isinstance(call, dict) else None
        if isinstance(function, dict) and isinstance(function.get("arguments"), str):
            function["arguments"] = _arguments(function["arguments"])
    return message


def _arguments(text: str) -> str:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return ToolArguments(text, values) if isinstance(values, dict) else text


def mark_end(message: dict[str, Any], key: str) -> str:
    """Marks the end of the text that is to be continued, in place, and returns the text.

    Raises:
        CheckpointError: the message has no text there.
    """
    text = message.get(key)
    if isinstance(text, list):  # parts: the last one with text
        parts = [part for part in text if isinstance(part, dict) and isinstance(part.get("text"), str)]
        if parts:
            text, parts[-1]["text"] = parts[-1]["text"], parts[-1]["text"] + _TAG
            return text
    if not isinstance(text, str):
        raise CheckpointError(
            f"continue_final_message: the last message needs text under {key!r}, got {shown(text)}"
        )
    names = [name for name in REASONING if message.get(name) == text] if key in REASONING else [key]
    message.update(dict.fromkeys(names, text + _TAG))
    return text


def cut_at_end(rendered: str, text: str) -> str:
    """What a template wrote up to the end of the text that is to be continued.

    Raises:
        CheckpointError: the template left the text out, or changed it.
    """
    place = rendered.rfind(_TAG.strip())
    if place < 0 or text.strip() not in rendered:
        raise CheckpointError(
            "continue_final_message: the chat template does not write the last message's text as it is, so "
            f"that it cannot be continued: {shown(text)}"
        )
    trimmed = rendered[place : place + len(_TAG)] != _TAG  # the template trims messages
    return rendered[:place].rstrip() if trimmed else rendered[:place]

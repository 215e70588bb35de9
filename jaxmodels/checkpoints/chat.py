"""Chat templates: messages to the text that a model was trained on.

Templates are Jinja programs that come with a checkpoint, so they run in a sandbox with bounded work. The
environment follows the conventions that templates on the Hugging Face hub are written for
(https://huggingface.co/docs/transformers/chat_templating).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

import jinja2

from jaxmodels.checkpoints.chat_messages import (
    Message,
    ToolArguments,
    cut_at_end,
    mark_end,
    plain,
    prepared,
)
from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.template_costs import MOST_TEXT, TooMuch
from jaxmodels.checkpoints.template_sandbox import BoundedEnvironment
from jaxmodels.checkpoints.token_inputs import check_text

_MOST_WORDS = 2000  # of a template's own error message


def render_chat(
    template: str,
    messages: Sequence[Message],
    *,
    name: str = "default",
    add_generation_prompt: bool = True,
    continue_final_message: bool | str = False,
    tools: Sequence[Mapping[str, Any]] | None = None,
    documents: Sequence[Mapping[str, Any]] | None = None,
    variables: Mapping[str, Any] | None = None,
) -> str:
    """Renders a conversation.

    Text in `messages` goes into the result as it is: a message that contains the text of a control token
    contains that token once encoded. A message's reasoning may be given as "reasoning_content", "thinking" or
    "reasoning": the template finds it under each of them. The arguments of a tool call may be JSON text or a
    mapping: of text, a template can read both.

    Args:
        template: the Jinja source.
        messages: each a mapping with "role" and usually "content"; keys whose value is None are left out, as
            templates expect.
        name: of the template, for error messages.
        add_generation_prompt: end with the header of the assistant's next message.
        continue_final_message: end with the last message's text instead, without a header or an end of turn,
            so that the model goes on with it; or the key of the text to end with, such as "thinking".
        tools: JSON schemas of the functions that the model may call.
        documents: for templates that answer from documents; each usually with "title" and "text".
        variables: further names that the template may use, such as the special tokens ("bos_token") or its
            own switches ("enable_thinking").

    Raises:
        CheckpointError: `messages` is empty or has a message without a role, the template is not valid, asks
            for too much, or rejects the messages; the message names the template and its line.
        ValueError: a text has half of a surrogate pair.
    """
    conversation = prepared(messages)
    key = "content" if continue_final_message is True else continue_final_message
    ending = mark_end(conversation[-1], key) if key else None
    values = plain(dict(variables or {}), "variables") | {
        "messages": conversation,
        "tools": None if tools is None else plain(tools, "tools"),
        "documents": None if documents is None else plain(documents, "documents"),
        "add_generation_prompt": add_generation_prompt and ending is None,
    }
    check_text(template, f"chat template {name!r}")
    text = _rendered(template, name, values)
    return text if ending is None else cut_at_end(text, ending)


def _rendered(template: str, name: str, values: dict[str, Any]) -> str:
    try:
        compiled = _compile(template)
    except jinja2.TemplateSyntaxError as error:
        raise CheckpointError(
            f"chat template {name!r} is not valid Jinja: line {error.lineno}: {error.message}"
        ) from error
    except Exception as error:  # nested too deeply, with too long a number, ...
        raise CheckpointError(f"chat template {name!r} cannot be compiled: {_words(error)}") from error
    try:
        return _environment().render(compiled, values)
    except Exception as error:  # a template can provoke any
        fault = "asks for too much" if isinstance(error, TooMuch) else "rejects these messages"
        raise CheckpointError(f"chat template {name!r}{_line(error)} {fault}: {_words(error)}") from error


def _line(error: Exception) -> str:
    """The line of the template in which an error came up, where that is known."""
    line, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return "" if line is None else f", line {line},"


def _words(error: Exception) -> str:
    words = str(error) if isinstance(error, jinja2.TemplateError) else f"{error or type(error).__name__}"
    return words[:_MOST_WORDS]


@lru_cache(maxsize=1)
def _environment() -> BoundedEnvironment:
    environment = BoundedEnvironment()
    environment.add_filter("tojson", _to_json)
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


@lru_cache(maxsize=32)
def _compile(template: str) -> jinja2.Template:
    return _environment().from_string(template)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes for HTML, which would put `\\u003c` where models expect `<`."""
    if isinstance(value, ToolArguments):
        value = value.values_by_name
    encoder = json.JSONEncoder(
        ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
    return "".join(_bounded(encoder.iterencode(value)))


def _bounded(pieces: Iterator[str]) -> Iterator[str]:
    """The pieces of a text; indentation can make much of little, so they are counted as they come."""
    length = 0
    for piece in pieces:
        length += len(piece)
        if length > MOST_TEXT:
            raise TooMuch(f"it writes JSON of more than {MOST_TEXT} characters")
        yield piece


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)

"""Chat templates: messages to the text that a model was trained on.

Templates are Jinja programs that come with a checkpoint, so they run in Jinja's immutable sandbox. The
environment follows the conventions that templates on the Hugging Face hub are written for
(https://huggingface.co/docs/transformers/chat_templating).
"""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from jaxmodels.checkpoints.errors import CheckpointError

Message = Mapping[str, Any]


class _Generation(Extension):
    """`{% generation %} ... {% endgeneration %}`, which marks the assistant's words: renders its body."""

    tags = {"generation"}  # noqa: RUF012 - the type that jinja2 declares

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


def render_chat(
    template: str,
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool = True,
    tools: Sequence[Mapping[str, Any]] | None = None,
    variables: Mapping[str, Any] | None = None,
) -> str:
    """Renders a conversation.

    Text in `messages` goes into the result as it is: a message that contains the text of a control token
    contains that token once encoded.

    Args:
        template: the Jinja source.
        messages: each a mapping with "role" and usually "content"; keys whose value is None are left out, as
            templates expect.
        add_generation_prompt: end with the header of the assistant's next message.
        tools: JSON schemas of the functions that the model may call.
        variables: further names that the template may use, such as the special tokens ("bos_token") or its
            own switches ("enable_thinking").

    Raises:
        CheckpointError: `messages` is empty or has a message without a role, the template is not valid, or it
            rejects the messages; the last two carry the template's own words.
    """
    if not messages:
        raise CheckpointError("messages is empty; give at least one message")
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping) or "role" not in message:
            raise CheckpointError(
                f"messages[{number}] is {message!r}; it must be a mapping with 'role' and 'content'"
            )
    plain = [{key: value for key, value in message.items() if value is not None} for message in messages]
    try:
        compiled = _compile(template)
    except jinja2.TemplateSyntaxError as error:
        raise CheckpointError(
            f"the chat template is not valid Jinja: line {error.lineno}: {error}"
        ) from error
    try:
        return compiled.render(
            dict(variables or {})
            | {
                "messages": _plain(plain, "messages"),
                "tools": None if tools is None else _plain(tools, "tools"),
                "add_generation_prompt": add_generation_prompt,
            }
        )
    except (jinja2.TemplateError, TypeError, ArithmeticError, LookupError) as error:
        raise CheckpointError(f"the chat template rejects these messages: {error}") from error


def _plain(value: Any, what: str) -> Any:
    """A copy made of JSON types only: a template must not reach the methods of the caller's objects."""
    try:
        return json.loads(json.dumps(value))
    except TypeError as error:
        raise CheckpointError(
            f"{what} must hold only strings, numbers, lists and mappings: {error}"
        ) from error


@lru_cache(maxsize=32)
def _compile(template: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation]
    )
    environment.filters["tojson"] = _to_json
    names: dict[str, Callable[..., Any]] = {
        "raise_exception": _raise_exception,
        "strftime_now": _strftime_now,
    }
    environment.globals.update(names)
    return environment.from_string(template)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes for HTML, which would put `\\u003c` where models expect `<`."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)

"""Chat templates render as transformers renders them, in a sandbox, with errors that name the message."""

import json
from typing import Any

import pytest
import tokenizers

from jaxmodels.checkpoints.chat import render_chat
from jaxmodels.checkpoints.errors import CheckpointError

CHATML = """
{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

LLAMA_LIKE = """
{% set ns = namespace(count=0) %}
{{ bos_token }}{% if tools %}
Tools:
  {% for tool in tools %}
    {{ tool | tojson }}{{ "," if not loop.last }}
  {% endfor %}
{% endif %}
{% for message in messages %}
  {% if message.role == 'system' and not loop.first %}{{ raise_exception('system first') }}{% endif %}
  {% if message.role == 'skip' %}{% continue %}{% endif %}
  {% set ns.count = ns.count + 1 %}
[{{ ns.count }}:{{ message.role }}] {{ message['content'] }}
  {% if message.tool_calls is defined %}calls {{ message.tool_calls | tojson(indent=2) }}{% endif %}
{% endfor %}
{% if add_generation_prompt %}[assistant]{% endif %}
"""

GENERATION = """
{%- for message in messages %}
{%- if message['role'] == 'assistant' %}
{%- generation %}<a>{{ message['content'] }}{{ eos_token }}{%- endgeneration %}
{%- elif message['content'] is string %}<u>{{ message['content'] }}
{%- else %}
{%- for part in message['content'] %}{{ part.text }}{%- if loop.index > 2 %}{% break %}{%- endif %}
{%- endfor %}
{%- endif %}
{%- endfor %}
{%- if enable_thinking is defined and enable_thinking %}<think>{%- endif %}
"""

TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"city": "a < b & 'ü'"}}}
CALL = [{"function": {"name": "weather", "arguments": {"city": "Zürich"}}}]
CONVERSATIONS = [
    [{"role": "user", "content": " hello <there> "}],
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": '1 < 2 & "so"\n\n'},
        {"role": "skip", "content": "not shown"},
        {"role": "assistant", "content": "Yes.", "tool_calls": None},
        {"role": "user", "content": "日本語 🙂"},
    ],
    [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "", "tool_calls": CALL},
        {"role": "tool", "content": "rain"},
    ],
]
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}


@pytest.mark.parametrize("template", [CHATML, LLAMA_LIKE, GENERATION], ids=["chatml", "llama", "generation"])
@pytest.mark.parametrize("messages", CONVERSATIONS, ids=["one", "many", "tools"])
@pytest.mark.parametrize("prompt", [True, False])
def test_matches_transformers(template: str, messages: list[dict[str, object]], prompt: bool) -> None:
    switches = {"tools": [TOOL], "add_generation_prompt": prompt}
    expected = reference().apply_chat_template(
        messages, chat_template=template, tokenize=False, enable_thinking=True, **switches
    )
    variables = SPECIAL | {"enable_thinking": True}
    assert render_chat(template, messages, variables=variables, **switches) == expected


def test_what_chatml_looks_like() -> None:
    messages = [{"role": "user", "content": " hi "}]
    assert render_chat(CHATML, messages) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


def test_parts_break_and_dates() -> None:
    parts = [{"type": "text", "text": letter} for letter in "abcde"]
    assert render_chat(GENERATION, [{"role": "user", "content": parts}]) == "abc"
    assert len(render_chat("{{ strftime_now('%Y-%m-%d') }}", [{"role": "user"}])) == 10


def reference() -> Any:
    transformers = pytest.importorskip("transformers")
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<s>": 0, "</s>": 1}, unk_token="<s>"))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **SPECIAL)


REASONING = """
{%- for m in messages -%}
[{{ m.role }}]{% if m.FIELD is defined %}<think>{{ m.FIELD }}</think>{% endif %}{{ m.content }}</s>
{%- endfor -%}
{%- if add_generation_prompt %}[assistant]{% endif -%}
"""


@pytest.mark.parametrize("given", ["reasoning_content", "thinking", "reasoning"])
@pytest.mark.parametrize("read", ["reasoning_content", "thinking"])
def test_reasoning_is_found_under_each_name(given: str, read: str) -> None:
    template = REASONING.replace("FIELD", read)
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", given: "because", "content": "b"}]
    expected = reference().apply_chat_template(messages, chat_template=template, tokenize=False)
    assert render_chat(template, messages, add_generation_prompt=False) == expected
    assert "<think>because</think>" in expected
    assert render_chat(template.replace(read, "reasoning"), messages, add_generation_prompt=False) == expected


def test_reasoning_that_was_given_stays() -> None:
    message = {"role": "assistant", "content": "b", "thinking": "first", "reasoning_content": "second"}
    template = "{{ messages[0].thinking }} {{ messages[0].reasoning_content }}"
    assert render_chat(template, [message]) == "first second"
    assert message.keys() == {"role", "content", "thinking", "reasoning_content"}


@pytest.mark.parametrize("template", [CHATML, REASONING.replace("FIELD", "thinking")], ids=["trims", "keeps"])
@pytest.mark.parametrize(
    ("message", "key"),
    [
        ({"content": "The answer is"}, True),
        ({"content": "The answer is \n"}, "content"),
        ({"content": "b", "reasoning_content": "because "}, "reasoning_content"),
        ({"content": "b", "reasoning": "because"}, "thinking"),
    ],
)
def test_continues_the_final_message_as_transformers_does(
    template: str, message: dict[str, str], key: bool | str
) -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", **message}]
    try:
        expected = reference().apply_chat_template(
            messages, chat_template=template, tokenize=False, continue_final_message=key
        )
    except ValueError:
        with pytest.raises(CheckpointError, match="continue_final_message: the chat template does not write"):
            render_chat(template, messages, continue_final_message=key)
        return
    assert render_chat(template, messages, continue_final_message=key) == expected


def test_continues_the_last_part_with_text() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b "}, {"type": "image"}]
    assert render_chat(GENERATION, [{"role": "user", "content": parts}], continue_final_message=True) == "ab "
    with pytest.raises(CheckpointError, match="the last message needs text under 'content', got 3"):
        render_chat(CHATML, [{"role": "user", "content": 3}], continue_final_message=True)


def test_documents_reach_the_template_as_in_transformers() -> None:
    template = "{% if documents %}{% for d in documents %}{{ d.title }}: {{ d.text }};{% endfor %}{% endif %}"
    documents = [{"title": "t", "text": "x"}, {"title": "u", "text": "y"}]
    for given in (documents, None):
        expected = reference().apply_chat_template(
            CONVERSATIONS[0], chat_template=template, tokenize=False, documents=given
        )
        assert render_chat(template, CONVERSATIONS[0], documents=given) == expected


ARGUMENTS = {
    "tojson": "{{ a | tojson }}",  # Qwen 2.5, Llama 3.1
    "text where it is text": "{% if a is string %}{{ a }}{% else %}{{ a | tojson }}{% endif %}",  # Qwen 3
    "joined": "{{ '```json\n' + a + '\n```' }}",  # DeepSeek
    "items": "{% for k, v in a.items() %}<{{ k }}>{{ v | string }}</{{ k }}>{% endfor %}",  # GLM, MiniMax
    "looked up": "{{ a['city'] }}{{ a.get('city') }}{{ a.get('other', 'none') }}",
}


@pytest.mark.parametrize(
    ("name", "as_text", "as_mapping"),
    [
        ("tojson", '{"city": "Zürich"}', '{"city": "Zürich"}'),
        ("text where it is text", '{"city":"Zürich"}', '{"city": "Zürich"}'),
        ("joined", '```json\n{"city":"Zürich"}\n```', None),
        ("items", "<city>Zürich</city>", "<city>Zürich</city>"),
        ("looked up", "ZürichZürichnone", "ZürichZürichnone"),
    ],
)
def test_arguments_of_tool_calls_as_text_or_mapping(name: str, as_text: str, as_mapping: str | None) -> None:
    template = "{% set a = messages[0].tool_calls[0].function.arguments %}" + ARGUMENTS[name]

    def render(arguments: object) -> str:
        calls = [{"function": {"name": "weather", "arguments": arguments}}]
        return render_chat(template, [{"role": "assistant", "tool_calls": calls}])

    assert render('{"city":"Zürich"}') == as_text
    if as_mapping is None:
        with pytest.raises(CheckpointError, match="can only concatenate str"):
            render({"city": "Zürich"})
    else:
        assert render({"city": "Zürich"}) == as_mapping


def test_text_without_a_utf8_form_is_named_by_its_place() -> None:
    half = "ab\ud800"
    with pytest.raises(
        ValueError, match=r"messages\[0\]\['content'\] has half of a .*'\\ud800', at position 2"
    ):
        render_chat(CHATML, [{"role": "user", "content": half}])
    with pytest.raises(ValueError, match=r"tools\[0\]\['a'\]\[1\] has half"):
        render_chat(CHATML, CONVERSATIONS[0], tools=[{"a": ["b", half]}])
    with pytest.raises(ValueError, match=r"a key of variables has half"):
        render_chat(CHATML, CONVERSATIONS[0], variables={half: 1})
    with pytest.raises(ValueError, match="chat template 'default' has half"):
        render_chat(half, CONVERSATIONS[0])


def test_the_templates_refusal_is_passed_on() -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]
    with pytest.raises(CheckpointError, match="rejects these messages: system first"):
        render_chat(LLAMA_LIKE, messages)
    with pytest.raises(CheckpointError, match="'dict object' has no attribute 'content'"):
        render_chat("{{ messages[0].content.text }}", [{"role": "user", "content": None}])
    with pytest.raises(CheckpointError, match="rejects these messages: division by zero"):
        render_chat("{{ 1 / 0 }}", messages)


def test_refuses_bad_templates_and_messages() -> None:
    with pytest.raises(CheckpointError, match="not valid Jinja: line 2"):
        render_chat("\n{% for %}", [{"role": "user"}])
    with pytest.raises(CheckpointError, match="messages is empty"):
        render_chat(CHATML, [])
    with pytest.raises(CheckpointError, match=r"messages\[1\] is {'content': 'x'}"):
        render_chat(CHATML, [{"role": "user", "content": "x"}, {"content": "x"}])
    with pytest.raises(CheckpointError, match="messages must hold only strings"):
        render_chat(CHATML, [{"role": "user", "content": object()}])
    circle: list[object] = []
    circle.append(circle)
    with pytest.raises(CheckpointError, match=r"messages must hold only strings.*Circular"):
        render_chat(CHATML, [{"role": "user", "content": circle}])
    for wrong in ("hello", {"role": "user"}, None):
        with pytest.raises(CheckpointError, match="messages must be a list of mappings, got"):
            render_chat(CHATML, wrong)


@pytest.mark.parametrize(
    "attack",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ raise_exception.__globals__['json'] }}",
        "{{ messages.append(1) }}",
        "{% for i in range(10000000) %}{% endfor %}",
    ],
)
def test_templates_run_in_a_sandbox(attack: str) -> None:
    with pytest.raises(CheckpointError):
        render_chat(attack, [{"role": "user", "content": "x"}])


def test_tojson_keeps_text_as_it_is() -> None:
    rendered = render_chat("{{ tools | tojson }}", [{"role": "user"}], tools=[TOOL])
    assert rendered == json.dumps([TOOL], ensure_ascii=False)

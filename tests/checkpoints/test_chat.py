"""Chat templates render as transformers renders them, in a sandbox, with errors that name the message."""

import json

import pytest

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
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<s>": 0, "</s>": 1}, unk_token="<s>"))
    reference = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **SPECIAL)
    switches = {"tools": [TOOL], "add_generation_prompt": prompt}
    expected = reference.apply_chat_template(
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

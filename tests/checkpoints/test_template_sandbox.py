"""Templates that ask for too much are refused soon, whatever they ask for, and are named with their line."""

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from jaxmodels.checkpoints import template_costs
from jaxmodels.checkpoints.chat import render_chat
from jaxmodels.checkpoints.errors import CheckpointError

USER = [{"role": "user", "content": "x"}]
DOUBLING = "{% set a = 'ab' * 1000 %}" + "{% set a = A %}" * 40
LISTS = "{% set a = [1] %}" + "{% set a = [a, a] %}" * 60

TOO_MUCH = {
    "range": "{{ range(10 ** 9) | length }}{% for a in range(10**9) %}{% endfor %}",
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "loops without a body": (
        "{% for a in range(99999) %}{% for b in range(99999) if false %}{% endfor %}{% endfor %}"
    ),
    "recursive loop": "{% for a in range(9) recursive %}{{ loop(range(9)) }}{% endfor %}",
    "wide recursive loop": (
        "{% for a in range(99999) recursive %}{% if loop.depth < 3 %}{{ loop(range(99999)) }}{% endif %}"
        "{% endfor %}"
    ),
    "loop filters": "{% for a in range(99999) %}{% set b = range(99999) | list %}{% endfor %}",
    "lazy filters": "{% for a in range(999) %}{% set b = range(99999) | map('string') | first %}{% endfor %}",
    "macro calls": "{% macro m(n) %}{% if n %}{{ m(n-1) }}{{ m(n-1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "macro without end": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "blocks": "{% block b %}{{ self.b() }}{% endblock %}",
    "call blocks": "{% macro m() %}{{ caller() }}{{ caller() }}{% endmacro %}" + "{% call m() %}" * 15
    + "{{ 'a' * 9999 }}" + "{% endcall %}" * 15,
    "lipsum": "{{ lipsum(n=100000, html=false) }}",
    "product": "{{ 'a' * 10**9 }}",
    "product the other way": "{{ 10**9 * 'a' }}",
    "product of a list": "{{ ([0] * 10**9) | length }}",
    "product of a tuple": "{{ ((0, 1) * 10**9) | length }}",
    "power": "{{ 9 ** (9 ** 9) }}",
    "squares": "{% set n = namespace(a=9) %}{% for i in range(60) %}{% set n.a = n.a * n.a %}{% endfor %}",
    "sums of texts": DOUBLING.replace("A", "a + a"),
    "joined texts": DOUBLING.replace("A", "a ~ a"),
    "joined texts in a filter": DOUBLING.replace("A", "[a, a] | join"),
    "joined texts in a method": DOUBLING.replace("A", "''.join([a, a])"),
    "captured texts": "{% set a = 'ab' * 1000 %}" + "{% set a %}{{ a }}{{ a }}{% endset %}" * 40,
    "captured filter": "{% filter upper %}" + "{{ 'a' * 1000000 }}" * 30 + "{% endfilter %}",
    "growing namespace": (
        "{% set ns = namespace(a='ab') %}{% for i in range(99) %}{% set ns.a = ns.a ~ ns.a %}{% endfor %}"
    ),
    "lists of lists, written": LISTS + "{{ a }}",
    "lists of lists, as JSON": LISTS + "{{ a | tojson }}",
    "lists of lists, compared": LISTS + LISTS.replace("a", "b").replace("b =", "b =") + "{{ a == b }}",
    "lists of lists, tested": LISTS + "{% set b = [a, 1] %}{{ b is eq([a, 2]) }}",
    "lists of lists, as values": LISTS + "{{ {'a': a}.values() }}",
    "lists of lists, formatted": LISTS + "{{ '%s' % a }}",
    "lists of lists, formatted in a tuple": LISTS + "{{ '%s' % (a,) }}",
    "lists of lists, in format": LISTS + "{{ '{}'.format(a) }}",
    "lists of lists, as text": LISTS + "{{ a | string | length }}",
    "lists of lists, counted": LISTS + "{{ [a].count([a, 1]) }}",
    "lists of lists, printed": LISTS + "{{ a | pprint }}",
    "tuples of tuples as a key": "{% set a = (1,) %}" + "{% set a = (a, a) %}" * 60 + "{{ {a: 1}[a] }}",
    "a list in itself": "{% set ns = namespace() %}{% set ns.a = [ns] %}{% set ns.b = ns.a %}"
    + "{% for i in range(60) %}{% set ns.b = [ns.b, ns.b] %}{% endfor %}{{ ns.b }}",
    "width of %": "{{ '%1000000000d' % 1 }}",
    "precision of %": "{{ '%.1000000000f' % 1 }}",
    "width beside %": "{{ '%*d' % (1000000000, 1) }}",
    "named width of %": "{{ '%(a)1000000000d' % {'a': 1} }}",
    "width of the filter": "{{ '%1000000000d' | format(1) }}",
    "width of format": "{{ '{:1000000000}'.format(1) }}",
    "width of a width": "{{ '{:{}}'.format(1, 1000000000) }}",
    "width in format_map": "{{ '{a:1000000000}'.format_map({'a': 1}) }}",
    "fields of format": "{{ ('{0}' * 99999).format('a' * 1000000) }}",
    "center": "{{ 'a' | center(1000000000) }}",
    "center by name": "{{ 'a' | center(width=1000000000) }}",
    "center as a method": "{{ 'a'.center(1000000000) }}",
    "ljust": "{{ 'a'.ljust(1000000000) }}",
    "zfill": "{{ '1'.zfill(1000000000) }}",
    "expandtabs": "{{ '\t'.expandtabs(1000000000) }}",
    "translate": "{{ ('a' * 99999).translate({97: 'b' * 99999}) }}",
    "to_bytes": "{{ (1).to_bytes(1000000000, 'big') }}",
    "replace": "{{ ('a' * 99999) | replace('a', 'b' * 99999) }}",
    "replace by nothing": "{{ ('a' * 99999) | replace('', 'b' * 99999) }}",
    "replace as a method": "{{ ('a' * 99999).replace('a', 'b' * 99999) }}",
    "join": "{{ range(99999) | join('b' * 99999) }}",
    "join as a method": "{{ ('b' * 99999).join('a' * 99999) }}",
    "indent": "{{ ('a\n' * 99999) | indent(99999) }}",
    "replace of lists": LISTS + "{{ 'a'.replace(a, 'b') }}",
    "changed": LISTS + "{% for i in [[a, 1], [a, 2]] %}{{ loop.changed([a, loop.index]) }}{% endfor %}",
    "sum of lists": "{{ ([[1]] * 99999) | sum(start=[]) | length }}",
    "tags": "{{ ('<!---->' * 999999) | striptags }}",
    "tags as a method": "{{ (('<!---->' * 999999) | safe).striptags() }}",
    "punycode": "{{ ('é' * 999999).encode('punycode') }}",
    "bytes": "{{ '%1000000000d'.encode() % 1 }}",
    "links": "{{ ('((((' * 999999) | urlize }}",
    "indent of other lines": "{{ ('a\r' * 99999) | indent('b' * 99999) }}",
    "separators of JSON": "{{ range(9999) | list | tojson(separators=('a' * 99999, ':')) }}",
    "hexadecimal": "{{ ('0xf' ~ 'f' * 9999999) | int(base=16) }}",
    "indent by text": "{{ ('a\n' * 99999) | indent('b' * 99999) }}",
    "wordwrap": "{{ ('a ' * 99999) | wordwrap(1, wrapstring='b' * 99999) }}",
    "indented JSON": "{{ [1] | tojson(indent=1000000000) }}",
    "deep JSON": "{% set n = namespace(a=[1]) %}{% for i in range(400) %}{% set n.a = [n.a, 1] %}{% endfor %}"
    + "{{ ([n.a] * 2000) | tojson(indent=100) }}",
    "batch": "{{ [1] | batch(1000000000, 'a') | list }}",
    "slice": "{{ [1] | slice(1000000000) | list }}",
    "round": "{{ 1.5 | round(1000000000, 'floor') }}",
    "much output": "{% for i in range(99999) %}{{ 'a' * 1000 }}{% endfor %}",
    "long source": "a" * 2_000_000,
    "deep expression": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "deep blocks": "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
    "deep loops": "{% for a in [1] %}" * 40 + "{% endfor %}" * 40,
    "long number": "{{ " + "9" * 10_000 + " }}",
    "deep list": (
        "{% set n = namespace(a=[]) %}{% for i in range(5000) %}{% set n.a = [n.a] %}{% endfor %}{{ n.a }}"
    ),
    "include": "{% include 'other' %}",
}  # fmt: skip


@pytest.mark.parametrize("name", TOO_MUCH)
def test_refuses_what_asks_for_too_much(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_costs, "MOST_WORK", 50_000)  # the same refusals, sooner
    with pytest.raises(CheckpointError, match=r"chat template 'default'"):
        render_chat(TOO_MUCH[name], USER)


@pytest.mark.sweep
@pytest.mark.parametrize("name", TOO_MUCH)
def test_refuses_what_asks_for_too_much_at_the_usual_bound(name: str) -> None:
    with pytest.raises(CheckpointError, match=r"chat template 'default'"):
        render_chat(TOO_MUCH[name], USER)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "\n\n{{ 'a' * 10**9 }}",
            "'rag', line 3, asks for too much: it makes a text or list of length 1000000000",
        ),
        (
            "\n{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
            "'rag', line 2, asks",
        ),
        (
            "a\n{{ messages[0].content.x.y }}",
            "'rag', line 2, rejects these messages: 'str object' has no attr",
        ),
        (
            "{% macro m() %}\n{{ m() }}{% endmacro %}{{ m() }}",
            "'rag', line 2, rejects these messages: maximum rec",
        ),
        (
            "{{ ''.__class__ }}\n{{ ''.__class__.__mro__ }}",
            "'rag', line 2, rejects these messages: access to attr",
        ),
        ("a\nb\n{% endfor %}", "'rag' is not valid Jinja: line 3: Encountered unknown tag 'endfor'"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "'rag' cannot be compiled: maximum recursion depth"),
        ("{{ raise_exception('a' * 100000) }}", "'rag', line 1, rejects these messages: a{1000,2000}$"),
    ],
)
def test_names_the_template_and_the_line(template: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=f"^chat template {message}"):
        render_chat(template, USER, name="rag")


LARGE = """
{%- set ns = namespace(last=0, text='') -%}
{%- for m in messages -%}
  {%- if m.role == 'user' and not (m.content.startswith('<tool>') and m.content.endswith('</tool>')) -%}
    {%- set ns.last = loop.index0 -%}
  {%- endif -%}
{%- endfor -%}
{%- for m in messages -%}
  {%- if loop.index0 == messages | length - 1 or m is defined and m.content is string -%}
    {{- '<|im_start|>' + m.role + '\\n' + (m.content | trim) + '<|im_end|>\\n' -}}
  {%- endif -%}
  {%- if m.content.split('</think>')[-1].lstrip('\\n') != messages[-1].content -%}
    {%- set ns.text = m.content[:10] | replace('a', 'b') | upper -%}
  {%- endif -%}
{%- endfor -%}
{{- messages | selectattr('role', 'equalto', 'user') | list | length -}}
"""


@pytest.mark.parametrize(("count", "length"), [(2000, 200), (20, 100_000)], ids=["many", "long"])
def test_renders_large_conversations(count: int, length: int) -> None:
    messages = [
        {"role": "user", "content": f"{number} " + "word " * (length // 5)} for number in range(count)
    ]
    text = render_chat(LARGE, messages)
    assert len(text) > count * length
    assert text.endswith(str(count))


@pytest.mark.parametrize(
    "template",
    [
        "{{ 'a' | center(5) }}|{{ 'a'.center(3) }}|{{ 'a\\nb' | indent(2) }}",
        "{{ 'aXa' | replace('a', 'bb') }}|{{ (1, 2) }}|{{ {(1, 2): 3}[(1, 2)] }}",
        "{{ [1, 2] | join('-') }}|{{ [3, 1] | sort }}|{{ range(6) | batch(4) | list }}|{{ [1] * 2 }}",
        "{{ '%05.1f in 2024123456' % 2.5 }}|{{ '{:>4}'.format(7) }}|{{ '%s-%s' | format('a', 2) }}",
        "{{ messages | map(attribute='role') | list }}|{{ messages|selectattr('role', 'eq', 'user')|list }}",
        "{{ 2 ** 10 }}|{{ 7 % 3 }}|{{ 2 * 1.5 }}|{{ -1 }}|{{ 2 ** -1 }}|{{ true }}|{{ none }}|{{ missing }}|",
        "{{ {'a': 1}.items() | list }}|{{ [1, 2][1:] }}|{{ 1 is in([1]) }}",
        "{% for i in [1, 2] %}{{ loop.length }}{{ loop.revindex }}{{ loop.last }}{% endfor %}",
        "{% for i in [[1], [2, [3]]] recursive %}{{ loop(i) if i is iterable else i }}{% endfor %}",
        "{% for i in [1, 2, 3] if i % 2 %}{{ i }}{% endfor %}{% for i in [] %}{% else %}none{% endfor %}",
        "{% for i in missing %}{% else %}none{% endfor %}",
        "{% for a, b in {'k': 'v'} | items %}{{ a ~ b }}{% endfor %}",
        "{% macro m(a, b=2) %}<{{ a }}{{ b }}{{ caller() }}>{% endmacro %}{% call m(1) %}x{% endcall %}",
        "{% set a %}x{{ 1 }}{% endset %}{{ a }}{% filter upper %}y{% endfilter %}",
        "{% block b %}z{% endblock %}{{ self.b() }}",
        "{% set ns = namespace(a=1) %}{% for i in [1, 2] %}{% set ns.a = ns.a + i %}{% endfor %}{{ ns.a }}",
        "{{ [1, 2] == [1, 2] }}|{{ 1 < 2 <= 2 }}|{{ 'a' in 'abc' }}|{{ messages[0].content == 'x' }}",
        "{{ dict(a=1) }}|{{ 'a,b'.split(',') }}|{{ messages[0].get('role') }}|{{ {'a': 1} | dictsort }}",
        "{{ '{a} {b[0]}'.format(a=1, b=[2]) }}|{{ '{0:{1}}'.format(1, 4) }}|{{ '{a}'.format_map({'a': 1}) }}",
    ],
)
def test_writes_what_jinja_writes(template: str) -> None:
    reference = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(template)
    assert render_chat(template, USER) == reference.render(messages=USER)

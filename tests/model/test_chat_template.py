"""A chat template words the question as transformers does, or ends within its limits and says why."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from latbench.model import chat_template
from latbench.model.backbone import Backbone
from latbench.model.layout import Layout
from tests.model.test_layout import word_tokenizer

ORDINARY = (
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message.role + '|>' + message.content | trim }}"
    "{% if not loop.last %}{{ eos_token }}{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
ASKED = [{"role": "user", "content": ' Wie groß ist "n0"?\n <3> '}]


def tokenizer(template: str) -> PreTrainedTokenizerFast:
    made = word_tokenizer(eos_token="<eos>", bos_token="<bos>")
    made.chat_template = template
    return made


@pytest.fixture(scope="module")
def renderer() -> Any:
    """A worker of little patience, so that the tests have little to wait for."""
    worker = chat_template.Renderer(cpu_seconds=0.3, memory_bytes=2**29)
    yield worker
    worker.close()


def test_the_text_is_that_of_transformers() -> None:
    words = tokenizer(ORDINARY)
    expected = words.apply_chat_template(ASKED, tokenize=False, add_generation_prompt=True)
    assert chat_template.render(words, ASKED) == expected
    begun = [*ASKED, {"role": "assistant", "content": "It is"}]
    expected = words.apply_chat_template(begun, tokenize=False, continue_final_message=True)
    assert chat_template.render(words, begun, answer=False) == expected
    assert Layout("default", words, chat_template=True).prompt("1+1")


def test_a_prompt_is_the_same_on_every_day() -> None:
    said = chat_template.render(tokenizer("{{ strftime_now('%d %b %Y') }} {{ messages[0].content }}"), ASKED)
    assert said.startswith("26 Jul 2024 ")


LOOPS = {
    "nested loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "a loop over what was asked": (
        "{% set c = messages[0].content * 9999 %}{% for i in c %}{% for j in c %}{% endfor %}{% endfor %}"
    ),
    "macros that call twice": (
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}"
    ),
    "one operation without end": "{% set n = messages | length + 8 %}{{ ((n ** 99999) ** 9999) % 7 }}",
    "a text beyond the memory": "{{ 'a' * 10 ** 10 }}",
    "a text that doubles": (
        "{% set s = namespace(x='a') %}{% for i in range(99) %}{% set s.x = s.x ~ s.x %}{% endfor %}"
    ),
    "a wide number": "{{ '%0999999999d' % 1 }}",
}


@pytest.mark.parametrize("template", LOOPS.values(), ids=LOOPS.keys())
def test_a_template_that_does_not_end_is_ended(
    template: str, renderer: chat_template.Renderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_template, "shared_renderer", lambda: renderer)
    with pytest.raises(
        ValueError, match=r"takes more than 0\.3 s of CPU time or 0\.5 GiB of memory; mend it"
    ) as caught:
        chat_template.render(tokenizer(template), ASKED)
    assert "\n" not in str(caught.value)
    assert chat_template.render(tokenizer("{{ messages[0].role }}"), ASKED) == "user"  # another worker took its place


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (
            "{{ raise_exception('Roles must\nalternate') }}",
            r"refuses the conversation \(TemplateError: Roles must alter",
        ),
        ("{% for", "refuses the conversation"),
        ("{{ messages[5].role }}", "refuses the conversation"),
        ("{{ 1 / 0 }}", "refuses the conversation"),
        ("{{ ''.__class__.__mro__ }}", "refuses the conversation"),
        ("{{ 'a' * 2000000 }}", "gives 2000000 characters, more than 1048576"),
    ],
)
def test_a_template_that_refuses_says_why(
    template: str, reason: str, renderer: chat_template.Renderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_template, "shared_renderer", lambda: renderer)
    with pytest.raises(ValueError, match=reason) as caught:
        chat_template.render(tokenizer(template), ASKED)
    assert "\n" not in str(caught.value)


def test_every_prompt_goes_through_the_worker(llama: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    llama.tokenizer.chat_template = LOOPS["nested loops"]
    layout = Layout("default", llama.tokenizer, chat_template=True)
    impatient = chat_template.Renderer(cpu_seconds=0.05)
    monkeypatch.setattr(chat_template, "shared_renderer", lambda: impatient)
    with pytest.raises(ValueError, match=r"set model\.chat_template=false"):
        layout.prompt("1+1")
    impatient.close()

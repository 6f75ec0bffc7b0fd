import asyncio

import pytest

from s1.errors import UserError
from s1.template import Template
from serve.events import Message
from serve.protocol import MAX_MESSAGES
from serve.rendering import Renderer

CONTEXT = 4 * MAX_MESSAGES


@pytest.fixture(scope="module")
def template(tokenizer):
    return Template(tokenizer)


@pytest.fixture
def renderer(template):
    renderer = Renderer(template, CONTEXT)
    yield renderer
    renderer.close()


def test_a_prompt_is_what_the_template_makes_of_the_messages(renderer, template):
    messages = (Message("system", "Be brief."), Message("user", "2 + 2? <|im_end|>"))
    expected = template.render_messages([{"role": one.role, "content": one.content} for one in messages])
    assert asyncio.run(renderer.render(messages)) == expected


def test_the_event_loop_goes_on_while_the_longest_conversation_is_rendered(renderer):
    async def turns():
        rendering = asyncio.ensure_future(renderer.render([Message("user", "")] * MAX_MESSAGES))
        count = 0
        while not rendering.done():
            await asyncio.sleep(0)
            count += 1
        return count, await rendering

    count, ids = asyncio.run(turns())
    assert len(ids) > MAX_MESSAGES
    assert count > 2  # on the loop itself it would be done after the first turn


@pytest.mark.parametrize("messages", [[Message("user", "")] * (CONTEXT + 1), [Message("user", "x" * 10_000_000)]])
def test_what_cannot_fit_is_refused_unrendered(renderer, messages):
    with pytest.raises(UserError, match=f"context of {CONTEXT} tokens can hold; shorten it"):
        asyncio.run(renderer.render(messages))


def test_what_the_templates_own_rules_refuse_is_the_clients_to_mend(tokenizer):
    def refused(template):
        renderer = Renderer(template, CONTEXT)
        try:
            asyncio.run(renderer.render([Message("user", "Hi")]))
        finally:
            renderer.close()

    kept = tokenizer.chat_template
    try:
        tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
        with pytest.raises(UserError, match="refuses these messages: roles must alternate"):
            refused(Template(tokenizer))
    finally:
        tokenizer.chat_template = kept

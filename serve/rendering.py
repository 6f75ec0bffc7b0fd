"""Messages become ids of the prompt, beside the event loop: a long conversation keeps no stream waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from s1.errors import UserError
from s1.template import Template
from serve.events import Message


class Renderer:
    """Prompts for a model whose context has `context_tokens`."""

    def __init__(self, template: Template, context_tokens: int) -> None:
        self._template, self._context_tokens = template, context_tokens
        self._longest_token = max(map(len, template.tokenizer.get_vocab()))
        # One thread: renderings at the same time would only take the interpreter from each other, and from the streams.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="render")

    async def render(self, messages: Sequence[Message], *, enable_thinking: bool = True) -> list[int]:
        """Ids of the prompt, as `Template.render_messages` has them.

        UserError when the messages do not fit the context or the model's chat template.
        """
        self._check_size(messages)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._render, messages, enable_thinking)

    def _check_size(self, messages: Sequence[Message]) -> None:
        """Refuse what cannot fit whatever the tokenizer makes of it: it would keep everybody waiting."""
        num_chars = sum(len(message.content) for message in messages)
        fewest_tokens = len(messages) + num_chars // self._longest_token  # a template writes at least a token for each
        if fewest_tokens > self._context_tokens:
            raise UserError(
                f"the prompt has {num_chars} characters in {len(messages)} message(s), more than the model's context "
                f"of {self._context_tokens} tokens can hold; shorten it"
            )

    def _render(self, messages: Sequence[Message], enable_thinking: bool) -> list[int]:
        from jinja2 import TemplateError

        try:
            plain = [{"role": m.role, "content": m.content} for m in messages]
            return self._template.render_messages(plain, enable_thinking=enable_thinking)
        except TemplateError as error:
            raise UserError(f"the model's chat template refuses these messages: {error}") from error

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

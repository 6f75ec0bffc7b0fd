"""The one place that knows the delimiters: render a prompt, render an example, parse a completion.

Two styles of thinking. `s1` is the paper's (section 4.1): ChatML turns named think and answer, where the token that
opens a turn ends the thinking. `think-tags` is what R1 and Qwen3 write. Laws, tested as properties:

- the prompt is a prefix of the example, and equals the model's own chat template plus the opening of the thinking;
- without thinking the prompt is the model's own chat template, and no delimiter ends it;
- `parse` inverts `render_example`;
- text of a user, a teacher or a data set never produces a control token: it is tokenised as plain text.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

from s1.errors import UserError


class Tokenizer(Protocol):
    """The part of a `transformers` tokenizer that the template needs."""

    name_or_path: str
    chat_template: Any

    @property
    def eos_token_id(self) -> Any: ...

    @property
    def added_tokens_decoder(self) -> Any: ...

    def __len__(self) -> int: ...

    def get_vocab(self) -> dict[str, int]: ...

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]: ...

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool, clean_up_tokenization_spaces: bool) -> Any: ...

    def apply_chat_template(
        self, conversation: list[dict[str, str]], *, tokenize: bool, add_generation_prompt: bool, **variables: Any
    ) -> Any: ...


Style = Literal["s1", "think-tags"]
ANSWER_PREFIX = "Answer: "


@dataclass(frozen=True)
class Delimiters:
    """Control texts around the thinking."""

    thinking_open: str  # after the generation prompt
    thinking_end: str  # what the model samples to end its thinking
    answer_open: str  # between that end and the answer


STYLES: dict[Style, Delimiters] = {
    "s1": Delimiters("<|im_start|>think\n", "<|im_start|>", "answer\n"),
    "think-tags": Delimiters("<think>\n", "</think>", "\n\n"),
}


@dataclass(frozen=True)
class Example:
    """One training example; the loss starts after `num_prompt_tokens`."""

    input_ids: list[int]
    num_prompt_tokens: int


@dataclass(frozen=True)
class Completion:
    """What a model wrote after the prompt. Without the end of the thinking, all of it is thinking."""

    thinking: str
    attempt: str
    thinking_ended: bool


def with_answer_prefix(attempt: str) -> str:
    """The attempt as it is trained on: `Answer: ` is put before one that does not contain it (paper, appendix C)."""
    return attempt if "Answer:" in attempt else ANSWER_PREFIX + attempt


class Template:
    """Renders and parses token ids with `tokenizer`."""

    def __init__(self, tokenizer: Tokenizer, style: Style = "s1") -> None:
        if not tokenizer.chat_template:
            raise UserError(f"{tokenizer.name_or_path}: the tokenizer has no chat template; use an instruct model's")
        self.tokenizer = tokenizer
        self.style: Style = style
        self.delimiters = STYLES[style]
        opener = self.delimiters.thinking_end
        if style == "s1" and len(self.control(opener)) != 1:
            raise UserError(
                f"{tokenizer.name_or_path}: {opener} is not a token of this tokenizer; use a ChatML model or think-tags"
            )
        spelled = [text for text, cut in self._cuts.items() if cut is None]
        if spelled:
            raise UserError(
                f"{tokenizer.name_or_path}: {spelled[0]} is spelled in single characters by this tokenizer, so text of "
                "a user could not be told from it; use another model"
            )

    @cached_property
    def thinking_end(self) -> tuple[int, ...]:
        """Ids that end the thinking."""
        return tuple(self.control(self.delimiters.thinking_end))

    @cached_property
    def answer_open(self) -> tuple[int, ...]:
        """Ids between the end of the thinking and the answer."""
        return tuple(self.control(self.delimiters.answer_open))

    @cached_property
    def newline(self) -> tuple[int, ...]:
        """Ids of a line end."""
        return tuple(self.plain("\n"))

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end a completion."""
        names = ("<|im_end|>", "<|endoftext|>", "</s>")
        known = {self.tokenizer.get_vocab().get(name) for name in names} | {self.tokenizer.eos_token_id}
        return frozenset(token for token in known if token is not None)

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids that an answer does not show to its reader."""
        return frozenset(id for id, token in self.tokenizer.added_tokens_decoder.items() if token.special)

    @cached_property
    def end_of_turn(self) -> tuple[int, ...]:
        """Ids that close an example."""
        vocabulary = self.tokenizer.get_vocab()
        token = vocabulary.get("<|im_end|>", self.tokenizer.eos_token_id)
        return () if token is None else (token,)

    @cached_property
    def num_tokens(self) -> int:
        """Ids at and above this number are padding of the model's head and mean nothing to the tokenizer."""
        return len(self.tokenizer)

    @cached_property
    def _cuts(self) -> dict[str, int | None]:
        """Control texts, and after how many characters text from outside that looks like one is cut.

        That is inside a token of the control text: its ids cannot come of text that has a boundary there.
        """
        texts = {token.content for token in self.tokenizer.added_tokens_decoder.values()}
        cuts: dict[str, int | None] = {text: 1 for text in texts if len(text) > 1}
        for text in (self.delimiters.thinking_end, self.delimiters.thinking_open.strip()):
            ids = self.control(text)
            ends = [len(self.decode(ids[:num])) for num in range(len(ids) + 1)]
            cuts[text] = next((ends[at] + 1 for at in range(len(ids)) if ends[at + 1] - ends[at] > 1), None)
        return cuts

    @cached_property
    def _control_pattern(self) -> re.Pattern[str]:
        """Matches, without a length, where a control text begins."""
        return re.compile("(?=" + "|".join(map(re.escape, self._cuts)) + ")")

    def control(self, text: str) -> list[int]:
        """Ids of text that we wrote ourselves: control tokens are recognised."""
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def plain(self, text: str) -> list[int]:
        """Ids of text from outside: what looks like a control token is spelled out in ordinary ones."""
        starts = [found.start() for found in self._control_pattern.finditer(text)]
        cuts = {
            at + cut for at in starts for control, cut in self._cuts.items() if cut and text.startswith(control, at)
        }
        ids: list[int] = []
        for start, end in itertools.pairwise([0, *sorted(cuts), len(text)]):
            ids += self.tokenizer.encode(text[start:end], add_special_tokens=False)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`, control tokens and spaces as they are; ids beyond the vocabulary are left out."""
        known = [token for token in ids if token < self.num_tokens]
        return self.tokenizer.decode(known, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def render_messages(self, messages: Sequence[Mapping[str, str]], *, enable_thinking: bool = True) -> list[int]:
        """Prompt ids of a conversation (role, content), up to and including the opening of the thinking.

        Without `enable_thinking` they end with the opening of the assistant's turn, as the model's own chat template
        writes it; a template that knows a variable of this name is told.
        """
        marks = [f"\ue000{index}\ue001" for index in range(len(messages))]
        marked = [{"role": m["role"], "content": mark} for m, mark in zip(messages, marks, strict=True)]
        variables = {} if enable_thinking else {"enable_thinking": False}
        text = self.tokenizer.apply_chat_template(marked, tokenize=False, add_generation_prompt=True, **variables)
        assert isinstance(text, str)
        text = text.removesuffix(self.delimiters.thinking_open)  # some templates open the thinking themselves
        if enable_thinking:
            text += self.delimiters.thinking_open
        contents = {mark: message["content"] for mark, message in zip(marks, messages, strict=True)}
        ids: list[int] = []
        for piece in re.split("(\ue000\\d+\ue001)", text):
            ids += self.plain(contents[piece]) if piece in contents else self.control(piece) if piece else []
        return ids

    def render_prompt(self, question: str, system: str | None = None) -> list[int]:
        """Prompt ids of one question; without `system` the chat template's own system prompt stands."""
        head = [] if system is None else [{"role": "system", "content": system}]
        return self.render_messages([*head, {"role": "user", "content": question}])

    def render_example(self, question: str, thinking: str, attempt: str) -> Example:
        """Training example of one question with its trace (paper, appendix C)."""
        prompt = self.render_prompt(question)
        completion = [
            *self.plain(thinking + "\n"),
            *self.thinking_end,
            *self.answer_open,
            *self.plain(with_answer_prefix(attempt)),
            *self.end_of_turn,
        ]
        return Example(prompt + completion, len(prompt))

    def parse(self, completion: Sequence[int]) -> Completion:
        """Split the ids that follow a prompt into thinking and attempt."""
        ids = list(completion)
        while ids and ids[-1] in self.stop_ids:
            ids.pop()
        at = _find(ids, self.thinking_end)
        if at is None:
            return Completion(self.decode(ids).removesuffix("\n"), "", thinking_ended=False)
        rest = ids[at + len(self.thinking_end) :]
        if tuple(rest[: len(self.answer_open)]) == self.answer_open:
            rest = rest[len(self.answer_open) :]
        return Completion(self.decode(ids[:at]).removesuffix("\n"), self.decode(rest), thinking_ended=True)


def _find(ids: Sequence[int], wanted: Sequence[int]) -> int | None:
    """Index of the first occurrence of `wanted` in `ids`."""
    width = len(wanted)
    return next((at for at in range(len(ids) - width + 1) if tuple(ids[at : at + width]) == tuple(wanted)), None)

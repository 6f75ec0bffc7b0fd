"""What passes between the HTTP side, the sampler and the engines: plain values, free of HTTP and of Ray."""

from __future__ import annotations

from dataclasses import dataclass

from s1.forcing import BudgetPolicy


@dataclass(frozen=True)
class EngineFacts:
    """What an engine is, once it runs."""

    driver: str  # who carries out the forcing, and why
    context_tokens: int  # of prompt and completion together
    precision: str  # type of weights and activations


@dataclass(frozen=True)
class Message:
    """One turn of a conversation; its text is never read for control tokens."""

    role: str
    content: str


@dataclass(frozen=True)
class Generation:
    """What an engine is asked for, in one form whatever the client wrote. `max_tokens` bounds each completion."""

    messages: tuple[Message, ...]
    policy: BudgetPolicy
    n: int = 1
    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    owner: str = ""  # whose request it is: only requests of one owner find each other's prompts in the prefix cache


@dataclass(frozen=True)
class Segment:
    """A piece of a completion, in order: sampled by the model, or written by the policy."""

    text: str
    forced: bool
    part: str  # thinking | closing (forced text behind it) | control (delimiters) | answer


@dataclass(frozen=True)
class Report:
    """What budget forcing did to one completion. Counts are tokens."""

    thinking_tokens: int
    forced_tokens: int
    answer_tokens: int
    completion_tokens: int
    rounds: int  # ends that were ignored
    max_tokens: int | None  # the cap as it was kept; below the request's when it had to be reduced
    ended_by: str | None  # natural | budget | context | length; None: there was to be no thinking
    unmet: str | None  # why the thinking is shorter than the minimum
    finish_reason: str


@dataclass(frozen=True)
class Accepted:
    """The request fits the model; completions follow."""

    prompt_tokens: int


@dataclass(frozen=True)
class Rejected:
    """The messages do not fit the model: the client's to mend."""

    message: str


@dataclass(frozen=True)
class Added:
    """Text that was added to completion `choice`; the counts are its tokens so far."""

    choice: int
    reasoning: str
    content: str
    segments: tuple[Segment, ...]
    thinking_tokens: int
    forced_tokens: int
    answer_tokens: int


@dataclass(frozen=True)
class Finished:
    """Completion `choice` is complete."""

    choice: int
    report: Report


@dataclass(frozen=True)
class Choice:
    """One whole completion."""

    reasoning: str
    content: str
    segments: tuple[Segment, ...]
    report: Report


@dataclass(frozen=True)
class Completed:
    """Every completion of a request."""

    prompt_tokens: int
    choices: tuple[Choice, ...]


@dataclass(frozen=True)
class Vote:
    """How many of several generations gave an answer."""

    answer: str
    count: int


@dataclass(frozen=True)
class Progress:
    """One of several generations has ended. `votes` are those so far, most first."""

    done: int
    n: int
    votes: tuple[Vote, ...]
    report: Report


# A request is rejected, or accepted and then either streamed (Added, Finished) or completed as a whole; several
# generations tell their progress in between.
Event = Accepted | Rejected | Added | Finished | Progress | Completed

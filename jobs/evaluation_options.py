"""The options of `jobs.evaluate`: which models, which questions, which methods in which settings."""

from __future__ import annotations

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from s1.config import Config, under
from s1.evaluation import settings
from s1.evaluation.questions import Prices
from s1.evaluation.settings import BestOf, Setting, Tree, Vote
from s1.sources.mapping import Fields
from serve.engine_options import EngineOptions

BASE, TUNED = "base", "tuned"
# Options that change how is asked, not what: an evaluation that is not finished goes on under other ones. How many
# answers are decoded at a time follows from them and from chance, so that of two runs with the same options not all
# answers need be the same either; all that decides with what they are computed, `serve.engine.threads` and
# `max_num_seqs` included, is none of them. A price counts for what is asked from then on: an answer has the cost that
# it had when it was asked.
HOW = (
    *("concurrency", "timeout_s", "api_key_env", "usd_per_million_input", "usd_per_million_output"),
    *under("serve", ("num_replicas", "num_cpus", "max_ongoing_requests", "startup_timeout_s")),
    *under("serve.engine", ("kv_cache_gib", "gpu_memory_utilization")),
)


class ServeOptions(Config):
    """How the models are run when no endpoint is given; the delimiters are those of the training."""

    engine: EngineOptions = Field(default=EngineOptions.model_validate({}), description="How one replica runs.")
    num_replicas: PositiveInt = Field(default=1, description="Engine replicas of each model.")
    num_cpus: NonNegativeFloat = Field(default=0.5, description="Logical CPUs that one engine replica reserves in Ray.")
    max_ongoing_requests: PositiveInt = Field(default=64, description="Requests that one engine replica works on.")
    startup_timeout_s: PositiveFloat = Field(
        default=600,
        description="Longest wait for the models to start, including for nodes to come and weights to load.",
    )


class DirectOptions(Config):
    """The model as it is, in its own chat format and without thinking: the baseline of the paper's table 1."""

    models: tuple[str, ...] = Field((BASE,), description="Ask these models so; those that `models` leaves out are not.")
    max_tokens: PositiveInt | None = Field(
        None, description="Cap of the whole answer, its explanation included; by default the context is the bound."
    )


class ConditionalOptions(Config):
    """Control by words: the question says how long to think (paper, appendix D)."""

    tokens: tuple[PositiveInt, ...] = Field((), description='"Think for up to N tokens.", one setting each.')
    steps: tuple[PositiveInt, ...] = Field((), description='"Think for up to N steps.", one setting each.')
    tokens_per_step: PositiveInt = Field(100, description="Number of tokens that one step stands for.")
    classes: bool = Field(False, description="Ask the model to think for a short time, and for a long time.")
    class_tokens: PositiveInt | None = Field(
        None, description="Most tokens of short and fewest of long thinking; by default the mean of the natural end."
    )
    with_forcing: bool = Field(
        False, description="Also ask each of them with its bounds enforced; the classes have one with class_tokens."
    )
    models: tuple[str, ...] = Field((), description="Ask only these models in this way; by default all.")
    num_questions: PositiveInt | None = Field(None, description="Ask only this many of the questions in this way.")

    def settings(self, guard_tokens: int | None) -> tuple[Setting, ...]:
        return settings.conditional(
            tokens=self.tokens,
            steps=self.steps,
            tokens_per_step=self.tokens_per_step,
            classes=self.classes,
            class_tokens=self.class_tokens,
            with_forcing=self.with_forcing,
            guard_tokens=guard_tokens,
        )


class ParallelOptions(Config):
    """Methods that ask several times. They sample, whatever the temperature of the rest."""

    temperature: PositiveFloat = Field(1.0, description="Temperature of these methods.")
    rejection: tuple[PositiveInt, ...] = Field(
        (), description="Limits of thinking tokens, one setting each: sample until the thinking ends within the limit."
    )
    max_tries: PositiveInt = Field(32, description="Most samples per question in rejection sampling.")
    majority: tuple[PositiveInt, ...] = Field((), description="Numbers of samples that vote, one setting each.")
    best_of: tuple[PositiveInt, ...] = Field((), description="Numbers of samples that are scored, one setting each.")
    scorer: str = Field(
        "s1.evaluation.scorers:shortest_thinking",
        description="module:function of best_of: async (question, answer) -> float.",
    )
    tree: tuple[PositiveInt, ...] = Field(
        (), description="Widths of the tree search, one setting each; requires offline."
    )
    reward: str | None = Field(
        None, description="module:function of the tree's process reward: async (question, thinking) -> 0 to 1."
    )
    step_tokens: PositiveInt = Field(256, description="Tokens of one step of the tree search.")
    max_steps: PositiveInt = Field(16, description="Most steps of the tree search.")
    models: tuple[str, ...] = Field((), description="Ask only these models in this way; by default all.")
    num_questions: PositiveInt | None = Field(None, description="Ask only this many of the questions in this way.")

    @model_validator(mode="after")
    def _tree_has_a_reward(self) -> ParallelOptions:
        if self.tree and self.reward is None:
            raise ValueError(f"tree={self.tree} needs a process reward: give reward as module:function")
        return self

    def settings(self, guard_tokens: int | None) -> tuple[Setting, ...]:
        warm = self.temperature
        found = list(settings.rejection(self.rejection, self.max_tries, warm))
        found += [
            Setting(f"vote_{n}", guard_tokens, method="majority_voting", temperature=warm, plan=Vote(n))
            for n in sorted(set(self.majority))
        ]
        found += [
            Setting(f"best_{n}", guard_tokens, method="best_of_n", temperature=warm, plan=BestOf(n, self.scorer))
            for n in sorted(set(self.best_of))
        ]
        return (*found, *(self._tree(width, guard_tokens) for width in sorted(set(self.tree))))

    def _tree(self, width: int, guard_tokens: int | None) -> Setting:
        plan = Tree(width, self.step_tokens, self.max_steps, self.reward or "")
        return Setting(f"tree_{width}", guard_tokens, method="tree_search", temperature=self.temperature, plan=plan)


class EvaluateOptions(Config):
    """Which models, which questions, which settings."""

    models: tuple[str, ...] = Field(
        (BASE, TUNED), description="Names of the models to ask. Names other than base and tuned need an endpoint."
    )
    base_model: str | None = Field(
        None, description="Model to compare with the tuned one; by default the one that training started from."
    )
    endpoint: str | None = Field(
        None, description="Ask this OpenAI-compatible endpoint (its URL ends in /v1) instead of running the models."
    )
    plain: bool = Field(
        False,
        description="Send the endpoint only what OpenAI's protocol has: no budgets and no Wait.",
    )
    offline: bool = Field(False, description="Run the models on Ray Data, without HTTP, instead of on Ray Serve.")
    api_key_env: str = Field(
        "OPENAI_API_KEY", description="Environment variable that holds the endpoint's key, if it needs one."
    )
    usd_per_million_input: NonNegativeFloat = Field(0.0, description="Price of prompt tokens.")
    usd_per_million_output: NonNegativeFloat = Field(0.0, description="Price of thinking and answer tokens.")
    benchmarks: tuple[str, ...] = Field(
        (),
        description="Ask these instead of the run's own test questions: aime24, aime25, amc23, math500, gsm8k, "
        "gpqa_diamond, NAME=PATH for your own copy, or any file, glob or hub:owner/name[:split].",
    )
    fields: Fields = Field(Fields(), description="Which field of a benchmark holds what.")
    domains: tuple[str, ...] = Field(
        (), description="Ask only questions of these domains; by default of those trained on."
    )
    num_questions: PositiveInt | None = Field(None, description="Ask at most this many questions.")
    budgets: tuple[PositiveInt, ...] = Field(description="Caps on the thinking tokens, one setting each.")
    waits: tuple[PositiveInt, ...] = Field(
        (1,), description="How many ends of the thinking to replace, one setting each."
    )
    natural_max_tokens: PositiveInt | None = Field(
        None,
        description="Cap for the natural end and the Waits, to stop models that never end; must be above every budget.",
    )
    ignore_strs: tuple[str, ...] = Field(
        (settings.WAIT,), description="Texts that replace an ignored end of the thinking, one setting each."
    )
    direct: DirectOptions = Field(
        DirectOptions.model_validate({}), description="A model in its own chat format, without thinking."
    )
    conditional: ConditionalOptions = Field(
        ConditionalOptions.model_validate({}), description="Control by words instead of by force."
    )
    parallel: ParallelOptions = Field(
        ParallelOptions.model_validate({}), description="Methods that sample several times."
    )
    samples: PositiveInt = Field(
        1, description="Times to ask every question; more than one requires a temperature above 0."
    )
    seed: int = Field(0, description="Seed of the sampling.")
    final_answer_prefix: str | None = Field(
        None, description="Written before a forced answer; the server's by default."
    )
    max_answer_tokens: PositiveInt = Field(description="Cap on the answer after the thinking.")
    temperature: NonNegativeFloat = Field(0.0, description="0: greedy, the same answers every time.")
    concurrency: PositiveInt = Field(32, description="Requests under way at once.")
    timeout_s: PositiveFloat = Field(600.0, description="Longest wait for one response.")
    serve: ServeOptions = Field(
        default_factory=ServeOptions, description="How to run the models if there is no endpoint."
    )

    @property
    def shares_cores(self) -> bool:
        """Whether the models run on the same cores, where two at a time are slower than one after the other."""
        return self.endpoint is None and self.serve.engine.device == "cpu"

    @property
    def prices(self) -> Prices:
        return Prices(self.usd_per_million_input, self.usd_per_million_output)

    @property
    def settings(self) -> tuple[Setting, ...]:
        """In the order of asking: the natural end, which tells a model that never ends, then the longest thinking."""
        guard = self.natural_max_tokens
        budgets, waits = ((), ()) if self.plain else (self.budgets, self.waits)
        found = (
            *((settings.direct(self.direct.max_tokens),) if self.direct_models else ()),
            *self.parallel.settings(guard),
            *self.conditional.settings(guard),
            *settings.forced(budgets, waits, guard, self.ignore_strs),
        )
        return tuple(sorted(found, key=lambda setting: setting.name != settings.NATURAL))

    @property
    def direct_models(self) -> tuple[str, ...]:
        """The models that are asked without thinking; of a plain endpoint none: its natural end is just that."""
        return () if self.plain else tuple(name for name in self.models if name in self.direct.models)

    @model_validator(mode="after")
    def _settings_make_sense(self) -> EvaluateOptions:
        if not self.models:
            raise ValueError("models is empty: name at least one")
        guard = self.natural_max_tokens
        if guard is not None and self.budgets and max(self.budgets) > guard:
            raise ValueError(
                f"budget {max(self.budgets)} is above natural_max_tokens {guard}; raise that or lower the budget"
            )
        if self.waits and not (self.ignore_strs and all(self.ignore_strs)):
            raise ValueError(f"ignore_strs={self.ignore_strs}: must be texts of at least one character")
        self._check_names()
        if self.samples > 1 and self.temperature == 0:
            raise ValueError(
                f"samples={self.samples} at temperature 0 would be {self.samples} equal answers; raise the temperature"
            )
        if self.offline and self.endpoint is not None:
            raise ValueError(f"offline and endpoint={self.endpoint} contradict each other; give one of them")
        if self.plain and (self.endpoint is None or self.conditional.with_forcing):
            raise ValueError(
                "plain is for endpoints that cannot force: give endpoint, leave out conditional.with_forcing"
            )
        if self.parallel.tree and not self.offline:
            raise ValueError(
                f"parallel.tree={self.parallel.tree} goes on from pieces of thinking, which no endpoint does; "
                "set offline"
            )
        models = set(self.models)
        for name, part, known in (
            ("direct", self.direct, {*models, BASE}),  # the default, and no mistake where the base model is left out
            ("conditional", self.conditional, models),
            ("parallel", self.parallel, models),
        ):
            unknown = sorted(set(part.models) - known)
            if unknown:
                raise ValueError(f"{name}.models={unknown[0]!r} is none of models; name it there too")
        return self

    def _check_names(self) -> None:
        """Answers are kept by the name of their setting; a text of ignore_strs can give one that is taken."""
        taken: dict[str, Setting] = {}
        for setting in self.settings:
            other = taken.setdefault(setting.name, setting)
            if other is setting:
                continue
            one, two = (repr(each.ignore_str) if each.num_ignore else f"a {each.method}" for each in (other, setting))
            raise ValueError(
                f"ignore_strs: {one} and {two} would both be the setting {setting.name}, and names must differ; leave "
                "one out or change the letters or digits of the text"
            )

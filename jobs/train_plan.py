"""What the planner says about a training: whether it fits, and if not, the cheapest change that makes it fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from typing import Any

from jobs import train_sizes
from jobs.train_options import TrainOptions, check, planned
from s1.errors import UserError
from s1.training import plan as planner
from s1.training.plan import Cost, Training
from s1.training.shapes import ModelShape

# What a proposed change leaves free: the plan is an estimate.
SPARE = 0.025
LORA_RANK = 16
# Examples that a search looks at, evenly drawn from the sorted ones, the longest among them.
SEARCHED = 2000
Changes = dict[str, Any]


@dataclass(frozen=True)
class Data:
    """Tokens of the examples of a training."""

    lengths: tuple[int, ...]  # that are trained on
    held_out: tuple[int, ...] = ()
    longest: int | None = None  # that may occur; None: the longest of `lengths`


def report(options: TrainOptions, data: Data, of: ModelShape) -> dict[str, Any]:
    """The plan as one JSON object: that of `s1.training.plan`, fewer workers, and what to change.

    `fits` is true when every number of workers that the training may go on with has the memory, `fits_on_all` when
    all of them together have it.
    """
    found = planner.report(_training(options, data, of))
    fewer = _fewer(options, data, of)
    fits = bool(found["fits"] and (fewer is None or fewer["fits"]))
    return {
        **found,
        "fits": fits,
        "fits_on_all": found["fits"],
        "fewer_workers": fewer,
        "change": None if fits else cheapest_change(options, data, of),
        "lora": None if fits or options.lora_rank else with_lora(options, data, of),
        "less_communication": less_communication(options, data, of) if fits and waits_for_links(found) else None,
    }


def waits_for_links(found: Mapping[str, Any]) -> bool:
    """Whether communication takes more than half of a step."""
    return found["time_shares"]["communication"] > 0.5


def link_warning(found: Mapping[str, Any], prefix: str = "") -> str | None:
    """One line about steps that wait for communication, with the cheapest remedy; `prefix` as in `verdict`."""
    if not waits_for_links(found):
        return None
    line = f"communication takes {found['time_shares']['communication']:.0%} of a step"
    remedy = found["less_communication"]
    if remedy is not None:
        return f"{line}; the cheapest remedy: {_described(remedy, prefix)}"
    return f"{line}; no option helps enough: take faster links or fewer nodes" if found["fits"] else line


def link_note(found: Mapping[str, Any], prefix: str = "") -> str:
    """What a time and a price of several nodes take for granted: the links between them; `prefix` as in `verdict`."""
    if found["nodes"] == 1:
        return ""
    return f" with links of {found['node_gbit_per_s']:g} Gbit/s between nodes ({prefix}hardware.node_gbit_per_s)"


def verdict(found: Mapping[str, Any], prefix: str = "") -> str:
    """One line: fits with how much room, or the cheapest change that makes it fit.

    `prefix` stands before the names of options where the command has those of other jobs too: `train.`.
    """
    if found["fits"]:
        return f"fits, {found['margin_gib']:.1f} GiB to spare"
    fewer = found["fewer_workers"]
    where = f" when only {fewer['workers']} of {found['workers']} workers can be had" if found["fits_on_all"] else ""
    lacking = fewer if found["fits_on_all"] else found
    missed = f"does not fit{where}, {lack(lacking)}"
    larger = "nodes with more memory" if lacking["device_fits"] else "more workers, a larger device"
    change, lora = found["change"], found["lora"]
    line = f"{missed}; " + (
        f"no change of memory options is enough: take {larger} or a smaller model"
        if change is None
        else f"the cheapest change: {_described(change, prefix)}"
    )
    if lora is None:
        return line
    return f"{line}; or train other mathematics, updates only (LoRA): {_described(lora, prefix)}"


def lack(needs: Mapping[str, Any]) -> str:
    """What is needed of what there is where it is not enough: on a device, else on a node."""
    if not needs["device_fits"]:
        return f"{needs['peak_gib']:.1f} of {needs['limit_gib']:.1f} GiB"
    most = max(needs["host_gib_at_load"], needs["host_gib_in_steps"])
    return f"{most:.1f} of {needs['host_limit_gib']:.1f} GiB of a node's own memory"


def _described(change: Mapping[str, Any], prefix: str) -> str:
    options = " ".join(_flag(name, value, prefix) for name, value in change["options"].items())
    links = f" with links of {change['node_gbit_per_s']:g} Gbit/s between nodes" if change["nodes"] > 1 else ""
    return f"{options} ({change['peak_gib']:.1f} GiB, {change['hours'] * 60:.0f} min{links})"


def _flag(name: str, value: object, prefix: str) -> str:
    flag = name.replace("_", "-")
    return f"--{prefix}{'' if value else 'no-'}{flag}" if isinstance(value, bool) else f"--{prefix}{flag} {value}"


def elastic_sizes(options: TrainOptions) -> list[int]:
    """Numbers of workers that the training may go on with, fewest first."""
    fewest = options.workers if options.min_workers is None else options.min_workers
    return [number for number in train_sizes.sizes(options) if number >= fewest]


def cheapest_change(options: TrainOptions, data: Data, of: ModelShape) -> Changes | None:
    """The change of options that makes the training fit; None: none does.

    Fewest workers first; then, of the changes that would not be enough with one option less, the one that costs least.
    What is proposed has room to spare, and passes the checks of the options.
    """
    for times in (1, 2, 4, 8):
        more: Changes = {} if times == 1 else {"workers": options.workers * times}
        found = _cheapest(options, more, data, of)
        if found is not None:
            return found
    return None


def with_lora(options: TrainOptions, data: Data, of: ModelShape) -> Changes | None:
    """The same with LoRA on the workers that there are: another training, whose result is another model."""
    return _cheapest(options, {"lora_rank": LORA_RANK}, data, of)


def _cheapest(options: TrainOptions, always: Changes, data: Data, of: ModelShape) -> Changes | None:
    """The cheapest of the changes that include `always`."""
    base = options.model_copy(update=always)
    few = replace(data, lengths=_thinned(data.lengths))
    enough: list[Changes] = []
    for changes in sorted(_candidates(base, few, of), key=len):
        if any(kept.items() <= changes.items() for kept in enough):
            continue  # more than is needed
        changed = base.model_copy(update=changes)
        if not _allowed(changed, by=train_sizes.check):
            continue  # told at once, where room takes a while
        # The few say quickly what is not enough; what is may still leave out the fullest pass of all.
        if _has_room(changed, few, of) and _allowed(changed) and (few == data or _has_room(changed, data, of)):
            enough.append(changes)
    if not enough:
        return None
    return _told(options, min(({**always, **changes} for changes in enough), key=_by_cost(options, few, of)), data, of)


def less_communication(options: TrainOptions, data: Data, of: ModelShape) -> Changes | None:
    """The cheapest change, of one option or two, with which communication takes at most half of a step, or None.

    It leaves the mathematics as they are, has room to spare, and passes the checks of the options.
    """
    few = replace(data, lengths=_thinned(data.lengths))
    per_node = options.hardware.resolved().per_node
    kinds: dict[str, list[Any]] = {
        "workers": [per_node] if options.workers > per_node else [],
        "zero_stage": [1, 2],
        "secondary_shards": [2, 4, 8],
        "sequence_parallel": [1, 2, 4, 8],
        "packing": [True],
        "micro_batch_tokens": [2 * (options.micro_batch_tokens or options.block_size)],
        "activation_checkpointing": [True],
    }
    single = [{name: value} for name, values in kinds.items() for value in values if value != getattr(options, name)]
    pairs = [{**one, **two} for one, two in combinations(single, 2) if one.keys() != two.keys()]
    enough = [changes for changes in (*single, *pairs) if _is_quieter(options.model_copy(update=changes), few, of)]
    return _told(options, min(enough, key=_by_cost(options, few, of)), data, of) if enough else None


def _is_quieter(options: TrainOptions, data: Data, of: ModelShape) -> bool:
    if not (_allowed(options) and _has_room(options, data, of)):
        return False
    return not waits_for_links(planner.report(_training(options, data, of)))


def _by_cost(options: TrainOptions, data: Data, of: ModelShape) -> Callable[[Changes], tuple[float, int, int]]:
    """Order of changes: dollars, seconds, number of options."""

    def key(changes: Changes) -> tuple[float, int, int]:
        needed = _cost(options.model_copy(update=changes), data, of)
        return round(needed.usd, 2), round(needed.seconds), len(changes)

    return key


def _told(options: TrainOptions, changes: Changes, data: Data, of: ModelShape) -> Changes:
    """The change with what the training then needs."""
    changed = options.model_copy(update=changes)
    needed = _cost(changed, data, of)
    return {
        "options": changes,
        "peak_gib": round(_peak_gib(changed, data, of), 2),
        "hours": round(needed.seconds / 3600, 3),
        "usd": round(needed.usd, 2),
        "nodes": planner.nodes(_training(changed, data, of)),
        "node_gbit_per_s": options.hardware.resolved().node_gbit_per_s,
    }


def _candidates(options: TrainOptions, data: Data, of: ModelShape) -> Iterator[Changes]:
    """Options that save memory and leave the mathematics as they are, in all combinations."""
    kinds: dict[str, list[Any]] = {
        "zero_stage": [3],
        "attention": ["sdpa"],
        "loss_chunk_tokens": [min(options.loss_chunk_tokens, 4096)],
        "micro_batch_size": [1],
        "micro_batch_tokens": _pass_limits(options, data),
        "secondary_shards": [1],
        "sequence_parallel": [
            size for size in (2, 4, 8) if size > options.sequence_parallel and options.workers % size == 0
        ],
        "packing": [True],
        "recompute_above_tokens": _recompute_limits(options, data),
        "activation_checkpointing": [True],
        "offload_activations": [True],
        "save_in_background": [] if _nodes_have_room(options, data, of) else [False],
        "min_workers": [number for number in elastic_sizes(options) if options.min_workers is not None],
    }
    values = [list(dict.fromkeys([getattr(options, name), *others])) for name, others in kinds.items()]
    for chosen in product(*values):
        changes = {name: value for name, value in zip(kinds, chosen, strict=True) if value != getattr(options, name)}
        # Packing saves no memory; what is divided has to be packed.
        if "packing" in changes and "sequence_parallel" not in changes:
            continue
        yield changes


def _pass_limits(options: TrainOptions, data: Data) -> list[int]:
    """Smaller values of `micro_batch_tokens`, down to the longest example, which is never cut."""
    if not options.packing and options.micro_batch_size == 1:
        return []
    least = -(-max(data.lengths) // 1000) * 1000
    limit = options.micro_batch_tokens or options.block_size
    return [value for value in (limit // 2, limit // 4, least) if least <= value < limit]


def _recompute_limits(options: TrainOptions, data: Data) -> list[int]:
    """A limit beyond which passes are recomputed: those that may occur, where those that are expected need not be."""
    if data.longest is None or options.activation_checkpointing:
        return []
    usual = options.micro_batch_tokens or max(data.lengths)
    return [usual] if max(data.lengths) <= usual < data.longest else []


def _allowed(options: TrainOptions, by: Callable[[TrainOptions], None] = check) -> bool:
    try:
        by(options)
    except UserError:
        return False
    return True


def _thinned(lengths: Sequence[int]) -> tuple[int, ...]:
    if len(lengths) <= SEARCHED:
        return tuple(lengths)
    ordered = sorted(lengths)
    return tuple(ordered[round(index * (len(ordered) - 1) / (SEARCHED - 1))] for index in range(SEARCHED))


def _training(options: TrainOptions, data: Data, of: ModelShape) -> Training:
    return replace(planned(options, data.lengths, of), held_out=data.held_out, longest=data.longest)


def _cost(options: TrainOptions, data: Data, of: ModelShape) -> Cost:
    return planner.cost(_training(options, data, of))


def _peak_gib(options: TrainOptions, data: Data, of: ModelShape) -> float:
    """Of the fullest worker, with any number of them that the training may go on with."""
    return max(planner.peak(training).gib for training in _of_all_sizes(options, data, of))


def _has_room(options: TrainOptions, data: Data, of: ModelShape) -> bool:
    """Whether the training fits and leaves SPARE free, on any number of workers that it may go on with."""
    return all(planner.has_room(training, SPARE) for training in _of_all_sizes(options, data, of))


def _nodes_have_room(options: TrainOptions, data: Data, of: ModelShape) -> bool:
    """Whether they have it with everything that a change may keep in their memory."""
    most = options.model_copy(update={"offload_activations": True})
    return all(planner.host_has_room(training, SPARE) for training in _of_all_sizes(most, data, of))


def _of_all_sizes(options: TrainOptions, data: Data, of: ModelShape) -> Iterator[Training]:
    for number in {*elastic_sizes(options), options.workers}:
        yield _training(options.model_copy(update={"workers": number}), data, of)


def _fewer(options: TrainOptions, data: Data, of: ModelShape) -> dict[str, Any] | None:
    """The number of workers, of those below all that the training may go on with, at which one holds most (of those
    without room, if there are some), and what is needed there; None: it never goes on with fewer than all.
    """
    fewer = [number for number in elastic_sizes(options) if number != options.workers]
    if not fewer:
        return None
    trainings = {number: _training(options.model_copy(update={"workers": number}), data, of) for number in fewer}
    lacking = [number for number in fewer if not planner.has_room(trainings[number])]
    fullest = max(lacking or fewer, key=lambda number: planner.peak(trainings[number]).gib)
    return {"workers": fullest, **planner.needs(trainings[fullest])}

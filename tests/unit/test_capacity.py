"""Whether a cluster can ever give what a stage asks for."""

import importlib.metadata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs import capacity, pipeline
from jobs.capacity import Demand, Nodes, shortage


def test_the_stages_of_a_preset_ask_for_their_workers():
    asked = {(d.stage, d.option): (d.count, d.cpus, d.gpus) for d in of("s1")}
    assert asked == {
        ("distill", "pool.num_workers"): (4, 1, 0),
        ("featurize", "grader_workers"): (16, 2, 0),
        ("featurize", "solver.num_workers"): (8, 4, 2),
        ("featurize", "embedder.num_workers"): (4, 4, 1),
        ("train", "workers"): (16, 8, 1),
        ("evaluate", "serve.num_replicas"): (2, 8, 8),
    }


def test_what_an_endpoint_or_no_solver_leaves_out_is_not_asked_for():
    asked = of("laptop", "--evaluate.endpoint", "http://localhost:1/v1", "--featurize.solver.models")
    assert [demand.option for demand in asked] == [
        "pool.num_workers",
        "grader_workers",
        "embedder.num_workers",
        "workers",
    ]


def test_a_local_teacher_asks_for_the_gpus_that_share_its_model(monkeypatch):
    teacher = ("--distill.teacher", "vllm", "--distill.vllm.tensor-parallel-size", "8")
    assert of("s1", *teacher, "--distill.pool.num-gpus", "4")[0].gpus == 4
    assert of("s1", *teacher)[0].gpus == 0  # the build for CPUs is installed
    monkeypatch.setattr(importlib.metadata, "version", not_installed)
    assert of("s1", *teacher)[0].gpus == 8


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "127.8.8.8", "localhost:80", "[::1]:8000"])
def test_workers_that_ask_their_own_node_are_found(host):
    url = f"http://{host}/v1"
    asks = ["--distill.openai.base-url", url]
    assert capacity.their_own_node(of("s1.1", *asks)) == f"distill: its workers ask {url}"
    assert capacity.their_own_node(of("laptop", *asks)) is None  # its teacher asks nobody
    for flags in (
        ["--featurize.judge.enabled", "--featurize.judge.openai.base-url", url],
        ["--featurize.domains.method", "llm", "--featurize.domains.llm.openai.base-url", url],
    ):
        assert capacity.their_own_node(of("laptop", *flags)) == f"featurize: its workers ask {url}"


def test_workers_that_ask_another_machine_are_not_taken_for_them():
    for host in ("10.0.0.7:8000", "localhost.example.com", "teacher.internal"):
        assert capacity.their_own_node(of("s1.1", "--distill.openai.base-url", f"http://{host}/v1")) is None
    assert capacity.their_own_node(of("s1.1", "--distill.teacher", "gemini")) is None  # at Google's own address


def test_a_model_that_is_asked_needs_its_workers():
    judge = ["--featurize.judge.enabled", "--featurize.judge.pool.num-workers", "3"]
    llm = ["--featurize.domains.method", "llm", "--featurize.domains.llm.pool.num-cpus", "2"]
    asked = {demand.option: (demand.count, demand.cpus) for demand in of("laptop", *judge, *llm)}
    assert asked["judge.pool.num_workers"] == (3, 0.5) and asked["domains.llm.pool.num_workers"] == (1, 2)


def test_two_models_that_do_not_fit_side_by_side_can_run_one_after_the_other():
    one_gpu = [Nodes(1, 16, 1)]
    evaluated = ("--evaluate.serve.engine.device", "gpu")
    (asked,) = (demand for demand in of("laptop", *evaluated) if demand.stage == "evaluate")
    lack = capacity.shortage([asked], one_gpu)
    assert lack is not None and "room for 1" in lack and "with --offline the models run one after the other" in lack
    (asked,) = (demand for demand in of("laptop", *evaluated, "--evaluate.offline") if demand.stage == "evaluate")
    assert capacity.shortage([asked], one_gpu) is None


def not_installed(name: str) -> str:
    raise importlib.metadata.PackageNotFoundError(name)


def of(preset: str, *flags: str) -> tuple[Demand, ...]:
    return capacity.of_stages((job.name, stage) for job, stage in pipeline.parse(["--preset", preset, *flags]).stages())


@pytest.mark.parametrize(
    ("nodes", "room"),
    [
        ([Nodes(2, 192, 8)], None),
        ([Nodes(1, 192, 8)], "room for 8"),
        ([Nodes(2, 32, 8)], "room for 8"),
        ([Nodes(4, 64, 4)], None),
        ([Nodes(1, 128)], "room for 0"),
        ([], "room for 0"),
    ],
)
def test_a_worker_lies_on_one_node(nodes: list[Nodes], room: str | None):
    said = shortage([Demand("train", "workers", 16, 8, 1)], nodes)
    assert (said is None) if room is None else (said is not None and room in said)


def test_workers_that_share_a_sequence_lie_on_the_same_node():
    demand = Demand("train", "workers", 16, 8, 1, together=8)
    assert shortage([demand], [Nodes(2, 192, 8)]) is None
    said = shortage([demand], [Nodes(4, 64, 4), Nodes(1, 192, 8)]) or ""
    assert said.startswith("train.workers=16 needs 2 x (64 CPU and 8 GPU on one node), but the cluster has room for 8")
    assert [demand.together for demand in of("s1") if demand.stage == "train"] == [8]


def test_the_message_names_the_option_its_need_and_what_is_there():
    demands = [Demand("distill", "pool.num_workers", 4, 1), Demand("train", "workers", 16, 8, 1)]
    assert shortage(demands, [Nodes(1, 0), Nodes(1, 96, 4)]) == (
        "train.workers=16 needs 16 x (8 CPU and 1 GPU on one node), but the cluster has room for 4: "
        "96 CPU and 4 GPU on 2 node(s)"
    )


@given(
    st.lists(st.builds(Nodes, st.integers(0, 3), st.integers(0, 64), st.integers(0, 8)), max_size=3),
    st.integers(1, 20),
    st.integers(1, 8),
    st.integers(0, 4),
)
def test_what_is_short_stays_short_with_less_and_room_grows_with_nodes(
    nodes: list[Nodes], count: int, cpus: int, gpus: int
):
    demand = Demand("train", "workers", count, cpus, gpus)
    lacks = shortage([demand], nodes) is not None
    assert lacks == (sum(group.places(demand) for group in nodes) < count)
    if lacks:
        assert shortage([demand], nodes[1:]) is not None
    else:
        assert shortage([demand], [*nodes, Nodes(1, 1)]) is None


def test_fractions_of_a_cpu_add_up():
    assert Nodes(1, 2).places(Demand("distill", "pool.num_workers", 20, 0.1)) == 20


def test_a_cluster_file_allows_its_workers_and_nothing_on_the_head():
    file = {
        "max_workers": 10,
        "head_node_type": "head",
        "available_node_types": {
            "head": {"resources": {"CPU": 8}, "max_workers": 3},
            "small": {"resources": {"CPU": 16}},
            "large": {"resources": {"CPU": 192, "GPU": 8}, "max_workers": 2},
            "many": {"resources": {"CPU": 4}, "max_workers": 99},
        },
    }
    assert capacity.limits(file) == [Nodes(0, 8, 0), Nodes(10, 16, 0), Nodes(2, 192, 8), Nodes(10, 4, 0)]

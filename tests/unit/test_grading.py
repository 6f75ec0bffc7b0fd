import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from process_tree import below

from s1.grading import equivalent, workers
from s1.grading.extract import final_answer, last_boxed
from s1.grading.normalise import normalise
from s1.grading.verify import correct

SHARED = Path(__file__).parents[3] / "shared" / "data" / "grader"


def shared(name: str) -> str:
    if not (SHARED / name).is_file():
        pytest.skip(f"left out: {SHARED / name} is not there")
    return (SHARED / name).read_text()


def test_verdicts_on_collected_cases():
    rows = [json.loads(line) for line in shared("grader_cases.jsonl").splitlines()]
    right = sum(equivalent(row["gold"], row["pred"]) == row["expected"] for row in rows)
    assert right / len(rows) >= 0.97


def test_extraction_on_collected_cases():
    functions = {"get_last_boxed": last_boxed, "extract_final_candidate": final_answer, "normalize": normalise}
    rows = [json.loads(line) for line in shared("extraction_cases.jsonl").splitlines()]
    wrong = [row for row in rows if functions[row["kind"]](row["text"]) != row["expected"]]
    assert wrong == []


def test_what_no_parser_reads_is_no_answer():
    assert [text for text in json.loads(shared("latex_unparseable.json")) if equivalent("7", text)] == []


@pytest.mark.parametrize(
    ("gold", "prediction", "expected"),
    [
        ("617", "1,234/2", True),
        ("1/3", "0.3333333333", False),
        ("0,111", "0.111", True),
        ("1000.5", "1,000.5", True),
        ("11,\\! 111,\\! 100", "11111100", True),
        ("32349", "\\boxed{32, 349}", False),
        ("1/2", "50%", False),
        ("28%", "28", True),
        ("42", "<think>maybe 41</think>So.\n\nAnswer: 42", True),
        ("42", "thinking 41<|im_start|>answer\nFinal Answer: The final answer is $42$. I hope it is correct.", True),
        ("42", "\\boxed{41} then \\boxed{42}", True),
        ("42", "\\boxed{42", False),
        ("C", "The answer is (C) because it fits.", True),
        ("C", "D. 12", False),
        ("E", "\\text{(E)}", True),
        ("B", "All others fail, so the right option is (B) and nothing else.", True),
        ("B", "All others fail, so choice C is right.", False),
        ("72", "She has 48 + 24 = 72.\n#### 72", True),
        ("72", "#### Step 1\nAdd.\n\n#### Final Answer\n\n72", True),
        ("72", "**Final Answer:** 72 clips", True),
        ("(1,2)", "(2,1)", False),
        ("(1,2)", "1, 2", True),
        ("(2,1)", "1, 2", False),
        ("(1,2)", "\\{2,1\\}", False),
        ("(1,2)", "\\{1,2\\}", False),
        ("(1,2,3)", "[1,2,3]", True),
        ("(1,2,3)", "3, 2, 1", False),
        ("[2,5]", "(2,5)", False),
        ("[0,1]", "\\boxed{(0,1)}", False),
        ("[0,\\frac{1}{2}]", "\\boxed{[0, 0.5]}", True),
        ("1, 2", "2 and 1", True),
        ("1, 2", "(2,1)", True),
        ("\\{1,2\\}", "2, 1", True),
        ("\\frac{639}{40}", "\\boxed{15\\frac{39}{40}}", True),
        ("sqrt(2)", "\\frac{\\sqrt{8}}{2}", True),
        (
            "\\begin{pmatrix} -1/3 \\\\ 2 \\end{pmatrix}",
            "\\boxed{\\begin{pmatrix} -\\frac{1}{3} \\\\ 2 \\end{pmatrix}}",
            True,
        ),
        ("2", "x^2", False),
        ("1/2004!", "1/2006!", False),
        ("2^{-99}", "2^{-98}", False),
        ("5", "The answer is not 5", False),
        ("5", "The answer isn't 5.", False),
        ("5", "Answer: definitely not $5$", False),
        ("5", "The answer cannot be 5.", False),
        ("5", "5 is not the answer.", False),
        ("3", "The answer is not 3 but 5", False),
        ("5", "The answer is 5, not 6.", True),
        ("5", "The number of students who did not pass is 5.", True),
        ("not 0", "Answer: not 0", True),
        ("mother-in-law", "Answer: Mother-in-law.", True),
        ("", "", False),
        ("5", "", False),
    ],
)
def test_verdicts(gold: str, prediction: str, expected: bool):
    assert equivalent(gold, prediction) is expected


SLOW = "\\boxed{\\sum_{n=1}^{10^{100}} n!}"
HOSTILE = pytest.mark.parametrize(
    "prediction",
    [
        "2^{2^{2^{2^{2^{2^{9}}}}}}",
        "9^9^9^9^9^9",
        "\\boxed{((((9!)!)!)!)!}",
        "\\boxed{" * 100_000,
        "{" * 3_000_000,
        "1" * 1_000_000,
        "Answer: " * 200_000,
        "\\frac " * 400,
        "a" + "\n" * 150_000 + "a",
        "####" * 40_000 + "x",
        "Answer: a" + " " * 150_000 + "b",
        "a" + " " * 150_000 + "a answer" + "*" * 40_000,
        "\\text{" * 600 + "}" * 600,
        SLOW,
        "\x00\ud800",
        "{" * 8_000 + "1" + "}" * 8_000,
        "a" + "\n" * 24_000 + "a",
    ],
)


@contextmanager
def within_the_contract() -> Iterator[None]:
    """Takes at most 5 s of this process's computing, and no more by the clock than a busy machine explains."""
    equivalent("x+1", "1+x")  # the verifier is loaded
    started, computed = time.monotonic(), time.process_time()
    yield
    assert time.process_time() - computed < 5
    assert time.monotonic() - started < 30


@HOSTILE
def test_hostile_answers_are_wrong_and_quickly_so(prediction: str):
    with within_the_contract():
        assert not equivalent("7", prediction)


@HOSTILE
@pytest.mark.parametrize(
    ("question", "gold"),
    [
        ("Which? A) 1 B) 2", "B"),
        ("Write a program.", "def f(a):\n    return a"),
        ("Prove that 1 > 0.", "It is so. " * 20),
    ],
)
def test_hostile_answers_are_told_quickly_whatever_is_asked_for(question: str, gold: str, prediction: str):
    for answer, response in ((gold, prediction), (prediction, gold)):
        with within_the_contract():
            assert not correct({"question": question, "answer": answer}, response)


def test_a_verifier_that_sleeps_has_no_verdict():
    entry = {"question": "", "answer": "0 1", "metadata": {"solution": [[0, 1]], "matrix": [[0, 1]]}}
    with within_the_contract():
        assert workers.verify_gym("binary_matrix", entry, "__import__('time').sleep(100)") is None


def test_any_thread_may_ask():
    verdicts: list[bool] = []
    threads = [threading.Thread(target=lambda: verdicts.append(equivalent("$x+1$", "$1+x$"))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verdicts == [True] * 16


def computed_by_children() -> Iterator[float]:
    """Seconds that each question which is under way has computed."""
    for process in below("_worker.py"):
        with suppress(psutil.NoSuchProcess):  # it has just ended
            if process.ppid() != os.getpid():
                yield process.cpu_times().user


def test_hostile_questions_hold_up_each_other_and_no_harmless_one():
    equivalent("x+1", "1+x")  # the verifier is loaded
    num_hostile = 2 * workers.NUM_LONG + 4
    with ThreadPoolExecutor(num_hostile) as threads:
        hostile = [threads.submit(equivalent, "7", SLOW) for _ in range(num_hostile)]
        while not any(seconds > 0.5 for seconds in computed_by_children()):
            time.sleep(0.01)
        assert [equivalent("$x+1$", "$1+x$") for _ in range(3)] == [True] * 3
        assert not all(asked.done() for asked in hostile)
    assert not any(asked.result() for asked in hostile)


def test_no_process_outlives_who_asked():
    code = """
import threading
from s1.grading import workers
entry = {"metadata": {"solution": [[0, 1]], "matrix": [[0, 1]]}}
workers.verify_gym("binary_matrix", entry, "0 1")
threading.Thread(target=workers.verify_gym, args=("binary_matrix", entry, "__import__('time').sleep(600)")).start()
print(flush=True)
threading.Event().wait()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as asking:
        assert asking.stdout is not None and asking.stdout.readline()
        while len(started := psutil.Process(asking.pid).children(recursive=True)) < 2:  # the loaded one, and its child
            time.sleep(0.01)
        asking.kill()
    assert psutil.wait_procs(started, timeout=30)[1] == []


def test_a_verifier_that_was_killed_is_loaded_again():
    equivalent("x+1", "1+x")
    loaded = [process for process in below("_worker.py") if process.ppid() == os.getpid()]
    for process in loaded:
        process.kill()
    assert equivalent("$x+1$", "$1+x$")


def test_an_answer_cannot_act(tmp_path: Path):
    entry = {"question": "", "answer": "0 1", "metadata": {"solution": [[0, 1]], "matrix": [[0, 1]]}}
    target = tmp_path / "written"
    attack = f"[open({str(target)!r}, 'w').write('x'), __import__('os').mkdir({str(tmp_path / 'made')!r})]"
    assert not workers.verify_gym("binary_matrix", entry, attack)
    assert os.listdir(tmp_path) == []
    assert workers.verify_gym("binary_matrix", entry, "0 1") is True


def gym_row(dataset: str) -> dict[str, object]:
    import reasoning_gym

    entry = reasoning_gym.create_dataset(dataset, size=1, seed=3)[0]
    return {
        "source": "gym",
        "answer": entry["answer"],
        "metadata": json.dumps({"source_dataset": dataset, "entry": entry}),
    }


def test_gym_questions_are_put_to_their_own_verifier():
    row = gym_row("countdown")
    terms = str(row["answer"]).replace(" ", "")
    assert correct(row, f"We try a few.\n\nAnswer: {row['answer']}") is True
    assert correct(row, f"Answer: 0+({terms})*1") is False
    assert correct(row, f"Answer: ({terms})") is True
    assert correct(row, "Answer: __import__('time').sleep(100)") is False
    assert correct(row, "") is False
    assert correct(row, f"\\boxed{{{row['answer']}") is False


def test_without_a_reference_there_is_no_verdict():
    assert correct({"answer": None, "source": "files:x", "metadata": None}, "5") is None
    assert correct({"answer": "5", "source": "files:x", "metadata": None}, "It is 5.\n\nAnswer: 5") is True
    assert correct({"answer": "5", "source": "files:x", "metadata": None}, None) is False


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("173", True),
        ("Answer: 173.", True),
        ("The sum comes to 173 legs", True),
        ("86 + 38 + 49 = 173", True),
        ("86 + 38 + 49", False),
        ("86 + 38 + 49 =", False),
        ("To calculate 86 + 38 + 49, we need", False),
        ("173 + 1", False),
    ],
)
def test_a_question_of_the_gym_is_answered_by_a_number_not_by_its_own_sum(response: str, expected: bool):
    entry = {"question": "Calculate 86 + 38 + 49.", "answer": "173", "metadata": {}}
    row = {
        "source": "gym",
        "answer": "173",
        "metadata": json.dumps({"source_dataset": "basic_arithmetic", "entry": entry}),
    }
    assert correct(row, response) is expected

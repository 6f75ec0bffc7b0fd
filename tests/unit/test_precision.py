"""bfloat16 is what GPUs and some CPUs compute in; other CPUs get float32."""

from pathlib import Path

import pytest

from s1 import precision


@pytest.mark.parametrize(
    ("text", "has"),
    [
        ("flags\t\t: fpu avx2 fma avx512f avx512_bf16 sha_ni\n", False),
        ("flags\t\t: fpu avx2 fma amx_bf16 amx_tile\n", True),
        ("flags\t\t: fpu avx2 fma avx512f\n", False),
        ("flags\t\t: fpu avx2 fma\nbugs\t\t: bf16\n", False),
        ("Features\t: fp asimd i8mm bf16\n", True),
        ("", False),
    ],
)
def test_what_a_cpu_says_of_itself(text: str, has: bool, tmp_path: Path):
    (tmp_path / "cpuinfo").write_text(text)
    assert precision.cpu_has_bfloat16(tmp_path / "cpuinfo") is has
    assert not precision.cpu_has_bfloat16(tmp_path / "none")


def test_auto_is_what_the_device_computes_fastest_in():
    assert precision.resolve("auto", gpu=True) == "bfloat16"
    here = "bfloat16" if precision.cpu_has_bfloat16() else "float32"
    assert precision.resolve("auto", gpu=False) == here
    assert precision.resolve("float16", gpu=False) == "float16"

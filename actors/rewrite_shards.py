"""DeepSpeed's rewriting of shards as a program that ends with the worker that started it. Takes its arguments.

python -P actors/rewrite_shards.py --input_folder … --output_folder …
"""

from __future__ import annotations

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with_parent() -> None:
    """From now on this process is killed when its parent ends, and so are processes that it forks, with it."""
    library = ctypes.CDLL(None)

    def ask() -> None:
        library.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    ask()
    os.register_at_fork(after_in_child=ask)  # it is not inherited, and those of a pool would wait for work for ever


def main() -> None:
    """Rewrite, unless the parent is lost before that is done."""
    end_with_parent()

    from deepspeed.checkpoint import ds_to_universal

    ds_to_universal.main(ds_to_universal.parse_arguments())


if __name__ == "__main__":
    main()

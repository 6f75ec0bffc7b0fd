"""Budget forcing (paper, section 3.1): a policy, one pure state machine, and drivers that carry it out.

`BudgetPolicy` says how long to think, `compile_policy` turns it into token ids for one prompt, `machine` decides token
by token, and `segments.run` drives any engine that continues a token prompt.
"""

from s1.forcing.policy import BudgetPolicy, Program, compile_policy

__all__ = ["BudgetPolicy", "Program", "compile_policy"]

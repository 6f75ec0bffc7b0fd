"""What a job is submitted with stands, also where it is one of the variables that we set for the workers."""

import json
import os
import subprocess
import sys

JOB = """
import json
import os

from jobs.ray_session import ray_session

NAMES = ["VLLM_LOGGING_LEVEL", "TRANSFORMERS_VERBOSITY"]

with ray_session():
    import ray

    @ray.remote
    def of_a_worker():
        return {name: os.environ.get(name) for name in NAMES}

    print(json.dumps(ray.get(of_a_worker.remote())))
"""


def test_a_job_may_set_a_variable_that_makes_workers_quiet():
    given = {"VLLM_LOGGING_LEVEL": "INFO"}
    # As Ray's job server starts a driver.
    environment = {
        **{name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
        **given,
        "RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps({"runtime_env": {"env_vars": given}, "metadata": {}}),
    }
    job = subprocess.run([sys.executable, "-c", JOB], env=environment, capture_output=True, text=True, timeout=600)
    assert job.returncode == 0, job.stderr
    assert json.loads(job.stdout) == {"VLLM_LOGGING_LEVEL": "INFO", "TRANSFORMERS_VERBOSITY": "error"}

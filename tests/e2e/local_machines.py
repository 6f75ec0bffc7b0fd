"""Machines that Ray's autoscaler can rent: each is a `ray start` on this one, with a folder of its own as its disk.

The autoscaler's process imports this module by its name.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider
from ray.autoscaler.tags import TAG_RAY_USER_NODE_TYPE


class LocalMachines(FakeMultiNodeProvider):
    """Ray's fake nodes share one folder: a new one unpacks the job's working directory again, under the feet of those
    that work in it.

    Provider options of its own: `ray`, the command to start nodes with, and `disks`, the folder of their folders.
    """

    def _create_node_with_resources_and_labels(
        self, node_config: Any, tags: dict[str, str], count: int, resources: dict[str, Any], labels: Any
    ) -> None:
        with self.lock:
            node_id = self._next_hex_node_id()
            disk = Path(self.provider_config["disks"]) / node_id[-2:]  # short: sockets lie there
            disk.mkdir()
            environment = {
                **os.environ,
                "RAY_OVERRIDE_NODE_ID_FOR_TESTING": node_id,
                "RAY_CLOUD_INSTANCE_ID": node_id,
                "RAY_NODE_TYPE_NAME": tags[TAG_RAY_USER_NODE_TYPE],
                "RAY_OVERRIDE_RESOURCES": json.dumps(resources),
            }
            command = [self.provider_config["ray"], "start", "--block"]
            command += ["--address", self.provider_config["gcs_address"]]
            command += ["--temp-dir", str(disk), "--dashboard-agent-listen-port", "0"]
            command += ["--min-worker-port", "0", "--max-worker-port", "0"]
            with (disk / "ray.log").open("w") as log:
                node = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            nodes: dict[str, Any] = self._nodes
            nodes[node_id] = {"tags": tags, "node": node}

    def _terminate_node(self, node: dict[str, Any]) -> None:
        node["node"].terminate()
        node["node"].wait()

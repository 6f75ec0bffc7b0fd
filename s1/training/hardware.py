"""What a training runs on: memory, speed, links and prices of known devices, each value open to correction.

Prices are typical ones, for a first idea; they differ between providers and regions, and those of spot instances move
from hour to hour.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field, field_validator

from s1.config import Config
from s1.errors import UserError


@dataclass(frozen=True)
class Device:
    """One device and the links around it, from the makers' data sheets, and what renting one costs."""

    memory_gib: float  # that CUDA can give away
    peak_tflops: float  # dense, bf16
    per_node: int
    host_gib: float | None  # memory of a node; None: differs from machine to machine
    local_gb_per_s: float  # between devices of a node, one direction
    node_gbit_per_s: float  # between nodes, all devices of a node together, over all network cards (EFA, InfiniBand)
    memory_gb_per_s: float  # between a device and its memory
    usd_per_hour: float  # on demand
    spot_usd_per_hour: float | None


# Prices on demand: typical public list prices, second half of 2025, an eighth of a machine of AWS in us-east-1:
# p4d.24xlarge ($21.96), p4de.24xlarge ($27.45), p5.48xlarge ($55.04), p5en.48xlarge ($63.30), g6e.48xlarge ($30.13);
# the 4090 as at RunPod. Spot: typical of 2025 and 2026, 40 to 50% of that; never read from a price list. Your own CPUs
# cost nothing. Memory of a node: of those machines.
DEVICES: dict[str, Device] = {
    "a100-40": Device(39.4, 312, 8, 1152, 300, 1600, 1555, 2.74, 1.20),
    "a100-80": Device(79.2, 312, 8, 1152, 300, 1600, 2039, 3.43, 1.50),
    "h100": Device(79.1, 989, 8, 2048, 450, 3200, 3350, 6.88, 3.00),
    "h200": Device(139.8, 989, 8, 2048, 450, 3200, 4800, 7.91, 3.40),
    "l40s": Device(44.9, 362, 8, 1536, 32, 200, 864, 3.77, 1.60),
    "rtx-4090": Device(23.6, 165, 8, None, 32, 25, 1008, 0.69, 0.34),
    "cpu": Device(12, 0, 1, None, 10, 10, 20, 0.0, None),
}

# Share of the peak while a device computes, recomputed activations included: what the paper's 26 minutes on 16 H100
# come to when every step waits for the longest of 16 examples (s1/training/duration.py).
PAPER_EFFICIENCY = 0.39


class Hardware(Config):
    """What a worker runs on and what it costs; whatever is not given is the device's usual value."""

    device: str = Field("cpu", description="One of a100-40, a100-80, h100, h200, l40s, rtx-4090, cpu.")
    memory_gib: float | None = Field(None, gt=0, description="Memory of one worker.")
    peak_tflops: float | None = Field(None, gt=0, description="Peak of one device in bf16.")
    per_node: int | None = Field(None, ge=1, description="Devices of one node.")
    host_gib: float | None = Field(None, gt=0, description="Memory of one node, besides that of its devices.")
    local_gb_per_s: float | None = Field(None, gt=0, description="Bandwidth between devices of a node, one direction.")
    node_gbit_per_s: float | None = Field(
        None,
        gt=0,
        description="Bandwidth between nodes, all devices of a node together. The default takes EFA or InfiniBand; one "
        "network card has 100 on a p5.48xlarge and 200 on an a3-highgpu-8g.",
    )
    storage_gb_per_s: float = Field(
        2.0,
        gt=0,
        description="Speed at which a node writes to the run folder: 0.5 to EFS, 0.35 to Filestore's basic SSD.",
    )
    efficiency: float = Field(
        PAPER_EFFICIENCY, gt=0, le=1, description="Share of the peak that a device reaches while it computes."
    )
    tokens_per_s: float | None = Field(None, gt=0, description="Measured speed of one worker, instead of the peak.")
    usd_per_hour: float | None = Field(
        None, ge=0, description="Price of one device per hour, on demand; by default a typical one."
    )
    spot_usd_per_hour: float | None = Field(
        None,
        ge=0,
        description="Price as a spot instance; by default a typical one, or unknown if you set usd_per_hour.",
    )

    @field_validator("device")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in DEVICES:
            raise ValueError(f"must be one of {', '.join(DEVICES)}; correct single values with the other options")
        return value

    @property
    def price(self) -> float:
        """Dollars of one device for an hour, on demand."""
        return DEVICES[self.device].usd_per_hour if self.usd_per_hour is None else self.usd_per_hour

    @property
    def spot_price(self) -> float | None:
        """The same as a spot instance. A typical price says nothing beside a price on demand that was given."""
        if self.spot_usd_per_hour is None and self.usd_per_hour is None:
            return DEVICES[self.device].spot_usd_per_hour
        return self.spot_usd_per_hour

    def resolved(self) -> Device:
        """The device with the values that were given. UserError when neither a peak nor a speed is known."""
        usual = DEVICES[self.device]
        device = Device(
            memory_gib=self.memory_gib or usual.memory_gib,
            peak_tflops=self.peak_tflops or usual.peak_tflops,
            per_node=self.per_node or usual.per_node,
            host_gib=self.host_gib or _of_part(usual, self.per_node),
            local_gb_per_s=self.local_gb_per_s or usual.local_gb_per_s,
            node_gbit_per_s=self.node_gbit_per_s or usual.node_gbit_per_s,
            memory_gb_per_s=usual.memory_gb_per_s,
            usd_per_hour=self.price,
            spot_usd_per_hour=self.spot_price,
        )
        if not (device.peak_tflops or self.tokens_per_s):
            raise UserError(
                f"hardware.device={self.device} has no known speed; set hardware.tokens_per_s of one worker, or "
                "hardware.peak_tflops"
            )
        return device


def _of_part(usual: Device, per_node: int | None) -> float | None:
    """Memory of a node with `per_node` devices: as much for each as on the usual node."""
    if usual.host_gib is None or per_node is None:
        return usual.host_gib
    return usual.host_gib * per_node / usual.per_node

"""What a run on mini-batches costs."""

from dataclasses import dataclass


@dataclass
class Costs:
    """What has been evaluated, in examples."""

    values: int = 0
    gradients: int = 0

    def count(self, examples: int, values: int, gradients: int) -> None:
        self.values += examples * values
        self.gradients += examples * gradients

    def passes(self, count: int) -> dict[str, float]:
        """In passes over a data set of `count` examples."""
        values, gradients = self.values / count, self.gradients / count
        return {"values": values, "gradients": gradients, "cost": values + 2 * gradients}

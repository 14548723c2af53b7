"""A loader for tests of the loop."""

from dataclasses import dataclass

from torch import Tensor


@dataclass
class OneBatch:
    """The same rows at each step."""

    idx: Tensor
    targets: Tensor

    def batch(self) -> tuple[Tensor, Tensor]:
        return self.idx, self.targets

    def origins(self) -> dict[str, list[int]]:
        return {"the.batch": [0]}

    def state(self) -> dict[str, Tensor]:
        return {}

    def load(self, state: dict[str, Tensor]) -> None: ...

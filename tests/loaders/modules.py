"""PyTorch modules to import, also by name from a child process."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ConvNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, 5)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.drop(torch.relu(self.norm(self.conv(image))).mean((2, 3))))


class Encoder(nn.Module):
    """A transformer block over ids and a mask, with an argument that may be left out."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.attend = nn.MultiheadAttention(16, 2, batch_first=True)
        self.norm = nn.LayerNorm(16)

    def forward(self, ids: Tensor, mask: Tensor, bias: Tensor | None = None) -> dict[str, object]:
        x = self.embed(ids)
        if bias is not None:
            x = x + bias
        y, _ = self.attend(x, x, x, key_padding_mask=mask == 0, need_weights=False)
        x = self.norm(x + y)
        return {"hidden": x, "pooled": (x.mean(1), x.max(1).values)}


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRU(6, 7, batch_first=True)

    def forward(self, steps: Tensor) -> tuple[Tensor, Tensor]:
        return self.cell(steps)


class Unbatched(nn.Module):
    """Takes one sample at a time."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] != 1:
            raise ValueError("one sample only")
        return x.reshape(2, 3) * 2


class Branching(nn.Module):
    """Cannot be traced: which way it goes depends on the numbers."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Looping(nn.Module):
    """Traced for the number of samples it is traced with."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([sample * (i + 1) for i, sample in enumerate(x)])


class Mixed(nn.Module):
    """Gives numbers and a named tuple beside tensors, and takes anything by name."""

    def forward(self, **given: Tensor) -> tuple[object, ...]:
        return 3, given["x"] + given["y"], None, given["x"].max(1)


class Clashing(nn.Module):
    """Its inputs and outputs have names that PyTorch gives to values inside, or that weights have."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(3, 3)

    def forward(self, linear: Tensor, relu: Tensor) -> dict[str, Tensor]:
        return {"add": torch.relu(self.lin(linear)) + relu, "mul": linear - 1, "lin.weight": relu * 2}


class Counting(nn.Module):
    """Writes into its input and its buffers."""

    count: Tensor
    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.ones(1))
        self.register_buffer("mean", torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        self.mean = x.mean(0)
        return x.add_(1) * self.count


class Table(nn.Module):
    """The first axes of its inputs are of different sizes."""

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        return x @ table.T


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)


class Silent(nn.Module):
    def forward(self, x: Tensor) -> int:
        return 3


def conv_net() -> nn.Module:
    torch.manual_seed(0)
    return ConvNet()


def no_module() -> int:
    return 3


def missing_weights() -> nn.Module:
    raise FileNotFoundError("weights.pt is not here")

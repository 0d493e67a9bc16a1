"""Which channels and heads can go in the architectures people have, with random weights: the coupling law.

    pip install transformers==5.24.0 torchvision==0.28.0
    python -m benchmarks.architectures --out FILE.md [NAME]...

Small configurations of `transformers`, layers of `torch.nn`, and networks of torchvision as they are, each
read from its module with an open batch like any user's. What is judged is what `benchmarks/coupling.py`
judges on models with real weights; Torch-Pruning is not asked.
"""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import hasten
from benchmarks.coupling import HEAD, Page
from hasten.core.errors import HastenError

_TOKENS = 16
_WORDS = 200
_SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
_TEXT: dict[str, Any] = {**_SIZES, "vocab_size": _WORDS, "max_position_embeddings": 64}
_SPECIAL = {f"{name}_token_id": number for number, name in enumerate(("pad", "cls", "sep", "bos", "eos"))}
_GROUPED = {**_TEXT, "num_key_value_heads": 2}
_PICTURE: dict[str, Any] = {**_SIZES, "image_size": 64, "patch_size": 16}
_BOTH_SIDES: dict[str, Any] = {
    f"{side}_{name}": value
    for side in ("encoder", "decoder")
    for name, value in (("layers", 2), ("attention_heads", 4), ("ffn_dim", 160))
}
_LANGUAGE: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("ForCausalLM", _GROUPED),
    "Mistral": ("ForCausalLM", _GROUPED),
    "Qwen2": ("ForCausalLM", _GROUPED),
    "Qwen3": ("ForCausalLM", {**_GROUPED, "head_dim": 16}),
    "Gemma2": ("ForCausalLM", {**_GROUPED, "head_dim": 16}),
    "Phi3": ("ForCausalLM", {**_TEXT, "pad_token_id": 0}),
    "GPTNeoX": ("ForCausalLM", _TEXT),
    "GPT2": (
        "LMHeadModel",
        {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": _WORDS, "n_positions": 64},
    ),
    "OPT": ("ForCausalLM", {**_TEXT, "ffn_dim": 160, "word_embed_proj_dim": 64}),
    "Bloom": ("ForCausalLM", {"hidden_size": 64, "n_layer": 2, "n_head": 4, "vocab_size": _WORDS}),
    "Mamba": (
        "ForCausalLM",
        {"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": _WORDS},
    ),
    "Bert": ("ForSequenceClassification", _TEXT),
    "Roberta": ("ForSequenceClassification", _TEXT),
    "DistilBert": (
        "ForSequenceClassification",
        {"dim": 64, "hidden_dim": 160, "n_layers": 2, "n_heads": 4, "vocab_size": _WORDS},
    ),
    "Albert": ("ForSequenceClassification", {**_TEXT, "embedding_size": 32}),
    "Electra": ("ForSequenceClassification", {**_TEXT, "embedding_size": 32}),
    "DebertaV2": (
        "ForSequenceClassification",
        {**_TEXT, "relative_attention": True, "position_buckets": 8, "pos_att_type": ["p2c", "c2p"]},
    ),
    "MPNet": ("ForSequenceClassification", _TEXT),
    "ModernBert": ("ForSequenceClassification", {**_TEXT, **_SPECIAL}),
    "XLNet": (
        "ForSequenceClassification",
        {"d_model": 64, "n_layer": 2, "n_head": 4, "d_inner": 160, "vocab_size": _WORDS},
    ),
    "T5": (
        "ForConditionalGeneration",
        {"d_model": 64, "d_kv": 16, "d_ff": 160, "num_layers": 2, "num_heads": 4, "vocab_size": _WORDS},
    ),
    "Bart": (
        "ForConditionalGeneration",
        {"d_model": 64, "vocab_size": _WORDS, "max_position_embeddings": 64, **_BOTH_SIDES},
    ),
}
_PICTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "ViT": ("ForImageClassification", _PICTURE),
    "Dinov2": ("ForImageClassification", {**_PICTURE, "use_swiglu_ffn": True}),
    "CLIPVision": ("ModelWithProjection", {**_PICTURE, "projection_dim": 32}),
    "Yolos": ("ForObjectDetection", {**_PICTURE, "image_size": [64, 64], "num_detection_tokens": 5}),
    "ConvNextV2": ("ForImageClassification", {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1]}),
    "Segformer": (
        "ForSemanticSegmentation",
        {
            "hidden_sizes": [16, 32, 48, 64],
            "num_attention_heads": [1, 2, 3, 4],
            "depths": [1, 1, 1, 1],
            "decoder_hidden_size": 64,
        },
    ),
}
_SOUND: dict[str, tuple[str, dict[str, Any]]] = {
    "Wav2Vec2": (
        "ForCTC",
        {
            **_SIZES,
            "vocab_size": _WORDS,
            "conv_dim": (32,) * 7,
            "num_conv_pos_embeddings": 16,
            "num_conv_pos_embedding_groups": 4,
        },
    ),
}
_TORCHVISION = (
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "inception_v3",
    "lraspp_mobilenet_v3_large", "maxvit_t", "mnasnet1_0", "mobilenet_v2", "mobilenet_v3_small", "mvit_v1_b",
    "raft_small", "regnet_y_400mf", "resnet18", "resnext50_32x4d", "shufflenet_v2_x1_0", "squeezenet1_1",
    "swin_t", "swin_v2_t", "vit_b_16",
)  # fmt: skip
_VIDEO = "mvit_v1_b"


def main() -> None:
    """Build each, read it, and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("names", nargs="*", help="some of them; all by default")
    arguments = parser.parse_args()
    head = f"# Coupled channels of architectures\n\n{HEAD}Written by `benchmarks/architectures.py`."
    page = Page(head, arguments.out)
    for name, build in _all():
        if arguments.names and name not in arguments.names:
            continue
        module, inputs = _built(build)
        try:
            graph = hasten.read(module, inputs=_said(module, inputs))
        except HastenError as error:
            print(f"{name}: {error}", flush=True)
            continue
        feeds = {spec.name: array for spec, array in zip(graph.inputs, inputs, strict=True)}
        page.add(name, graph, feeds)


Built = tuple[Any, tuple[Any, ...]]


def _all() -> Iterator[tuple[str, Callable[[], Built]]]:
    yield "torch.nn.TransformerEncoder, batch first", partial(_encoder, batch_first=True)
    yield "torch.nn.TransformerEncoder, batch second", partial(_encoder, batch_first=False)
    yield "torch.nn.TransformerDecoder", _decoder
    words = np.random.default_rng(0).integers(5, _WORDS, size=(2, _TOKENS))
    picture = np.random.default_rng(0).normal(size=(2, 3, 64, 64)).astype(np.float32)
    sound = np.random.default_rng(0).normal(size=(2, 4000)).astype(np.float32)
    for kinds, given in ((_LANGUAGE, words), (_PICTURES, picture), (_SOUND, sound)):
        for name, (task, config) in kinds.items():
            inputs = (given, given[:, :7]) if task == "ForConditionalGeneration" else (given,)
            yield f"transformers.{name}", partial(_transformer, name, task, config, inputs)
    for name in _TORCHVISION:
        yield f"torchvision.{name}", partial(_of_torchvision, name)


def _built(build: Callable[[], Built]) -> Built:
    """Whatever is made as zeros or ones is drawn too, so that nothing vanishes by itself."""
    import torch

    torch.manual_seed(0)
    module, inputs = build()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.numel() > 1 and float(parameter.std()) < 1e-6:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return module.eval(), inputs


def _said(module: Any, inputs: tuple[Any, ...]) -> list[str]:
    """The inputs as ``--input`` takes them."""
    names = list(inspect.signature(module.forward).parameters)
    kinds = ["" if array.dtype.kind == "f" else ":int64" for array in inputs]
    return [
        f"{name}={'x'.join(map(str, array.shape))}{kind}"
        for name, array, kind in zip(names, inputs, kinds, strict=False)
    ]


def _encoder(*, batch_first: bool) -> Built:
    from torch import nn

    layer = nn.TransformerEncoderLayer(64, 4, 160, batch_first=batch_first, norm_first=True)
    return nn.TransformerEncoder(layer, 1, enable_nested_tensor=False), (_drawn(2, _TOKENS, 64),)


def _decoder() -> Built:
    from torch import nn

    layer = nn.TransformerDecoderLayer(64, 4, 160, batch_first=True)
    return nn.TransformerDecoder(layer, 1), (_drawn(2, _TOKENS, 64), _drawn(2, 9, 64))


def _transformer(name: str, task: str, config: dict[str, Any], inputs: tuple[Any, ...]) -> Built:
    import transformers
    from torch import nn

    made = getattr(transformers, name + task)(getattr(transformers, f"{name}Config")(**config))
    own = {} if name in {*_PICTURES, *_SOUND} or "Sequence" in task else {"use_cache": False}

    class First(nn.Module):
        """The model's first output alone, from its inputs by position."""

        def __init__(self) -> None:
            super().__init__()
            self.model = made

    class One(First):
        """Of a model of one input."""

        def forward(self, x: Any) -> Any:
            return self.model(x, **own)[0]

    class Two(First):
        """Of an encoder and a decoder."""

        def forward(self, x: Any, y: Any) -> Any:
            return self.model(input_ids=x, decoder_input_ids=y, **own)[0]

    return (One if len(inputs) == 1 else Two)(), inputs


def _of_torchvision(name: str) -> Built:
    import torchvision

    options: dict[str, Any] = {"weights": None}
    if name in {"googlenet", "inception_v3"}:
        options |= {"init_weights": False, "aux_logits": False}
    if name.startswith("lraspp"):
        options["weights_backbone"] = None
    made = torchvision.models.get_model(name, **options)
    if name.startswith("raft"):
        return made, (_drawn(2, 3, 128, 128), _drawn(2, 3, 128, 128))
    if name == _VIDEO:
        return made, (_drawn(2, 3, 16, 224, 224),)
    side = 299 if name == "inception_v3" else 224
    return made, (_drawn(2, 3, side, side),)


def _drawn(*shape: int) -> Any:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


if __name__ == "__main__":
    main()

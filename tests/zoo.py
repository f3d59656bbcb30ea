"""Networks of many families, randomly initialised at small sizes: what the method has to work on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

N = 12


@dataclass(frozen=True)
class Entry:
    """One architecture: how to make it, a batch of inputs for it, and whether the suite exports it (each export takes seconds)."""

    package: str
    family: str
    name: str
    make: Callable[[], nn.Module]
    inputs: Callable[[int], Any]
    export: bool = False

    def __str__(self) -> str:
        return f"{self.package} {self.name} ({self.family})"


def images(size: int, channels: int = 3) -> Callable[[int], torch.Tensor]:
    return lambda n: torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(n))


def tokens(n: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(n)
    ids = torch.randint(5, 90, (n, 9), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def waves(n: int) -> dict[str, torch.Tensor]:
    return {"input_values": torch.randn(n, 800, generator=torch.Generator().manual_seed(n))}


def spectra(n: int) -> dict[str, torch.Tensor]:
    return {"input_values": torch.randn(n, 32, 16, generator=torch.Generator().manual_seed(n))}


def pixels(size: int) -> Callable[[int], dict[str, torch.Tensor]]:
    return lambda n: {"pixel_values": images(size)(n)}


def _timm(family: str, name: str, size: int = 32, export: bool = False, **options: Any) -> Entry:
    def make() -> nn.Module:
        import timm

        return timm.create_model(name, num_classes=N, **options)

    return Entry("timm", family, name, make, images(size), export)


def _torchvision(family: str, name: str, size: int = 32, export: bool = False, **options: Any) -> Entry:
    def make() -> nn.Module:
        import torchvision

        return torchvision.models.get_model(name, num_classes=N, **options)

    return Entry("torchvision", family, name, make, images(size), export)


def _transformers(family: str, name: str, inputs: Any, export: bool = False, **config: Any) -> Entry:
    def make() -> nn.Module:
        import transformers

        made = getattr(transformers, name)
        labels = {i: f"kind {i}" for i in range(N)}
        return made(made.config_class(id2label=labels, label2id={v: k for k, v in labels.items()}, **config))

    return Entry("transformers", family, name, make, inputs, export)


TEXT = {"vocab_size": 100, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "max_position_embeddings": 32}
VISION = {"image_size": 32, "patch_size": 8, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
SPEECH = {
    "vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "conv_dim": (8, 8),
    "conv_stride": (5, 2), "conv_kernel": (10, 3), "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 8, "mask_time_prob": 0.0,
}  # fmt: skip


class Plain(nn.Module):
    """A module of one's own, with several inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(8, 16), nn.Linear(4, 16)
        self.norm, self.out = nn.BatchNorm1d(16), nn.Linear(16, N)

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.out(self.norm(torch.relu(self.left(left) + self.right(right))))}


ZOO = [
    _timm("ResNet", "resnet10t", export=True),
    _timm("ConvNeXt", "convnext_atto", size=64),
    _timm("EfficientNet", "efficientnet_lite0"),
    _timm("MobileNetV3", "mobilenetv3_small_050"),
    _timm("MobileNetV4", "mobilenetv4_conv_small_035"),
    _timm("RegNet", "regnetx_002"),
    _timm("DenseNet", "densenet121", growth_rate=4, block_config=(2, 2, 2, 2)),
    _timm("GhostNet", "ghostnet_050"),
    _timm("ViT", "vit_tiny_patch16_224", export=True, img_size=32, patch_size=8, depth=2, embed_dim=32, num_heads=2),
    _timm("DeiT, distilled", "deit_tiny_distilled_patch16_224", export=True, img_size=32, patch_size=8, depth=2, embed_dim=32, num_heads=2),
    _timm("Swin", "swin_tiny_patch4_window7_224", img_size=32, window_size=4, depths=(1, 1), num_heads=(2, 2), embed_dim=16),
    _timm("MLP-Mixer", "mixer_s32_224", size=64, img_size=64),
    _timm("LeViT, distilled", "levit_128s", size=224),
    _timm("CoAtNet", "coatnet_pico_rw_224", size=64, img_size=64),
    _timm("MobileViT", "mobilevit_xxs", size=64),
    _torchvision("ResNet", "resnet18"),
    _torchvision("GoogLeNet", "googlenet", aux_logits=False, init_weights=False),
    _torchvision("GoogLeNet, auxiliary", "googlenet", size=64, aux_logits=True, init_weights=False),
    _torchvision("AlexNet", "alexnet", size=64),
    _torchvision("MobileNetV3", "mobilenet_v3_small"),
    _torchvision("ShuffleNet", "shufflenet_v2_x0_5", export=True),
    Entry("torchvision", "ViT", "VisionTransformer", lambda: _torchvision_vit(), images(32)),
    _transformers("BERT", "BertForSequenceClassification", tokens, export=True, **TEXT),
    _transformers("DistilBERT", "DistilBertForSequenceClassification", tokens, vocab_size=100, dim=16, n_layers=2, n_heads=2, hidden_dim=24,
                  max_position_embeddings=32),
    _transformers("RoBERTa", "RobertaForSequenceClassification", tokens, **TEXT),
    _transformers("ALBERT", "AlbertForSequenceClassification", tokens, embedding_size=8, **TEXT),
    _transformers("ELECTRA", "ElectraForSequenceClassification", tokens, embedding_size=8, **TEXT),
    _transformers("MPNet", "MPNetForSequenceClassification", tokens, **TEXT),
    _transformers("ViT", "ViTForImageClassification", pixels(32), **VISION),
    _transformers("DeiT, distilled", "DeiTForImageClassificationWithTeacher", pixels(32), **VISION),
    _transformers("ResNet", "ResNetForImageClassification", pixels(32), embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"),
    _transformers("ConvNeXt", "ConvNextForImageClassification", pixels(32), hidden_sizes=[8, 16], depths=[1, 1], num_stages=2),
    _transformers("wav2vec 2.0", "Wav2Vec2ForSequenceClassification", waves, **SPEECH),
    _transformers("HuBERT", "HubertForSequenceClassification", waves, **SPEECH),
    _transformers("Audio spectrogram transformer", "ASTForAudioClassification", spectra, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                  intermediate_size=24, patch_size=8, frequency_stride=8, time_stride=8, max_length=32, num_mel_bins=16),
    Entry("plain", "nn.Module", "Plain", Plain, lambda n: {"left": images(8, 1)(n)[:, 0, 0], "right": images(4, 1)(n)[:, 0, 0]}),
]  # fmt: skip


def _torchvision_vit() -> nn.Module:
    import torchvision

    return torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 24, num_classes=N)

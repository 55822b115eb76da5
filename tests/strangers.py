"""Networks that declare no axes: of transformers with random weights, and some of nobody else's invention."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

VOCABULARY, WIDTH, LENGTH = 50, 32, 7
TOKENS = torch.randint(0, VOCABULARY, (2, LENGTH), generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@dataclass(frozen=True)
class Stranger:
    """A network, how it is called, and how it is called with real numbers that may want a gradient."""

    build: Callable[[], nn.Module]
    kwargs: dict[str, Any] = field(default_factory=dict)
    args: tuple[Any, ...] = ()
    real: str | None = None
    """The keyword for embeddings instead of tokens; None where the first argument is real."""


def of_transformers(model: str, config: str, **settings: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import transformers

        torch.manual_seed(0)
        network: nn.Module = getattr(transformers, model)(getattr(transformers, config)(**settings))
        return network.eval()

    return build


def language(model: str, config: str, **settings: Any) -> Stranger:
    # The ends of texts of the defaults lie outside of so small a vocabulary.
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    build = of_transformers(model, config, vocab_size=VOCABULARY, **ends, **settings)
    return Stranger(build, {"input_ids": TOKENS, "use_cache": False}, real="inputs_embeds")


class UNet(nn.Module):
    """Down, up, and what was before beside what comes up."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.down = nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.middle = nn.Conv2d(12, 14, 3, padding=1)
        self.up = nn.ConvTranspose2d(14, 10, 2, stride=2)
        self.both = nn.Conv2d(18, 9, 3, padding=1)
        self.out = nn.Conv2d(9, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        high = functional.relu(self.norm(self.first(x)))
        low = functional.relu(self.middle(functional.gelu(self.down(high))))
        y: Tensor = self.out(functional.relu(self.both(torch.cat([high, self.up(low)], dim=1))))
        return y


class MobileBlock(nn.Module):
    """Wider, each channel by itself, narrower, beside the residual; a squeeze in between."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.wide = nn.Sequential(
            nn.Conv2d(channels, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU6()
        )
        self.each = nn.Sequential(nn.Conv2d(inner, inner, 3, padding=1, groups=inner), nn.BatchNorm2d(inner))
        self.squeeze, self.excite = nn.Conv2d(inner, 4, 1), nn.Conv2d(4, inner, 1)
        self.narrow = nn.Sequential(nn.Conv2d(inner, channels, 1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        y = functional.hardswish(self.each(self.wide(x)))
        pooled = functional.adaptive_avg_pool2d(y, 1)
        y = y * functional.hardsigmoid(self.excite(functional.relu(self.squeeze(pooled))))
        return x + self.narrow(y)


class MobileNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, stride=4)
        self.blocks = nn.Sequential(MobileBlock(6, 10), MobileBlock(6, 14))
        self.head = nn.Linear(6 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.avg_pool2d(self.blocks(self.stem(x)), 4)
        logits: Tensor = self.head(y[:, :, :2, :2].flatten(1))
        return logits


class Crossed(nn.Module):
    """Two streams that gate one another: one map for both, heads by einsum, a memory of matrices."""

    def __init__(self, width: int = 12, heads: int = 3, rank: int = 5) -> None:
        super().__init__()
        self.heads, self.rank = heads, rank
        self.into = nn.Linear(width, 2 * heads * rank)
        self.mix = nn.Parameter(torch.randn(heads, rank, 7))
        self.gain = nn.Parameter(torch.rand(heads, 1))
        self.out = nn.Linear(heads * 7, width)

    def forward(self, x: Tensor) -> Tensor:
        one, other = self.into(x).chunk(2, dim=-1)
        one = one.view(*x.shape[:-1], self.heads, self.rank)
        gate = torch.sigmoid(other).view(*x.shape[:-1], self.heads, self.rank)
        mixed = torch.einsum("blhr,hrv->blhv", one * gate, self.mix) * self.gain
        y: Tensor = x + self.out(mixed.flatten(-2))
        return y


class Branches(nn.Module):
    """Branches of several widths side by side, summed with a third, and read by a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow, self.wide = nn.Conv1d(3, 4, 3, padding=1), nn.Conv1d(3, 6, 5, padding=2)
        self.skip = nn.Conv1d(3, 10, 1)
        self.scale = nn.Parameter(torch.rand(10, 1))
        self.up, self.down = nn.Linear(10, 16), nn.Linear(8, 9, bias=False)
        self.recurrent = nn.LSTM(9, 5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([functional.silu(self.narrow(x)), torch.tanh(self.wide(x))], dim=1) + self.skip(x)
        z = functional.glu(self.up((y * self.scale).transpose(1, 2)), dim=-1)
        return self.recurrent(self.down(z))[0]


class Halves(nn.Module):
    """A gated feed-forward layer as it is written where one map makes both halves."""

    def __init__(self) -> None:
        super().__init__()
        self.both, self.down = nn.Linear(10, 2 * 11), nn.Linear(11, 10)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.both(x).split(self.both.out_features // 2, dim=-1)
        y: Tensor = x + self.down(functional.silu(gate) * up)
        return y


LLAMA = {"hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
STRANGERS: dict[str, Stranger] = {
    "llama": language("LlamaForCausalLM", "LlamaConfig", num_key_value_heads=2, **LLAMA),
    "mistral": language("MistralForCausalLM", "MistralConfig", num_key_value_heads=2, **LLAMA),
    "qwen3": language("Qwen3ForCausalLM", "Qwen3Config", num_key_value_heads=2, head_dim=10, **LLAMA),
    "gpt2": language("GPT2LMHeadModel", "GPT2Config", n_embd=WIDTH, n_layer=2, n_head=4, n_positions=20),
    "opt": language(
        "OPTForCausalLM",
        "OPTConfig",
        hidden_size=WIDTH,
        word_embed_proj_dim=WIDTH,
        ffn_dim=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=20,
    ),
    "mamba2": language(
        "Mamba2ForCausalLM",
        "Mamba2Config",
        hidden_size=WIDTH,
        num_hidden_layers=1,
        state_size=6,
        expand=2,
        head_dim=8,
        num_heads=8,
        n_groups=2,
        chunk_size=4,
    ),
    "bert": Stranger(
        of_transformers(
            "BertForSequenceClassification",
            "BertConfig",
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=40,
            max_position_embeddings=20,
        ),
        {"input_ids": TOKENS, "attention_mask": torch.ones_like(TOKENS)},
        real="inputs_embeds",
    ),
    "vit": Stranger(
        of_transformers(
            "ViTForImageClassification",
            "ViTConfig",
            image_size=32,
            patch_size=8,
            hidden_size=WIDTH,
            num_hidden_layers=1,
            num_attention_heads=4,
            intermediate_size=40,
        ),
        args=(IMAGES,),
    ),
    "resnet": Stranger(
        of_transformers(
            "ResNetForImageClassification",
            "ResNetConfig",
            embedding_size=8,
            hidden_sizes=[16, 24],
            depths=[2, 2],
            layer_type="bottleneck",
        ),
        args=(IMAGES,),
    ),
    "convnext": Stranger(
        of_transformers(
            "ConvNextForImageClassification",
            "ConvNextConfig",
            hidden_sizes=[8, 12, 16, 20],
            depths=[1, 1, 1, 1],
        ),
        args=(IMAGES,),
    ),
    "unet": Stranger(UNet, args=(IMAGES,)),
    "mobilenet": Stranger(MobileNet, args=(IMAGES,)),
    "crossed": Stranger(
        Crossed, args=(torch.randn(2, LENGTH, 12, generator=torch.Generator().manual_seed(0)),)
    ),
    "branches": Stranger(
        Branches, args=(torch.randn(2, 3, LENGTH, generator=torch.Generator().manual_seed(0)),)
    ),
    "halves": Stranger(
        Halves, args=(torch.randn(2, LENGTH, 10, generator=torch.Generator().manual_seed(0)),)
    ),
    "pytorch": Stranger(
        lambda: nn.TransformerEncoderLayer(WIDTH, 4, 48, batch_first=True, norm_first=True),
        args=(torch.randn(2, LENGTH, WIDTH, generator=torch.Generator().manual_seed(0)),),
    ),
}

"""What a training step of ``model: {kind: decoder}`` takes beside the same network elsewhere, and after a cut.

    python benchmarks/decoder.py [--widths 128,256,512] [--depth 4] [--batch 8] [--length 256] [--rounds 20]

For each width: a Llama of transformers and a plain PyTorch script with the same sizes, and our own with about half of
its FLOPs (KV groups and neurons cut from it, as a plan does). All are timed in alternation in this process, forward,
loss, backward and AdamW, with the vocabulary of bytes. Prints milliseconds, the ratios of ours to each, paired by
round, and the bytes that a step keeps for its backward pass, on CUDA those allocated at its peak. Run it on an idle
machine.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import AdamW

from compressm_cli.data.interface import DataSpec, Split
from compressm_cli.measure.flops import training_step_flops
from compressm_cli.models import build_model
from compressm_cli.models.decoder import DecoderConfig
from compressm_cli.models.transformer import AttentionConfig
from compressm_cli.reports.estimates import mean
from compressm_cli.structure.edits import Keep
from compressm_cli.structure.map import StructureMap
from compressm_cli.structure.surgery import apply_edits

VOCABULARY = 257
HEAD_DIM = 32


class PlainBlock(nn.Module):
    """What one would write oneself."""

    def __init__(self, width: int, heads: int, neurons: int, length: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.RMSNorm(width, eps=1e-5), nn.RMSNorm(width, eps=1e-5)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.o = nn.Linear(width, width, bias=False)
        self.gate, self.up = (nn.Linear(width, neurons, bias=False) for _ in range(2))
        self.down = nn.Linear(neurons, width, bias=False)
        angles = torch.arange(length)[:, None] * 10000.0 ** (
            -torch.arange(width // heads // 2) / (width // heads // 2)
        )
        self.register_buffer("cos", angles.cos().repeat(1, 2))
        self.register_buffer("sin", angles.sin().repeat(1, 2))

    def rotated(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, dim=-1)
        return x * self.cos + torch.cat([-b, a], dim=-1) * self.sin

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            t.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for t in self.qkv(self.norm1(x)).chunk(3, dim=-1)
        )
        y = functional.scaled_dot_product_attention(self.rotated(q), self.rotated(k), v, is_causal=True)
        x = x + self.o(y.transpose(1, 2).flatten(2))
        z = self.norm2(x)
        return x + self.down(functional.silu(self.gate(z)) * self.up(z))


def plain(config: DecoderConfig, length: int) -> nn.Module:
    width, heads = config.model_dim, config.layers[0].heads
    neurons, depth = config.width_of_feed_forward(), len(config.blocks())
    blocks = [PlainBlock(width, heads, neurons, length) for _ in range(depth)]
    return nn.Sequential(
        nn.Embedding(VOCABULARY, width),
        *blocks,
        nn.RMSNorm(width, eps=1e-5),
        nn.Linear(width, VOCABULARY, bias=False),
    )


class Llama(nn.Module):
    """Of transformers."""

    def __init__(self, config: DecoderConfig, length: int) -> None:
        super().__init__()
        from transformers import LlamaConfig, LlamaForCausalLM

        self.inner = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=VOCABULARY,
                hidden_size=config.model_dim,
                intermediate_size=config.width_of_feed_forward(),
                num_hidden_layers=len(config.blocks()),
                num_attention_heads=config.layers[0].heads,
                max_position_embeddings=length,
                attn_implementation="sdpa",
                use_cache=False,
            )
        )

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.inner(tokens).logits
        return logits


def halved(model: nn.Module) -> nn.Module:
    """Half of the heads and of the neurons of each block leave; what is left of these is a multiple of 8."""
    edits = [
        Keep(name, range(axis.size // 2 if axis.kind == "head" else axis.size // 16 * 8))
        for name, axis in StructureMap.of(model).items()
        if axis.kind in ("head", "neuron")
    ]
    apply_edits(model, None, edits)
    return model


class Training:
    """A model and its optimizer; ``step`` is one update."""

    def __init__(self, model: nn.Module, tokens: Tensor, labels: Tensor) -> None:
        self.model, self.tokens, self.labels = model.to(tokens.device).train(), tokens, labels
        self.optimizer = AdamW(self.model.parameters(), lr=1e-4, fused=True)

    def loss(self) -> Tensor:
        logits = self.model(self.tokens)
        return functional.cross_entropy(logits.flatten(0, 1).float(), self.labels.flatten())

    def step(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.loss().backward()
        self.optimizer.step()

    def kept_bytes(self) -> int:
        """On CUDA allocated at the peak of a step; else what is saved for the backward pass, parameters apart."""
        if self.tokens.is_cuda:
            torch.cuda.reset_peak_memory_stats()
            self.step()
            return torch.cuda.max_memory_allocated()
        own = {p.untyped_storage().data_ptr() for p in self.model.parameters()}
        seen: dict[int, int] = {}
        held: list[Tensor] = []

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                seen[storage.data_ptr()] = storage.nbytes()
                held.append(tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            self.loss()
        return sum(seen.values())


def timed(step: Callable[[], None], cuda: bool) -> float:
    began = time.perf_counter()
    step()
    if cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - began


def compare(width: int, given: argparse.Namespace) -> None:
    torch.manual_seed(0)
    layer = AttentionConfig(heads=width // HEAD_DIM)
    config = DecoderConfig(layers=[layer], model_dim=width, depth=given.depth)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    text = torch.randint(1, VOCABULARY, (given.batch, given.length + 1)).to(device)
    tokens, labels = text[:, :-1].contiguous(), text[:, 1:].contiguous()
    spec = DataSpec(classes=VOCABULARY, length=given.length, vocabulary=VOCABULARY, per_step=True)
    ours, cut = build_model(config, spec), halved(build_model(config, spec))
    batch = Split(tokens.cpu(), labels.cpu())
    share = training_step_flops(cut, batch) / training_step_flops(ours, batch)
    trainings = {
        "ours": Training(ours, tokens, labels),
        "transformers": Training(Llama(config, given.length), tokens, labels),
        "plain PyTorch": Training(plain(config, given.length), tokens, labels),
        f"ours, {share:.2f}x FLOPs": Training(cut, tokens, labels),
    }
    seconds: dict[str, list[float]] = {name: [] for name in trainings}
    names = list(trainings)
    for number in range(given.rounds + 2):
        for name in names[:: -1 if number % 2 else 1]:
            took = timed(trainings[name].step, device.type == "cuda")
            if number >= 2:
                seconds[name].append(took)
    for name, training in trainings.items():
        ratios = [a / b for a, b in zip(seconds["ours"], seconds[name], strict=True)]
        if training.model is cut:
            ratios = [1 / ratio for ratio in ratios]
        found = mean(ratios)
        spread = "" if found.low is None else f" ({found.low:.3f} to {found.high:.3f})"
        against = "" if name == "ours" else f"{found.value:.3f}x{spread}"
        millis = 1e3 * statistics.median(seconds[name])
        print(
            f"{width:6} {name:20} {millis:9.2f}ms {training.kept_bytes() / 2**20:8.1f} MiB   {against}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--widths", default="128,256,512")
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=20)
    given = parser.parse_args()
    print(f"{'width':>6} {'':20} {'a step':>11} {'kept':>12}   ours to it; cut to ours")
    for width in given.widths.split(","):
        compare(int(width), given)


if __name__ == "__main__":
    main()

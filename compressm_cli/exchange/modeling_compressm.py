# mypy: ignore-errors
"""Language models of Mamba or Mamba-2 layers, each with a state dimension of its own, for transformers.

Written by compressm beside the weights. In plain PyTorch, a step at a time: readable, exact, and slow on long texts.
Load it with ``AutoModelForCausalLM.from_pretrained(FOLDER, trust_remote_code=True)``.

A layer is of one of three variants (``config.variants``), with N states (``config.state_sizes``) and projections that
make B and C of length M (``config.projected_sizes``):

* stock: as in transformers, M = N;
* mapped: B and C are multiplied by maps (N, M), of each channel (Mamba) or group of heads (Mamba-2);
* kept: channel d has its first ``kept[d]`` states only (Mamba).
"""

import torch
from torch import nn
from torch.nn import functional
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast


class RaggedMambaConfig(PretrainedConfig):
    model_type = "compressm_ragged"

    def __init__(
        self,
        layer="mamba",
        vocab_size=256,
        hidden_size=64,
        num_hidden_layers=1,
        state_sizes=(16,),
        projected_sizes=(16,),
        variants=("stock",),
        expand=2,
        conv_kernel=4,
        time_step_rank=4,
        head_dim=64,
        n_groups=1,
        norm_groups=1,
        layer_norm_epsilon=1e-5,
        gated_norm_epsilon=1e-5,
        **kwargs,
    ):
        self.layer = layer
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.state_sizes = list(state_sizes)
        self.projected_sizes = list(projected_sizes)
        self.variants = list(variants)
        self.expand = expand
        self.conv_kernel = conv_kernel
        self.time_step_rank = time_step_rank
        self.head_dim = head_dim
        self.n_groups = n_groups
        self.norm_groups = norm_groups
        self.layer_norm_epsilon = layer_norm_epsilon
        self.gated_norm_epsilon = gated_norm_epsilon
        super().__init__(**kwargs)


class States:
    """What generation keeps of the steps so far: of each layer the last inputs of the convolution, and the state."""

    is_compileable = False

    def __init__(self, layers):
        self.layers = layers

    def reorder_cache(self, beams):
        """The states of other rows, for beam search."""
        self.layers = [tuple(t.index_select(0, beams.to(t.device)) for t in layer) for layer in self.layers]


def convolve(conv, x, before):
    """Causal convolution and SiLU of x (batch, length, channels), and the inputs that the next step needs.

    before: the inputs before the first step, (batch, width - 1, channels), or None where there were none.
    """
    width = conv.kernel_size[0]
    before = x.new_zeros(x.shape[0], width - 1, x.shape[2]) if before is None else before
    inputs = torch.cat([before, x], dim=1)
    y = functional.conv1d(inputs.mT, conv.weight, conv.bias, groups=x.shape[2]).mT
    return functional.silu(y), inputs[:, x.shape[1] :]


class Mamba(nn.Module):
    def __init__(self, config, index):
        super().__init__()
        channels, rank = config.expand * config.hidden_size, config.time_step_rank
        states, projected = config.state_sizes[index], config.projected_sizes[index]
        self.sizes = [rank, projected, projected]
        self.in_proj = nn.Linear(config.hidden_size, 2 * channels, bias=False)
        self.conv1d = nn.Conv1d(channels, channels, config.conv_kernel, groups=channels)
        self.x_proj = nn.Linear(channels, sum(self.sizes), bias=False)
        self.dt_proj = nn.Linear(rank, channels)
        self.A_log = nn.Parameter(torch.zeros(channels, states))
        self.D = nn.Parameter(torch.ones(channels))
        self.out_proj = nn.Linear(channels, config.hidden_size, bias=False)
        self.variant = config.variants[index]
        if self.variant == "mapped":
            self.B_map = nn.Parameter(torch.zeros(channels, states, projected))
            self.C_map = nn.Parameter(torch.zeros(channels, states, projected))
        elif self.variant == "kept":
            self.register_buffer("kept", torch.zeros(channels, dtype=torch.int64))

    def forward(self, u, mask, state):
        before, h = (None, None) if state is None else state
        x, z = self.in_proj(u).chunk(2, dim=-1)
        x, before = convolve(self.conv1d, x, before)
        x = x * mask
        low, B, C = self.x_proj(x).split(self.sizes, dim=-1)
        dt = functional.softplus(
            functional.linear(low, self.dt_proj.weight).float() + self.dt_proj.bias.float()
        )
        B, C = self.by_channel(B.float(), C.float())
        A, x = -torch.exp(self.A_log.float()), x.float()
        h = x.new_zeros(x.shape[0], *A.shape) if h is None else h
        outputs = []
        for t in range(x.shape[1]):
            h = torch.exp(dt[:, t, :, None] * A) * h + (dt[:, t] * x[:, t])[..., None] * B[:, t]
            outputs.append((h * C[:, t]).sum(-1))
        y = torch.stack(outputs, dim=1) + self.D.float() * x
        return self.out_proj((y * functional.silu(z.float())).to(u.dtype)), (before, h)

    def by_channel(self, B, C):
        """B and C (batch, length, channels or 1, states)."""
        if self.variant == "mapped":
            maps = self.B_map.float(), self.C_map.float()
            return tuple(torch.einsum("dnm,blm->bldn", m, v) for m, v in zip(maps, (B, C), strict=True))
        B, C = B[:, :, None], C[:, :, None]
        if self.variant == "kept":
            B = B * (torch.arange(self.A_log.shape[1], device=B.device) < self.kept[:, None])
        return B, C


class GatedNorm(nn.Module):
    def __init__(self, channels, groups, epsilon):
        super().__init__()
        self.groups, self.epsilon = groups, epsilon
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, y, z):
        gated = (y * functional.silu(z.float())).unflatten(-1, (self.groups, -1))
        scaled = gated * torch.rsqrt(gated.pow(2).mean(-1, keepdim=True) + self.epsilon)
        return (scaled.flatten(-2) * self.weight.float()).to(z.dtype)


class Mamba2(nn.Module):
    def __init__(self, config, index):
        super().__init__()
        channels = config.expand * config.hidden_size
        states, projected = config.state_sizes[index], config.projected_sizes[index]
        self.groups, self.head_dim, self.heads = config.n_groups, config.head_dim, channels // config.head_dim
        shared = self.groups * projected
        self.sizes = [channels, shared, shared]
        self.in_proj = nn.Linear(config.hidden_size, channels + sum(self.sizes) + self.heads, bias=False)
        self.conv1d = nn.Conv1d(sum(self.sizes), sum(self.sizes), config.conv_kernel, groups=sum(self.sizes))
        self.dt_bias = nn.Parameter(torch.zeros(self.heads))
        self.A_log = nn.Parameter(torch.zeros(self.heads))
        self.D = nn.Parameter(torch.ones(self.heads))
        self.norm = GatedNorm(channels, config.norm_groups, config.gated_norm_epsilon)
        self.out_proj = nn.Linear(channels, config.hidden_size, bias=False)
        self.variant = config.variants[index]
        if self.variant == "mapped":
            self.B_proj = nn.Parameter(torch.zeros(self.groups, states, projected))
            self.C_proj = nn.Parameter(torch.zeros(self.groups, states, projected))

    def forward(self, u, mask, state):
        before, h = (None, None) if state is None else state
        z, mixed, low = self.in_proj(u).split([self.sizes[0], sum(self.sizes), self.heads], dim=-1)
        mixed, before = convolve(self.conv1d, mixed, before)
        x, B, C = (mixed * mask).float().split(self.sizes, dim=-1)
        dt = functional.softplus(low.float() + self.dt_bias.float())
        decay = torch.exp(dt * -torch.exp(self.A_log.float()))
        x = x.unflatten(-1, (self.heads, self.head_dim))
        B, C = self.by_head(B, "B_proj"), self.by_head(C, "C_proj")
        drive = dt[..., None] * x
        h = x.new_zeros(x.shape[0], self.heads, self.head_dim, B.shape[-1]) if h is None else h
        outputs = []
        for t in range(x.shape[1]):
            h = decay[:, t, :, None, None] * h + drive[:, t, ..., None] * B[:, t, :, None]
            outputs.append((h * C[:, t, :, None]).sum(-1))
        y = torch.stack(outputs, dim=1) + self.D.float()[:, None] * x
        return self.out_proj(self.norm(y.flatten(-2), z)), (before, h)

    def by_head(self, vectors, name):
        """B or C of each head, (batch, length, heads, states)."""
        vectors = vectors.unflatten(-1, (self.groups, -1))
        if self.variant == "mapped":
            vectors = torch.einsum("gnm,blgm->blgn", getattr(self, name).float(), vectors)
        return vectors.repeat_interleave(self.heads // self.groups, dim=2)


class Block(nn.Module):
    def __init__(self, config, index):
        super().__init__()
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.mixer = {"mamba": Mamba, "mamba2": Mamba2}[config.layer](config, index)

    def forward(self, x, mask, state):
        y, state = self.mixer(self.norm(x.to(self.norm.weight.dtype)) * mask, mask, state)
        return x + y, state


class Backbone(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, i) for i in range(config.num_hidden_layers))
        self.norm_f = nn.RMSNorm(config.hidden_size, eps=config.layer_norm_epsilon)

    def forward(self, embedded, mask, states):
        x, after = embedded.float(), []
        for layer, state in zip(self.layers, states, strict=True):
            x, state = layer(x, mask, state)
            after.append(state)
        return self.norm_f(x.to(self.norm_f.weight.dtype)), after


class RaggedMambaForCausalLM(PreTrainedModel, GenerationMixin):
    config_class = RaggedMambaConfig
    base_model_prefix = "backbone"
    _is_stateful = True

    def __init__(self, config):
        super().__init__(config)
        self.backbone = Backbone(config)
        tied = config.tie_word_embeddings
        self.lm_head = None if tied else nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @classmethod
    def _supports_default_dynamic_cache(cls):
        return False  # ``States`` is made by the first step

    def get_input_embeddings(self):
        return self.backbone.embeddings

    def set_input_embeddings(self, value):
        self.backbone.embeddings = value

    def prepare_inputs_for_generation(
        self, input_ids, past_key_values=None, attention_mask=None, use_cache=True, **kwargs
    ):
        if past_key_values is None:
            return {"input_ids": input_ids, "attention_mask": attention_mask, "use_cache": use_cache}
        return {"input_ids": input_ids[:, -1:], "past_key_values": past_key_values, "use_cache": use_cache}

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        inputs_embeds=None,
        past_key_values=None,
        labels=None,
        use_cache=None,
        return_dict=None,
        **kwargs,
    ):
        """input_ids (batch, length); the logits (batch, length, vocabulary); labels are shifted here."""
        embedded = self.backbone.embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        # Steps that are masked leave convolutions and states as they were at the start: padding is on the left.
        mask = (
            embedded.new_ones(1, 1, 1)
            if attention_mask is None
            else attention_mask[..., None].to(embedded.dtype)
        )
        states = [None] * self.config.num_hidden_layers if past_key_values is None else past_key_values.layers
        x, states = self.backbone(embedded, mask, states)
        head = self.backbone.embeddings if self.lm_head is None else self.lm_head
        logits = functional.linear(x, head.weight).float()
        loss = None
        if labels is not None:
            loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        after = None if use_cache is False else States(states)
        if return_dict is False:
            return tuple(value for value in (loss, logits, after) if value is not None)
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=after)

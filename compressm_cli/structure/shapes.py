"""What PyTorch's own modules say of the sizes of their weights."""

from torch import Tensor, nn

from compressm_cli.core.axes import DISCOVERED


def follow_shapes(model: nn.Module) -> None:
    """Let PyTorch's own modules say the sizes that their weights have; some compute with what they say."""
    for module in model.modules():
        if (found := module.__dict__.get(DISCOVERED)) is not None:
            found.follow(module)
        weight = getattr(module, "weight", None)
        if not isinstance(weight, Tensor):
            continue
        if isinstance(module, nn.Linear):
            module.out_features, module.in_features = weight.shape
        elif isinstance(module, nn.modules.conv._ConvNd) and not module.transposed:
            if module.groups > 1:  # depthwise
                module.groups = weight.shape[0] if weight.shape[1] == 1 else module.groups
            module.out_channels, module.in_channels = weight.shape[0], weight.shape[1] * module.groups
        elif isinstance(module, nn.Embedding):
            module.num_embeddings, module.embedding_dim = weight.shape
        elif isinstance(module, nn.modules.batchnorm._NormBase):
            module.num_features = weight.shape[0]
        elif isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
            module.normalized_shape = tuple(weight.shape)

"""Layers that know their own width: what they hold beside their tensors."""

from __future__ import annotations

from typing import Any

from torch import nn

from prune_gym.pruning.attention import slim


def fit(module: nn.Module) -> None:
    """Set a layer's channel counts to what its tensors say."""
    if isinstance(module, nn.modules.conv._ConvNd):
        first, second = module.weight.shape[:2]
        if module.groups > 1 and not _is_grouped(module):  # depthwise
            times = module.out_channels // module.in_channels
            module.groups = module.in_channels = first // times
            module.out_channels = first
        else:
            others = second * module.groups
            pair = (first, others) if module.transposed else (others, first)
            module.in_channels, module.out_channels = pair
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.Embedding):
        module.num_embeddings, module.embedding_dim = module.weight.shape
    elif isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
        slim(module)
    elif isinstance(module, nn.Transformer):
        layers: Any = module.decoder.layers  # of a decoder of torch's
        module.d_model = layers[0].self_attn.in_proj_weight.shape[1]
    elif isinstance(module, nn.PReLU):
        module.num_parameters = len(module.weight)
    else:
        _fit_norm(module)


def _fit_norm(module: nn.Module) -> None:
    if isinstance(module, nn.LayerNorm) and module.weight is not None:
        module.normalized_shape = tuple(module.weight.shape)
    elif isinstance(module, nn.GroupNorm) and module.weight is not None:
        if module.num_groups > 1:  # whole groups go
            size = module.num_channels // module.num_groups
            module.num_groups = len(module.weight) // size
        module.num_channels = len(module.weight)
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        sized = module.weight if module.weight is not None else module.running_mean
        if sized is not None:
            module.num_features = len(sized)


def output_axes(module: nn.Module, tensor: str, n_axes: int) -> tuple[int, ...]:
    """The axes of a layer's tensor along which its outputs lie.

    Args:
        module: the layer.
        tensor: the tensor's name in it, e.g. ``"weight"``.
        n_axes: of the tensor.
    """
    if isinstance(module, nn.modules.conv._ConvNd | nn.Linear) and n_axes > 1:
        if getattr(module, "groups", 1) > 1 and not _is_grouped(module):  # depthwise
            return (0,)
        return (int(bool(getattr(module, "transposed", False))),)
    if isinstance(module, nn.MultiheadAttention):
        return (0,)
    if is_input_first(module) and n_axes > 1:
        return (1,)
    return tuple(range(n_axes))


def is_input_first(module: nn.Module) -> bool:
    """Whether a module is GPT-2's linear layer by Hugging Face: its weight is (inputs, outputs)."""
    kind = type(module)
    return kind.__name__ == "Conv1D" and kind.__module__ == "transformers.pytorch_utils"


def _is_grouped(module: object) -> bool:
    """Whether a layer is a convolution in groups, and not depthwise."""
    if not isinstance(module, nn.modules.conv._ConvNd) or module.groups == 1:
        return False
    is_square = module.in_channels == module.out_channels
    return module.groups != module.in_channels or (module.transposed and not is_square)

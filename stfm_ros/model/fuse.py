"""Train-time branches and batch normalisation folded into single convolutions, for deployment."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_conv_bn_weights

from stfm_ros.model.backbone import RepConv, ResBlock
from stfm_ros.model.network import StfmNet
from stfm_ros.model.transformer import AggregatedAttention


def fuse(network: StfmNet) -> StfmNet:
    """A copy in evaluation mode that computes the same with fewer operators.

    Every :class:`RepConv` becomes a 3x3 convolution and a ReLU; batch normalisations after plain
    convolutions are folded into them.
    """
    fused = copy.deepcopy(network).eval()
    for module in list(fused.modules()):
        if isinstance(module, ResBlock):
            module.conv1, module.bn1 = fuse_conv_bn_eval(module.conv1, module.bn1), nn.Identity()  # type: ignore[assignment]
            module.conv2, module.bn2 = fuse_conv_bn_eval(module.conv2, module.bn2), nn.Identity()  # type: ignore[assignment]
        if isinstance(module, AggregatedAttention):
            module.pool_by_convolution = True
        for name, child in list(module.named_children()):
            if isinstance(child, RepConv):
                setattr(module, name, nn.Sequential(_plain(child), nn.ReLU()))
        if isinstance(module, nn.Sequential):
            for index in range(len(module) - 1):
                convolution, norm = module[index], module[index + 1]
                if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    module[index], module[index + 1] = fuse_conv_bn_eval(convolution, norm), nn.Identity()
    return fused.requires_grad_(False)


def _plain(block: RepConv) -> nn.Conv2d:
    kernel: Tensor = block.fused_kernel()
    norm = block.norm
    assert norm.running_mean is not None and norm.running_var is not None
    weight, bias = fuse_conv_bn_weights(
        kernel, None, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    convolution = nn.Conv2d(kernel.shape[1], kernel.shape[0], 3, block.stride, 1)
    with torch.no_grad():
        convolution.weight.copy_(weight)
        assert convolution.bias is not None
        convolution.bias.copy_(bias)
    return convolution

"""What kind of tensor each is: a norm's, a bias, a position, or a weight."""

from torch import nn

NORMS = (
    nn.LayerNorm,
    nn.RMSNorm,
    nn.GroupNorm,
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
)
# Position encodings are not weights of a product; no published recipe of
# the Swin family decays them. The names are those of OpenMMLab's backbones.
_POSITIONS = {
    'relative_position_bias_table',
    'absolute_pos_embed',
    'pos_embed',
}


def keeps_statistics(module: nn.Module) -> bool:
    """Whether it keeps statistics of its inputs while in train mode.

    By what it has: mmcv's SyncBatchNorm is no BatchNorm of PyTorch.
    """
    return getattr(module, 'running_mean', None) is not None


def is_norm(module: nn.Module) -> bool:
    """Whether it is a normalisation."""
    return isinstance(module, NORMS) or keeps_statistics(module)


def norm_tensors(module: nn.Module) -> set[str]:
    """Return the names of the normalisations' parameters and buffers."""
    return {
        f'{path}.{name}'.removeprefix('.')
        for path, part in module.named_modules()
        if is_norm(part)
        for tensors in (part.named_parameters, part.named_buffers)
        for name, _ in tensors(recurse=False)
    }


def parameter_roles(model: nn.Module) -> dict[int, str]:
    """Return ``id`` of each parameter -> its role.

    The role is ``'norm'``, ``'position'``, ``'bias'`` or ``'weight'``. A
    module of a method says it in ``parameter_roles``, a name -> role of its
    own parameters. Else it follows from the kind of module, and every tensor
    of one dimension is a bias.

    Args:
        model: Any model.
    """
    roles = {}
    for module in model.modules():
        declared = getattr(module, 'parameter_roles', {})
        for name, parameter in module.named_parameters(recurse=False):
            if name in declared:
                role = declared[name]
            elif is_norm(module):
                role = 'norm'
            elif name in _POSITIONS:
                role = 'position'
            else:
                role = 'bias' if parameter.ndim == 1 else 'weight'
            roles[id(parameter)] = role
    return roles

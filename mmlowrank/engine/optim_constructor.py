"""Optimizer groups over exactly the trainable tensors of a model."""

from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel

from ..nn.kernels.kept import keep_less
from ..registry import OPTIM_WRAPPER_CONSTRUCTORS
from ..tuners import (
    add_losses,
    freeze_matching,
    parameter_roles,
    tuners_of,
)
from ..tuners.wrappers import unwrapped

# What is understood of a ``paramwise_cfg``.
KNOWN = {
    'norm_decay_mult',
    'bias_decay_mult',
    'position_decay_mult',
    'custom_keys',
}


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class TunerOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Build the optimizer wrapper of a tuned model.

    In a config::

        optim_wrapper = dict(
            constructor='mmlowrank.TunerOptimWrapperConstructor',
            optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.05),
            freeze=['neck'],                                  # optional
            saved='bf16',                                     # optional
            paramwise_cfg=dict(                               # optional
                custom_keys={'backbone': dict(lr_mult=0.5)}))

    Parameters with the same options share one group. Norms, biases and
    position encodings, as :func:`mmlowrank.tuners.parameter_roles` tells
    them, do not decay, unless ``paramwise_cfg`` sets ``norm_decay_mult``,
    ``bias_decay_mult`` or ``position_decay_mult``. Of
    the ``custom_keys`` that a name contains, the longest counts, as in
    mmengine; it changes what it names (``lr_mult``, ``decay_mult``, or any
    option of a group) and leaves the rest.

    The model returns its tuners' own losses among its losses from then on.

    Args:
        optim_wrapper_cfg: As in mmengine, plus ``freeze``: regular
            expressions for parts outside the backbone; and ``saved``:
            ``'bf16'`` or ``'int8'`` keeps what the whole model saves for the
            backward pass in fewer bits, see
            :func:`mmlowrank.nn.kernels.kept.keep_less`.
        paramwise_cfg: See above.

    Raises:
        ValueError: If an option is unknown.
    """

    def __init__(
        self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None
    ) -> None:
        paramwise_cfg = dict(paramwise_cfg or {})
        unknown = sorted(set(paramwise_cfg) - KNOWN)
        if unknown:
            raise ValueError(
                f'paramwise_cfg has unknown options {unknown}; '
                f'TunerOptimWrapperConstructor knows {sorted(KNOWN)}'
            )
        # mmengine asks add_params for groups only where this is not empty.
        paramwise_cfg.setdefault('custom_keys', {})
        super().__init__(optim_wrapper_cfg, paramwise_cfg)
        self.freeze = self.optim_wrapper_cfg.pop('freeze', None) or []
        self.saved = self.optim_wrapper_cfg.pop('saved', 'exact')

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Freeze, check, add the tuners' losses, keep less, build.

        Raises:
            RuntimeError: If a tuner's parameter does not train, one outside
                of its list does, or nothing trains; or if ``freeze`` comes
                too late for a model that is already distributed.
            ValueError: If ``saved`` is unknown, or the model is sharded.
        """
        inner = unwrapped(model)
        late = freeze_matching(inner, self.freeze)
        if late and is_model_wrapper(model):
            raise RuntimeError(
                f'freeze={self.freeze} would freeze {len(late)} parameters '
                f"(first: '{late[0]}') that {type(model).__name__} already "
                'waits for. Start with tools/train.py, which freezes before '
                "the wrap, or add model_wrapper_cfg=dict(type='mmlowrank."
                "TunerDistributedDataParallel', freeze=...) to the config"
            )
        for tuner in tuners_of(inner).values():
            tuner.check()
        total = sum(p.numel() for p in inner.parameters())
        trained = sum(p.numel() for p in inner.parameters() if p.requires_grad)
        if trained == 0:
            raise RuntimeError(
                f'none of the {total} parameters of {type(inner).__name__} '
                'trains. Choose a tuner that owns some, or freeze less '
                f'(freeze={self.freeze})'
            )
        add_losses(inner)
        if self.saved != 'exact' and isinstance(
            model, FullyShardedDataParallel
        ):
            raise ValueError(
                f'saved={self.saved!r} would pack the gathered weights of '
                f'{type(model).__name__}, too: leave saved out, or train '
                'with DDP'
            )
        keep_less(inner, self.saved)
        optim_wrapper = super().__call__(model)
        groups = optim_wrapper.optimizer.param_groups
        print_log(
            f'Training {trained:,} of {total:,} parameters '
            f'({100 * trained / total:.2f} %) in {len(groups)} optimizer '
            'group(s); everything else is frozen.',
            logger='current',
        )
        return optim_wrapper

    def add_params(
        self, params: list[dict], module: nn.Module, **kwargs: object
    ) -> None:
        """Append groups with equal options to ``params``."""
        roles = parameter_roles(module)
        groups: dict[tuple, dict] = {}
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            options = self._options(name, roles[id(parameter)])
            key = tuple(sorted(options.items()))
            group = groups.setdefault(key, dict(params=[], **options))
            group['params'].append(parameter)
        params.extend(groups.values())

    def _options(self, name: str, role: str) -> dict:
        """Return the group options of one parameter."""
        decay_mult = 1.0
        if role != 'weight':
            decay_mult = self.paramwise_cfg.get(f'{role}_decay_mult', 0.0)
        custom_keys = self.paramwise_cfg['custom_keys']
        matching = sorted(key for key in custom_keys if key in name)
        custom = dict(custom_keys[max(matching, key=len)]) if matching else {}
        decay_mult = custom.pop('decay_mult', decay_mult)
        lr_mult = custom.pop('lr_mult', 1.0)
        options = dict(custom)
        if self.base_lr is not None:
            options['lr'] = self.base_lr * lr_mult
        if self.base_wd is not None:
            options['weight_decay'] = self.base_wd * decay_mult
        return options

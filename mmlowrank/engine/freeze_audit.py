"""A hook that shows what trains, and proves it around the first step."""

from typing import Any

from mmengine.hooks import Hook
from torch import nn

from ..registry import HOOKS
from ..tuners import add_losses, checkpoint_parts, tuners_of
from ..tuners.roles import keeps_statistics
from ..tuners.wrappers import unwrapped


@HOOKS.register_module()
class FreezeAuditHook(Hook):
    """Print one table of what trains; stop if something got no gradient.

    Columns: trainable and frozen parameters, parameters in the optimizer,
    and layers whose running statistics move. A row for each part of the
    model; a tuned part has one for what is stock and one for each tuner.

    The ``activation_checkpointing`` of the config is taken over: mmengine's
    own is the re-entrant kind, which drops the gradients of a tuner.

    Raises (in training):
        RuntimeError: After the first iteration, naming trainable parameters
            that got no gradient; before it, if a checkpoint left a frozen
            weight at its random start.
    """

    priority = 'VERY_LOW'

    def __init__(self) -> None:
        self._waiting: dict[str, nn.Parameter] = {}
        self._handles: list[Any] = []

    def before_run(self, runner: Any) -> None:
        """Checkpoint activations without re-entry where the config asks."""
        paths = runner.cfg.pop('activation_checkpointing', None) or []
        paths = [paths] if isinstance(paths, str) else paths
        checkpoint_parts(unwrapped(runner.model), paths)

    def before_train(self, runner: Any) -> None:
        """Check the weights, print the table, watch the first gradients."""
        model = unwrapped(runner.model)
        for tuner in tuners_of(model).values():
            tuner.check_weights()
        # Where the optimizer's constructor is a stock one.
        add_losses(model)
        # As the loop does next: what moves in eval mode says nothing.
        runner.model.train()
        optimized = {
            id(parameter)
            for group in runner.optim_wrapper.param_groups
            for parameter in group['params']
        }
        runner.logger.info('\n' + audit_table(model, optimized))
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            self._waiting[name] = parameter
            self._handles.append(
                parameter.register_post_accumulate_grad_hook(
                    lambda _, name=name: self._waiting.pop(name, None)
                )
            )

    def after_train_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
        """Stop watching; refuse if a trainable tensor got no gradient."""
        if not self._handles:
            return
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        if self._waiting:
            names = sorted(self._waiting)
            raise RuntimeError(
                f'{len(names)} trainable parameters got no gradient in the '
                f'first iteration: {", ".join(names[:5])}'
                f'{", ..." if len(names) > 5 else ""}. Either the loss does '
                'not depend on them (freeze them with '
                "optim_wrapper=dict(freeze=['...'])), or something cut the "
                'graph, such as no_grad or re-entrant checkpointing'
            )


def audit_table(model: nn.Module, optimized: set[int]) -> str:
    """Return the table of :class:`FreezeAuditHook` as text.

    Args:
        model: The model, not wrapped.
        optimized: ``id`` of each parameter the optimizer has.
    """
    lines = [
        f'{"module":<28}{"trainable":>14}{"frozen":>14}'
        f'{"in optimizer":>14}{"moving stats":>14}'
    ]
    totals = [0] * 4
    for name, counts in _rows(model, optimized):
        lines.append(f'{name:<28}' + ''.join(f'{n:>14,}' for n in counts))
        totals = [a + b for a, b in zip(totals, counts, strict=True)]
    lines.append(f'{"total":<28}' + ''.join(f'{n:>14,}' for n in totals))
    return '\n'.join(lines)


def _rows(model: nn.Module, optimized: set[int]) -> list[tuple[str, list]]:
    # A DETR has parameters that are in none of its parts.
    rows = [(type(model).__name__, _counts([model], optimized))]
    for name, part in model.named_children():
        tuners = tuners_of(part)
        added = {m for tuner in tuners.values() for m in tuner.modules()}
        stock = [m for m in part.modules() if m not in added]
        title = f'{name} (stock)' if tuners else name
        rows.append((title, _counts(stock, optimized)))
        rows += [
            (
                f'{name}.{path} ({tuner.title})',
                _counts([*tuner.modules()], optimized),
            )
            for path, tuner in tuners.items()
        ]
    return [(name, counts) for name, counts in rows if any(counts)]


def _counts(modules: list[nn.Module], optimized: set[int]) -> list[int]:
    """Return trainable, frozen, in optimizer, layers with moving stats."""
    parameters = {
        id(p): p for m in modules for p in m.parameters(recurse=False)
    }
    return [
        sum(p.numel() for p in parameters.values() if p.requires_grad),
        sum(p.numel() for p in parameters.values() if not p.requires_grad),
        sum(p.numel() for i, p in parameters.items() if i in optimized),
        sum(m.training and keeps_statistics(m) for m in modules),
    ]

"""Several tasks off one frozen trunk, which only a side highway allows.

E3VA (ACM MM 2024) never changes what its trunk computes. So one forward of
the trunk serves any number of highways, each with its own output norms, each
trained alone for a task of its own.
"""

from pathlib import Path

import torch
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from ..checkpoint.adapter_checks import marked
from ..checkpoint.adapter_file import fingerprint
from ..families import family_of
from ..registry import MODELS
from ..tuners import CHILD, E3VA, Fixed
from .tuned_backbone import build_stock


class SharedTrunk(Fixed):
    """Freezes the trunk, and checks what its ``init_weights`` loads."""

    repeatable = False  # as E3VA's own

    needs = E3VA.needs
    cannot_merge = 'its highways are paths beside the trunk'


class _Task(nn.Module):
    """One task's highway and output norms."""

    def __init__(self, tuner: E3VA, trunk: nn.Module) -> None:
        super().__init__()
        self.fpn_input = tuner.fpn_input
        self.trains_norms = tuner.train_fpn_norms
        self.norms = nn.ModuleDict()
        self.position_of: dict[str, int] = {}
        # (module of the task, the trunk's that it is a copy of)
        self._copies: list[tuple[nn.Module, nn.Module]] = []
        family = family_of(trunk)
        normed = all(output.norm for output in family.outputs)
        if not normed or family.prefix or family.channels != -1:
            raise TypeError(
                'tasks share a trunk whose outputs are the tokens of patches '
                f'behind norms of their own, as a Swin; {type(trunk).__name__}'
                ' is another: give each task a model of its own'
            )
        for position, output in enumerate(family.outputs):
            self.position_of[output.norm] = position
            stock = trunk.get_submodule(output.norm)
            # Its own, and without the trunk's hooks.
            norm = type(stock)(stock.normalized_shape, eps=stock.eps)
            self.norms[output.norm] = norm
            self._copies.append((norm, stock))
        self.norms.requires_grad_(self.trains_norms)
        tuner.check_fits(family)
        self.highway = tuner.make_highway(family)
        if self.highway.merging is not None:
            trunks = [s.merging.module for s in family.stages if s.merging]
            self._copies += zip(self.highway.merging, trunks, strict=True)

    def inherit(self) -> None:
        """Copy the trunk's output norms, and its mergings if they train."""
        for own, stock in self._copies:
            own.load_state_dict(stock.state_dict())


@MODELS.register_module()
class MultiTaskE3VA(nn.Module):
    """One frozen trunk, K highways: one forward, K feature tuples.

    In Python::

        backbone = MODELS.build(dict(
            type='mmlowrank.MultiTaskE3VA',
            backbone=dict(type='SwinTransformer', ...),
            tasks=dict(
                instances=dict(rank=8, checkpoint='a/epoch_36.pth'),
                semantics=dict(rank=16, checkpoint='b/iter_160000.pth'))))
        features = backbone(images)   # {'instances': (...), ...}

    Each tuple is, to the bit, what the single-task backbone computes. A
    head reads its tuple as it would read its own backbone's.

    The trunk comes from ``init_cfg``, from the tasks' checkpoints, or from
    both if they agree. A task without a checkpoint starts from the trunk's
    output norms and patch mergings.

    Args:
        backbone: Config of the stock backbone, as in the tasks' configs.
        tasks: Name -> arguments of :class:`E3VA`, and optionally
            ``checkpoint``, a file of the detector or segmentor that was
            trained with them. ``stochastic_trunk`` is refused.

    Raises:
        ValueError: If there is no task, or one wants a stochastic trunk.
    """

    def __init__(self, backbone: dict, tasks: dict[str, dict]) -> None:
        super().__init__()
        if not tasks:
            raise ValueError('MultiTaskE3VA needs at least one task')
        # What filled the trunk, and the tasks that nothing filled.
        self._trunk_from: str | None = None
        self._new = set(tasks)
        checkpoints, tuners = {}, {}
        for name, options in tasks.items():
            options = dict(options)
            checkpoints[name] = options.pop('checkpoint', None)
            if options.pop('stochastic_trunk', False):
                raise ValueError(
                    f"task '{name}' has stochastic_trunk=True, but the tasks "
                    'share one trunk, which stays in eval mode: leave '
                    'stochastic_trunk out'
                )
            tuners[name] = E3VA(**options)
        self.trunk = SharedTrunk().attach(build_stock(backbone))
        self.tasks = nn.ModuleDict(
            {name: _Task(tuner, self.trunk) for name, tuner in tuners.items()}
        )
        self.trunk.register_load_state_dict_post_hook(self._inherit)
        self._register_load_state_dict_pre_hook(self._note)
        for name, checkpoint in checkpoints.items():
            if checkpoint is not None:
                self.load_task(name, checkpoint)
        self.train()

    def forward(self, images: Tensor) -> dict[str, tuple[Tensor, ...]]:
        """Compute all tasks' features.

        Args:
            images: (batch, 3, height, width).

        Returns:
            Task -> one (batch, channels, h, w) for each output stage.
        """
        for task in self.tasks.values():
            task.highway.clear()
        try:
            sizes = [out.shape[-2:] for out in self.trunk(images)]
            return {
                name: self._features(task, sizes)
                for name, task in self.tasks.items()
            }
        finally:
            for task in self.tasks.values():
                task.highway.clear()

    def _features(
        self, task: _Task, sizes: list[torch.Size]
    ) -> tuple[Tensor, ...]:
        features = []
        for (name, norm), (h, w) in zip(
            task.norms.items(), sizes, strict=True
        ):
            e, stock = task.highway.outputs[task.position_of[name]]
            if task.fpn_input == 'sum':
                e = stock + e
            out = norm(e).unflatten(1, (h, w))
            features.append(out.permute(0, 3, 1, 2).contiguous())
        return tuple(features)

    def train(self, mode: bool = True) -> 'MultiTaskE3VA':
        """Set the mode of the highways; the trunk stays in eval mode."""
        super().train(mode)
        self.trunk.eval()
        return self

    def init_weights(self) -> None:
        """Load the trunk from its ``init_cfg``, as the stock backbone does.

        Without a checkpoint there, it keeps what a task's checkpoint filled
        it with, or starts at random.

        Raises:
            RuntimeError: If the checkpoint does not fit, or leaves a weight
                of the trunk at its random start.
            ValueError: If a task was trained on another trunk.
        """
        init_cfg = self.trunk.init_cfg
        init_cfg = init_cfg if isinstance(init_cfg, dict) else {}
        checkpoint, filled = init_cfg.get('checkpoint'), self._trunk_from
        if filled is not None and checkpoint is None:
            return  # the stock code would draw it anew
        before = {k: v.clone() for k, v in self.trunk.state_dict().items()}
        self.trunk.init_weights()
        self._trunk_from = checkpoint
        self._inherit()
        differing = self._differing(before)
        if filled is not None and differing:
            raise ValueError(
                f'{filled} has another trunk than {checkpoint} of init_cfg: '
                f"'{differing}' differs. Leave init_cfg out, or name the "
                'weights that the tasks started from'
            )

    def _inherit(self, *_: object) -> None:
        """Let new tasks start from the trunk, whenever it is filled."""
        for name in self._new:
            self.tasks[name].inherit()

    def _note(
        self, state_dict: dict[str, Tensor], prefix: str, *_: object
    ) -> None:
        """Note what a checkpoint of the whole model fills."""
        for key in state_dict:
            part, _, rest = key.removeprefix(prefix).partition('.')
            if part == 'trunk':
                self._trunk_from = 'the checkpoint of the whole model'
            elif part == 'tasks':
                self._new.discard(rest.partition('.')[0])

    def load_task(
        self, name: str, checkpoint: str | Path, prefix: str = 'backbone.'
    ) -> None:
        """Load one task's highway and norms from its model's checkpoint.

        The first checkpoint also fills the trunk; the others must have been
        trained on the same one. An adapter file has no trunk, nor has the
        checkpoint beside it: there it is that of ``init_cfg``, and must be
        the one that the file names.

        Args:
            name: The task.
            checkpoint: File of a model trained with ``SwinE3VA``.
            prefix: Where the backbone is in that model.

        Raises:
            KeyError: If there is no such task.
            ValueError: If the file has another trunk or no such highway.
        """
        if name not in self.tasks:
            raise KeyError(f'no task {name!r}; known: {list(self.tasks)}')
        loaded = CheckpointLoader.load_checkpoint(
            str(checkpoint), map_location='cpu'
        )
        whole = loaded.get('state_dict', loaded)
        state_dict = {
            key.removeprefix(prefix): value
            for key, value in whole.items()
            if key.startswith(prefix)
        }
        task = self.tasks[name]
        own = {
            f'{CHILD}.highway.{k}': f'highway.{k}'
            for k in task.highway.state_dict()
        }
        own.update({k: f'norms.{k}' for k in task.norms.state_dict()})
        missing = sorted(set(own) - set(state_dict))
        if missing:
            raise ValueError(
                f'{checkpoint} has no {prefix}{missing[0]}: it was not '
                f"trained with the E3VA arguments of task '{name}'"
            )
        about = marked(whole)
        if about is None:
            self._load_trunk(state_dict, task, str(checkpoint))
        else:
            base = about[1]['tuners'][f'{prefix}{CHILD}']['base']
            self._check_trunk(base, task, str(checkpoint))
        try:
            task.load_state_dict({own[k]: state_dict[k] for k in own})
        except RuntimeError as error:
            raise ValueError(
                f"{checkpoint} does not fit task '{name}': {error}"
            ) from None
        self._new.discard(name)

    def _load_trunk(
        self, state_dict: dict[str, Tensor], task: _Task, checkpoint: str
    ) -> None:
        names = self._trunk_names()
        lacking = [name for name in names if name not in state_dict]
        if lacking:
            raise ValueError(f'{checkpoint} has no trunk tensor {lacking[0]}')
        if self._trunk_from is None:
            if not task.trains_norms:  # then they are the trunk's
                names += task.norms.state_dict()
            self.trunk.load_state_dict(
                {name: state_dict[name] for name in names}, strict=False
            )
            self._trunk_from = checkpoint
            return
        differing = self._differing(state_dict)
        if differing:
            raise ValueError(
                f'{checkpoint} was trained on another trunk than '
                f"{self._trunk_from}: '{differing}' differs. Tasks can share "
                'a trunk only if they started from the same weights'
            )

    def _check_trunk(self, base: str, task: _Task, adapter: str) -> None:
        if self._trunk_from is None:
            if not (self.trunk.init_cfg or {}).get('checkpoint'):
                raise ValueError(
                    f'{adapter} has what was trained and no trunk: name the '
                    "trunk's weights in init_cfg of the backbone"
                )
            self.init_weights()
        norms = task.norms.state_dict() if task.trains_norms else {}
        weights = getattr(self.trunk, CHILD).stock_weights()
        ours = fingerprint({n: weights[n] for n in weights if n not in norms})
        if ours != base:
            raise ValueError(
                f'{adapter} was trained on another trunk than that of '
                f'{self._trunk_from}. Tasks can share a trunk only if they '
                'started from the same weights'
            )

    def _trunk_names(self) -> list[str]:
        """Return the names in the trunk, without its output norms."""
        norms = next(iter(self.tasks.values())).norms.state_dict()
        return [name for name in self.trunk.state_dict() if name not in norms]

    def _differing(self, state_dict: dict[str, Tensor]) -> str | None:
        """Return the first tensor of the trunk that differs, if any."""
        ours = self.trunk.state_dict()
        for name in self._trunk_names():
            if not torch.equal(
                ours[name], state_dict[name].to(ours[name].device)
            ):
                return name
        return None

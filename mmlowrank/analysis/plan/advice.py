"""The cheapest changes that make a config fit a card."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from mmengine.config import Config, ConfigDict

from ..counting import build_on_meta
from .cards import CARDS, MIB, needed
from .step import AMP, Setting, Step, uses_amp

# Methods of the frameworks' heads whose ``forward`` is given features.
_OF_FEATURES = ('loss_by_feat', 'loss_and_target')


@dataclass(frozen=True)
class Change:
    """Something to change.

    Attributes:
        name: What to do, as a user would.
        cost: What it costs.
        apply: Changes a config and a setting, and returns the setting.
    """

    name: str
    cost: str
    apply: Callable[[Config, Setting], Setting]


def changes(
    cfg: Config,
    batch: int,
    lean: dict | None,
    saved: Sequence[str],
) -> Iterator[Change]:
    """Yield what can be changed, the cheapest first.

    Args:
        cfg: The config.
        batch: Images a GPU.
        lean: The backbone with E3VA, where that can be done.
        saved: Values of ``optim_wrapper.saved`` that there are.
    """
    amp = uses_amp(cfg)
    kept = cfg.optim_wrapper.get('saved', 'exact')
    if not amp:
        yield Change(
            f'optim_wrapper.type={AMP}', 'half precision, and is faster', _amp
        )
    if 'bf16' in saved and kept == 'exact':
        yield Change(
            'optim_wrapper.saved=bf16',
            'nothing that AMP has not lost already',
            _saved('bf16'),
        )
    if 'int8' in saved and kept != 'int8':
        yield Change(
            'optim_wrapper.saved=int8',
            'gradients with an error below a percent, and time',
            _saved('int8'),
        )
    heads = [] if cfg.get('activation_checkpointing') else _heads(cfg)
    if heads:
        yield Change(
            f'activation_checkpointing={heads}',
            'their forward pass a second time',
            _checkpointed(heads),
        )
    if batch > 1:
        yield Change(
            'train_dataloader.batch_size=1',
            'a lower learning rate, or accumulation',
            lambda cfg, setting: replace(setting, batch=1),
        )
    if lean is not None:
        yield Change('the tuner e3va-r8', 'another method', _tuned(lean))


def advise(
    cfg: Config,
    setting: Setting,
    card: str,
    known: Sequence[Change],
    plan: Callable[[Config, Setting], Step],
    gpus: int = 1,
) -> tuple[list[Change], Step]:
    """Find the fewest of the cheapest changes that fit a card.

    They are added one by one, the cheapest first, until it fits; those that
    turn out not to be needed are left out, the dearest first.

    Args:
        cfg: A config that does not fit.
        setting: Its setting.
        card: One of ``CARDS``.
        known: Of :func:`changes`.
        plan: :func:`.step.plan_step`, or one that remembers.
        gpus: As in :func:`.cards.needed`.

    Returns:
        The changes, and the step with them; all changes if none fits.
    """

    def planned(chosen: Sequence[Change]) -> Step:
        other, changed = copy.deepcopy(cfg), setting
        for change in chosen:
            changed = change.apply(other, changed)
        return plan(other, changed)

    def fits(step: Step) -> bool:
        return needed(step, gpus) <= CARDS[card] * MIB

    chosen: list[Change] = []
    step = None
    for change in known:
        chosen.append(change)
        step = planned(chosen)
        if fits(step):
            break
    else:
        return chosen, step or planned([])
    for change in chosen[-2::-1]:
        fewer = [other for other in chosen if other is not change]
        less = planned(fewer)
        if fits(less):
            chosen, step = fewer, less
    return chosen, step


def _heads(cfg: Config) -> list[str]:
    """Return the paths of the neck, and of what has losses of features."""
    found = [
        name
        for name, module in build_on_meta(cfg).named_modules()
        if any(hasattr(module, method) for method in _OF_FEATURES)
    ]
    return [*(['neck'] if cfg.model.get('neck') else []), *found]


def _checkpointed(paths: list[str]) -> Callable[[Config, Setting], Setting]:
    def apply(cfg: Config, setting: Setting) -> Setting:
        cfg.activation_checkpointing = paths
        return setting

    return apply


def _saved(width: str) -> Callable[[Config, Setting], Setting]:
    def apply(cfg: Config, setting: Setting) -> Setting:
        cfg.optim_wrapper['saved'] = width
        return setting

    return apply


def _amp(cfg: Config, setting: Setting) -> Setting:
    cfg.optim_wrapper['type'] = AMP
    return setting


def _tuned(backbone: dict) -> Callable[[Config, Setting], Setting]:
    def apply(cfg: Config, setting: Setting) -> Setting:
        cfg.model['backbone'] = ConfigDict(backbone)
        return setting

    return apply

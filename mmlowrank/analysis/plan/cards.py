"""What a config needs to train, and which cards have it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from . import timeline as kinds
from .step import Setting, Step

MIB = 2**20
# Card -> MiB, as nvidia-smi lists them.
CARDS = {
    '1080ti': 11178,
    '2080ti': 11019,
    'p100': 16280,
    'v100-16': 16160,
    '3090': 24268,
    'v100-32': 32510,
    'h100': 81559,
}
# What no plan sees, in MiB: the CUDA context with its kernels, and the
# workspaces of cuBLAS and cuDNN.
CONTEXT = 500
WORKSPACE = 200
# The caching allocator holds blocks that are too small for what is asked.
FRAGMENTATION = 0.05


@dataclass(frozen=True)
class Verdict:
    """Whether a step fits a card.

    Attributes:
        card: Its name.
        capacity: In bytes.
        needs: In bytes, with what is assumed beside the plan.
    """

    card: str
    capacity: int
    needs: int

    @property
    def headroom(self) -> int:
        """Bytes that stay free; negative where it does not fit."""
        return self.capacity - self.needs

    @property
    def fits(self) -> bool:
        """Whether it fits."""
        return self.headroom >= 0


def needed(step: Step, gpus: int = 1) -> int:
    """Return the bytes that a card must have for a step.

    Args:
        step: The plan.
        gpus: With several, DistributedDataParallel's buckets hold every
            gradient once more, unless ``gradient_as_bucket_view`` is set.
    """
    allocated = step.peak + buckets(step, gpus)
    extra = (CONTEXT + WORKSPACE) * MIB
    return extra + round(allocated * (1 + FRAGMENTATION))


def buckets(step: Step, gpus: int) -> int:
    """Return the bytes of DistributedDataParallel's buckets."""
    return step.trainable if gpus > 1 else 0


def verdicts(step: Step, cards: Iterable[str], gpus: int = 1) -> list[Verdict]:
    """Return whether a step fits each card.

    Raises:
        ValueError: If a card is unknown.
    """
    cards = [*cards]
    unknown = sorted({*cards} - {*CARDS})
    if unknown:
        raise ValueError(
            f'unknown cards {", ".join(unknown)}; known are {", ".join(CARDS)}'
        )
    needs = needed(step, gpus)
    return [Verdict(card, CARDS[card] * MIB, needs) for card in cards]


def assumptions(step: Step, setting: Setting, gpus: int) -> list[str]:
    """Return what a plan assumes, a sentence each."""
    width, height = step.scale
    said = [
        f'{step.batch} image{"s" * (step.batch > 1)} of {width} x {height} '
        'pixels a GPU, the largest that the config trains on'
        if setting.scale is None
        else f'{step.batch} images of {width} x {height} pixels a GPU',
    ]
    if step.boxes:
        said.append(
            f'{setting.objects} objects in an image, of all sizes; '
            + (
                'a trained detector: half of the proposals hit an object, so '
                'samplers find all the positives that they want'
                if setting.found
                else 'a detector at its start: proposals are the anchors, '
                'moved a little'
            )
        )
    said.append(
        'the second step: the optimizer has its state, and gradients are set '
        'to None after a step'
    )
    if setting.device == 'cuda':
        said += [
            "mmcv's compiled operators, which allocate what they return "
            'alone; convolutions without what cuDNN takes inside',
            f'cards: {CONTEXT} MiB for the CUDA context and {WORKSPACE} MiB '
            f'for workspaces, and {FRAGMENTATION:.0%} of what is allocated '
            'for fragmentation',
        ]
    if gpus > 1:
        said.append(
            f'{gpus} GPUs: the buckets of DistributedDataParallel hold each '
            'gradient once more'
        )
    return said


def shares(step: Step, gpus: int = 1) -> dict[str, int]:
    """Return what the peak consists of, in the order of a table, in bytes."""
    order = [kinds.PARAMETERS, kinds.BUFFERS, kinds.STATE, kinds.GRADIENTS]
    found = {kind: step.shares.get(kind, 0) for kind in order}
    if gpus > 1:
        found['buckets'] = buckets(step, gpus)
    found[kinds.BATCH] = step.shares.get(kinds.BATCH, 0)
    for part, size in step.parts.items():
        found[f'kept: {part}'] = size
    found[kinds.TEMPORARY] = step.shares.get(kinds.TEMPORARY, 0)
    return {kind: size for kind, size in found.items() if size}


def table(rows: Sequence[tuple[str, int]], total: str) -> str:
    """Return lines of names and MiB, with their sum."""
    rows = [*rows, (total, sum(size for _, size in rows))]
    return '\n'.join(
        f'  {name:<34}{size / MIB:>10,.0f} MiB' for name, size in rows
    )

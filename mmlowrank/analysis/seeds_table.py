"""Some methods on several seeds of the digit scenes: the table."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from mmengine.config import Config

from .measuring import measure, training_pass
from .run_results import read_metrics

# Those that see maps, beside what they are to be compared with.
METHODS = ('Adapter', 'Mona', 'CoLin', 'E3VA', 'E3VA+Mona', 'E3VA+CoLin')
# What a section begins with, below the table of all methods.
TITLE = '## Several seeds\n'
PACKED_TITLE = '## Saved in fewer bits\n'
_NEXT = '\n## '


@dataclass(frozen=True)
class Row:
    """One method's line of the table.

    Attributes:
        method: Its name.
        trainable: Trainable parameters of the backbone.
        saved: Bytes that its forward pass on a training batch keeps.
        seconds: Of forward and backward on that batch, the median.
        bbox: Box mAP for each seed, 0 to 1; nan if no box was found.
    """

    method: str
    trainable: int
    saved: int
    seconds: float
    bbox: tuple[float, ...]


def read_rows(
    work_dirs: Sequence[str | Path], methods: Iterable[str], repeats: int = 9
) -> list[Row]:
    """Read finished runs of Mask R-CNN, and measure the backbones in turns.

    Args:
        work_dirs: One for each seed, as for :func:`.comparison.read_rows`.
        methods: Some of ``comparison.METHODS``.
        repeats: Timed passes of each.

    Raises:
        FileNotFoundError: If a method's training or test is missing.
    """
    bbox, backbones = {}, {}
    for method in methods:
        runs = [Path(work, method.lower(), 'test') for work in work_dirs]
        bbox[method] = tuple(
            read_metrics(run).get('coco/bbox_mAP', math.nan) for run in runs
        )
        cfg = Config.fromfile(Path(work_dirs[0], 'configs', f'{method}.py'))
        backbones[method], images = training_pass(cfg)
    return [
        Row(r.method, r.trainable, r.saved_bytes, r.seconds, bbox[r.method])
        for r in measure(backbones, images, repeats)
    ]


def format_table(rows: list[Row], seeds: Sequence[int]) -> str:
    """Return the table as text that is Markdown too."""
    heads = [f'seed {seed}' for seed in seeds] + ['mean']
    lines = [
        '| method      | trainable | saved MiB | seconds | '
        + ' | '.join(f'{head:>6}' for head in heads)
        + ' |',
        '|:------------|----------:|----------:|--------:|'
        + '|'.join('-------:' for _ in heads)
        + '|',
    ]
    for row in rows:
        values = [*row.bbox, statistics.fmean(row.bbox)]
        lines.append(
            f'| {row.method:<11} | {row.trainable:>9,} '
            f'| {row.saved / 2**20:>9.1f} | {row.seconds:>7.3f} | '
            + ' | '.join(
                f'{"-" if math.isnan(value) else f"{value:.3f}":>6}'
                for value in values
            )
            + ' |'
        )
    return '\n'.join(lines)


def against_e3va(rows: list[Row], seeds: Sequence[int]) -> str:
    """Say what other highways than E3VA's gain and cost, if it is there.

    Args:
        rows: Of the table.
        seeds: Of the table.
    """
    found = {row.method: row for row in rows}
    if not {'E3VA', 'Adapter'} <= found.keys():
        return ''
    plain, adapter = found['E3VA'], found['Adapter']
    lines = []
    for row in rows:
        if not row.method.startswith('E3VA+'):
            continue
        shares = ', '.join(
            f'{100 * (ours - low) / (high - low):.0f} % at seed {seed}'
            for seed, ours, low, high in zip(
                seeds, row.bbox, plain.bbox, adapter.bbox, strict=True
            )
            if high > low
        )
        lines.append(
            f'- {row.method} closes, of the gap between E3VA and Adapter, '
            f'{shares};\n  it keeps {row.saved / plain.saved:.2f} times the '
            f'bytes of E3VA and takes {row.seconds / plain.seconds:.2f} '
            'times as long.'
        )
    return '\n'.join(lines)


def against_exact(rows: list[Row], seeds: Sequence[int]) -> str:
    """Say what saving in fewer bits does to the box mAP.

    Args:
        rows: Of the table; a method's exact row is before its others.
        seeds: Of the table.
    """
    lines = []
    for row in rows:
        method, _, saved = row.method.rpartition('-')
        exact = next((r for r in rows if r.method == method), None)
        if exact is None:
            continue
        changes = ', '.join(
            f'{ours - theirs:+.3f} at seed {seed}'
            for seed, ours, theirs in zip(
                seeds, row.bbox, exact.bbox, strict=True
            )
        )
        lines.append(
            f'- {method} in {saved}: box mAP {changes}; '
            f'{row.saved / exact.saved:.2f} times the\n  bytes in the '
            f'backbone, {row.seconds / exact.seconds:.2f} times as long.'
        )
    return '\n'.join(lines)


def write_section(
    rows: list[Row],
    seeds: Sequence[int],
    path: str | Path,
    saved: Sequence[str] = ('exact',),
) -> None:
    """Write the table below that of all methods, in place of an older one.

    Args:
        rows: The lines of the table.
        seeds: Of the runs.
        path: A Markdown file; its other sections stay.
        saved: What each method was trained with, ``'exact'`` first. With
            more than that the section is another one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    packed = len(saved) > 1
    title = PACKED_TITLE if packed else TITLE
    text = path.read_text() if path.exists() else ''
    above, _, old = text.partition(title)
    _, next_title, below = old.partition(_NEXT)
    if above:
        above = above.rstrip() + '\n\n'
    names = [row.method for row in rows]
    names = [name for name in names if name.rpartition('-')[2] not in saved]
    options = f' \\\n  --saved {" ".join(saved)}' if packed else ''
    threads = torch.get_num_threads()
    said = against_exact(rows, seeds) if packed else against_e3va(rows, seeds)
    path.write_text(
        f"""{above}{title}
Box mAP of Mask R-CNN. Another seed means other scenes, another pre-trained
Swin and other random numbers.

{format_table(rows, seeds)}

{said}

Made by

```shell
bash tools/analysis_tools/compare_methods.sh \\
  --seeds {' '.join(map(str, seeds))} \\
  --methods {' '.join(names)}{options}
```

*trainable* and *saved* are as above. *seconds*: forward and backward of the
backbone on one training batch, the methods in turns in one process, the
median; of the machine that wrote this page, {threads} thread(s).
{next_title}{below}"""
    )


def sections(path: str | Path) -> str:
    """Return the sections that a page has below the first table."""
    path = Path(path)
    text = path.read_text() if path.exists() else ''
    _, title, below = text.partition(_NEXT)
    return (title + below).lstrip()

"""Write docs/switches.md from the tests: python tests/switch_table.py.

A cell names what the tests of test_switches.py run; where they do not run
something, it says why.
"""

from pathlib import Path

import test_switches as tests
from swins import VIT
from test_switches import HOSTS, ROWS, row_of

DOCS = Path(__file__).resolve().parents[1] / 'docs' / 'switches.md'
COLUMNS = {
    'loss scaling': [tests.test_loss_scaling],
    'clipping': [tests.test_clipping],
    'accumulation': [tests.test_accumulation],
    'EMA': [tests.test_ema],
    '`with_cp`': [tests.test_with_cp],
    '`activation_ checkpointing`': [tests.test_activation_checkpointing],
    '`saved`': [tests.test_saved_in_int8],
    'SyncBN conversion': [tests.test_sync_bn_conversion],
    'trace': [tests.test_trace],
    'export': [tests.test_export],
    'ONNX': [tests.test_onnx_by_tracing, tests.test_onnx_by_dynamo],
    'compile': [tests.test_compile, tests.test_compile_with_inductor],
    'hooks': [tests.test_hooks],
    'counting': [tests.test_counting],
    'deepcopy, pickle': [tests.test_copies],
    'two processes': [],  # test_distributed.py runs every row that trains
}
TEXT = """\
# What works with what

A tuned backbone behaves as a stock one under every switch below, or the cell
says why it cannot. Rows are tuners, on the Swin Transformers of mmdet, mmseg
and mmpretrain and on mmpretrain's ViT, as far as the method knows them;
"yes" is a test on each of these that passes.

{table}

Made by `python tests/switch_table.py` from `tests/test_switches.py` (two
processes: `tests/test_distributed.py`), which runs each cell on a CPU.

- *loss scaling*: a step with `GradScaler` moves every trained tensor as a
  step without it. *clipping*: so does one with `clip_grad_norm_`, divided by
  hand. *accumulation*: two halves of a batch give the gradient of the whole,
  and no two gradients share memory.
- *EMA*: mmengine's `ExponentialMovingAverage`.
- *`with_cp`, `activation_checkpointing`*: in float64, the gradients without
  it. Both run in the non-reentrant way, whatever the frameworks ask for.
  E3VA keeps nothing of its trunk, so its trunk is left alone.
- *`saved`*: `optim_wrapper.saved='int8'`, the error of all gradients together
  below 2 %. See [memory](memory.md).
- *SyncBN conversion*: to SyncBN and back, frozen layers stay as they are.
- *trace*: `torch.jit.trace`, saved and loaded, with and without gradients.
  *export*: `torch.export`. *ONNX*: by tracing, run by onnxruntime; Adapter,
  AdaptFormer, LoRand, Mona and E3VA, which cannot be merged, with the new
  exporter too.
- *compile*: `torch.compile`, values and gradients. One graph on the Swin; the
  stock ViT breaks it. Adapter, LoRA, LoRand and E3VA with inductor too.
- *hooks*: at each module of a block, forward and backward, they see what a
  stock trunk shows them.
- *counting*: mmengine's `get_model_complexity_info` counts no less than in
  the stock backbone.
- *two processes*: gloo, `find_unused_parameters=False`, with checkpointed
  activations; and torch's `fully_shard` of the whole backbone. E3VA's highway
  uses the trunk's patch mergings after their stage is done: shard blocks or
  the backbone, not stages.
"""


def tested(test) -> set[str]:
    """Return ``host-row`` of each cell that a test runs."""
    return {
        cell
        for mark in test.pytestmark
        if mark.args[0] == 'host, row'
        for cell in mark.kwargs['ids']
    }


def cell(name: str, column: str) -> str:
    """Return the text of one cell."""
    hosts = [host for host in HOSTS if row_of(host, name)]
    trains = any(row_of(host, name)[2] != 0 for host in hosts)
    if column == 'two processes':
        return 'yes' if trains else 'nothing trains'
    ids = set().union(*map(tested, COLUMNS[column]))
    ran = [host for host in hosts if f'{host}-{name}' in ids]
    if ran == hosts:
        return 'yes'
    if not ran and not trains:
        return 'nothing trains'
    if column == '`with_cp`' and ran == [h for h in hosts if h != VIT]:
        return 'yes; the ViT has none' if ran else 'the ViT has none'
    raise ValueError(f'{column} of {name} runs on {ran} only: say why here')


def text() -> str:
    """Return the document."""
    rows = [['tuner', *COLUMNS], ['---'] * (len(COLUMNS) + 1)]
    rows += [[name, *(cell(name, c) for c in COLUMNS)] for name in ROWS]
    table = '\n'.join(f'| {" | ".join(row)} |' for row in rows)
    return TEXT.format(table=table)


if __name__ == '__main__':
    DOCS.write_text(text())

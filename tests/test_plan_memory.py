"""Plans of memory, against closed forms and real steps."""

import json
from dataclasses import replace

import cv2
import pytest
import torch
import torchvision  # noqa: F401 - registers torch.ops.torchvision
from mmengine.config import Config
from torch import nn

from mmlowrank.analysis.plan.advice import Change, advise, changes
from mmlowrank.analysis.plan.batch import image_scale
from mmlowrank.analysis.plan.cards import CARDS, MIB, needed, verdicts
from mmlowrank.analysis.plan.fake_values import FakeValues
from mmlowrank.analysis.plan.measured import measure_step
from mmlowrank.analysis.plan.papers import PaperRow, marks, megabytes
from mmlowrank.analysis.plan.step import Setting, Step, plan_step
from mmlowrank.analysis.plan.timeline import KEPT, Timeline
from mmlowrank.engine.tuned_config import read

MASK_RCNN = 'configs/quickstart/mask-rcnn_swin-mini_full_800it_digits.py'
RETINANET = 'configs/baselines/retinanet_swin-l_full_1x_voc0712.py'
UPERNET = 'configs/e3va/upernet_swin-l_e3va-r8_160k_ade20k.py'
CLASSIFIER = 'configs/quickstart/swin-mini_lora-r8_30e_digits-turned.py'
SWIN = {
    'model.backbone.embed_dims': 16,
    'model.backbone.depths': [1, 1, 1, 1],
    'model.backbone.num_heads': [1, 1, 2, 2],
}
SMALL = {
    RETINANET: SWIN
    | {
        'model.neck.in_channels': [32, 64, 128],
        'model.neck.out_channels': 32,
        'model.bbox_head.in_channels': 32,
        'model.bbox_head.feat_channels': 32,
    },
    UPERNET: SWIN
    | {
        'model.decode_head.in_channels': [16, 32, 64, 128],
        'model.decode_head.channels': 32,
        'model.auxiliary_head.in_channels': 64,
        'model.auxiliary_head.channels': 32,
    },
    MASK_RCNN: {
        'model.roi_head.bbox_head.fc_out_channels': 64,
        'model.train_cfg.rcnn.sampler.num': 64,
    },
    CLASSIFIER: {},
}
START = Setting(batch=2, scale=(128, 96), found=False, device='cpu')


def small(path: str) -> Config:
    return read(path, SMALL[path])


def test_a_perceptron_to_the_byte():
    """Kept: the input and the hidden layer, once; then gradients."""
    batch, width, hidden = 8, 16, 32
    timeline = Timeline()
    with FakeValues(timeline).running():
        model = nn.Sequential(
            nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, 1)
        )
        x = torch.zeros(batch, width)
        there = timeline.peak(0, timeline.now)[1]
        y = model(x)
        forward = timeline.now
        hidden_layer = 4 * batch * hidden
        # The linear layer's own output is gone, ReLU has kept its result.
        held = sum(b.bytes for b in timeline.at(forward))
        assert held == there + hidden_layer + 4 * batch
        first = timeline.peak(0, forward)[1]
        assert first == there + 2 * hidden_layer
        y.sum().backward()
    timeline.now += 1
    weights = 4 * (width * hidden + hidden + hidden + 1)
    assert there == weights + 4 * batch * width
    grads = [p.grad for p in model.parameters()]
    held = sum(b.bytes for b in timeline.at(timeline.now))
    assert held == there + weights + 4 * batch
    timeline.mark('gradients', grads)
    assert sum(b.bytes for b in timeline.blocks if b.kind) == weights


def test_views_and_writes_are_one_storage():
    timeline = Timeline()
    with FakeValues(timeline).running():
        x = torch.zeros(10, 10)
        y = x.t()[2:]
        y.add_(1)
        assert sum(b.bytes for b in timeline.at(timeline.now)) == 400
        del x
        assert sum(b.bytes for b in timeline.at(timeline.now)) == 400
        del y
    timeline.now += 1
    assert timeline.at(timeline.now) == []


def test_values_are_known_where_a_step_asks():
    """Masks, indices and boxes; features are not, and weigh nothing."""
    values = FakeValues(Timeline())
    real = torch.tensor([3.0, 1.0, 2.0])
    with values.running():
        features = torch.empty(3, 10**9)
        picked = features[real > 1.5]
        assert picked.shape == (2, 10**9)
        assert (real.sort().indices.tolist()) == [1, 2, 0]
        labels = features.new_zeros(3, dtype=torch.long)
        labels[real.argmax()] = 7
        assert labels.tolist() == [7, 0, 0]
        assert (labels > 0).nonzero().shape == (1, 1)
        boxes = torch.tensor([[0.0, 0, 9, 9], [1, 1, 9, 9], [20, 20, 30, 30]])
        kept = torch.ops.torchvision.nms(boxes, real, 0.5)
        assert kept.numpy().tolist() == [0, 2]
        # What is written from the unknown is unknown.
        labels.copy_(features[:, 0])
        assert values.value(labels) is None
    assert values.value(real) is real


@pytest.mark.parametrize('path', [MASK_RCNN, RETINANET, UPERNET, CLASSIFIER])
def test_a_plan_is_the_peak_of_a_real_step(path):
    cfg = small(path)
    setting = START
    if path == CLASSIFIER:
        setting = replace(START, batch=16, scale=(40, 40))
    planned = plan_step(cfg, setting)
    measured = measure_step(cfg, setting)
    assert planned.peak == pytest.approx(measured, rel=0.05)
    assert sum(planned.shares.values()) == planned.peak
    assert sum(planned.parts.values()) == planned.shares[KEPT]
    assert {'backbone'} <= planned.kept.keys()


def test_what_saves_memory_saves_it_in_a_plan():
    setting = replace(START, device='cuda')
    kept = {}
    for name, options in (
        ('exact', {}),
        ('AMP', {'optim_wrapper.type': 'AmpOptimWrapper'}),
        ('int8', {'optim_wrapper.saved': 'int8'}),
        (
            'checkpoints',
            {
                'model.backbone.with_cp': True,
                'activation_checkpointing': ['neck', 'bbox_head'],
            },
        ),
    ):
        cfg = small(RETINANET)
        cfg.merge_from_dict(options)
        step = plan_step(cfg, setting)
        assert step.trainable == step.shares['parameters']
        kept[name] = step.kept
    exact = kept.pop('exact')
    assert kept['AMP']['backbone'] < 0.9 * exact['backbone']
    assert kept['int8']['backbone'] < 0.35 * exact['backbone']
    assert kept['checkpoints']['backbone'] < 0.5 * exact['backbone']
    assert kept['checkpoints']['bbox_head'] < 0.7 * exact['bbox_head']


def test_what_can_be_changed():
    cfg = small(RETINANET)
    names = [c.name for c in changes(cfg, 2, None, ('bf16', 'int8'))]
    assert names == [
        'optim_wrapper.type=AmpOptimWrapper',
        'optim_wrapper.saved=bf16',
        'optim_wrapper.saved=int8',
        "activation_checkpointing=['neck', 'bbox_head']",
        'train_dataloader.batch_size=1',
    ]
    cfg.merge_from_dict(
        {'optim_wrapper.saved': 'int8', 'activation_checkpointing': ['neck']}
    )
    names = [c.name for c in changes(cfg, 1, None, ('bf16', 'int8'))]
    assert names == ['optim_wrapper.type=AmpOptimWrapper']


def test_focal_losses_are_those_of_a_gpu():
    """On a CPU mmdet's makes and keeps many tensors of the logits' size."""
    cfg = small(RETINANET)
    kept = [
        plan_step(cfg, replace(START, device=device)).kept['bbox_head']
        for device in ('cuda', 'cpu')
    ]
    assert kept[0] < 0.8 * kept[1]


def test_the_largest_image_is_read_from_the_pipeline():
    assert image_scale(read(RETINANET)) == (1000, 600)
    assert image_scale(read(UPERNET)) == (512, 512)
    coco = 'configs/e3va/cascade-mask-rcnn_swin-l_e3va-r8_3x_coco.py'
    assert image_scale(read(coco)) == (1333, 800)


def test_the_tool_writes_what_it_prints(tool, tmp_path):
    files = [tmp_path / name for name in ('plan.json', 'plan.png')]
    words = ('--img-scale', 40, 40, '--batch', 4, '--cards', '1080ti,h100')
    output = tool(
        *('plan_memory.py', CLASSIFIER, *words, '--gpus', 2, '--advise'),
        *('--json', files[0], '--plot', files[1]),
    )
    assert f'{CLASSIFIER}, 4 x 40 x 40' in output
    assert output.count(' fits ') == 2
    assert 'buckets' in output
    assert cv2.imread(str(files[1])).std() > 10
    plan = json.loads(files[0].read_text())[CLASSIFIER]
    buckets = plan['shares'].pop('buckets')
    assert buckets == plan['trainable'] > 0
    assert sum(plan['shares'].values()) == plan['peak']
    assert plan['cards']['h100']['headroom'] > 70 * 1024 * MIB
    assert plan['advice'] == {}


def test_unknown_cards_are_refused(tool, capsys):
    with pytest.raises(SystemExit):
        tool('plan_memory.py', CLASSIFIER, '--cards', '1080')
    assert '--cards 1080: known are 1080ti' in capsys.readouterr().err
    with pytest.raises(ValueError, match='unknown cards 1080; known are'):
        verdicts(_step(1), ['1080'])


def _step(mib: float) -> Step:
    return Step(2, (64, 64), int(mib * MIB), 'forward', trainable=MIB)


def test_gradients_are_there_twice_with_several_gpus():
    assert needed(_step(100), 8) - needed(_step(100)) == round(1.05 * MIB)


def test_advice_is_the_fewest_of_the_cheapest():
    """Halving alone is enough; what came before it is not needed."""

    def change(name, cost):
        def apply(cfg, setting):
            cfg.saves = [*cfg.saves, name]
            return setting

        return Change(name, cost, apply)

    saves = dict(a=0.95, b=0.9, c=0.4)
    known = [change(name, '') for name in saves]

    def plan(cfg, setting):
        size = 1.5 * CARDS['1080ti']
        for name in cfg.saves:
            size *= saves[name]
        return _step(size)

    cfg, setting = Config(dict(saves=[])), Setting()
    chosen, step = advise(cfg, setting, '1080ti', known, plan)
    assert [c.name for c in chosen] == ['c']
    assert needed(step) <= CARDS['1080ti'] * MIB
    chosen, step = advise(cfg, setting, '1080ti', known[:2], plan)
    assert [c.name for c in chosen] == ['a', 'b']
    assert needed(step) > CARDS['1080ti'] * MIB
    assert cfg.saves == []


def test_papers_are_compared_above_fixed():
    def row(method, printed, stock, **kwargs):
        return PaperRow('table 1', method, 2, printed, stock, 1, **kwargs)

    rows = [row('FULL', 300, 210), row('FIXED', 100, 20), row('E', 120, 60)]
    lines = megabytes(rows)
    assert '| 200 | 190 | -5 %, within | 1.000 | 1.000 |' in lines[2]
    assert '| 20 | 40 | +100 %, off | 0.100 | 0.211 |' in lines[4]
    marked = row(
        *('FULL', None, 1),
        trains_on=['3090'],
        stock_fits=['3090'],
        ours_fits=[],
    )
    assert marks([marked])[-1].endswith('| yes / yes / no |')


def test_plans_are_verified_by_a_command(tool, tmp_path):
    file = tmp_path / 'plans.json'
    words = ('--models', 1, '--sizes', 1, '--json', file)
    output = tool('verify_plans.py', *words)
    (row,) = json.loads(file.read_text())['rows']
    assert row['planned'] == pytest.approx(row['measured'], rel=0.05)
    assert '| RetinaNet, LoRand | 1 | 256 x 192 |' in output

"""What the measuring tools print, and the bytes they are there to show."""

import json
import re
import statistics
import sys

import cv2
import pytest
import torch
from mmengine.registry import MODELS, DefaultScope
from swins import ARGS, DEPTHS, build, images, loss, stir

from mmlowrank.analysis import contenders, measuring, records
from mmlowrank.analysis.flops import count_multiply_adds
from mmlowrank.analysis.plain_rlrr import PlainRLRRBlock, RLRRBlock

SMALL = ('--arch', 'tiny', '--size', 64, '--repeats', 1)


def numbers_of(row):
    """The values of a row of the JSON file, as the table has them."""
    sums = [
        f + b for f, b in zip(row['forward'], row['backward'], strict=True)
    ]
    return dict(
        trainable=row['trainable'],
        saved_bytes=row['saved_bytes'],
        forward=statistics.median(row['forward']),
        backward=statistics.median(row['backward']),
        seconds=statistics.median(sums),
        cpu=statistics.median(row['cpu']),
    )


def test_every_value_beside_its_ratio_to_full(tool, tmp_path):
    methods = ('E3VA', 'FULL', 'stock FIXED', 'LoRand, W formed')
    files = ('--json', tmp_path / 'all.json', '--plot', tmp_path / 'all.png')
    output = tool('benchmark.py', *SMALL, *files, '--methods', *methods)
    output = output.splitlines()
    title = 'Swin-tiny, 1 x 3 x 64 x 64, fp32, '
    assert output[0].startswith(title)
    assert output[0].endswith('the same on every machine')
    assert output[7].startswith(title)
    assert records.machine()['cpu'] in output[7]
    assert all(len(line) <= 120 for line in output)
    record = json.loads((tmp_path / 'all.json').read_text())
    assert record['settings']['arch'] == 'tiny'
    assert record['machine'] == records.machine()
    rows = record['rows']
    assert tuple(row['method'] for row in rows) == methods
    full = numbers_of(rows[1])
    for row, *lines in zip(rows, output[2:6], output[9:13], strict=True):
        values = numbers_of(row)
        ratios = {name: row['to_full'].pop(name) for name in values}
        assert ratios == {n: values[n] / full[n] for n in values}
        # Peak memory is left, on a GPU.
        assert (row['peak_bytes'] is None) == (row['to_full'] == {})
        deterministic, timed = (
            line.removeprefix(row['method']).split() for line in lines
        )
        assert deterministic == [
            f'{row["trainable"]:,}',
            f'{ratios["trainable"]:.4f}',
            f'{row["saved_bytes"] / 2**20:.1f}',
            f'{ratios["saved_bytes"]:.3f}',
        ]
        assert timed[1:8:2] == [
            f'{ratios[name]:.3f}'
            for name in ('forward', 'backward', 'seconds', 'cpu')
        ]
        assert timed[-3::2] == [f'{row["seconds"]:.3f}'] * 2  # one pass
    assert cv2.imread(str(tmp_path / 'all.png')).std() > 10


def test_without_full_there_are_no_ratios(tool, tmp_path):
    path = tmp_path / 'all.json'
    words = (*SMALL, '--json', path, '--methods', 'FIXED', 'BitFit')
    output = tool('benchmark.py', *words)
    assert 'No ratios, because FULL is not among --methods.' in output
    assert '/FULL' not in output
    rows = json.loads(path.read_text())['rows']
    assert [r['to_full'] for r in rows] == [None] * 2


def test_quartiles_are_of_both_passes():
    one = measuring.Measurement('a', 1, 1, [1.0, 2, 3, 4, 9], [1.0] * 5)
    assert one.quartiles == (3.0, 5.0)
    one = measuring.Measurement('a', 1, 1, [1.0], [1.0])
    assert one.quartiles == (2.0, 2.0)


PEERS = ('LoRA-64', 'peft LoRA-64', 'mmpretrain LoRA-64')


@pytest.fixture(scope='module')
def peers():
    # peft is where tools/setup_env.sh puts it, see requirements/peft.txt.
    return {name: contenders.build('tiny', name) for name in PEERS}


def test_peers_have_our_backbone_and_number_of_parameters(peers):
    kept = {}
    for name, model in peers.items():
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        # 2 (r d + r d) is r d + 3 r d.
        widths = [96] * 2 + [192] * 2 + [384] * 6 + [768] * 2
        assert trained == 4 * 64 * sum(widths)
        model.train()
        kept[name] = measuring.saved_bytes(model, torch.zeros(1, 3, 224, 224))
    frozen = contenders.build('tiny', 'stock FIXED')
    assert type(frozen).__module__ == 'mmdet.models.backbones.swin'
    assert not any(p.requires_grad for p in frozen.parameters())
    assert kept['LoRA-64'] <= 0.62 * kept['peft LoRA-64']
    assert kept['peft LoRA-64'] == kept['mmpretrain LoRA-64']


def test_without_peft_its_row_is_left_out(tool, monkeypatch):
    monkeypatch.setitem(sys.modules, 'peft', None)
    words = (*SMALL, '--methods', 'stock FIXED', 'peft LoRA-64')
    output = tool('benchmark.py', *words)
    assert 'stock FIXED' in output
    assert 'peft' not in output
    with pytest.raises(ImportError, match='setup_env'):
        contenders.build_peft('tiny')


def test_figures_come_from_records(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['tools/analysis_tools/x.py', '--a b'])
    rows = [
        measuring.Measurement(
            name, 5, 2**20 * n, [n], [0.5], None, [n]
        ).to_json()
        for n, name in ((4, 'FULL'), (1, 'a, b'))
    ]
    records.write(tmp_path / 'one.json', rows, dict(arch='tiny'))
    text = (
        'Keeps <!-- one: a, b | saved_bytes | .2f | FULL -->9<!-- / --> of it'
        ', <!-- one: a, b | cpu | .1f -->\n<!-- / -->\n'
        '<!-- one: machine --><!-- / -->\n'
        '<!-- one: table | FULL; a, b --><!-- / -->\n'
    )
    assert records.figures(text) == 4
    made = records.render(text, tmp_path)
    assert '-->0.25<!-- / --> of it' in made
    assert '-->1.0<!--' in made
    assert records.machine()['cpu'] in made
    assert (
        '| a, b | 5 | 1.0 MiB | 0.250 | 1.00 | 1.00 to 1.00 | 0.25 |' in made
    )
    assert records.render(made, tmp_path) == made
    command = json.loads((tmp_path / 'one.json').read_text())['command']
    assert command.endswith("python tools/analysis_tools/x.py '--a b'")
    for wrong in ('two: FULL | cpu | f', 'one: c | cpu | f'):
        with pytest.raises((KeyError, FileNotFoundError)):
            records.render(f'<!-- {wrong} --><!-- / -->', tmp_path)


def test_peaks_have_ratios_too():
    full, ours = (
        measuring.Measurement(name, 8, 8, [1.0], [1.0], peak, [1.0])
        for name, peak in (('FULL', 400), ('E3VA', 100))
    )
    ratios = measuring.ratios_to_full([ours, full])
    assert ratios['E3VA']['peak_bytes'] == 0.25
    assert measuring.ratios_to_full([ours]) == {}


def test_what_further_tasks_cost(tool):
    output = tool('measure_multi_task.py', *SMALL, '--tasks', 3)
    numbers = re.findall(r'(-?\d+\.\d{3}) (?:s|x)', output)
    one, three, ratio, further = map(float, numbers)
    assert '3 tasks, one trunk' in output
    # Three digits are printed.
    assert ratio * one == pytest.approx(three, abs=1e-3 * (1 + ratio))
    assert further == pytest.approx((ratio - 1) / 2, abs=1e-3)


class Watched(torch.nn.Linear):
    """Writes down where it goes and when it computes."""

    def __init__(self, name, log):
        super().__init__(4, 4)
        self.name, self.log = name, log

    def to(self, device):
        self.log.append(f'{self.name} comes')
        return super().to(device)

    def cpu(self):
        self.log.append(f'{self.name} goes')
        return super().cpu()

    def forward(self, x):
        self.log.append(f'{self.name} computes')
        return (super().forward(x),)


def test_methods_take_turns_and_are_alone_on_the_device():
    log = []
    backbones = {name: Watched(name, log) for name in ('a', 'b')}
    results = measuring.measure(backbones, torch.ones(1, 4), repeats=2)
    turn = [
        f'{name} {what}'
        for name in ('a', 'b')
        for what in ('comes', 'computes', 'goes')
    ]
    assert log == turn * 4  # bytes, a pass that is not counted, two that are
    assert [len(r.forward) for r in results] == [2, 2]


@pytest.mark.parametrize('method', ['LoRand', 'E3VA'])
def test_formed_weights_are_ours(method):
    """In float64, beside a trunk that runs the stock code."""
    tuner, change = contenders.method_table()[f'{method}, W formed']
    assert tuner == dict(type=method, memory='stock')
    ours, formed = (
        build('mmdet', f'mmlowrank.Swin{method}', rank=4, memory='stock')
        for _ in range(2)
    )
    formed.load_state_dict(ours.state_dict())
    change(formed)
    losses, kept = [], []
    for backbone in (ours, formed):
        backbone.double()
        stir(backbone)
        kept.append(measuring.saved_bytes(backbone, images().double()))
        losses.append(loss(backbone, images().double()))
        losses[-1].backward()
    assert kept[0] < kept[1]  # the hidden layer is kept
    torch.testing.assert_close(*losses, rtol=1e-12, atol=1e-12)
    trained = [n for n, p in ours.named_parameters() if p.requires_grad]
    assert any('down_' in n for n in trained)
    for n in trained:
        one, other = (b.get_parameter(n).grad for b in (ours, formed))
        assert one.abs().sum() > 0, n
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-12, msg=n)


def test_bytes_on_swin_b():
    """448 x 448, one image, float32; the same on every machine."""
    table, saved = contenders.method_table(), {}
    for name in ('FULL', 'LoRand', 'E3VA'):
        # One after another, for memory.
        backbone = contenders.build_tuned('base', table[name][0])
        backbone.train()
        x = torch.zeros(1, 3, 448, 448)
        saved[name] = measuring.saved_bytes(backbone, x)
    assert saved['E3VA'] <= 0.155 * saved['FULL']
    assert saved['LoRand'] <= 0.5 * saved['FULL']


def test_three_tasks_run_each_block_of_the_trunk_once():
    stock = dict(type='SwinTransformer', **ARGS['mmdet'], window_size=4)
    with DefaultScope.overwrite_default_scope('mmdet'):
        together = MODELS.build(
            dict(
                type='mmlowrank.MultiTaskE3VA',
                backbone=stock,
                tasks={name: dict(rank=2) for name in 'abc'},
            )
        )
    calls = []
    for i, stage in enumerate(together.trunk.stages):
        for j, block in enumerate(stage.blocks):
            block.register_forward_hook(lambda *_, at=(i, j): calls.append(at))
    assert together(images()).keys() == set('abc')
    assert calls == [(i, j) for i, n in enumerate(DEPTHS) for j in range(n)]


def test_calls_take_turns():
    """The first of each is not counted."""
    log = []
    calls = {name: lambda name=name: log.append(name) for name in 'ab'}
    seconds = measuring.time_calls(calls, repeats=2)
    assert ''.join(log) == 'ababab'
    assert [len(times) for times in seconds.values()] == [2, 2]


def test_bytes_of_a_call_and_of_weights():
    """In float32: 4 KiB each, two of them at a time."""

    def call():
        kept = torch.zeros(1024)
        for _ in range(3):
            kept = kept + 1

    assert 8192 <= measuring.peak_bytes(call, 'cpu') < 9000
    assert measuring.peak_bytes(lambda: None, 'cpu') == 0
    one = torch.nn.Linear(256, 4, bias=False)
    tied = torch.nn.Linear(256, 4)
    tied.weight = one.weight
    assert measuring.weight_bytes(one, tied) == 4096 + 16


def test_multiply_adds_are_counted_on_the_meta_device_only():
    """A CPU's own kernels would go uncounted."""
    with pytest.raises(ValueError, match=r'on cpu: .*build_on_meta'):
        count_multiply_adds(torch.nn.Linear(2, 2), (8, 8))


def test_measure_rlrr_prints_both_sides(tool, tmp_path):
    sizes = '--embed-dims 64 --heads 2 --batch 2 --tokens 9 --repeats 1'
    path = tmp_path / 'rlrr.json'
    output = tool('measure_rlrr.py', *sizes.split(), '--json', path)
    record = json.loads(path.read_text())
    assert [row['method'] for row in record['rows']] == ['plain', 'mmlowrank']
    assert 'ratio to plain: saved 0.' in output
    difference = float(output.split('outputs differ by ')[1].split()[0])
    assert difference < 1e-5


def test_rlrr_keeps_at_most_four_fifths_of_the_plain_block():
    """At ViT-B's sizes and a batch of 32."""
    torch.manual_seed(0)
    ours = RLRRBlock(768, 12)
    x = torch.randn(32, 197, 768, requires_grad=True)
    kept = [
        measuring.saved_bytes(block, x)
        for block in (ours, PlainRLRRBlock(ours))
    ]
    assert kept[0] <= 0.80 * kept[1]

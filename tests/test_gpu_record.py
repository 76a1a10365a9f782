"""The record that waits for a GPU, in its short form on what is there."""

import json

import pytest
import torch

from mmlowrank.analysis import numerics
from mmlowrank.nn.kernels import functional


def test_the_short_form_runs_and_says_what_it_left_out(tool, tmp_path):
    path = tmp_path / 'gpu.json'
    output = tool('gpu_record.py', '--short', '--json', path)
    record = json.loads(path.read_text())
    settings = record['settings']
    if not torch.cuda.is_available():
        assert 'Not checked: the planner' in output
        assert 'Not checked: everything else on a GPU' in output
        assert len(settings['left_out']) == 3
    assert 'WRONG' not in output
    checked = {(row['method'], row['type']) for row in settings['numerics']}
    for kind in ('fp32', 'fp16', 'bf16'):
        assert ('norm_mlp', kind) in checked
    for name in ('E3VA, sdpa', 'E3VA, products', 'LoRA, sdpa', 'LORS'):
        assert (name, 'fp32') in checked
    assert {row['type'] for row in record['rows']} == {'fp32', 'bf16'}


def test_a_wrong_pass_is_noticed(monkeypatch):
    """One that returns a hundredth too much."""
    stock = functional.bottleneck
    monkeypatch.setattr(
        functional, 'bottleneck', lambda *args: 1.01 * stock(*args)
    )
    rows = [
        row
        for row in numerics.kernel_errors('cpu')
        if row['method'] == 'bottleneck'
    ]
    assert not rows[0]['right']
    assert rows[0]['error'] == pytest.approx(0.01, rel=0.1)

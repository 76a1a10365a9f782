"""Documents that a command makes are what it makes now."""

import re
from pathlib import Path

import onnxruntime
import pytest
import switch_table
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

ROOT = Path(__file__).resolve().parents[1]


def test_the_matrix_of_switches_is_that_of_the_tests():
    """Otherwise run: python tests/switch_table.py."""
    assert switch_table.DOCS.read_text() == switch_table.text()


@pytest.mark.parametrize(
    'config',
    [
        'upernet_swin-mini_lorand-b4r8_1200it_digits.py',
        'faster-rcnn_swin-mini_lorand-b2r8_400it_digits-voc.py',
        'swin-mini_rlrr_30e_digits-turned.py',
    ],
)
def test_the_script_of_deploy_runs(config, tmp_path, monkeypatch):
    """What it writes computes what the model does."""
    cfg = Config.fromfile(ROOT / 'configs' / 'quickstart' / config)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
    monkeypatch.chdir(tmp_path)
    torch.save(model.state_dict(), 'CHECKPOINT.pth')
    cfg.dump('CONFIG.py')
    text = (ROOT / 'docs' / 'deploy.md').read_text()
    scope = {}
    for block in re.findall(r'```python\n(.*?)```', text, re.DOTALL):
        exec(block, scope)
    raw, images = scope['raw'], scope['images']
    with torch.no_grad():
        expected = raw(images)
        traced = torch.jit.load('model.ts')(images)
        program = torch.export.load('model.pt2').module()(images)
    session = onnxruntime.InferenceSession('model.onnx')
    (name,) = [value.name for value in session.get_inputs()]
    onnx = map(torch.from_numpy, session.run(None, {name: images.numpy()}))
    for one in (traced, program, tuple(onnx)):
        one = one if isinstance(one, (tuple, list)) else (one,)
        other = (
            expected if isinstance(expected, (tuple, list)) else (expected,)
        )
        for ours, theirs in zip(one, other, strict=True):
            # float32 sums in other orders, of features of about 1.
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)

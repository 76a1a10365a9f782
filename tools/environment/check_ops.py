"""Call nms, RoIAlign, and a kernel on each card.

python tools/environment/check_ops.py OPS    which ops mmcv should have:
                                             compile or none
"""

import sys

import cv2  # noqa: F401 - the GUI build needs libGL, which servers lack
import torch
from mmcv.ops import nms, roi_align

import mmlowrank.ops

boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 3.9], [8, 8, 9, 9]])
_, keep = nms(boxes, torch.tensor([0.9, 0.8, 0.7]), iou_threshold=0.5)
assert keep.tolist() == [0, 2], keep
slope = torch.arange(8.0).expand(1, 1, 8, 8).clone().requires_grad_()
out = roi_align(slope, torch.tensor([[0.0, 1, 1, 5, 5]]), 1)
assert out.item() == 2.5, out
out.backward()
assert slope.grad.sum() == 1, slope.grad
assert mmlowrank.ops.compiled() == (sys.argv[1] == 'compile')
for card in range(torch.cuda.device_count()):
    assert torch.ones(2, device=f'cuda:{card}').add(1).sum() == 4, card

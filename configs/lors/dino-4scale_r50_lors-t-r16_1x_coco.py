r"""DINO with LORS^T: six decoder layers share their weights, COCO, R-50.

The paper has LORS in AdaMixer and names other detectors as work to come:
there is no number for this row. Not run here.

From mmdet's DINO, this is all that changes. COCO is where its config has it,
in data/coco.

    bash tools/dist_train.sh \
        configs/lors/dino-4scale_r50_lors-t-r16_1x_coco.py 8
"""

_base_ = 'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py'

model = dict(
    type='mmlowrank.StackSharedModel',
    model='DINO',
    stacks={'decoder.layers': dict(rank=16)},
)

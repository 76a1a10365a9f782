r"""AdaMixer on ResNet-50 with the layout of LORS: 2 groups of 64 points.

The papers print no number for this row. Not run here.

    bash tools/dist_train.sh \
        configs/lors/adamixer-q100_r50_plain-2x64_1x_coco.py 8
"""

_base_ = './adamixer-q100_r50_plain_1x_coco.py'

model = dict(decoder=dict(groups=2, in_points=64))

r"""AdaMixer with LORS on ResNet-50: LORS^T of rank 16.

Paper (table 7): box AP 42.1. Not run here.

    bash tools/dist_train.sh \
        configs/lors/adamixer-q100_r50_lors-t-r16_1x_coco.py 8
"""

_base_ = './adamixer-q100_r50_lors_1x_coco.py'

model = dict(decoder=dict(lors_static=dict(rank=16)))

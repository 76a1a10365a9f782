r"""AdaMixer with LORS on ResNet-50: LORS^T only.

Paper (table 4): box AP 42.6. Not run here.

    bash tools/dist_train.sh \
        configs/lors/adamixer-q100_r50_lors-only-t_1x_coco.py 8
"""

_base_ = './adamixer-q100_r50_lors_1x_coco.py'

model = dict(decoder=dict(lors_adaptive=None))

r"""AdaMixer with LORS on ResNet-50: LORS^A of rank 16, 2 groups in each stage.

Paper (table 6): box AP 42.4. Not run here.

    bash tools/dist_train.sh \
        configs/lors/adamixer-q100_r50_lors-a-k2r16_1x_coco.py 8
"""

_base_ = './adamixer-q100_r50_lors_1x_coco.py'

model = dict(decoder=dict(lors_adaptive=dict(rank=16, terms=2)))

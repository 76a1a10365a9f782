r"""AdaMixer with LORS on ResNet-50: LORS^A of rank 8, 1 group in each stage.

Paper (table 6): box AP 41.8. Not run here.

    bash tools/dist_train.sh \
        configs/lors/adamixer-q100_r50_lors-a-k1r8_1x_coco.py 8
"""

_base_ = './adamixer-q100_r50_lors_1x_coco.py'

model = dict(decoder=dict(lors_adaptive=dict(rank=8, terms=1)))

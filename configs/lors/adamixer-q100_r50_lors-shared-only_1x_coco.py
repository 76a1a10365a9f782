r"""AdaMixer with LORS on ResNet-50: LORS^A without private weights.

Paper (table 5): box AP 40.9. Not run here.

    bash tools/dist_train.sh \
        configs/lors/adamixer-q100_r50_lors-shared-only_1x_coco.py 8
"""

_base_ = './adamixer-q100_r50_lors_1x_coco.py'

model = dict(decoder=dict(lors_adaptive=dict(parts='shared')))

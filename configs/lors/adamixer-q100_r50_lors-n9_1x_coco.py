r"""AdaMixer with LORS on ResNet-50: 9 stages.

Paper (table 8): box AP 42.0. Not run here.

    bash tools/dist_train.sh \
        configs/lors/adamixer-q100_r50_lors-n9_1x_coco.py 8
"""

_base_ = './adamixer-q100_r50_lors_1x_coco.py'

# The paper does not print the groups for this number of stages.
model = dict(
    decoder=dict(
        num_stages=9, lors_adaptive=dict(terms=[1, 1, 1, 2, 2, 2, 3, 3, 3])
    )
)

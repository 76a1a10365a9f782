r"""AdaMixer with LORS on ResNet-50: 3 stages.

Paper (table 8): box AP 38.9. Not run here.

    bash tools/dist_train.sh \
        configs/lors/adamixer-q100_r50_lors-n3_1x_coco.py 8
"""

_base_ = './adamixer-q100_r50_lors_1x_coco.py'

# The paper does not print the groups for this number of stages.
model = dict(decoder=dict(num_stages=3, lors_adaptive=dict(terms=[1, 2, 3])))

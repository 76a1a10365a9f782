r"""AdaMixer with LORS on ResNet-50 as the text of the paper has it.

The papers print no number for this row. Not run here.

    bash tools/dist_train.sh \
        configs/lors/adamixer-q100_r50_lors-paper_1x_coco.py 8
"""

_base_ = './adamixer-q100_r50_lors_1x_coco.py'

# Start as section 4.1 says, biases as the counts in the tables need them.
model = dict(
    decoder=dict(
        generator_bias=False,
        lors_adaptive=dict(init='paper'),
        lors_static=dict(init='paper', bias='shared'),
    )
)

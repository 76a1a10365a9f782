"""What ``mmcv._ext`` is filled with: its names, arguments and results.

As there, results are written into tensors of the caller. Half precision is
widened inside, which the compiled operators do not do, and comes back in the
type of the caller's tensors. All of them take CPU and CUDA tensors.
"""

from . import boxes, deformable, focal_loss

STAND_INS = (
    boxes.nms,
    boxes.roi_align_forward,
    boxes.roi_align_backward,
    deformable.deform_conv_forward,
    deformable.deform_conv_backward_input,
    deformable.deform_conv_backward_parameters,
    deformable.modulated_deform_conv_forward,
    deformable.modulated_deform_conv_backward,
    deformable.ms_deform_attn_forward,
    deformable.ms_deform_attn_backward,
    focal_loss.sigmoid_focal_loss_forward,
    focal_loss.sigmoid_focal_loss_backward,
    focal_loss.softmax_focal_loss_forward,
    focal_loss.softmax_focal_loss_backward,
)

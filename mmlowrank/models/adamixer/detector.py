"""AdaMixer as a detector of mmdet."""

from mmdet.models.detectors import BaseDetector
from mmdet.registry import MODELS
from mmdet.structures import OptSampleList, SampleList
from torch import Tensor

from .decoder import StageOutput


class AdaMixer(BaseDetector):
    """AdaMixer (CVPR 2022): queries that sample and mix a plain pyramid.

    Args:
        backbone: Config of a backbone with a map for each of the decoder's
            strides.
        neck: Config of the neck, ``mmlowrank.AdaMixerNeck``.
        queries: Config of the queries, ``mmlowrank.AdaMixerQueries``.
        decoder: Config of the decoder, ``mmlowrank.AdaMixerDecoder``; LORS
            is an option of it.
        data_preprocessor: As in mmdet.
        init_cfg: As in mmdet.
    """

    def __init__(
        self,
        backbone: dict,
        neck: dict,
        queries: dict,
        decoder: dict,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(
            data_preprocessor=data_preprocessor, init_cfg=init_cfg
        )
        self.backbone = MODELS.build(backbone)
        self.neck = MODELS.build(neck)
        self.queries = MODELS.build(queries)
        self.decoder = MODELS.build(decoder)

    def extract_feat(self, batch_inputs: Tensor) -> list[Tensor]:
        """Return the neck's maps of images (batch, 3, H, W)."""
        # The data preprocessor makes float32, the model may be half.
        batch_inputs = batch_inputs.to(self.queries.content.dtype)
        return self.neck(self.backbone(batch_inputs))

    def _forward(
        self,
        batch_inputs: Tensor,
        batch_data_samples: OptSampleList = None,
    ) -> list[StageOutput]:
        """Return what each stage predicts.

        Without data samples an image is taken to fill its whole input.
        """
        if batch_data_samples is None:
            shapes = [tuple(batch_inputs.shape[2:])] * len(batch_inputs)
        else:
            shapes = [sample.img_shape[:2] for sample in batch_data_samples]
        maps = self.extract_feat(batch_inputs)
        return self.decoder(maps, *self.queries(shapes))

    def loss(
        self, batch_inputs: Tensor, batch_data_samples: SampleList
    ) -> dict[str, Tensor]:
        """Return the losses of all stages."""
        outputs = self._forward(batch_inputs, batch_data_samples)
        return self.decoder.loss(outputs, batch_data_samples)

    def predict(
        self,
        batch_inputs: Tensor,
        batch_data_samples: SampleList,
        rescale: bool = True,
    ) -> SampleList:
        """Return the data samples with ``pred_instances``."""
        outputs = self._forward(batch_inputs, batch_data_samples)
        results = self.decoder.predict(
            outputs[-1], batch_data_samples, rescale
        )
        return self.add_pred_to_datasample(batch_data_samples, results)

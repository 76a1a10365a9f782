"""Several tasks served off one trunk: from configs and files to results.

In Python::

    from mmlowrank.models import ServedTasks

    served = ServedTasks({
        'boxes': ('faster-rcnn.py', 'boxes.safetensors'),
        'semantic': ('upernet.py', 'semantic.safetensors')})
    results = served.predict('image.jpg')   # {'boxes': DetDataSample, ...}

Each task is a whole model of mmdet or mmseg whose backbone E3VA tuned. Its
preprocessing, neck and head stay its own; the frozen trunk is there once and
runs once for all of them.
"""

import inspect
import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from .. import config_packages
from ..checkpoint.loading import load_exactly
from ..checkpoint.plain_values import plain
from ..tuners import CHILD, E3VA, tuners_of
from .multi_task import MultiTaskE3VA
from .tuned_backbone import stock_config

# Arguments of a stock Swin that change nothing in a test of frozen weights,
# or only shapes, which are compared anyway. Not the type: mmdet's and mmseg's
# are two classes of one code.
_NOT_COMPARED = {
    *('type', 'init_cfg', 'pretrained', 'convert_weights'),
    *('drop_rate', 'attn_drop_rate', 'drop_path_rate'),
    *('with_cp', 'frozen_stages', 'pretrain_img_size'),
}


class Task:
    """A model with the weights of a file, and what makes its input.

    Args:
        config: Config that the model was trained with: a file, or
            ``package::path``.
        file: Adapter file, or a checkpoint.
        device: Where it computes.

    Attributes:
        cfg: The config.
        model: The detector or segmentor, in eval mode.
        dataset_meta: ``classes`` and ``palette``, if the file has them.

    Raises:
        AdapterError: If an adapter file is damaged, or of another model or
            base.
        RuntimeError: If a checkpoint is of another model.
    """

    def __init__(
        self,
        config: str | Path,
        file: str | Path,
        device: str | torch.device = 'cpu',
    ) -> None:
        self.cfg = Config.fromfile(config_packages.find(str(config)))
        transforms = [
            transform
            for transform in _test_pipeline(self.cfg)
            if 'Annotations' not in str(transform['type'])
        ]
        reads = ['LoadImage' in str(t['type']) for t in transforms]
        behind = reads.index(True) + 1 if True in reads else 0
        with self.scope():
            self.model = MODELS.build(self.cfg.model)
            self._read = Compose(transforms[:behind])
            self._transform = Compose(transforms[behind:])
        meta = load_exactly(self.model, str(file)).get('meta') or {}
        self.dataset_meta = meta.get('dataset_meta') or {}
        self.model.to(device).eval()

    def scope(self) -> AbstractContextManager:
        """Return a context in which the names of its framework are known."""
        return DefaultScope.overwrite_default_scope(
            self.cfg.get('default_scope', 'mmengine')
        )

    def prepare(self, image: str | Path | np.ndarray) -> dict:
        """Do what comes before the backbone in a test.

        Args:
            image: A file, or (height, width, 3), BGR, as OpenCV reads it.

        Returns:
            ``inputs``, (1, 3, h, w), and ``data_samples``, a list of one.
        """
        if isinstance(image, np.ndarray):
            size = image.shape[:2]
            read = dict(img=image, img_shape=size, ori_shape=size)
            read['img_path'] = None
        else:
            read = self._read(dict(img_path=str(image)))
        packed = self._transform(dict(read, img_id=0))
        batch = {name: [value] for name, value in packed.items()}
        return self.model.data_preprocessor(batch, False)

    @torch.no_grad()
    def compute(self, batch: dict) -> BaseDataElement:
        """Return the result for what :meth:`prepare` returned."""
        (result,) = self.model(**batch, mode='predict')
        return result

    def predict(self, image: str | Path | np.ndarray) -> BaseDataElement:
        """Return the result for an image, see :meth:`prepare`."""
        return self.compute(self.prepare(image))


class _Features(nn.Module):
    """Stands where a task's backbone was, and has what the trunk computed."""

    def __init__(self, task: str) -> None:
        super().__init__()
        self.task = task
        self.clear()

    def clear(self) -> None:
        """Let go of an image."""
        self.images: Tensor | None = None
        self.features: tuple[Tensor, ...] = ()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the features of the image that was put here.

        Raises:
            ValueError: If the model asks for those of another tensor.
        """
        if images is not self.images:
            raise ValueError(
                f"task '{self.task}' runs its backbone on parts or copies of "
                'the image, which the other tasks do not see: set '
                "test_cfg=dict(mode='whole') in its config"
            )
        return self.features


class ServedTasks:
    """Several tasks on one trunk, one image at a time.

    Args:
        tasks: Name -> config and file, as :class:`Task` takes them. All
            backbones are the same Swin with the same frozen weights, tuned
            by E3VA.
        device: Where they compute.

    Attributes:
        tasks: Name -> its :class:`Task`, whose model has no backbone.
        shared: The :class:`MultiTaskE3VA` that all of them read.

    Raises:
        AdapterError: As :class:`Task`.
        RuntimeError: As :class:`Task`.
        ValueError: If there is no task, or the tasks cannot share a trunk.
    """

    def __init__(
        self,
        tasks: Mapping[str, tuple[str | Path, str | Path]],
        device: str | torch.device = 'cpu',
    ) -> None:
        if not tasks:
            raise ValueError('ServedTasks needs at least one task')
        self.tasks: dict[str, Task] = {}
        self._lock = Lock()
        options, trunks = {}, {}
        for name, (config, file) in tasks.items():
            task = self.tasks[name] = Task(config, file)
            options[name] = dict(
                _e3va_of(name, task.model).arguments, checkpoint=str(file)
            )
            trunks[name] = _trunk_arguments(task)
            stock = stock_config(task.cfg.model.backbone)
            stock['init_cfg'] = task.model.backbone.init_cfg
            # Its own trunk never comes to the device.
            task.model.backbone = _Features(name)
            task.model.to(device)
        _check_same(trunks)
        with task.scope():
            self.shared = MultiTaskE3VA(stock, options)
        self.shared.to(device).eval()

    @torch.no_grad()
    def predict(
        self, image: str | Path | np.ndarray
    ) -> dict[str, BaseDataElement]:
        """Run the trunk once, and each task's neck and head on it.

        Threads wait for each other here.

        Args:
            image: A file, or (height, width, 3), BGR, as OpenCV reads it.

        Returns:
            Name of the task -> its data sample, as mmdet and mmseg return
            it.

        Raises:
            ValueError: If the configs make different inputs of the image, or
                a model cuts it into parts.
        """
        batches = {
            name: task.prepare(image) for name, task in self.tasks.items()
        }
        images = _common({n: b['inputs'] for n, b in batches.items()})
        with self._lock:
            features = self.shared(images)
            try:
                results = {}
                for name, task in self.tasks.items():
                    backbone = task.model.backbone
                    backbone.images = images
                    backbone.features = features[name]
                    batch = dict(batches[name], inputs=images)
                    results[name] = task.compute(batch)
                return results
            finally:
                for task in self.tasks.values():
                    task.model.backbone.clear()


def _test_pipeline(cfg: Config) -> list[dict]:
    dataset = cfg.test_dataloader.dataset
    while 'pipeline' not in dataset:  # repeated, or several after another
        dataset = dataset.get('dataset') or dataset['datasets'][0]
    return dataset['pipeline']


def _e3va_of(name: str, model: nn.Module) -> E3VA:
    tuners = tuners_of(model)
    tuner = tuners.get(f'backbone.{CHILD}')
    if len(tuners) != 1 or not isinstance(tuner, E3VA):
        kinds = {path: type(t).__name__ for path, t in tuners.items()}
        raise ValueError(
            f"task '{name}' cannot share its trunk: its model has "
            f'{kinds or "no tuner"}, and only E3VA leaves what the trunk '
            "computes as it is. Train it with type='mmlowrank.SwinE3VA' as "
            'its one tuned backbone'
        )
    return tuner


def _trunk_arguments(task: Task) -> dict[str, str]:
    """Return name -> value, as text, of what makes the trunk."""
    parameters = inspect.signature(type(task.model.backbone)).parameters
    values = {name: p.default for name, p in parameters.items()}
    values.update(stock_config(task.cfg.model.backbone))
    return {
        name: json.dumps(plain(value))
        for name, value in values.items()
        if name not in _NOT_COMPARED
    }


def _check_same(trunks: dict[str, dict[str, str]]) -> None:
    (first, theirs), *others = trunks.items()
    for name, ours in others:
        for key in sorted(ours.keys() | theirs.keys()):
            one, other = theirs.get(key), ours.get(key)
            if one != other:
                raise ValueError(
                    f"tasks '{first}' and '{name}' have different backbones "
                    f'({key}={one} and {key}={other}) and cannot share one: '
                    'train both with the same backbone'
                )


def _common(inputs: dict[str, Tensor]) -> Tensor:
    """Return the one tensor that all tasks made of an image."""
    (first, images), *others = inputs.items()
    for name, other in others:
        if not torch.equal(images, other):
            raise ValueError(
                f"tasks '{first}' and '{name}' make different inputs of this "
                f'image ({list(images.shape)} and {list(other.shape)}), and '
                'the trunk runs once: give both configs the same resizing, '
                'mean, std and padding (mmseg pads in a test where '
                'data_preprocessor has test_cfg=dict(size_divisor=32))'
            )
    return images

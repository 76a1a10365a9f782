"""The hook that tools/test.py draws predictions with."""

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from mmengine.fileio import get
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..registry import HOOKS

# Of a picture; OpenCV cannot write every format that it reads.
_WRITABLE = {'.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff'}


@HOOKS.register_module()
class PicturesHook(Hook):
    """Draw the predictions of a test, whichever framework made them.

    mmdet's and mmpretrain's own hooks name a picture after its image alone,
    so that of several folders one image of each name is left. Here pictures
    are in the same folders as their images, below what these have in common.

    Args:
        folder: Where to write; ``None`` writes nothing.
        show: Open a window for each picture.
        wait_time: Seconds that a window stays; 0 waits for a key.
        backend_args: Where the images are, as in the pipeline.
    """

    def __init__(
        self,
        folder: str | None = None,
        show: bool = False,
        wait_time: float = 0.0,
        backend_args: dict | None = None,
    ) -> None:
        self.folder = folder
        self.show = show
        self.wait_time = wait_time
        self.backend_args = backend_args
        self._above: tuple[str, ...] = ()
        self._drawn = 0

    def before_test(self, runner: Runner) -> None:
        """Find what the folders of all images have in common."""
        dataset = runner.test_loop.dataloader.dataset
        info = getattr(dataset, 'get_data_info', lambda _: {})
        paths = {info(i).get('img_path') for i in range(len(dataset))}
        self._above = _common({_parts(path)[:-1] for path in paths if path})
        self._drawn = 0

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Sequence[Any] | None = None,
    ) -> None:
        """Draw the images of a batch."""
        # mmpretrain's visualizer has a method for each task.
        visualizer = runner.visualizer
        draw = getattr(visualizer, 'visualize_cls', visualizer.add_datasample)
        for i, sample in enumerate(outputs or ()):
            path = sample.get('img_path')
            # An image that no file holds is named by its number.
            name = PurePosixPath(path or f'{self._drawn}.png').name
            self._drawn += 1
            draw(
                name=name,
                image=self._image(sample, data_batch, i),
                data_sample=sample,
                show=self.show,
                wait_time=self.wait_time,
                out_file=self.path_of(path) if path else self._inside(name),
                step=self._drawn,
            )

    def _image(self, sample: Any, batch: dict, i: int) -> np.ndarray:
        """Return an image as its file has it, or else as the model gets it.

        Returns:
            (height, width, 3), RGB where it is from a file.
        """
        import mmcv

        if sample.get('img_path') is None:
            image = batch['inputs'][i].permute(1, 2, 0)
            return np.ascontiguousarray(image.cpu().numpy().astype(np.uint8))
        data = get(sample.img_path, backend_args=self.backend_args)
        return mmcv.imfrombytes(data, channel_order='rgb')

    def path_of(self, image: str) -> str | None:
        """Return where the picture of an image is written."""
        below = _parts(image)
        if below[: len(self._above)] == self._above:
            below = below[len(self._above) :]
        return self._inside(*below)

    def _inside(self, *below: str) -> str | None:
        if self.folder is None:
            return None
        # Inside the folder, even where the images have no root in common.
        path = Path(self.folder, *(part for part in below if part != '/'))
        if path.suffix.lower() not in _WRITABLE:
            path = path.with_name(f'{path.name}.png')
        return str(path)


def _parts(path: str) -> tuple[str, ...]:
    """Return the parts of a URL or of the absolute path of a file."""
    if '://' not in path:
        path = os.path.abspath(path)  # noqa: PTH100 - a link stays one
    return PurePosixPath(path).parts


def _common(folders: set[tuple[str, ...]]) -> tuple[str, ...]:
    common = []
    for parts in zip(*folders, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return tuple(common)

"""The hook that tools/test.py draws predictions with."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

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
        folders = {
            PurePosixPath(dataset.get_data_info(i)['img_path']).parent.parts
            for i in range(len(dataset))
        }
        self._above = _common(folders)
        self._drawn = 0

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Sequence[Any] | None = None,
    ) -> None:
        """Draw the images of a batch."""
        import mmcv

        # mmpretrain's visualizer has a method for each task.
        visualizer = runner.visualizer
        draw = getattr(visualizer, 'visualize_cls', visualizer.add_datasample)
        for sample in outputs or ():
            self._drawn += 1
            data = get(sample.img_path, backend_args=self.backend_args)
            draw(
                name=PurePosixPath(sample.img_path).name,
                image=mmcv.imfrombytes(data, channel_order='rgb'),
                data_sample=sample,
                show=self.show,
                wait_time=self.wait_time,
                out_file=self.path_of(sample.img_path),
                step=self._drawn,
            )

    def path_of(self, image: str) -> str | None:
        """Return where the picture of an image is written."""
        if self.folder is None:
            return None
        below = PurePosixPath(image).parts[len(self._above) :]
        path = Path(self.folder, *below)
        if path.suffix.lower() not in _WRITABLE:
            path = path.with_name(f'{path.name}.png')
        return str(path)


def _common(folders: set[tuple[str, ...]]) -> tuple[str, ...]:
    common = []
    for parts in zip(*folders, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return tuple(common)

"""What the data sets that read a list share."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
from mmpretrain.datasets import BaseDataset


class LabelledImages(BaseDataset):
    """mmpretrain's data set, with an error that names an unreadable image.

    Args:
        data_root: Folder of the data sets; ``~`` is the home folder.
        ann_file: List of the samples, relative to ``data_root``.
        classes: Number of classes. Their names are their numbers, unless
            ``metainfo`` says otherwise.
        metainfo: As in mmpretrain.
        **kwargs: Other arguments of mmpretrain's BaseDataset.
    """

    def __init__(
        self,
        data_root: str,
        ann_file: str,
        classes: int,
        metainfo: dict | None = None,
        **kwargs: Any,
    ) -> None:
        names = tuple(str(label) for label in range(classes))
        super().__init__(
            ann_file=ann_file,
            data_root=str(Path(data_root).expanduser()),
            metainfo=dict(dict(classes=names), **(metainfo or {})),
            **kwargs,
        )

    def prepare_data(self, idx: int) -> Any:
        """Read and transform one sample.

        Raises:
            OSError: If its image is missing or is no image.
        """
        try:
            return super().prepare_data(idx)
        except Exception as error:
            # Our sentence only where the image is to blame.
            path = Path(self.get_data_info(idx)['img_path'])
            if not path.is_file():
                problem = 'does not exist'
            elif cv2.imread(str(path)) is None:
                problem = 'is not a readable image'
            else:
                raise
            raise OSError(
                f'{path} {problem}, but {self.ann_file} lists it. Unpack '
                'the data set again'
            ) from error


def one_of(value: str, choices: Sequence[str], what: str) -> str:
    """Return ``value``.

    Raises:
        ValueError: If it is none of ``choices``.
    """
    if value not in choices:
        raise ValueError(
            f'{what} {value!r} is unknown; choose from {", ".join(choices)}'
        )
    return value

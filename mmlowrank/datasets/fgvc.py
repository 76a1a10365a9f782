"""FGVC: five fine-grained data sets in the splits of the VPT paper.

Jia et al., "Visual Prompt Tuning", ECCV 2022, publish their splits as JSON
files, each a dict ``image path -> class id``::

    <data_root>/<name>/train.json, val.json, test.json
    <data_root>/<name>/[images/ or Images/]...      the images

Papers train on train and val together; the two are joined here, and a file
``trainval.json``, which some codes want, is read if it is there.
"""

import json
from pathlib import Path
from typing import Any

from ..registry import DATASETS
from .labelled_images import LabelledImages, one_of

# Folder of the data set -> number of classes.
CLASSES = {
    'CUB_200_2011': 200,
    'NABirds': 555,
    'OxfordFlowers': 102,
    'StanfordCars': 196,
    'StanfordDogs': 120,
}
SPLITS = ('trainval', 'train', 'val', 'test')
# The paths in the JSON files start below one of these.
_IMAGE_FOLDERS = ('images', 'Images', '')


@DATASETS.register_module()
class FGVC(LabelledImages):
    """One of the five data sets.

    In a config::

        dataset = dict(
            type='mmlowrank.FGVC', data_root='data/fgvc',
            name='CUB_200_2011', split='trainval', pipeline=[...])

    Labels are the ranks of the class ids: those of ``test`` among the ids
    of test.json, all others among those of train and val together. Every
    class must occur, so both give the same labels.

    Args:
        data_root: Folder that holds the folders of the data sets.
        name: One of the keys of :data:`CLASSES`.
        split: ``'trainval'``, ``'test'``, ``'train'`` or ``'val'``.
        **kwargs: Arguments of mmpretrain's BaseDataset.

    Raises:
        ValueError: If name or split is unknown, a JSON file is not a dict
            ``path -> class id``, or not every class occurs in it.
        FileNotFoundError: If a JSON file or the folder of images is missing.
    """

    def __init__(
        self, data_root: str, name: str, split: str, **kwargs: Any
    ) -> None:
        self.name = one_of(name, list(CLASSES), 'data set of FGVC')
        self.split = one_of(split, SPLITS, 'split of FGVC')
        super().__init__(
            data_root, f'{name}/{split}.json', CLASSES[name], **kwargs
        )

    @property
    def folder(self) -> Path:
        """The folder of this data set."""
        return Path(self.data_root) / self.name

    def load_data_list(self) -> list[dict]:
        """Read the split and give its classes consecutive labels."""
        if self.split == 'test':
            ids = chosen = self._read('test')
        else:
            ids = self._trainval()
            chosen = (
                ids if self.split == 'trainval' else self._read(self.split)
            )
        ranks = {value: i for i, value in enumerate(sorted(set(ids.values())))}
        if len(ranks) != CLASSES[self.name]:
            raise ValueError(
                f'the split {self.split} of {self.folder} has {len(ranks)} '
                f'classes, but {self.name} has {CLASSES[self.name]}. Are the '
                'JSON files complete, and those of this data set?'
            )
        images = self._image_folder(next(iter(chosen)))
        return [
            dict(img_path=str(images / path), gt_label=ranks[value])
            for path, value in chosen.items()
        ]

    def _trainval(self) -> dict[str, int]:
        if (self.folder / 'trainval.json').is_file():
            return self._read('trainval')
        train, val = self._read('train'), self._read('val')
        both = train.keys() & val.keys()
        if both:
            raise ValueError(
                f'{len(both)} images are in train.json and in val.json of '
                f'{self.folder}, first: {min(both)}. Download the splits '
                'again'
            )
        return {**train, **val}

    def _read(self, split: str) -> dict[str, int]:
        path = self.folder / f'{split}.json'
        try:
            ids = json.loads(path.read_text())
        except FileNotFoundError:
            raise FileNotFoundError(
                f'{path} does not exist. Download the images of {self.name} '
                'and the JSON splits of Visual Prompt Tuning '
                '(https://github.com/KMnP/vpt links both) and put them into '
                f'{self.folder}; or say where they are: FGVC_ROOT=FOLDER in '
                f"the environment, or data_root (now '{self.data_root}')"
            ) from None
        except ValueError as error:
            raise ValueError(f'{path} is not JSON: {error}') from None
        if not (
            isinstance(ids, dict)
            and ids
            and all(type(value) is int for value in ids.values())
        ):
            raise ValueError(
                f'{path} must be a dict of image path -> class id (a whole '
                'number), as Visual Prompt Tuning publishes it'
            )
        return ids

    def _image_folder(self, first: str) -> Path:
        for name in _IMAGE_FOLDERS:
            if (self.folder / name / first).is_file():
                return self.folder / name
        raise FileNotFoundError(
            f'{first}, the first image of the split {self.split}, is neither '
            f'in {self.folder} nor in its images/ or Images/. Unpack the '
            f'images of {self.name} there'
        )

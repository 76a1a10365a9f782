"""Scenes of real handwritten digits, for runs of minutes instead of days.

The 1,797 scanned digits that ship with scikit-learn are scaled, turned,
colored and put on textured backgrounds. Training and validation scenes are
made from disjoint digits. :func:`write_digit_scenes` writes one folder that
the stock datasets of mmdet, mmseg and mmpretrain read::

    images/{train,val}/*.jpg           every scene, stored once
    annotations/instances_*.json       COCO: boxes and RLE masks
    annotations/{train,val}/*.png      ADE20K style: 0 is background,
                                       1 to 10 are the digits 0 to 9
    voc/Annotations/*.xml              VOC: boxes
    voc/ImageSets/Main/{train,val}.txt
    digits/{train,val}/<label>/*.png   the digits alone, for classification
    digit_scenes.json                  the settings; written last
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from .scene_formats import SceneWriter, write_digit

CLASSES = tuple('0123456789')
SPLITS = ('train', 'val')
STAMP = 'digit_scenes.json'
NUM_DIGITS = 1797
NUM_VAL_DIGITS = 500

# Raised whenever other pixels or files come out of the same settings.
VERSION = 1
DIGITS_PER_SCENE = (5, 9)
DIGIT_HEIGHT = (22.0, 40.0)  # pixels
MAX_ANGLE = 15.0  # degrees
MIN_CONTRAST = 70.0  # gray levels between a digit and its surroundings
MASK_ALPHA = 0.35  # opacity from which a pixel belongs to the digit
# Cells per side and strength (gray levels) of the three noise layers.
NOISE = ((3, 14.0), (8, 8.0), (24, 5.0))
STRIPES = 12.0  # gray levels


@dataclass(frozen=True)
class Settings:
    """What a folder of digit scenes was made with."""

    num_train: int
    num_val: int
    size: int
    seed: int
    version: int = VERSION

    def check(self) -> None:
        """Raise ``ValueError`` with a sentence that says what to change."""
        for name in ('num_train', 'num_val'):
            if not 1 <= getattr(self, name) <= 99999:
                raise ValueError(
                    f'{name} is {getattr(self, name)}: ask for 1 to 99999 '
                    'scenes in each split.'
                )
        if not 64 <= self.size <= 2048:
            raise ValueError(
                f'size is {self.size}: scenes are 64 to 2048 pixels wide '
                '(digits are 22 to 40 pixels high at any size).'
            )
        if self.seed < 0:
            raise ValueError(f'seed is {self.seed}: it must be 0 or more.')


@dataclass(frozen=True)
class Scene:
    """One scene and what is on it.

    Attributes:
        image: ``uint8 [size, size, 3]``, BGR.
        labels: The digit values, 0 to 9; length N.
        digits: Indices of the used digits in scikit-learn's set; length N.
        masks: ``bool [N, size, size]``; no two overlap.
    """

    image: np.ndarray
    labels: list[int]
    digits: list[int]
    masks: np.ndarray


@lru_cache(maxsize=1)
def load_digits() -> tuple[np.ndarray, np.ndarray]:
    """Return the digits, ``float32 [1797, 8, 8]`` in 0..1, and labels."""
    from sklearn import datasets

    bunch = datasets.load_digits()
    return (bunch.images / 16).astype(np.float32), bunch.target


def split_digits(seed: int = 0) -> dict[str, np.ndarray]:
    """Part the digits: 1297 to train with, 500 that only validation sees."""
    order = np.random.default_rng([seed, 0]).permutation(NUM_DIGITS)
    return {
        'train': np.sort(order[:-NUM_VAL_DIGITS]),
        'val': np.sort(order[-NUM_VAL_DIGITS:]),
    }


def render_digit(
    digit: np.ndarray, height: float, angle: float = 0.0
) -> np.ndarray:
    """Draw a digit in a given size.

    Args:
        digit: ``float32 [8, 8]`` in 0..1.
        height: Height in pixels of the digit's eight rows before it turns.
        angle: Counter-clockwise turn in degrees.

    Returns:
        The opacity ``float32 [h, w]`` in 0..1, cropped to what is visible.
    """
    side = int(np.ceil(height * 1.6))
    matrix = cv2.getRotationMatrix2D((3.5, 3.5), angle, height / 8)
    matrix[:, 2] += (side - 1) / 2 - 3.5
    alpha = cv2.warpAffine(digit, matrix, (side, side), flags=cv2.INTER_CUBIC)
    alpha = np.clip(alpha, 0, 1)
    rows, cols = (np.flatnonzero((alpha > 0.02).any(axis)) for axis in (1, 0))
    return alpha[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]


def _background(size: int, rng: np.random.Generator) -> np.ndarray:
    """Colored noise, stripes on every other scene, up to two strokes."""
    image = np.empty((size, size, 3), np.float32)
    image[:] = rng.uniform(40, 215, 3)
    for cells, strength in NOISE:
        noise = rng.normal(0, strength, (cells, cells, 3)).astype(np.float32)
        image += cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)
    if rng.random() < 0.5:
        turn, phase = rng.uniform(0, 2 * np.pi, 2)
        frequency = 2 * np.pi / rng.uniform(8, 32)
        y, x = np.mgrid[:size, :size]
        wave = np.sin(
            (x * np.cos(turn) + y * np.sin(turn)) * frequency + phase
        )
        image += wave[..., None] * rng.uniform(-STRIPES, STRIPES, 3)
    for _ in range(rng.integers(0, 3)):
        start, end = rng.integers(0, size, (2, 2)).tolist()
        cv2.line(
            image,
            start,
            end,
            rng.uniform(0, 255, 3).tolist(),
            int(rng.integers(1, 4)),
            cv2.LINE_AA,
        )
    return np.clip(image, 0, 255)


def _gray(bgr: np.ndarray) -> np.ndarray:
    return bgr @ np.array([0.114, 0.587, 0.299])


def _color(surroundings: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random BGR color that stands out from ``[P, 3]`` pixels."""
    level = _gray(surroundings).mean()
    colors = rng.uniform(0, 255, (64, 3))
    good = np.abs(_gray(colors) - level) >= MIN_CONTRAST
    if good.any():
        return colors[good.argmax()]
    return np.full(3, 255.0 if level < 127.5 else 0.0)


def _place(
    shape: tuple[int, int], taken: np.ndarray, rng: np.random.Generator
) -> tuple[slice, slice] | None:
    """Find a free rectangle; None when 50 random places are all taken."""
    room = taken.shape[0] - shape[0], taken.shape[1] - shape[1]
    if min(room) < 0:
        return None
    for _ in range(50):
        top, left = rng.integers(0, room[0] + 1), rng.integers(0, room[1] + 1)
        place = slice(top, top + shape[0]), slice(left, left + shape[1])
        if not taken[place].any():
            return place
    return None


def compose_scene(
    pool: np.ndarray, size: int, rng: np.random.Generator
) -> Scene:
    """Put five to nine digits of a pool on a background.

    Args:
        pool: Indices of the digits that may be used.
        size: Width and height in pixels; a small scene may hold fewer digits.
        rng: The only source of randomness.
    """
    digits, all_labels = load_digits()
    image = _background(size, rng)
    taken = np.zeros((size, size), bool)
    labels, used, masks = [], [], []
    low, high = DIGITS_PER_SCENE
    for index in rng.choice(pool, rng.integers(low, high + 1)).tolist():
        alpha = render_digit(
            digits[index],
            rng.uniform(*DIGIT_HEIGHT),
            rng.uniform(-MAX_ANGLE, MAX_ANGLE),
        )
        place = _place(alpha.shape, taken, rng)
        if place is None:
            continue
        inside = alpha > MASK_ALPHA
        color = _color(image[place][inside], rng)
        opacity = alpha[..., None]
        image[place] = image[place] * (1 - opacity) + color * opacity
        taken[place] = True
        mask = np.zeros((size, size), bool)
        mask[place] = inside
        labels.append(int(all_labels[index]))
        used.append(index)
        masks.append(mask)
    return Scene(
        np.rint(image).astype(np.uint8), labels, used, np.array(masks)
    )


def _write(
    root: Path, settings: Settings, progress: Callable[[int, int], None] | None
) -> None:
    total = settings.num_train + settings.num_val
    pools = split_digits(settings.seed)
    images, labels = load_digits()
    done = 0
    for number, split in enumerate(SPLITS):
        for index in pools[split]:
            # 28 of 40 pixels: the middle of the scales pre-training sees.
            alpha = render_digit(images[index], 28)
            write_digit(root, split, int(labels[index]), int(index), alpha)
        writer = SceneWriter(root, split, CLASSES, settings.size)
        for index in range(getattr(settings, f'num_{split}')):
            # A stream of its own: a scene does not depend on the others.
            rng = np.random.default_rng([settings.seed, 1, number, index])
            writer.add(compose_scene(pools[split], settings.size, rng))
            done += 1
            if progress is not None:
                progress(done, total)
        writer.close()
    text = json.dumps(asdict(settings), indent=2)
    (root / STAMP).write_text(text + '\n')


def _found(out: Path) -> dict | None:
    """Settings of what is at ``out``; None if the place is free."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    try:
        return json.loads((out / STAMP).read_text())
    except (OSError, ValueError):
        raise FileExistsError(
            f'{out} exists and is not a finished folder of digit scenes (no '
            f'readable {STAMP} in it). Choose another place, or remove it '
            'yourself.'
        ) from None


def write_digit_scenes(
    out: str | Path,
    num_train: int = 600,
    num_val: int = 100,
    size: int = 160,
    seed: int = 0,
    *,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> bool:
    """Write digit scenes in COCO, VOC, ADE20K and classification format.

    The folder appears under its name only when it is complete. The same
    settings give the same bytes.

    Args:
        out: The folder to make.
        num_train: Number of training scenes.
        num_val: Number of validation scenes.
        size: Width and height of a scene in pixels.
        seed: Chooses the scenes and which 500 digits only validation sees.
        overwrite: Replace a folder made with other settings.
        progress: Called with (scenes written, scenes in all).

    Returns:
        False if ``out`` was already there with these settings, else True.

    Raises:
        ValueError: If a setting makes no sense.
        FileExistsError: If ``out`` holds something else.
    """
    out = Path(out)
    settings = Settings(num_train, num_val, size, seed)
    settings.check()
    found = _found(out)
    if found == asdict(settings):
        return False
    if found is not None and not overwrite:
        raise FileExistsError(
            f'{out} holds digit scenes made with other settings: {found}. '
            'Choose another place or pass --overwrite (overwrite=True).'
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(
        tempfile.mkdtemp(prefix=f'{out.name}.partial-', dir=out.parent)
    )
    try:
        root = scratch / 'new'
        root.mkdir()
        _write(root, settings, progress)
        if out.exists():
            out.rename(scratch / 'old')
        root.rename(out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return True

"""Several tasks off one trunk, from their adapter files to a picture."""

import re
import runpy
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pages
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from swins import stir

from mmlowrank import save_adapter
from mmlowrank.checkpoint.adapters import leave_out_base
from mmlowrank.models.served import ServedTasks, Task

ROOT = Path(__file__).resolve().parents[1]
LEAVES = {
    'boxes': 'faster-rcnn_swin-mini_e3va-r8_800it_digits-voc',
    'masks': 'mask-rcnn_swin-mini_e3va-r8_800it_digits',
    'semantic': 'upernet_swin-mini_e3va-r8_1200it_digits',
}
CLASSES = tuple('0123456789')


@pytest.fixture(scope='module', autouse=True)
def pretrained(digit_swin, digit_scenes):
    """The weights that all start from."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('DIGIT_SWIN', str(digit_swin))
        patch.setenv('DIGIT_SCENES', str(digit_scenes))
        yield


def config_of(name: str, folder: Path, more: str = '') -> Path:
    """Write a config of a task, with lines of its own."""
    path = folder / f'{name}.py'
    leaf = ROOT / 'configs' / 'quickstart' / f'{LEAVES[name]}.py'
    path.write_text(f"_base_ = '{leaf}'\n{more}\n")
    return path


def trained(name: str, config: Path, nudge: float = 0.0) -> Path:
    """Write what a training might: an adapter that does something."""
    cfg = Config.fromfile(config)
    seed = [*LEAVES].index(name)
    torch.manual_seed(seed)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
    model.backbone.init_weights()
    stir(model.backbone, seed)
    generator = torch.Generator().manual_seed(seed)
    for key, tensor in model.state_dict().items():
        if key.startswith('backbone.norm') or 'running' in key:
            tensor += 0.1 * torch.rand(tensor.shape, generator=generator)
    if name != 'semantic':  # or no object is sure enough to be drawn
        model.roi_head.bbox_head.fc_cls.weight.data *= 20
    model.backbone.patch_embed.projection.bias.data += nudge
    model.dataset_meta = dict(classes=CLASSES)
    save_adapter(model, config.with_suffix('.safetensors'))
    return config.with_suffix('.safetensors')


def task(name: str, folder: Path, more: str = '', nudge: float = 0.0) -> tuple:
    config = config_of(name, folder, more)
    return config, trained(name, config, nudge)


@pytest.fixture(scope='module')
def tasks(pretrained, tmp_path_factory):
    """Name -> config and adapter file."""
    folder = tmp_path_factory.mktemp('tasks')
    return {name: task(name, folder) for name in LEAVES}


@pytest.fixture(scope='module')
def served(tasks):
    return ServedTasks(tasks)


@pytest.fixture(scope='module')
def images(digit_scenes):
    return sorted((digit_scenes / 'images' / 'val').iterdir())


def found(result) -> dict[str, torch.Tensor]:
    """All that a model found, by name."""
    if 'pred_instances' in result:
        return dict(result.pred_instances.items())
    return dict(seg=result.pred_sem_seg.data, logits=result.seg_logits.data)


def assert_same(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    for name in one:
        ours, theirs = found(one[name]), found(other[name])
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert torch.equal(ours[key], theirs[key]), (name, key)


def test_one_forward_of_the_trunk_serves_all(tasks, served, images):
    """Each result is, to the bit, that of the model by itself."""
    calls = []
    handles = [
        part.register_forward_hook(lambda *_: calls.append(1))
        for part in (served.shared.trunk, *served.shared.trunk.stages)
    ]
    results = served.predict(images[0])
    for handle in handles:
        handle.remove()
    assert len(calls) == 1 + 4
    assert len(results['boxes'].pred_instances) > 10
    assert results['masks'].pred_instances.masks.any()
    assert len(results['semantic'].pred_sem_seg.data.unique()) > 1
    alone = {name: Task(*files) for name, files in tasks.items()}
    assert_same(results, {n: t.predict(images[0]) for n, t in alone.items()})
    # A server has arrays. This one is padded, by detectors and segmentor.
    image = np.ascontiguousarray(cv2.imread(str(images[1]))[:150, :133])
    results = served.predict(image)
    assert results['semantic'].pred_sem_seg.data.shape == (1, 150, 133)
    assert_same(results, {n: t.predict(image) for n, t in alone.items()})


def test_there_is_one_trunk(tasks, served):
    names = [n for n, _ in served.shared.trunk.named_parameters()]
    for name, each in served.tasks.items():
        assert not list(each.model.backbone.parameters()), name
        assert each.dataset_meta['classes'] == [*CLASSES]
        assert not each.model.training
    assert len(set(names)) == len(names) > 100


@pytest.mark.parametrize('full', [True, False])
def test_a_checkpoint_serves_too(full, tasks, served, tmp_path, images):
    """With a trunk of its own, which must be the same, or without."""
    config, file = tasks['boxes']
    model = Task(config, file).model
    checkpoint, path = dict(state_dict=model.state_dict()), tmp_path / 'a.pth'
    if not full:
        info = save_adapter(model, tmp_path / 'a.safetensors')
        leave_out_base(checkpoint, model, info, str(path))
    torch.save(checkpoint, path)
    results = ServedTasks(dict(tasks, boxes=(config, path))).predict(images[0])
    assert_same(results, served.predict(images[0]))


def test_threads_wait_for_each_other(served, images):
    alone = [served.predict(image) for image in images]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(served.predict, images * 2))
    for one, other in zip(alone * 2, together, strict=True):
        assert_same(one, other)


def refused(tasks: dict, match: str, image: object = None) -> None:
    with pytest.raises((ValueError, RuntimeError), match=match) as error:
        served = ServedTasks(tasks)
        if image is not None:
            served.predict(image)
    assert '\n' not in str(error.value)


def test_files_that_do_not_fit_are_refused(tasks, tmp_path):
    config, file = task('masks', tmp_path, nudge=0.1)
    another_base = 'other frozen weights .*use the config'
    refused(dict(tasks, masks=(config, file)), another_base)
    data = bytearray(tasks['masks'][1].read_bytes())
    data[-100] ^= 1
    file.write_bytes(data)
    refused(dict(tasks, masks=(config, file)), 'damaged .*copy or download')
    swapped = (tasks['boxes'][0], tasks['masks'][1])
    refused(dict(tasks, boxes=swapped), 'mask_head.*Use the config')


def test_tasks_of_several_trunks_are_refused(tasks, tmp_path):
    """Though each file fits its own config."""
    window = 'model = dict(backbone=dict(window_size=4))'
    other = dict(tasks, semantic=task('semantic', tmp_path, window))
    match = (
        "'boxes' and 'semantic' .*window_size=5 and window_size=4.*"
        'train both with the same backbone'
    )
    refused(other, match)
    weights = torch.load(
        Config.fromfile(tasks['boxes'][0]).model.backbone.init_cfg.checkpoint
    )
    weights['state_dict']['backbone.patch_embed.projection.bias'] += 1e-3
    path = tmp_path / 'other.pth'
    torch.save(weights, path)
    start = f"model = dict(backbone=dict(init_cfg=dict(checkpoint='{path}')))"
    other = dict(tasks, masks=task('masks', tmp_path, start))
    refused(other, 'another trunk .*only if they started from the same')


@pytest.mark.parametrize(
    'backbone, kind',
    [
        ("type='mmlowrank.SwinLoRand'", 'LoRand'),
        ('_delete_=True, **_base_.swin_mini', 'no tuner'),
    ],
    ids=['lorand', 'stock'],
)
def test_other_tuners_are_refused(backbone, kind, tasks, tmp_path):
    text = f'model = dict(backbone=dict({backbone}))'
    config = config_of('masks', tmp_path, text)
    cfg = Config.fromfile(config)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
    file = tmp_path / 'masks.pth'
    torch.save(dict(state_dict=model.state_dict()), file)
    match = f"task 'masks' .*{kind}.*only E3VA.*type='mmlowrank.SwinE3VA'"
    refused(dict(tasks, masks=(config, file)), match)


@pytest.mark.parametrize(
    'more, match',
    [
        (
            'mean=[0, 0, 0]',
            r"'boxes' and 'semantic' .*\[1, 3, 160, 160\].*mean",
        ),
        ('test_cfg=None', r'160, 160\] and \[1, 3, 150, 160\].*size_divisor'),
    ],
    ids=['mean', 'padding'],
)
def test_other_inputs_are_refused(more, match, tasks, tmp_path):
    text = f'model = dict(data_preprocessor=dict({more}))'
    config = config_of('semantic', tmp_path, text)
    image = np.zeros((150, 160, 3), np.uint8)
    pair = dict(tasks, semantic=(config, tasks['semantic'][1]))
    refused(pair, match, image)


def test_a_model_that_cuts_images_is_refused(tasks, tmp_path, images):
    text = (
        "model = dict(test_cfg=dict(mode='slide', crop_size=(96, 96), "
        'stride=(64, 64)))'
    )
    config = config_of('semantic', tmp_path, text)
    pair = dict(tasks, semantic=(config, tasks['semantic'][1]))
    refused(pair, "'semantic' .*mode='whole'", images[0])


def test_no_task_is_refused():
    refused({}, 'at least one task')


def run(monkeypatch, *words: object) -> None:
    words = ['several_tasks.py', *map(str, words)]
    monkeypatch.setattr(sys, 'argv', words)
    path = ROOT / 'tools' / 'several_tasks.py'
    runpy.run_path(str(path), run_name='__main__')


def test_the_tool_refuses_with_a_sentence(
    tasks, images, tmp_path, monkeypatch
):
    words = ['--task', 'boxes', *tasks['boxes']]
    out = tmp_path / 'out.png'
    with pytest.raises(SystemExit, match='no file nowhere'):
        run(monkeypatch, 'nowhere.jpg', out, *words)
    with pytest.raises(SystemExit, match=r'out.txt must end .*\.png'):
        run(monkeypatch, images[0], tmp_path / 'out.txt', *words)
    with pytest.raises(SystemExit, match='one name'):
        run(monkeypatch, images[0], out, *words, *words)
    with pytest.raises(SystemExit, match='is no picture'):
        run(monkeypatch, tasks['boxes'][0], out, *words)
    file = tmp_path / 'half.safetensors'
    file.write_bytes(tasks['boxes'][1].read_bytes()[:-9])
    with pytest.raises(SystemExit, match=r'half\.safetensors is damaged'):
        run(monkeypatch, images[0], out, *words[:-1], file)
    assert not out.exists()


def test_the_page_runs(tasks, images, tmp_path, monkeypatch, capsys):
    """Its command and its Python, with files as its trainings write them."""
    clone = pages.Clone(tmp_path, monkeypatch)
    scenes = Path('data/digit_scenes')
    scenes.parent.mkdir()
    scenes.symlink_to(images[0].parents[2])
    commands = pages.commands(pages.blocks('serving.md'))
    trainings = [words for words in commands if 'tools/train.py' in words]
    configs = {
        name: f'configs/quickstart/{leaf}.py' for name, leaf in LEAVES.items()
    }
    assert [words[2] for words in trainings] == [*configs.values()]
    for name, words in zip(LEAVES, trainings, strict=True):
        work = Path(words[words.index('--work-dir') + 1])
        work.mkdir(parents=True)
        last = Config.fromfile(configs[name]).train_cfg.max_iters
        file = work / f'iter_{last}.safetensors'
        file.write_bytes(tasks[name][1].read_bytes())
    (command,) = [w for w in commands if 'tools/several_tasks.py' in w]
    command = command[command.index('python') :]
    clone.run([*command, '--repeats', '1'])
    printed = capsys.readouterr().out
    picture = cv2.imread(command[3])
    # Four tiles, enlarged to three times 160 pixels.
    assert picture.shape[1] == 4 * 480
    tiles = np.split(picture, 4, axis=1)
    for tile in tiles[1:]:
        assert (tile != tiles[0]).any(-1).mean() > 0.01
    # The table of the page has the same rows.
    page = (ROOT / 'docs' / 'serving.md').read_text()
    rows = re.findall(r'^\| ([^|]*) \| ([\d.]+) ', printed, re.MULTILINE)
    theirs = re.findall(r'^\| ([^|]*) \| ([\d.]+) ', page, re.MULTILINE)
    assert [name for name, _ in rows] == [name for name, _ in theirs]
    # Bytes of weights are those of every machine.
    assert dict(rows)['MiB of weights'] == dict(theirs)['MiB of weights']
    scope: dict = {}
    for block in pages.blocks('serving.md'):
        if block.language == 'python':
            exec(block.text, scope)
    assert scope['results'].keys() == LEAVES.keys()

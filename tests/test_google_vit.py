"""Google's .npz Vision Transformers against their formula, written out."""

import math

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import CheckpointLoader

import mmlowrank.checkpoint  # noqa: F401 - registers the loader

WIDTH, HEADS, HIDDEN, LAYERS, PATCH, GRID = 12, 3, 20, 2, 4, 3
HEAD_WIDTH = WIDTH // HEADS
BLOCK = 'Transformer/encoderblock_{}/'
ATTENTION = 'MultiHeadDotProductAttention_1'


def made_up(seed: int = 0, tokens: int = GRID**2 + 1) -> dict[str, np.ndarray]:
    """A plain ImageNet-21k file: with pre-logits and a head."""
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray:
        return rng.normal(0, 0.4, shape).astype(np.float32)

    def dense(name: str, rows: tuple, columns: tuple) -> dict:
        return {
            f'{name}/kernel': draw(*rows, *columns),
            f'{name}/bias': draw(*columns),
        }

    def norm(name: str) -> dict:
        return {f'{name}/scale': 1 + draw(WIDTH), f'{name}/bias': draw(WIDTH)}

    arrays = {
        'cls': draw(1, 1, WIDTH),
        'Transformer/posembed_input/pos_embedding': draw(1, tokens, WIDTH),
        **dense('embedding', (PATCH, PATCH, 3), (WIDTH,)),
        **norm('Transformer/encoder_norm'),
        **dense('pre_logits', (WIDTH,), (WIDTH,)),
        **dense('head', (WIDTH,), (7,)),
    }
    for index in range(LAYERS):
        block = BLOCK.format(index)
        heads = (HEADS, HEAD_WIDTH)
        arrays |= norm(f'{block}LayerNorm_0') | norm(f'{block}LayerNorm_2')
        for part in ('query', 'key', 'value'):
            arrays |= dense(f'{block}{ATTENTION}/{part}', (WIDTH,), heads)
        arrays |= dense(f'{block}{ATTENTION}/out', heads, (WIDTH,))
        arrays |= dense(f'{block}MlpBlock_3/Dense_0', (WIDTH,), (HIDDEN,))
        arrays |= dense(f'{block}MlpBlock_3/Dense_1', (HIDDEN,), (WIDTH,))
    return arrays


def layer_norm(x, arrays, name):
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    normal = (x - mean) / np.sqrt(variance + 1e-6)
    return normal * arrays[f'{name}/scale'] + arrays[f'{name}/bias']


def attend(x, arrays, name):
    """Multi-head attention, axes as in the file (k: width of a head)."""

    def project(part):
        kernel, bias = (
            arrays[f'{name}/{part}/{kind}'] for kind in ('kernel', 'bias')
        )
        return np.einsum('bnd,dhk->bnhk', x, kernel) + bias

    query, key, value = (project(p) for p in ('query', 'key', 'value'))
    scores = np.einsum('bnhk,bmhk->bhnm', query, key) / math.sqrt(HEAD_WIDTH)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    mixed = np.einsum('bhnm,bmhk->bnhk', weights, value)
    out = np.einsum('bnhk,hkd->bnd', mixed, arrays[f'{name}/out/kernel'])
    return out + arrays[f'{name}/out/bias']


def mlp(x, arrays, name):
    first, second = f'{name}/Dense_0', f'{name}/Dense_1'
    x = x @ arrays[f'{first}/kernel'] + arrays[f'{first}/bias']
    x = x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
    return x @ arrays[f'{second}/kernel'] + arrays[f'{second}/bias']


def formula(images, arrays):
    """(batch, height, width, 3) -> the class token, (batch, WIDTH)."""
    arrays = {name: array.astype(np.float64) for name, array in arrays.items()}
    batch = len(images)
    patches = images.reshape(batch, GRID, PATCH, GRID, PATCH, 3)
    x = np.einsum('bipjqc,pqcd->bijd', patches, arrays['embedding/kernel'])
    x = x.reshape(batch, GRID**2, WIDTH) + arrays['embedding/bias']
    token = np.broadcast_to(arrays['cls'], (batch, 1, WIDTH))
    x = np.concatenate([token, x], 1)
    x = x + arrays['Transformer/posembed_input/pos_embedding']
    for index in range(LAYERS):
        block = BLOCK.format(index)
        y = layer_norm(x, arrays, f'{block}LayerNorm_0')
        x = x + attend(y, arrays, f'{block}{ATTENTION}')
        y = layer_norm(x, arrays, f'{block}LayerNorm_2')
        x = x + mlp(y, arrays, f'{block}MlpBlock_3')
    return layer_norm(x, arrays, 'Transformer/encoder_norm')[:, 0]


def vit(path, grid: int = GRID, tuner: dict | None = None):
    """A stock VisionTransformer that starts from ``path``."""
    cfg = dict(
        type='VisionTransformer',
        arch=dict(
            embed_dims=WIDTH,
            num_layers=LAYERS,
            num_heads=HEADS,
            feedforward_channels=HIDDEN,
        ),
        img_size=grid * PATCH,
        patch_size=PATCH,
        interpolate_mode='bilinear',
        init_cfg=dict(type='Pretrained', checkpoint=f'google-vit:{path}'),
    )
    if tuner:
        cfg = dict(type='mmlowrank.TunedBackbone', backbone=cfg, tuner=tuner)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(cfg)
    model.init_weights()
    model.eval()  # returns None
    return model


def save(path, arrays):
    with path.open('wb') as file:
        np.savez(file, **arrays)
    return path


@pytest.fixture
def images():
    return np.random.default_rng(1).normal(size=(2, 12, 12, 3))


@pytest.mark.parametrize('prefix', ['', 'opt/target/'])
def test_the_outputs_are_those_of_the_formula(tmp_path, images, prefix):
    arrays = made_up()
    stored = {f'{prefix}{name}': array for name, array in arrays.items()}
    if prefix:
        stored['opt/state/step'] = np.array(5)
    model = vit(save(tmp_path / 'ViT.npz', stored)).double()
    (out,) = model(torch.from_numpy(images).permute(0, 3, 1, 2))
    # Both sides are float64 from the same float32 arrays.
    np.testing.assert_allclose(
        out.detach().numpy(), formula(images, arrays), rtol=1e-12, atol=1e-12
    )


def test_every_weight_of_the_backbone_is_written(tmp_path):
    path = save(tmp_path / 'ViT.npz', made_up())
    loaded = CheckpointLoader.load_checkpoint(f'google-vit:{path}')
    model = vit(path)
    state = model.state_dict()
    assert loaded['state_dict'].keys() == state.keys()
    for name, value in loaded['state_dict'].items():
        assert value.dtype == torch.float32
        assert torch.equal(value, state[name]), name


def test_a_frozen_trunk_starts_from_the_file(tmp_path, images):
    path = save(tmp_path / 'ViT.npz', made_up())
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    stock, tuned = vit(path), vit(path, tuner=dict(type='Fixed'))
    assert torch.equal(stock(x)[0], tuned(x)[0])


def test_the_wrong_size_is_refused_by_the_tuner(tmp_path):
    arrays = made_up()
    name = BLOCK.format(0) + 'MlpBlock_3/Dense_0'
    arrays[f'{name}/kernel'] = np.zeros((WIDTH, HIDDEN + 1), np.float32)
    path = save(tmp_path / 'ViT.npz', arrays)
    with pytest.raises(RuntimeError, match=r'layers.0.ffn.layers.0.0.weight'):
        vit(path, tuner=dict(type='Fixed'))


def test_the_position_embedding_is_resized(tmp_path):
    """A grid of 3 x 3 that is linear in row and column stays so in 6 x 6."""
    arrays = made_up()
    name = 'Transformer/posembed_input/pos_embedding'
    rows, columns = np.mgrid[:GRID, :GRID].astype(np.float32)
    plane = (rows + 10 * columns).reshape(-1, 1)
    arrays[name][0, 1:] = plane
    embedding = vit(save(tmp_path / 'ViT.npz', arrays), grid=6).pos_embed
    assert embedding.shape == (1, 37, WIDTH)
    np.testing.assert_array_equal(
        embedding[0, 0].detach().numpy(), arrays[name][0, 0]
    )
    # Pixel centres: new 1 lies at (1 + 0.5) / 2 - 0.5 = 0.25 of the old.
    grid = embedding[0, 1:, 0].detach().reshape(6, 6)
    torch.testing.assert_close(
        grid[1:5, 1:5],
        torch.tensor([0.25, 0.75, 1.25, 1.75])[:, None]
        + 10 * torch.tensor([0.25, 0.75, 1.25, 1.75]),
    )


def without(name):
    def change(arrays):
        del arrays[name]

    return change


@pytest.mark.parametrize(
    ('change', 'sentence'),
    [
        (without('cls'), "it has no array 'cls'"),
        (
            without(BLOCK.format(0) + 'LayerNorm_2/scale'),
            "no array 'Transformer/encoderblock_0/LayerNorm_2/scale'",
        ),
        (
            lambda arrays: arrays.update(conv_root=np.zeros(3)),
            "1 arrays have no place in it, first: 'conv_root'",
        ),
        (lambda arrays: arrays.clear(), 'no array'),
    ],
)
def test_other_files_are_refused(tmp_path, change, sentence):
    arrays = made_up()
    change(arrays)
    path = save(tmp_path / 'ViT.npz', arrays)
    with pytest.raises(ValueError, match=rf'ViT\.npz is not .*{sentence}'):
        CheckpointLoader.load_checkpoint(f'google-vit:{path}')


def test_unreadable_files_are_refused(tmp_path):
    load = CheckpointLoader.load_checkpoint
    with pytest.raises(FileNotFoundError, match='Download the weights'):
        load(f'google-vit:{tmp_path}/none.npz')
    path = tmp_path / 'broken.npz'
    path.write_bytes(b'PK\x03\x04 half a zip')
    with pytest.raises(ValueError, match=r'not a readable \.npz'):
        load(f'google-vit:{path}')
    pickled = save(tmp_path / 'pickled.npz', dict(cls=np.array([{}])))
    with pytest.raises(ValueError, match=r'not a readable \.npz.*pickle'):
        load(f'google-vit:{pickled}')


def test_an_url_is_downloaded_once(tmp_path, monkeypatch, group_of_one):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    asked = []

    def download(url, path):
        asked.append(url)
        with open(path, 'wb') as file:  # noqa: PTH123 - as torch does
            np.savez(file, **made_up())

    monkeypatch.setattr(torch.hub, 'download_url_to_file', download)
    url = 'https://example.org/augreg/B_16-do_0.0.npz'
    for _ in range(2):
        loaded = CheckpointLoader.load_checkpoint(f'google-vit:{url}')
    assert asked == [url]
    assert 'cls_token' in loaded['state_dict']
    # Another training, and a file of the same name.
    other = 'https://example.org/sam/B_16-do_0.0.npz'
    CheckpointLoader.load_checkpoint(f'google-vit:{other}')
    assert asked == [url, other]

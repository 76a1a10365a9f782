"""What a tuner knows of the weights of its backbone: who wrote them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from mmengine.model import initialize
from torch import Tensor, nn

from ..nn.kernels.autograd import traced
from .roles import norm_tensors
from .written import Unwritten, checkpoint_of, report

CHILD = 'tuner'


class KnowsWeights:
    """The part of a tuner that initialises and checks stock weights."""

    backbone: nn.Module
    training: bool
    owned: Callable[[], dict[str, Tensor]]
    frozen: Callable[[], dict[str, Tensor]]
    methods: list[nn.Module]

    def watch_weights(self) -> None:
        """Look from now on at who writes the stock weights."""
        # Checkpoint of the whole model, and what the names of this part of
        # it begin with, where weights come from one.
        self.part_of: tuple[str, str] | None = None
        # A TIMMBackbone may have loaded them when it was built, and says so.
        built = getattr(self.backbone, '_is_init', False)
        self._unwritten = Unwritten({} if built else self.stock_weights())
        # Whether a checkpoint was loaded into the backbone by anybody.
        self._loaded = self._weights_checked = False
        self.backbone.register_load_state_dict_post_hook(self._note_loading)
        self.backbone.register_forward_pre_hook(self._before_forward)

    def init_backbone_weights(self) -> None:
        """Run the stock ``init_weights``, out of reach of the tuner.

        Stock Swins re-draw every ``nn.Linear`` below them, or load a
        checkpoint and report the keys it lacks. Neither concerns the tuner,
        which was initialised when it was made.

        Raises:
            RuntimeError: If a pretrained checkpoint does not fit, or leaves
                a frozen weight at its random start.
        """
        stock = self.backbone
        try:
            with self.aside():
                type(stock).init_weights(stock)
        except RuntimeError as error:
            if checkpoint_of(stock) is None:
                raise
            raise RuntimeError(
                f'{checkpoint_of(stock)} does not fit this '
                f'{type(stock).__name__}: {_first_lines(error)} '
                'Change the arguments of the backbone that these sizes come '
                'from (of a Swin: embed_dims, num_heads, patch_size or '
                'in_channels), or take another checkpoint'
            ) from error
        for method in self.methods:
            method.follow_stock()
        if checkpoint_of(stock) is not None:
            self.report_unwritten()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Be out of reach while stock code initialises the backbone."""
        stock = self.backbone
        # Not there while the whole model is being initialised.
        tuner = stock._modules.pop(CHILD, None)
        loaded = self._loaded
        try:
            with self._unwritten.drawing(stock, self.stock_weights):
                yield
        finally:
            if tuner is not None:
                stock._modules[CHILD] = tuner
            self._loaded = loaded

    @property
    def source(self) -> str | None:
        """The checkpoint that the config names for the stock weights."""
        if self.part_of is not None:
            return self.part_of[0]
        return checkpoint_of(self.backbone)

    def load_base(self) -> None:
        """Load the stock weights that the config names."""
        if self.part_of is not None:
            load_part(self.backbone, *self.part_of)
        elif hasattr(self.backbone, 'init_weights'):
            self.init_backbone_weights()

    def check_weights(self) -> None:
        """Check that something wrote the frozen weights, once a loading.

        Called before the first iteration. Without any checkpoint there is a
        warning only: a random trunk may be a test of everything else.

        Raises:
            RuntimeError: If a checkpoint was loaded that left frozen weights
                at their random start.
        """
        if not self._weights_checked:
            self.report_unwritten()
            self._weights_checked = True

    def _drawn(self) -> list[str]:
        """Return the stock weights that nothing has written yet."""
        # A normalisation that no checkpoint wrote is a plain normalisation
        # (weight 1, bias 0), as the output norms of every Swin are. Its
        # statistics belong to the weights before it.
        norms = norm_tensors(self.backbone)
        parameters = dict(self.backbone.named_parameters())
        return [
            name
            for name in self._unwritten.names(self.stock_weights())
            if name not in norms or name not in parameters
        ]

    def report_unwritten(self) -> None:
        """Say which stock weights nothing has written; see :func:`report`."""
        names, source = self._drawn(), self.source
        if source is None and self._loaded:
            source = 'the checkpoint that was loaded into the model'
        frozen = [name for name in names if name not in self.owned()]
        report(names, frozen, type(self.backbone).__name__, source)

    def has_base(self) -> bool:
        """Whether anything has written the weights that stay frozen."""
        return not (set(self._drawn()) & self.frozen().keys())

    def stock_weights(self) -> dict[str, Tensor]:
        """Return name -> stock tensor that a checkpoint has values for.

        Parameters, and statistics; the other buffers are computed. Not from
        the state dict, which torch's FSDP gathers anew each time.
        """
        return {
            name: tensor
            for name, tensor in tensors_of(self.backbone)
            if not name.startswith(f'{CHILD}.')
            and (
                isinstance(tensor, nn.Parameter)
                or name.endswith(('.running_mean', '.running_var'))
            )
        }

    def _note_loading(self, *_: object) -> None:
        self._loaded, self._weights_checked = True, False
        self._unwritten.settle(self.stock_weights())

    def _before_forward(self, *_: object) -> None:
        if self.training and torch.is_grad_enabled() and not traced():
            self.check_weights()


def tensors_of(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield name -> parameter or buffer, under each of its names."""
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def load_part(module: nn.Module, checkpoint: str, prefix: str) -> None:
    """Load a part of a model from a checkpoint of the whole.

    Args:
        module: The part.
        checkpoint: File or URL.
        prefix: What its names begin with in the checkpoint.
    """
    initialize(
        module,
        dict(type='Pretrained', checkpoint=checkpoint, prefix=prefix),
    )


def _first_lines(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return ' '.join(lines[:2])

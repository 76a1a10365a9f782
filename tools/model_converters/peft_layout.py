"""Turn a LoRA into a folder of Hugging Face PEFT, and such a folder back.

python tools/model_converters/peft_layout.py CONFIG CHECKPOINT FOLDER
python tools/model_converters/peft_layout.py CONFIG FOLDER OUT.safetensors

CHECKPOINT is a checkpoint or an adapter file, OUT an adapter file. The folder
has the LoRA of the backbone only, for the stock backbone with the weights that
``init_cfg`` of the config names: neck and heads are not in it, and those of
OUT are as the config starts them. What is written must not exist.
"""

import argparse
from pathlib import Path

from mmengine.logging import MMLogger

from mmlowrank import load_peft, save_adapter, save_peft
from mmlowrank.checkpoint.adapter_file import AdapterError
from mmlowrank.checkpoint.converting import add_arguments, build
from mmlowrank.checkpoint.loading import load_exactly
from mmlowrank.checkpoint.peft_layout import lora_of
from mmlowrank.checkpoint.trust import unpickling
from mmlowrank.engine import tuned_config


def parse_args() -> argparse.Namespace:
    """Read the command line; ``inward`` is whether a folder is read."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser, 'folder of PEFT, or adapter file (.safetensors)')
    tuned_config.add_arguments(parser)
    args = parser.parse_args()
    args.inward = Path(args.checkpoint).is_dir()
    if args.inward != (args.out.suffix == '.safetensors'):
        raise SystemExit(
            f'{args.checkpoint} is a folder, so {args.out} must end in '
            '.safetensors'
            if args.inward
            else f'{args.checkpoint} is no folder, so {args.out} must be one'
        )
    return args


def main() -> None:
    """Convert."""
    args = parse_args()
    with unpickling(args.trust):
        try:
            convert(args)
        except (AdapterError, RuntimeError) as error:
            raise SystemExit(str(error)) from None


def convert(args: argparse.Namespace) -> None:
    """Build, load, write, say what is not in it."""
    cfg = tuned_config.read(args.config, args.cfg_options, args.tuner)
    model = build(cfg)
    tuner = lora_of(model)
    if args.inward:
        # It would list every tensor of neck and heads.
        logger = MMLogger.get_current_instance()
        level = logger.level
        logger.setLevel('WARNING')
        model.init_weights()
        logger.setLevel(level)
        if not tuner.has_base():
            raise SystemExit(
                f'{args.config} names no weights of the backbone, and an '
                'adapter file says which it belongs to: set its init_cfg'
            )
        load_peft(model, args.checkpoint)
        save_adapter(model, args.out)
        rest = 'neck and heads are as the config starts them, not trained'
    else:
        load_exactly(model, args.checkpoint)
        save_peft(model, args.out)
        rest = 'neck and heads are not in it: ship an adapter file for them'
    count = sum(parameter.numel() for parameter in tuner.parameters())
    print(f'{args.out}: a LoRA of {count:,} parameters; {rest}')


if __name__ == '__main__':
    main()

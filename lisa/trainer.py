"""LISA in `transformers.Trainer`, and in what is built on it (TRL's SFTTrainer): one callback.

    trainer = Trainer(model, args, train_dataset=data, callbacks=[LISACallback(gamma=2, period_steps=10)])
    trainer.train()

The Trainer builds the optimizer before training begins, over all that requires a gradient then, and that is what LISA
needs: freeze no decoder layer yourself. Checkpoints and `train(resume_from_checkpoint=...)` need nothing more; the
state of the draws goes into trainer_state.json.

This is the one file of lisa/ that imports transformers.
"""

from __future__ import annotations

import inspect
import warnings
from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import SaveStrategy
from transformers.training_args import ParallelMode

from lisa.arguments import check_arguments
from lisa.hook import LISA


class LISACallback(TrainerCallback, ExportableState):
    """`LISA` over the Trainer's model and optimizer, from the start of training to its end.

    Afterwards every parameter requires a gradient, or does not, as before; `lisa` stays, to be looked at. On several
    devices it needs FSDP2, and there the Trainer's checkpoints hold weights to go on from but may not resume a run
    (torch loads no optimizer state in which a layer is missing): `lisa/checkpoint.py` does.

    Args:
        gamma, period_steps: as for `LISA`; a period counts optimizer steps, not the batches accumulated for one.
        seed: of the draws; None takes that of the TrainingArguments.
        settings: the other keyword arguments of `LISA`.

    Raises:
        TypeError: a keyword that `LISA` does not know.
        ValueError: an argument that is wrong for any model. When training begins: all that `LISA` refuses; several
            processes without FSDP2; a second LISACallback; a checkpoint of other draws, or of no LISACallback.
    """

    def __init__(self, gamma: int = 2, period_steps: int = 10, seed: int | None = None, **settings: Any) -> None:
        bound = inspect.signature(LISA).bind(
            None, None, gamma, period_steps, seed, **settings
        )  # misspelt: an error here
        bound.apply_defaults()
        not_yet_known = ("model", "optimizer", "seed", "layers")
        check_arguments(**{name: value for name, value in bound.arguments.items() if name not in not_yet_known})
        self.settings = {"gamma": gamma, "period_steps": period_steps, "seed": seed, **settings}
        self.lisa: LISA | None = None
        self._required: list[tuple[nn.Parameter, bool]] = []  # what required a gradient before training

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        """Build LISA; the Trainer has loaded weights and moments of a checkpoint by now."""
        model, optimizer = more["model"], more["optimizer"]
        self._let_go()  # of a run that broke off, whose end was never announced
        _check_parallel(args, model)
        saved = self._take_saved(state)
        seed = args.seed if self.settings["seed"] is None else self.settings["seed"]
        required = [(p, p.requires_grad) for p in model.parameters()]
        self.lisa = LISA(model, optimizer, **{**self.settings, "seed": seed})
        self._required = required
        if args.torch_compile:
            what = "TrainingArguments.torch_compile compiles the model again for every new set of active layers"
            warnings.warn(f"{what}. Leave it off, and call lisa.compile.compile_layers(model).", stacklevel=2)
        if state.global_step > 0:
            self.lisa.load_state_dict(saved)

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any) -> None:
        """Once an optimizer step, before the first of the batches that are accumulated for it."""
        assert self.lisa is not None
        self.lisa.before_step(state.global_step)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any) -> None:
        """Leave model and optimizer as they came, for whatever is done with them next."""
        self._let_go()

    def state(self) -> dict[str, Any]:
        """What goes into a checkpoint's trainer_state.json; `lisa` is None before training."""
        draws = None if self.lisa is None else self.lisa.state_dict()
        return {"args": self.settings, "attributes": {}, "lisa": draws}

    def _take_saved(self, state: TrainerState) -> Any:
        """LISA's state from the checkpoint, once: the next save writes a new one.

        Read here because the Trainer hands callbacks their state only where TrainingArguments say so
        (`restore_callback_states_from_checkpoint`), and then builds them anew.
        """
        name = type(self).__name__
        states: Any = state.stateful_callbacks  # annotated as a list, but a dict as soon as a TrainerState is built
        if name not in states:
            what = f"The checkpoint of step {state.global_step} was written without a {name}"
            raise ValueError(f"{what}: start a new run from its weights, or go on without LISA.")
        saved = states[name]
        states[name] = None
        if saved is None or isinstance(saved, list):
            raise ValueError(f"This Trainer has more than one {name}; one model follows one LISA.")
        return saved["lisa"]

    def _let_go(self) -> None:
        if self.lisa is not None:
            self.lisa.close()
        for parameter, required in self._required:
            parameter.requires_grad_(required)
        self._required = []


def _check_parallel(args: TrainingArguments, model: nn.Module) -> None:
    """Refuse several processes but under FSDP2, the one way whose parameters can be frozen one by one, at any time."""
    if args.parallel_mode != ParallelMode.DISTRIBUTED:
        return
    if not any(hasattr(parameter, "device_mesh") for parameter in model.parameters()):
        raise ValueError(
            "LISA cannot train under DistributedDataParallel, which does not follow a redraw ('Expected to have "
            "finished reduction'), nor under FSDP1 or DeepSpeed, which flatten parameters. Use FSDP2: "
            "TrainingArguments(fsdp=True, fsdp_config={'version': 2}), or fsdp_version: 2 in accelerate's config file."
        )
    if args.save_strategy != SaveStrategy.NO and not args.save_only_model:
        what = "The Trainer may not resume LISA under FSDP2: torch loads no optimizer state in which a layer is missing"
        warnings.warn(f"{what}. A loop of your own can, with lisa.checkpoint (examples/fsdp2_lisa.py).", stacklevel=2)

"""BitFit: train the biases and nothing else (Ben Zaken et al. 2021, arXiv 2106.10199).

All biases of the model, as in the paper: those of linear layers and those of norms. Llama has none of either and is
refused; Qwen2 has them on queries, keys and values; GPT-2, OPT, Falcon-RW and GPT-NeoX nearly everywhere.

The paper trains encoders and a new classification layer; a language model's head is no new layer, and of it too only a
bias trains, where there is one (Phi). 1e-3 is the default of the authors' script (run_glue.py); the list goes down from
it and one step up.
"""

from __future__ import annotations

from torch import nn

from baselines._selective import Selective


class Method(Selective):
    summary = "biases only"
    paper = "Ben Zaken et al. 2021, arXiv 2106.10199"
    learning_rates = (1e-4, 3e-4, 1e-3, 3e-3)
    default_learning_rate = 1e-3
    declared = {
        "models": "a model without biases (Llama, Mistral) has nothing for it to train",
        "full limit": "biases alone train, whatever the settings",
    }
    refused_example = {"model_type": "llama"}
    small_learning_rate = 0.06
    small_steps = 300

    def chosen(self, model: nn.Module) -> list[nn.Parameter]:
        biases = [parameter for name, parameter in model.named_parameters() if name.endswith("bias")]
        if not biases:
            none = f"Model type {model.config.model_type!r} has no biases for BitFit to train."
            raise ValueError(f"{none} Train its norms instead: method norm_tuning.")
        return biases

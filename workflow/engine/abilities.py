"""Settings against what a method declares it cannot do (`baselines.contract.ABILITIES`): refused, never passed over."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from workflow.engine.errors import InputError

if TYPE_CHECKING:  # experiments are checked without loading torch
    from baselines.contract import Method

SETTINGS = {  # ability -> the setting that asks for it, and its value that does not
    "accumulation": ("accumulation_steps", 1),
    "clipping": ("max_grad_norm", None),
    "checkpointing": ("gradient_checkpointing", False),
}


def check_abilities(who: str, method: type[Method], settings: Mapping[str, Any], section: str = "") -> None:
    """Raise InputError if settings of training ask what the method lacks.

    Args:
        who: the place that names the method.
        section: where the settings stand, as it is put before their names: "training.".
    """
    limits = method.limits()
    for ability, (key, legal) in SETTINGS.items():
        if ability in limits and settings[key] != legal:
            told = f"{section}{key} is {json.dumps(settings[key])}; legal: {json.dumps(legal)}"
            raise InputError(f"{who}: {told}, because {limits[ability]}.")

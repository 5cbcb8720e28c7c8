"""How a gradient becomes a step: AdamW whose moments are written in few bits."""

from pennyweight.optim.adamw import AdamW
from pennyweight.optim.finiteness import vouch
from pennyweight.optim.memory import predicted_state_bytes, state_bytes
from pennyweight.optim.moments import Moment
from pennyweight.optim.motion import Motion, motion, motions
from pennyweight.optim.notation import moment
from pennyweight.optim.update import Hyper, Plan, update, update_

__all__ = [
    "AdamW",
    "Hyper",
    "Moment",
    "Motion",
    "Plan",
    "moment",
    "motion",
    "motions",
    "predicted_state_bytes",
    "state_bytes",
    "update",
    "update_",
    "vouch",
]

"""Settings: every path that --set takes, the value it has when nobody sets it, and what it means.

Written down here, and not read from `Run`, so that --help needs no torch; a test holds the two together.
"""

SETTINGS = (
    ("data.source", "stdlib", "what --data says"),
    ("data.tokenizer", "bpe-4096", "bpe-N: trained on the data; or a folder"),
    ("data.context", "256", "tokens a sequence"),
    ("data.validation", "0.05", "share of the text only measured on"),
    ("optimizer.lr", "0.001", "learning rate at its top"),
    ("optimizer.betas", "0.9,0.95", "of AdamW"),
    ("optimizer.eps", "1e-08", "of AdamW"),
    ("optimizer.weight_decay", "0.1", "of tensors of 2 or more dimensions"),
    ("schedule.shape", "cosine", "or wsd, or constant"),
    ("schedule.warmup", "0.1", "below 1 a share of the steps, else steps"),
    ("schedule.final", "0.1", "share of the rate left at the end"),
    ("schedule.decay", "0.2", "wsd: share of the steps going down"),
    ("strategy", "synchronous", "who computes and who speaks"),
    ("objective", "next-token", "what is minimised"),
    ("batch", "16", "sequences in a micro-batch"),
    ("accumulate", "1", "micro-batches in a step"),
    ("clip", "1.0", "largest norm of the gradient, or none"),
    ("clip_by", "exact", "or previous: the last step's norm"),
    ("gradients", "held", "or freed: each once its weight moved"),
    ("tracker", "auto", "or none, tensorboard, wandb, mlflow"),
    ("compile", "false", "the blocks by torch.compile"),
    ("evaluation.every", "0", "steps; 0: ten times a run"),
    ("evaluation.tokens", "65536", "of the validation part"),
    ("checkpoint.every", "0", "steps; 0: at the end and on Ctrl-C"),
    ("checkpoint.keep", "2", "newest checkpoints that stay"),
    ("diagnosis.every", "50", "steps between looks at every layer; 0: none"),
    ("diagnosis.fidelity_every", "100", "gradients against full precision"),
    ("diagnosis.sharpness_every", "0", "curvature and slices of the loss"),
    ("guard.mode", "warn", "of a divergence; or act: go back; or off"),
    ("guard.rescues", "4", "times that act goes back, at most"),
)
PART = "recipe.PART", "", "such as recipe.m=int8 recipe.last=0.1"


def told() -> str:
    """The list as --help shows it."""
    wide, value = (max(len(row[column]) for row in SETTINGS) for column in (0, 1))
    lines = [f"{path:<{wide}}  {default:<{value}}  {meaning}" for path, default, meaning in (*SETTINGS, PART)]
    return "\n".join(["\b", "Settings (--set PATH=VALUE) and what they are when nobody sets them:", *lines])

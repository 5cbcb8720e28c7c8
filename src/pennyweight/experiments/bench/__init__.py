"""Bench: how fast and how small this machine trains in few bits, side by side with what else there is."""

from pennyweight.experiments.bench.groups import GROUPS as GROUPS
from pennyweight.experiments.bench.groups import bench as bench
from pennyweight.experiments.bench.groups import chosen as chosen
from pennyweight.experiments.bench.sizes import Sizes as Sizes
from pennyweight.experiments.bench.table import markdown as markdown

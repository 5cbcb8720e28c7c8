"""nn: what a layer computes, which layers are converted, and how a converted model becomes plain again."""

from pennyweight.nn.convert import Conversion as Conversion
from pennyweight.nn.convert import quantize as quantize
from pennyweight.nn.linear import WrittenConv1D as WrittenConv1D
from pennyweight.nn.linear import WrittenLinear as WrittenLinear
from pennyweight.nn.plain import activations_off as activations_off
from pennyweight.nn.plain import plain_weights as plain_weights

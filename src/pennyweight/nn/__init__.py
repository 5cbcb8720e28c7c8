"""nn: what a layer and the head with its loss compute, which layers are converted, how a model becomes plain again."""

from pennyweight.nn.attention import faster_attention as faster_attention
from pennyweight.nn.blocks import compile_blocks as compile_blocks
from pennyweight.nn.convert import Conversion as Conversion
from pennyweight.nn.convert import quantize as quantize
from pennyweight.nn.convert import requantize as requantize
from pennyweight.nn.head import head_cross_entropy as head_cross_entropy
from pennyweight.nn.linear import WrittenConv1D as WrittenConv1D
from pennyweight.nn.linear import WrittenLinear as WrittenLinear
from pennyweight.nn.opened import before_head as before_head
from pennyweight.nn.opened import plain_head as plain_head
from pennyweight.nn.plain import activations_off as activations_off
from pennyweight.nn.plain import plain_weights as plain_weights
from pennyweight.nn.post_training import post_train as post_train

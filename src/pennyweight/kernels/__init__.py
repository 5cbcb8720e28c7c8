"""Kernels: products on written numbers, one door per operation."""

from pennyweight.kernels.activation_functions import Function as Function
from pennyweight.kernels.activation_functions import activation as activation
from pennyweight.kernels.activation_functions import activation_saving as activation_saving
from pennyweight.kernels.activation_functions import has_activation as has_activation
from pennyweight.kernels.doors import Door as Door
from pennyweight.kernels.doors import doctor as doctor
from pennyweight.kernels.doors import float8_is_fast as float8_is_fast
from pennyweight.kernels.doors import float8_product as float8_product
from pennyweight.kernels.doors import int8_product as int8_product
from pennyweight.kernels.doors import is_differentiating as is_differentiating
from pennyweight.kernels.doors import is_transformed as is_transformed
from pennyweight.kernels.integer_linear import int8_linear as int8_linear
from pennyweight.kernels.integer_linear import int8_linear_backward as int8_linear_backward
from pennyweight.kernels.integer_linear import is_compiled as is_compiled
from pennyweight.kernels.products import Codes as Codes
from pennyweight.kernels.products import codes_of as codes_of
from pennyweight.kernels.products import multiply as multiply
from pennyweight.kernels.products import product as product
from pennyweight.kernels.products import real_reason as real_reason
from pennyweight.kernels.products import slow_reason as slow_reason
from pennyweight.kernels.writes import is_fused as is_fused
from pennyweight.kernels.writes import is_int8_row as is_int8_row
from pennyweight.kernels.writes import kind_of as kind_of
from pennyweight.kernels.writes import write_rows as write_rows
from pennyweight.kernels.written_adamw import adamw_step as adamw_step
from pennyweight.kernels.written_adamw import steps_at_once as steps_at_once

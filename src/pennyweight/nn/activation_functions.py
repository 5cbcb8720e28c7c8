"""Activation functions of a converted model: SiLU and the GELUs in one pass over memory, forward and backward."""

from torch import Tensor, nn
from transformers.activations import (
    FastGELUActivation,
    GELUActivation,
    GELUTanh,
    NewGELUActivation,
    QuickGELUActivation,
    SiLUActivation,
)

from pennyweight.kernels import Function, activation, activation_saving, has_activation, is_transformed

STOCK: dict[type[nn.Module], Function] = {
    nn.SiLU: "silu",
    SiLUActivation: "silu",
    GELUActivation: "gelu",
    QuickGELUActivation: "quick_gelu",
    NewGELUActivation: "gelu_tanh",
    GELUTanh: "gelu_tanh",
    FastGELUActivation: "gelu_tanh",
}


class OnePass(nn.Module):
    """An activation function in one pass over memory each way, where the compiled operators take its input.

    stock:  the module it stands for, which computes all other inputs.
    slopes: whether the backward pass is left the slopes in 8 bits instead of the input.

    Ancestor: `stock`. It rounds what stands between its steps and this does not; see `kernels.activation` for bounds.
    """

    def __init__(self, stock: nn.Module, function: Function, *, slopes: bool = False) -> None:
        super().__init__()
        self._stock = (stock,)  # in a tuple: not a submodule, whose name would be new
        self.function: Function = function
        self.slopes = slopes

    @property
    def stock(self) -> nn.Module:
        """The module it stands for."""
        return self._stock[0]

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's name)
        if not has_activation(input) or is_transformed():
            return self.stock(input)
        if self.slopes:
            return activation_saving(input, self.function)[0]
        return activation(input, self.function)

    def extra_repr(self) -> str:
        return f"{self.function}, keeps its {'slopes in 8 bits' if self.slopes else 'input'}"


def replace_activation_functions(model: nn.Module, *, slopes: bool = False) -> list[str]:
    """Puts a `OnePass` in the place of every stock module of `STOCK`, exactly of its type; returns their names."""
    found = []
    for parent_name, parent in model.named_modules():
        for name, module in parent.named_children():
            function = _function_of(module)
            if function is not None:
                setattr(parent, name, OnePass(module, function, slopes=slopes))
                found.append(f"{parent_name}.{name}" if parent_name else name)
    return found


def restore_activation_functions(model: nn.Module) -> None:
    """Puts the stock modules back in the places of the `OnePass` that stand for them."""
    for parent in list(model.modules()):
        for name, module in parent.named_children():
            if isinstance(module, OnePass):
                setattr(parent, name, module.stock)


def _function_of(module: nn.Module) -> Function | None:
    if type(module) is nn.GELU:
        return "gelu" if module.approximate == "none" else "gelu_tanh"
    if getattr(module, "inplace", False):
        return None
    return STOCK.get(type(module))

"""AdamW: a drop-in for torch.optim.AdamW whose moments, and if asked its weights, are written in few bits."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from numbers import Real
from typing import Any, Literal

import torch
from torch import Tensor

from pennyweight.numerics import Cast, Counter, Rounding, stored_of
from pennyweight.optim.finiteness import finite
from pennyweight.optim.moments import Moment, is_written
from pennyweight.optim.notation import moment, weight_cast
from pennyweight.optim.rewriting import rewritten
from pennyweight.optim.update import Hyper, Part, Plan, update_, update_all_, update_stored_
from pennyweight.recipes import FEWEST_WRITTEN
from pennyweight.spelling import check_kind, nearest

REFUSED = ("amsgrad", "maximize", "foreach", "fused", "capturable", "differentiable")
SMALLEST = 2.0**-149  # of float32 above 0
OURS = ("m", "v", "weights", "rounding", "min_numel", "nonfinite")  # settings a checkpoint does not overrule


class AdamW(torch.optim.Optimizer):
    """AdamW whose m and v are values of a cast, stored packed.

    m, v:      "fp32" (unwritten: as torch, in the parameter's dtype if nothing else is written), "bf16", "int8",
               "int8/block128", "dynamic8", "dynamic_sym4", "log8", "log4", "linear_nz4", "expand_e4m3",
               "int8/row-with-zero" …; every group may have its own. v takes a code with a zero only as NAME-with-zero.
    weights:   a cast (or its text) by which weights without a master copy are rounded after each update; None: master.
               Weights that `quantize` keeps as codes alone are written by their own cast, rounded as `rounding` says.
    rounding:  "stochastic" (unbiased, noise counted from seed, step, name and element) or "nearest".
    min_numel: tensors of fewer elements, or of fewer than two dimensions, keep float32 moments.
    nonfinite: what a NaN or an infinity in a gradient does: "raise" FloatingPointError before anything has changed, or
               "skip" the step of that tensor.

    Parameters stamped by `pennyweight.quantize` bring their name and their noise counter; else the names are those of
    `named_parameters()`, else "group.index", and the counter is the optimizer's own. `step()` advances each counter
    once, after the updates; `take()` steps one parameter before that, while its gradient still passes by.

    Raises ValueError or TypeError for what it cannot do: amsgrad, maximize, sparse gradients, complex parameters.
    Source:   Loshchilov & Hutter, arXiv:1711.05101; Dettmers et al., arXiv:2110.02861; Li et al., arXiv:2309.01507.
    Ancestor: m = v = "fp32": torch.optim.AdamW(foreach=False, fused=False), bit for bit, any dtype.
    Costs:    `predicted_state_bytes`; 2.06 bytes a parameter at int8 + log8, 1.09 at dynamic_sym4 + log4, 8 at fp32.
    """

    moves_codes = True  # weights that are codes alone (`numerics.Stored`)

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        *,
        m: str = "fp32",
        v: str = "fp32",
        weights: Cast | str | None = None,
        rounding: Rounding = "stochastic",
        seed: int = 0,
        min_numel: int = FEWEST_WRITTEN,
        nonfinite: Literal["raise", "skip"] = "raise",
        **flags: object,
    ) -> None:
        _check_flags(flags)
        self._counter = Counter(seed=seed)
        self._under_way: dict[int, tuple[str, Plan]] | None = None
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "m": m, "v": v}
        defaults |= {"weights": weights, "rounding": rounding, "min_numel": min_numel, "nonfinite": nonfinite}
        super().__init__(params, defaults)
        self._record_counters()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group; its settings are checked here, once."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        group["weights"] = None if group["weights"] is None else str(group["weights"])
        try:
            _check_group(group)
            group["header"] = _headers(group)
        except (ValueError, TypeError):
            self.param_groups.pop()
            raise
        group["counters"] = []

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Takes one step from the gradients; returns what the closure returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        skipped = self._nonfinite()
        parts: list[Part] = []
        for _, parameter, plan in self.plans():
            taken = self._under_way is not None and id(parameter) not in self._under_way
            if parameter.grad is not None and id(parameter) not in skipped and not taken:
                parts += self._part(parameter, plan)
        update_all_(parts)
        for counter in self.counters():
            counter.advance()
        self._record_counters()
        self._under_way = None
        return loss

    @torch.no_grad()
    def take(self, parameter: Tensor) -> None:
        """Steps one parameter now, from its gradient, which the caller may then free; `step()` ends the step for all.

        The noise is counted by name and step, so the order in which parameters are taken changes nothing.
        Ancestor: `step()` with every gradient in place, bit for bit.
        Raises ValueError for a parameter that is none of the optimizer's, has no gradient, or was taken since `step()`;
        FloatingPointError as `step()`, but what was taken before has been changed.
        """
        if self._under_way is None:
            self._under_way = {id(one): (name, plan) for name, one, plan in self.plans()}
        if parameter.grad is None:
            raise ValueError("AdamW takes a parameter that has a gradient, got one whose .grad is None")
        if id(parameter) not in self._under_way:
            raise ValueError(
                "AdamW takes each of its parameters once a step, got one that it has taken or does not hold; "
                "a method that asks for the gradient twice needs all gradients at once"
            )
        skipped = self._nonfinite(only=parameter)
        _, plan = self._under_way.pop(id(parameter))
        if id(parameter) not in skipped:
            update_all_(self._part(parameter, plan))

    def counters(self) -> list[Counter]:
        """The distinct noise counters of the parameters, in the order of the groups."""
        found: dict[int, Counter] = {}
        for group in self.param_groups:
            for counter in self._counters(group):
                found.setdefault(id(counter), counter)
        return list(found.values())

    def state_dict(self) -> dict[str, Any]:
        """Plain tensors under "state"; settings, headers of the codes and noise counters under "param_groups"."""
        self._record_counters()
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any], strict: bool = False) -> None:
        """Restores states, settings and noise counters.

        The optimizer keeps its own m, v, weights, rounding, min_numel and nonfinite: states stored in another code are
        converted and a line is logged; with `strict` that is a ValueError and nothing changes.

        Raises ValueError, before anything changes, for the state of an optimizer that is no Adam.
        """
        _check_loaded(state_dict, self.param_groups)
        own = [{name: group[name] for name in OURS} for group in self.param_groups]
        state: dict[Tensor, dict[str, Tensor]] = {}
        for saved, group in zip(state_dict["param_groups"], self.param_groups, strict=False):
            for index, parameter in zip(saved["params"], group["params"], strict=False):
                if stored := state_dict["state"].get(index):
                    state[parameter] = _rewritten(stored, saved.get("header", {}), parameter, group, strict=strict)
        super().load_state_dict({**state_dict, "state": {}})
        self.state.update(state)
        for group, settings in zip(self.param_groups, own, strict=True):
            group.update(settings)
            group["header"] = _headers(group)
            for counter, saved in zip(self._counters(group), group.get("counters", ()), strict=False):
                counter.load(saved)
        self._record_counters()

    def take_over(self, other: "AdamW") -> None:
        """Takes the states that `other` holds of this optimizer's parameters, written as this one writes them.

        What is already so written is taken bit for bit; the rest is decoded and written to nearest. `other` is left
        without: there is never more than one parameter's state twice. Counted noise goes on where it was.
        Ancestor: m, v and min_numel of `other`: stepping on with `other`, bit for bit.
        """
        groups = {id(parameter): group for group in self.param_groups for parameter in group["params"]}
        self._counter.load(other._counter.state())
        for before in other.param_groups:
            for parameter in before["params"]:
                if id(parameter) in groups and (stored := other.state.pop(parameter, None)):
                    group, header = groups[id(parameter)], before["header"]
                    self.state[parameter] = _rewritten(stored, header, parameter, group, level=logging.DEBUG)
        self._record_counters()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._under_way = None
        if not hasattr(self, "_counter"):
            self._counter = Counter()
            for group in self.param_groups:
                for counter, saved in zip(self._counters(group), group.get("counters", ()), strict=False):
                    counter.load(saved)

    def plans(self) -> Iterator[tuple[str, Tensor, Plan]]:
        """Name, parameter and plan of the next step, of every parameter in the order of the groups.

        States of a group whose m, v or min_numel were changed since are converted first, and a line is logged.
        """
        for number, group in enumerate(self.param_groups):
            self._follow(group)
            beta1, beta2 = map(float, group["betas"])
            hyper = Hyper(group["lr"], beta1, beta2, group["eps"], group["weight_decay"])
            for index, parameter in enumerate(group["params"]):
                name, storage = _name(group, number, index), _storage(group, parameter)
                counter = self._counter_of(parameter)
                noisy = {"m": storage["m"].cast, "v": storage["v"].cast, "weights": storage["cast"]}
                keys = {slot: counter.key(name, slot) for slot, cast in noisy.items() if cast and cast.stochastic}
                yield name, parameter, Plan(hyper, **storage, keys=keys)

    def _follow(self, group: dict[str, Any]) -> None:
        headers = _headers(group)
        if group["header"] == headers:
            return
        for parameter in group["params"]:
            if stored := self.state.get(parameter):
                self.state[parameter] = _rewritten(stored, group["header"], parameter, group)
        group["header"] = headers

    def _part(self, parameter: Tensor, plan: Plan) -> list[Part]:
        """What is to be updated for the step that begins here; nothing where it is done at once."""
        state = self.state[parameter]
        if not state:
            state.update(plan.nothing(parameter))
        state["step"] += 1
        gradient, step, shape = parameter.grad, int(state["step"]), tuple(parameter.shape)
        assert gradient is not None
        if (stored := stored_of(parameter)) is not None:
            update_stored_(stored, gradient, state, step, plan)
            return []
        flat = gradient.contiguous().view(-1)
        if parameter.is_contiguous():
            return [Part(parameter.view(-1), flat, state, step, plan, shape)]
        weights = parameter.contiguous()
        update_(weights.view(-1), flat, state, step, plan, shape=shape)
        parameter.copy_(weights)
        return []

    def _nonfinite(self, only: Tensor | None = None) -> set[int]:
        """The parameters whose step is skipped for a NaN or an infinity in the gradient; raises if it may not be."""
        having: list[tuple[str, Tensor, Tensor, str]] = []
        for number, group in enumerate(self.param_groups):
            for index, parameter in enumerate(group["params"]):
                gradient = parameter.grad
                if gradient is None or (only is not None and parameter is not only):
                    continue
                name = _name(group, number, index)
                if gradient.layout != torch.strided:
                    raise TypeError(f"AdamW takes dense gradients, got a {gradient.layout} one for parameter {name}")
                if (stored := stored_of(parameter)) is not None:
                    stored.check(parameter)
                having.append((name, parameter, gradient, group["nonfinite"]))
        skipped: set[int] = set()
        changed = "no weight and no moment was changed" if only is None else "its weight and its moments stay"
        answers = finite([gradient for _, _, gradient, _ in having])
        for (name, parameter, _, what), is_finite in zip(having, answers, strict=True):
            if not is_finite and what == "raise":
                raise FloatingPointError(
                    f"the gradient of parameter {name} holds NaN or infinity; {changed} "
                    "(nonfinite='skip' leaves out the step of such a tensor)"
                )
            if not is_finite:
                skipped.add(id(parameter))
        return skipped

    def _counter_of(self, parameter: Tensor) -> Counter:
        return getattr(parameter, "pennyweight_counter", None) or self._counter

    def _counters(self, group: dict[str, Any]) -> list[Counter]:
        return list({id(c): c for c in map(self._counter_of, group["params"])}.values())

    def _record_counters(self) -> None:
        """Puts the counters' values into the groups, where every way of checkpointing groups finds them."""
        for group in self.param_groups:
            group["counters"] = [counter.state() for counter in self._counters(group)]


def _storage(group: dict[str, Any], parameter: Tensor) -> dict[str, Any]:
    """The part of a plan that a checkpoint must agree with."""
    m, v = (moment(group[slot], slot, group["rounding"]) for slot in ("m", "v"))
    cast, stored = weight_cast(group["weights"], group["rounding"]), stored_of(parameter)
    if stored is not None:
        cast = weight_cast(str(stored.cast), group["rounding"])
    low = parameter.dtype not in (torch.float32, torch.float64)
    wide = stored is not None or (low and (m.written or v.written or cast))
    dtype = torch.float32 if wide else parameter.dtype
    if is_written(tuple(parameter.shape), group["min_numel"]):
        return {"m": m, "v": v, "cast": cast, "dtype": dtype}
    return {"m": Moment(), "v": Moment(), "cast": cast if stored else None, "dtype": dtype}


def _headers(group: dict[str, Any]) -> dict[str, Any]:
    """What a reader of the states needs: the code of m and of v, and from how many elements on they are used."""
    headers = {slot: moment(group[slot], slot, group["rounding"]).header for slot in ("m", "v")}
    return headers | {"min_numel": group["min_numel"]}


def _rewritten(
    stored: Mapping[str, Any],
    header: Mapping[str, Any],
    parameter: Tensor,
    group: dict[str, Any],
    *,
    strict: bool = False,
    level: int = logging.WARNING,
) -> dict[str, Tensor]:
    storage = _storage(group, parameter)
    wanted = {"m": storage["m"], "v": storage["v"]}
    return rewritten(stored, header, parameter, wanted, dtype=storage["dtype"], strict=strict, level=level)


def _name(group: dict[str, Any], number: int, index: int) -> str:
    given = group["param_names"][index] if "param_names" in group else f"{number}.{index}"
    return getattr(group["params"][index], "pennyweight_name", given)


def _check_flags(flags: dict[str, object]) -> None:
    for flag, value in flags.items():
        if flag not in REFUSED:
            known = ("lr", "betas", "eps", "weight_decay", *OURS, "seed")
            raise TypeError(f"AdamW has no setting {flag!r}{nearest(flag, known)}")
        if value:
            raise ValueError(f"AdamW with written moments has no {flag}, got {flag}={value!r}; leave it out")


def _check_loaded(state_dict: Mapping[str, Any], groups: list[dict[str, Any]]) -> None:
    """Raises unless the state has the groups and settings of an Adam; those of OURS are not asked for."""
    if missing := [part for part in ("state", "param_groups") if part not in state_dict]:
        raise ValueError(f"AdamW loads what its state_dict() gave, got no {' and no '.join(missing)}")
    for saved, group in zip(state_dict["param_groups"], groups, strict=False):
        _check_flags({flag: saved[flag] for flag in ("amsgrad", "maximize") if flag in saved})
        if missing := [name for name in ("params", "lr", "betas", "eps", "weight_decay") if name not in saved]:
            raise ValueError(
                f"AdamW loads the state of an Adam, got a group without {', '.join(missing)}: it has {', '.join(saved)}"
            )
        theirs = {name: value for name, value in saved.items() if name not in ("params", *OURS)}
        _check_group({**group, **theirs})


def _check_kinds(group: dict[str, Any]) -> None:
    for slot in ("m", "v"):
        check_kind(f"AdamW's {slot}", group[slot], str, "a format as text, such as 'int8' or 'fp32'")
    for name, kind in (("lr", Real | Tensor), ("eps", Real), ("weight_decay", Real), ("min_numel", Real)):
        check_kind(f"AdamW's {name}", group[name], kind, "a number")
    if not isinstance(group["betas"], tuple | list) or len(group["betas"]) != 2:
        raise TypeError(f"AdamW's betas are two numbers, (0.9, 0.999), got {group['betas']!r}")


def _check_group(group: dict[str, Any]) -> None:
    _check_kinds(group)
    lr, (beta1, beta2) = group["lr"], group["betas"]
    if isinstance(lr, Tensor) and lr.numel() != 1:
        raise ValueError(f"AdamW's lr as a tensor holds one element, got shape {tuple(lr.shape)}")
    for name, value, fine in (
        ("lr", float(lr), float(lr) >= 0),
        ("betas[0]", beta1, 0 <= beta1 < 1),
        ("betas[1]", beta2, 0 <= beta2 < 1),
        ("eps", group["eps"], group["eps"] >= 0),
        ("weight_decay", group["weight_decay"], group["weight_decay"] >= 0),
        ("min_numel", group["min_numel"], group["min_numel"] >= 0),
    ):
        if not fine:
            bound = "from 0 to below 1" if name.startswith("betas") else "of 0 or more"
            raise ValueError(f"AdamW wants {name} {bound}, got {value}")
    if 0 < group["eps"] < SMALLEST:
        raise ValueError(
            f"AdamW wants eps of 0, or of {SMALLEST:.1e} or more, below which float32 holds 0, got {group['eps']}"
        )
    for name, known in (("rounding", ("nearest", "stochastic")), ("nonfinite", ("raise", "skip"))):
        if group[name] not in known:
            raise ValueError(f"AdamW's {name} is {known[0]!r} or {known[1]!r}, got {group[name]!r}")
    for parameter in group["params"]:
        if parameter.is_complex():
            raise TypeError(f"AdamW moves real parameters, got one of {parameter.dtype}")
    if group["weights"] is not None:
        weight_cast(group["weights"], group["rounding"])

"""Casts: how a tensor is written. A format, a scale, a rounding and perhaps a rotation, as one value."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pennyweight.numerics import layout, noise
from pennyweight.numerics.companding import Expanded, LogRange
from pennyweight.numerics.formats import Format
from pennyweight.numerics.grids import (
    COMBINE,
    Grid,
    estimator,
    levels,
    measure,
    put_reals,
    read_levels,
    read_scales,
    solve,
    whole_scale,
    write_levels,
)
from pennyweight.numerics.integers import Integer, Shifted
from pennyweight.numerics.minifloats import FLOAT8
from pennyweight.numerics.rotation import Hadamard
from pennyweight.numerics.rounding import Rounding
from pennyweight.numerics.scales import Scale, groups
from pennyweight.numerics.strips import Strip, Tile, strips
from pennyweight.numerics.usual import usual_scale

_STRIP = 1 << 17  # numbers handled at once on a CPU: the few float32 temporaries of a strip stay in second-level cache


@dataclass(frozen=True)
class Cast:
    """How a tensor is written: x -> codes and scales, or x -> the rounded tensor a reader of the codes sees.

    cast(x, key) == cast.write(x, key).read(x.dtype), bit for bit.

    Everything is computed in float32, float64 for float64 input, or the input's dtype for `published` scales. A group
    that holds NaN or Inf decodes to NaN. Tensors of more than two dimensions count as matrices of their last axis.
    Nothing is differentiable here: what a gradient passes is the layer's business.
    Raises TypeError for integer input, ValueError for a stochastic cast without a key and for a row or column scale of
    a tensor with fewer than two dimensions.
    """

    format: Format
    scale: Scale = Scale()
    rounding: Rounding = "nearest"
    rotation: Hadamard | None = None

    def __post_init__(self) -> None:
        if self.rounding not in ("nearest", "stochastic"):
            raise ValueError(f"a cast rounds 'nearest' or 'stochastic', got {self.rounding!r}")
        if self.stochastic and self.scale.mode in ("floor", "even", "nearest"):
            unbiased = "rceil" if self.scale.number == "e8m0" else "up"
            asked = f"mode {self.scale.mode!r} of the scale"
            raise ValueError(f"stochastic rounding is biased under {asked}, which saturates; take {unbiased!r}")
        if self.scale.arithmetic == "given":
            self._check_published()
        if self.scale.number != "fp32" and isinstance(self.format, Shifted | LogRange | Expanded):
            raise ValueError(f"{self.format.name} wants a scale written in fp32, got {self.scale.number}")
        if self.scale.number == "one" and not (self.native or self.format.name in FLOAT8):
            raise ValueError(
                f"{self.format.name} has no code for NaN, so it wants a scale that can say it, got none ('unit')"
            )
        if self.native and self.scale.number != "one":
            raise ValueError(f"{self.format.name} is written without a scale, got one in {self.scale.number}")
        if self.scale.number == "e4m3" and self.scale.granularity in ("tensor", "column"):
            raise ValueError(f"scales in e4m3 are for rows, blocks and squares, got {self.scale.granularity}")

    def _check_published(self) -> None:
        whole = isinstance(self.format, Shifted) or (isinstance(self.format, Integer) and self.format.unit == 1.0)
        if not whole or self.stochastic or self.scale.number != "fp32":
            raise ValueError(
                "the published arithmetic rounds whole numbers to nearest, with scales written in fp32, got "
                f"{self.format.name}, {self.rounding}, {self.scale.number}"
            )

    def __str__(self) -> str:
        usual = usual_scale(self.format)
        words = [self.format.name] if self.native and self.scale == usual else [self.format.name, str(self.scale)]
        words += ["fp32"] * (self.scale.number == "fp32" != usual.number)  # else it would be read as the usual
        words += ["stochastic"] * self.stochastic
        words += [f"hadamard{self.rotation.size}"] if self.rotation else []
        return "/".join(words)

    @property
    def stochastic(self) -> bool:
        """Whether writing needs a noise key."""
        return self.rounding == "stochastic"

    @property
    def native(self) -> bool:
        """Whether the format is one of torch's own 16- and 32-bit dtypes."""
        return layout.is_native(self.format)

    @property
    def mode(self) -> str | None:
        """How the scale is rounded: as asked, or what suits the elements' rounding."""
        if self.scale.mode is not None:
            return self.scale.mode
        usual = {"e8m0": ("even", "rceil"), "e4m3": ("nearest", "up")}.get(self.scale.number)
        return usual[self.stochastic] if usual else None

    @torch.no_grad()
    def __call__(self, x: Tensor, key: int | None = None, start: int = 0) -> Tensor:
        """The rounded tensor: dtype and shape of x. `start`: index of x's first element in the full tensor's noise."""
        return self._round(x, key, start, back=True)

    @torch.no_grad()
    def rounded(self, x: Tensor, key: int | None = None, start: int = 0) -> Tensor:
        """The rounded tensor, still rotated: for a product whose operands both carry the rotation."""
        return self._round(x, key, start, back=False)

    def _round(self, x: Tensor, key: int | None, start: int, *, back: bool) -> Tensor:
        matrix = self._matrix(x, key)
        out = torch.empty(matrix.shape, dtype=x.dtype, device=x.device)
        known = self._known(matrix)
        for rows, cols, tiles in self._strips(matrix):
            y, u = self._strip(matrix, rows, cols, key, start)
            turned = torch.empty_like(y) if self.rotation and back else out[rows, cols]
            for tile in tiles:
                grid, level = self._land(y, u, tile, cols, known)
                put_reals(self.format, grid, level, _place(turned, tile, cols).view(tile.shape))
            if self.rotation and back:
                out[rows, cols] = self.rotation(turned)
        return out.view(x.shape)

    def _land(
        self, y: Tensor, u: Tensor | None, tile: Tile, cols: slice, known: Grid | Tensor | None
    ) -> tuple[Grid, Tensor]:
        """The grid of a tile's groups and the levels where its numbers land."""
        view, noisy = _view(y, tile, cols), None if u is None else _view(u, tile, cols)
        grid = self._grid(view, tile, known)
        return grid, levels(self.format, self.scale, grid, view, noisy)

    @torch.no_grad()
    def write(
        self, x: Tensor, key: int | None = None, start: int = 0, draw: Callable[..., Tensor] = noise.uniform
    ) -> "Quantized":
        """Codes and scales; arguments as for calling the cast. `draw`: `uniform` of the noise, or its `halves`."""
        matrix = self._matrix(x, key)
        known = self._known(matrix)
        whole = known if self.scale.number == "e4m3" and isinstance(known, Tensor) else None
        written = self._blank(matrix, tuple(x.shape), whole)
        for rows, cols, tiles in self._strips(matrix):
            y, u = self._strip(matrix, rows, cols, key, start, draw)
            codes = torch.empty(y.shape, dtype=layout.code_dtype(self.format), device=x.device)
            for tile in tiles:
                grid, level = self._land(y, u, tile, cols, known)
                _place(codes, tile, cols).copy_(write_levels(self.format, self.scale, level).view(tile.extent))
                written.keep(tile, grid)
            place = layout.stored_place(self.format, cols)
            written.codes[rows, place] = layout.pack_codes(self.format, codes)
        return written

    def bytes(self, shape: tuple[int, ...] | torch.Size) -> int:
        """Bytes of the written tensor (of at most 32-bit input): codes, scales, zero points, the groups' extras."""
        R, C = _matrix_shape(tuple(shape))
        if self.native:
            return R * C * self.format.bits // 8
        per_group = 1 if self.scale.number in ("e8m0", "e4m3") else 4 * (self.scale.number != "one")
        per_group += 4 * isinstance(self.format, Shifted | LogRange | Expanded)
        codes = R * layout.stored_width(self.format, C)
        return codes + math.prod(groups(self.scale, R, C)) * per_group + 4 * (self.scale.number == "e4m3")

    def _matrix(self, x: Tensor, key: int | None) -> Tensor:
        if not x.is_floating_point():
            raise TypeError(f"the cast {self} writes floating-point tensors, got {x.dtype}")
        if x.dim() < 2 and self.scale.granularity in ("row", "column"):
            raise ValueError(f"a {self.scale.granularity} scale wants 2 dimensions or more, got shape {tuple(x.shape)}")
        if self.stochastic and key is None:
            raise ValueError(f"the stochastic cast {self} wants a noise key; take one from noise.key or a Counter")
        return x.detach().reshape(_matrix_shape(tuple(x.shape)))

    def _compute(self, dtype: torch.dtype) -> torch.dtype:
        return dtype if dtype == torch.float64 or self.scale.arithmetic == "given" else torch.float32

    def _strips(self, matrix: Tensor) -> Iterator[Strip]:
        R, C = matrix.shape
        if R * C == 0:
            return iter(())
        abstract = type(matrix) not in (Tensor, torch.nn.Parameter)  # a fake tensor's strips cost time and save nothing
        one = matrix.device.type != "cpu" or abstract or torch.compiler.is_compiling()
        return strips(
            self.scale, R, C, R * C if one else _STRIP, multiple=max(8, self.rotation.size if self.rotation else 1)
        )

    def _strip(
        self, matrix: Tensor, rows: slice, cols: slice, key: int | None, start: int,
        draw: Callable[..., Tensor] = noise.uniform,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        y = matrix[rows, cols].to(self._compute(matrix.dtype))
        first = start + rows.start * matrix.shape[1] + cols.start
        u = None
        if self.stochastic:
            assert key is not None
            u = draw(key, y.shape, start=first, device=y.device)
        return self.rotation(y) if self.rotation else y, u

    def _known(self, matrix: Tensor) -> Grid | Tensor | None:
        """What has to be known of the whole matrix before its strips: the one grid, or the e4m3 scales' own scale."""
        shared = self.scale.granularity in ("tensor", "column") and not self.native
        if matrix.numel() == 0 or not (shared or self.scale.number == "e4m3"):
            return None
        what, total = estimator(self.format), None
        for rows, cols, tiles in self._strips(matrix):
            y, _ = self._strip(matrix, rows, cols, 0, 0)
            for tile in tiles:
                found = measure(_view(y, tile, cols), tile.dims, what)
                if not shared:  # a block that is not finite must not take the others with it
                    found = (found[0].nan_to_num(nan=0.0, posinf=0.0).amax(),)
                total = (
                    found
                    if total is None
                    else tuple(f(a, b) for f, a, b in zip(COMBINE[what], total, found, strict=True))
                )
        assert total is not None
        if not shared:
            return whole_scale(total[0], self.format)
        count = matrix.shape[0] if self.scale.granularity == "column" else matrix.numel()
        return solve(self.scale, self.format, self.mode, total, count, None)

    def _grid(self, view: Tensor, tile: Tile, known: Grid | Tensor | None) -> Grid:
        if isinstance(known, Grid):
            return known
        if self.native:
            one = view.new_ones(())
            return Grid(one, one, one)
        found = measure(view, tile.dims, estimator(self.format))
        count = math.prod(view.shape[dim] for dim in tile.dims)
        return solve(self.scale, self.format, self.mode, found, count, known)

    def _blank(self, matrix: Tensor, shape: tuple[int, ...], whole: Tensor | None) -> "Quantized":
        R, C = matrix.shape
        compute, device, number = self._compute(matrix.dtype), matrix.device, groups(self.scale, R, C)
        stored = torch.uint8 if self.scale.number in ("e8m0", "e4m3") else compute
        extra = None
        if self.scale.number == "e4m3":
            extra = torch.zeros(1, dtype=compute, device=device) if whole is None else whole.reshape(1)
        elif isinstance(self.format, LogRange | Expanded):
            extra = torch.zeros(number, dtype=compute, device=device)
        return Quantized(
            codes=torch.empty(
                (R, layout.stored_width(self.format, C)), dtype=layout.stored_dtype(self.format), device=device
            ),
            scales=torch.zeros((0, 0) if self.scale.number == "one" else number, dtype=stored, device=device),
            zeros=torch.zeros(number, dtype=compute, device=device) if isinstance(self.format, Shifted) else None,
            extra=extra,
            shape=shape,
            cast=self,
        )


@dataclass(frozen=True)
class Quantized:
    """A written tensor: codes (packed below 8 bits) [R, bytes], scales, zero points, what else its groups keep.

    `scales` is an array of one entry a group ([1, 1], [R, 1], [1, C], [R, blocks] or [blocks, blocks]) as stored:
    float32, or one byte in e8m0 and e4m3. `extra` holds the tensor scale of e4m3 scales, the octaves a log group
    spans, or the power of each expanded group.
    """

    codes: Tensor
    scales: Tensor
    zeros: Tensor | None
    extra: Tensor | None
    shape: tuple[int, ...]
    cast: Cast

    def keep(self, tile: Tile, grid: Grid) -> None:
        """Stores the grid of a tile's groups."""
        place = (tile.group_rows, tile.group_cols)
        if self.scales.numel():
            spot = self.scales[place]
            spot.copy_(grid.stored.reshape(spot.shape))
        if self.zeros is not None and grid.zero is not None:
            self.zeros[place] = grid.zero.reshape(self.zeros[place].shape)
        if self.extra is not None and grid.extra is not None:
            self.extra[place] = grid.extra.reshape(self.extra[place].shape)

    def scale_values(self) -> Tensor:
        """The factor of each group, as float32 (float64 for a float64 tensor); NaN for a group that was not finite."""
        return read_scales(self.scales, self.cast.scale, self.extra if self.cast.scale.number == "e4m3" else None)

    def codes_matrix(self) -> Tensor:
        """The codes of an [R, C] matrix, unpacked: int8 for signed integers, uint8 for other formats."""
        return layout.unpack_codes(self.cast.format, self.codes, _matrix_shape(self.shape)[1])

    @torch.no_grad()
    def read(self, dtype: torch.dtype = torch.float32, *, rotated: bool = False) -> Tensor:
        """The tensor that was written, as the codes tell it; with `rotated`, still in the rotated basis."""
        cast, (R, C), compute = self.cast, _matrix_shape(self.shape), self._compute(dtype)
        out = torch.empty((R, C), dtype=dtype, device=self.codes.device)
        factors = self.scale_values()
        for rows, cols, tiles in cast._strips(out):
            packed = self.codes[rows, layout.stored_place(cast.format, cols)]
            codes = layout.unpack_codes(cast.format, packed, cols.stop - cols.start)
            turn = cast.rotation is not None and not rotated
            turned = torch.empty(codes.shape, dtype=compute, device=codes.device) if turn else out[rows, cols]
            for tile in tiles:
                level = read_levels(cast.format, cast.scale, _view(codes, tile, cols), compute)
                put_reals(cast.format, self._grid(tile, factors), level, _place(turned, tile, cols).view(tile.shape))
            if cast.rotation is not None and turn:
                out[rows, cols] = cast.rotation(turned).to(dtype)
        return out.view(self.shape)

    def _compute(self, dtype: torch.dtype) -> torch.dtype:
        """What numbers read as `dtype` are computed in: as they were written, which scales of one byte do not tell."""
        if self.cast.scale.number == "e4m3" and self.extra is not None:
            return self.extra.dtype
        return self.scales.dtype if self.scales.is_floating_point() else self.cast._compute(dtype)

    def _grid(self, tile: Tile, factors: Tensor) -> Grid:
        shape = tuple(1 if dim in tile.dims else extent for dim, extent in enumerate(tile.shape))
        place = (tile.group_rows, tile.group_cols)
        if self.cast.scale.number == "one":
            one = self.scales.new_ones(())
            return Grid(one, one, one)
        scale = factors[place].reshape(shape)
        zero = None if self.zeros is None else self.zeros[place].reshape(shape)
        spans = isinstance(self.cast.format, LogRange | Expanded) and self.extra is not None
        return Grid(
            scale, scale, scale, zero, self.extra[place].reshape(shape) if spans and self.extra is not None else None
        )

    def tensors(self) -> dict[str, Tensor]:
        """The parts by name, for saving."""
        parts = {"codes": self.codes, "scales": self.scales, "zeros": self.zeros, "extra": self.extra}
        return {name: part for name, part in parts.items() if part is not None}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], shape: tuple[int, ...], cast: Cast) -> "Quantized":
        """The written tensor made of saved parts."""
        return cls(tensors["codes"], tensors["scales"], tensors.get("zeros"), tensors.get("extra"), tuple(shape), cast)

    @property
    def nbytes(self) -> int:
        """Bytes of all parts."""
        return sum(part.numel() * part.element_size() for part in self.tensors().values())


def _matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    return math.prod(shape[:-1]), shape[-1] if shape else 1


def _place(strip: Tensor, tile: Tile, cols: slice) -> Tensor:
    return strip[:, tile.cols.start - cols.start : tile.cols.stop - cols.start]


def _view(strip: Tensor, tile: Tile, cols: slice) -> Tensor:
    return _place(strip, tile, cols).reshape(tile.shape)

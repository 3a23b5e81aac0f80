"""Laws of a transform. Subclass `TransformContract`, give it `make` and `tensors`, and let pytest collect it.

One that learns from a pass over the data subclasses `FittableContract`: the same laws, and those of learning.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from pipeline.core import (
    Fittable,
    Output,
    Setup,
    TakesValidity,
    Tensors,
    Transform,
    Validity,
    apply,
    concurrent,
    rowwise,
)

SIZES = (1, 3, 7)
"""Rows of the batches that the same input is cut into."""


class TransformContract:
    """What a run relies on, whatever the transform does.

    Attributes:
        rtol, atol: how far floats may differ between batch sizes; 0 means not by a bit. A matrix product needs some.
    """

    rtol: float = 0.0
    atol: float = 0.0

    def make(self) -> Transform:
        """The transform; the same on every call, so seed what is random."""
        raise AssertionError("make must return a transform")

    def tensors(self) -> Tensors:
        """The columns of one batch on the CPU, of eight rows or more."""
        raise AssertionError("tensors must return columns")

    def test_no_rows_give_the_same_kinds_of_columns(self) -> None:
        """Names, dtypes and row shapes are known before the first row, and so is whether rows are selected."""
        transform, tensors = ready(self.make(), self.tensors()), self.tensors()
        some, none = run(transform, tensors), run(transform, cut(tensors, 0, 0))
        assert kinds(none) == kinds(some)
        assert (none.rows is None) == (some.rows is None)

    def test_the_same_input_gives_the_same_bits(self) -> None:
        """Whatever came before: nothing is remembered from one batch to the next, and no input is kept."""
        transform, tensors = ready(self.make(), self.tensors()), self.tensors()
        before = kept(run(transform, tensors))
        run(transform, turned(tensors))
        assert_same(run(transform, tensors), before)

    def test_a_pickled_copy_does_the_same(self) -> None:
        """The transform travels to where it runs, as configured and as fitted."""
        transform, tensors = ready(self.make(), self.tensors()), self.tensors()
        expected = run(transform, tensors)
        assert_same(run(_travelled(transform), tensors), expected)
        assert_same(run(ready(_travelled(self.make()), tensors), tensors), expected)

    @pytest.mark.parametrize("size", SIZES)
    def test_the_size_of_batches_does_not_matter(self, size: int) -> None:
        """Rows transformed in pieces are the rows transformed at once, if the transform is row-wise."""
        transform, tensors = ready(self.make(), self.tensors()), self.tensors()
        if rowwise(transform) is False:
            return  # its batches are never split
        pieces = [run(transform, cut(tensors, at, at + size)) for at in range(0, count(tensors), size)]
        assert_same(joined(pieces, size), run(transform, tensors), self.rtol, self.atol)

    def test_threads_that_share_it_give_the_same_bits(self) -> None:
        """If it says by `concurrent` that they may."""
        transform, tensors = ready(self.make(), self.tensors()), self.tensors()
        if not concurrent(transform):
            return  # one thread calls it
        pieces = [cut(tensors, at, at + 3) for at in range(0, count(tensors), 3)] * 8
        with ThreadPoolExecutor(4) as threads:
            for made, piece in zip(threads.map(partial(run, transform), pieces), pieces, strict=True):
                assert_same(made, run(transform, piece))

    def test_what_lies_under_nulls_does_not_matter(self) -> None:
        """A transform that takes validity gives the same nulls, and the same values elsewhere."""
        transform, tensors = ready(self.make(), self.tensors()), self.tensors()
        if not isinstance(transform, TakesValidity):
            return  # it is never shown nulls, unless the user insists
        valid = holes(tensors)
        other = {name: spoiled(tensor, valid[name]) for name, tensor in tensors.items()}
        assert_same(run(transform, other, valid), run(transform, tensors, valid), self.rtol, self.atol)

    def test_masks_without_nulls_change_nothing(self) -> None:
        """A batch that happens to hold no nulls is as good as a column that cannot."""
        transform, tensors = ready(self.make(), self.tensors()), self.tensors()
        valid = {name: torch.ones(len(tensor), dtype=torch.bool) for name, tensor in tensors.items()}
        if not isinstance(transform, TakesValidity):
            return  # it is never shown nulls, unless the user insists
        assert_same(run(transform, tensors, valid), run(transform, tensors))


class FittableContract(TransformContract):
    """What a pass over the data relies on. States are compared by what the transforms made of them do.

    Attributes:
        fit_rtol, fit_atol: how far results may differ when the same rows came in other batches.
    """

    fit_rtol: float = 1e-5
    fit_atol: float = 1e-6

    def test_it_learns_until_it_is_fitted(self) -> None:
        """It says that it needs a pass, and after its passes that it needs none."""
        transform = self._unfitted()
        assert not transform.fitted
        done = ready(transform, self.tensors())
        assert not isinstance(done, Fittable) or done.fitted

    def test_it_can_be_fitted_on_no_rows(self) -> None:
        """The output schema comes from such a transform."""
        tensors = self.tensors()
        empty = ready(self.make(), cut(tensors, 0, 0))
        assert kinds(run(empty, cut(tensors, 0, 0))) == kinds(run(ready(self.make(), tensors), tensors))

    def test_state_can_be_stored(self) -> None:
        """It is a flat dict of tensors on the CPU, and the same transform comes of it after a trip through a file."""
        transform, tensors = self._unfitted(), self.tensors()
        state = learned(transform, [tensors])
        assert all(isinstance(name, str) and t.device.type == "cpu" for name, t in state.items())
        stored = load(save({name: tensor.contiguous() for name, tensor in state.items()}))
        self._assert_alike(transform, stored, state, exact=True)

    @pytest.mark.parametrize("size", SIZES)
    def test_states_of_pieces_merge_to_the_state_of_the_whole(self, size: int) -> None:
        """However the rows are cut into batches and splits."""
        transform, tensors = self._unfitted(), self.tensors()
        pieces = [cut(tensors, at, at + size) for at in range(0, count(tensors), size)]
        whole = learned(transform, [tensors])
        merged = transform.start()
        for piece in pieces:
            merged = transform.merge(merged, learned(transform, [piece]))
        self._assert_alike(transform, learned(transform, pieces), whole)
        self._assert_alike(transform, merged, whole)

    def test_the_first_state_is_neutral(self) -> None:
        """Merging it changes nothing, from either side."""
        transform = self._unfitted()
        state = learned(transform, [self.tensors()])
        self._assert_alike(transform, transform.merge(transform.start(), state), state, exact=True)
        self._assert_alike(transform, transform.merge(state, transform.start()), state, exact=True)

    def test_nulls_are_not_counted(self) -> None:
        """What lies under them teaches nothing."""
        transform, tensors = self._unfitted(), self.tensors()
        valid = holes(tensors)
        other = {name: spoiled(tensor, valid[name]) for name, tensor in tensors.items()}
        state = learned(transform, [tensors], valid)
        self._assert_alike(transform, learned(transform, [other], valid), state, exact=True)

    def _unfitted(self) -> Fittable:
        transform = self.make()
        settle(transform)
        assert isinstance(transform, Fittable)
        return transform

    def _assert_alike(self, transform: Fittable, found: Tensors, expected: Tensors, *, exact: bool = False) -> None:
        tensors = self.tensors()
        one, two = (ready(transform.finish(state), tensors) for state in (found, expected))
        rtol, atol = (0.0, 0.0) if exact else (self.fit_rtol, self.fit_atol)
        assert_same(run(one, tensors), run(two, tensors), rtol, atol)


# ---- what a driver does ----------------------------------------------------------------------------------------------


def settle(transform: object) -> None:
    """Give the transform its device."""
    if isinstance(transform, nn.Module):
        transform.eval()
    elif isinstance(transform, Setup):
        transform.setup("cpu")


def ready(transform: Transform | Fittable, tensors: Tensors) -> Transform:
    """The transform as it is applied: fitted on these columns if it has to be."""
    settle(transform)
    while isinstance(transform, Fittable) and not transform.fitted:
        transform = transform.finish(learned(transform, [tensors]))
        settle(transform)
    assert callable(transform)
    return transform


def learned(transform: Fittable, batches: Sequence[Tensors], validity: Validity | None = None) -> Tensors:
    """The state after a pass over the batches."""
    state = transform.start()
    with torch.inference_mode():
        for batch in batches:
            state = transform.update(state, own(batch), own(validity or {}))
    return state


def run(transform: Transform, tensors: Tensors, validity: Validity | None = None) -> Output:
    """What the transform makes of a copy of the columns, in inference mode as on a device."""
    with torch.inference_mode():
        return apply(transform, own(tensors), own(validity or {}), count(tensors))


def _travelled(transform: Transform) -> Transform:
    copy: Transform = pickle.loads(pickle.dumps(transform))  # noqa: S301  (made here)
    return copy


# ---- columns ---------------------------------------------------------------------------------------------------------


def own(tensors: Tensors) -> Tensors:
    """Copies, which may be written to."""
    return {name: tensor.clone() for name, tensor in tensors.items()}


def kept(out: Output) -> Output:
    """A copy, which shares no memory with what the transform returned."""
    return Output(own(out.tensors), None if out.rows is None else out.rows.clone(), own(out.validity), dict(out.like))


def count(tensors: Tensors) -> int:
    """Rows."""
    return len(next(iter(tensors.values()), ()))


def cut(tensors: Tensors, start: int, stop: int) -> Tensors:
    """These rows of all columns."""
    return {name: tensor[start:stop] for name, tensor in tensors.items()}


def turned(tensors: Tensors) -> Tensors:
    """The rows from last to first."""
    return {name: tensor[torch.arange(len(tensor) - 1, -1, -1)] for name, tensor in tensors.items()}


def holes(tensors: Tensors) -> Validity:
    """A mask for each column, with every third row null, in another place for each."""
    return {name: torch.arange(len(t)) % 3 != i % 3 for i, (name, t) in enumerate(tensors.items())}


def spoiled(tensor: Tensor, valid: Tensor) -> Tensor:
    """The column with something else in the null rows: NaN, the largest integer, the other truth value."""
    if tensor.dtype == torch.bool:
        other = ~tensor
    else:
        number = tensor.is_floating_point() or tensor.is_complex()
        other = torch.full_like(tensor, float("nan") if number else torch.iinfo(tensor.dtype).max)
    return torch.where(valid.view(-1, *[1] * (tensor.dim() - 1)), tensor, other)


def kinds(out: Output) -> list[tuple[str, torch.dtype, torch.Size]]:
    """Names, dtypes and row shapes, in order."""
    return [(name, tensor.dtype, tensor.shape[1:]) for name, tensor in out.tensors.items()]


def joined(pieces: Sequence[Output], size: int) -> Output:
    """What was made of consecutive batches of `size` rows, as one."""
    names, holed = pieces[0].tensors, {name for piece in pieces for name in piece.validity}
    rows = [
        p.rows if p.rows.dtype == torch.bool else p.rows + i * size for i, p in enumerate(pieces) if p.rows is not None
    ]
    return Output(
        {name: torch.cat([piece.tensors[name] for piece in pieces]) for name in names},
        torch.cat(rows) if rows else None,
        {name: torch.cat([valid_rows(piece, name) for piece in pieces]) for name in holed},
        pieces[0].like,
    )


def valid_rows(out: Output, name: str) -> Tensor:
    """Which rows of a column have a value."""
    tensor = out.tensors[name]
    return out.validity.get(name, torch.ones(len(tensor), dtype=torch.bool, device=tensor.device))


def assert_same(found: Output, expected: Output, rtol: float = 0.0, atol: float = 0.0) -> None:
    """The same columns, rows and nulls, and the same values where there are any: bit for bit or within bounds."""
    assert kinds(found) == kinds(expected)
    assert dict(found.like) == dict(expected.like)
    assert (found.rows is None) == (expected.rows is None)
    assert found.rows is None or expected.rows is None or torch.equal(found.rows, expected.rows)
    for name, tensor in expected.tensors.items():
        valid = valid_rows(expected, name)
        assert torch.equal(valid_rows(found, name), valid), f"nulls of {name!r}"
        one, two = found.tensors[name][valid], tensor[valid]
        if rtol or atol:
            torch.testing.assert_close({name: one}, {name: two}, rtol=rtol, atol=atol, equal_nan=True)
        else:
            assert torch.equal(_bits(one), _bits(two)), f"values of {name!r}"


def _bits(tensor: Tensor) -> Tensor:
    plain = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
    return plain.contiguous().view(torch.uint8)

"""How gradients travel: one reducer per optimizer turns each rank's gradients into one mean.

A new one is a file here and a line in `COMPRESSIONS`, which the config reads. Its class provides
what `reducer.Reducer` describes:

- `__init__(dense, wire, epoch)`: what sends the tensors that it does not treat itself, its
  options (app/distributed/options.py), how far training is;
- `build(variables, add_variable)`: makes what it keeps from step to step. `add_variable` is that
  of Keras optimizers, with the kind of state besides: `add_variable(shape, name=..., kind=...)`,
  such as `Kind.SUMMED` for an error-feedback residual (app/state.py says what becomes of it);
- `reduce(gradients, variables, world, name) -> Reduced`: calls the collectives, and returns what
  its variables are to hold next instead of assigning it. It sees dense gradients only where
  `SparseRows`, around it, takes those of embeddings;
- `collectives(shapes, ranks)`: what a step hands to collectives.

`lossy.Lossy` is most of one that compresses large tensors only.

What only changes how a number is written (a cast, a scale) is a codec instead (codec.py), of the
buckets of `DenseBuckets` and of `SparseRows`: a file and a line here as well.

Imports no TensorFlow, so that the command line can read the names.
"""

import functools
import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from app.distributed.options import Wire

if TYPE_CHECKING:
    from app.distributed.reducers.reducer import Reducer


class Way(NamedTuple):
    """Where the classes of a compression are, as "file.Class" of this folder: the codec of dense
    buckets and of rows, and a reducer around those buckets, if it has one."""

    codec: str
    reducer: str | None = None


COMPRESSIONS = {
    "none": Way("codec.Stateless"),
    "fp16": Way("half.ScaledHalf"),
    "int8": Way("codec.Stateless", "int8.Int8"),
    "topk": Way("codec.Stateless", "topk.TopK"),
    "powersgd": Way("codec.Stateless", "powersgd.PowerSGD"),
    "terngrad": Way("codec.Stateless", "terngrad.TernGrad"),
}


def make_reducer(
    compression: Any,
    bucket_bytes: int,
    sparse_as_dense: bool,
    wire: Wire | None = None,
    epoch: Any = None,
) -> "Reducer":
    """The reducer of a compression: its name, a reducer, or a Horovod-style compressor.

    `sparse_as_dense`: whether `tf.IndexedSlices` travel as dense tensors, or as rows; `wire`,
    `epoch`: what a reducer is told. Raises ValueError for an unknown name, TypeError for an object
    that is neither.
    """
    from app.distributed.reducers.codec import Stateless
    from app.distributed.reducers.dense import DenseBuckets
    from app.distributed.reducers.sparse import SparseRows

    make_codec: Callable[[], Any] = Stateless
    if isinstance(compression, str):
        if compression not in COMPRESSIONS:
            raise ValueError(f"compression={compression!r}: expected one of {list(COMPRESSIONS)}")
        way = COMPRESSIONS[compression]
        make_codec = _load(way.codec)
        dense: Any = DenseBuckets(make_codec(), bucket_bytes)
        if way.reducer is not None:
            dense = _load(way.reducer)(dense, wire or Wire(), epoch)
    elif hasattr(compression, "reduce"):
        dense = compression
    else:
        make_codec = functools.partial(Stateless, compression)
        dense = DenseBuckets(make_codec(), bucket_bytes)
    return dense if sparse_as_dense else SparseRows(dense, make_codec())


def _load(place: str) -> Any:
    module, name = place.split(".")
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)

"""A Hydra-configured ETL stage: NumPy or Parquet in, a torch transform on any device, NumPy or Parquet out.

`python -m pipeline --help` is the front door. What is exported here is what a user's own source, transform or sink
needs, and what reads a finished output. Importing it does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.core import (
    ArrayField,
    Arrays,
    Batch,
    Column,
    Columns,
    Device,
    Engine,
    Field,
    File,
    Fittable,
    KeepsWords,
    Output,
    Part,
    Schema,
    Selective,
    Setup,
    Sink,
    Source,
    Split,
    Staged,
    StoresWords,
    TakesValidity,
    Task,
    Tensors,
    Transform,
    Validity,
    Writer,
)
from pipeline.errors import (
    ConfigError,
    DataError,
    DTypeError,
    InputError,
    OutputError,
    PipelineError,
    RetryError,
    StorageError,
    TransformError,
)

if TYPE_CHECKING:
    from pipeline.manifest import read_manifest

__version__ = "0.1.0"

__all__ = [
    "ArrayField",
    "Arrays",
    "Batch",
    "Column",
    "Columns",
    "ConfigError",
    "DTypeError",
    "DataError",
    "Device",
    "Engine",
    "Field",
    "File",
    "Fittable",
    "InputError",
    "KeepsWords",
    "Output",
    "OutputError",
    "Part",
    "PipelineError",
    "RetryError",
    "Schema",
    "Selective",
    "Setup",
    "Sink",
    "Source",
    "Split",
    "Staged",
    "StorageError",
    "StoresWords",
    "TakesValidity",
    "Task",
    "Tensors",
    "Transform",
    "TransformError",
    "Validity",
    "Writer",
    "__version__",
    "read_manifest",
]


def __getattr__(name: str) -> Any:
    """Load `read_manifest` when it is first asked for: the front door does not need it."""
    if name == "read_manifest":
        from pipeline.manifest import read_manifest

        return read_manifest
    raise AttributeError(f"module 'pipeline' has no attribute {name!r}")

"""Operations that no GPU can run, by what TensorFlow registers."""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import kernels, op_callbacks

# The second kind of kernel works on what is in the host's memory.
_ON_GPU = {"GPU", "DEFAULT"}


@contextlib.contextmanager
def operations_without_gpu_kernel() -> Iterator[set[str]]:
    """Collects the operations, with their types, that only a CPU can run.

    Those of graphs that are traced meanwhile, and those that run eagerly.
    """
    found: set[str] = set()

    def look(kind, inputs, attributes, outputs, op_name=None, graph=None):
        del inputs, op_name, graph
        kind = tf.compat.as_str(kind)
        results = {output.dtype.name for output in outputs}
        # What a traced function holds was looked at already; texts stay in the host.
        if kind.startswith("__inference") or results == {"string"}:
            return
        if not _has_gpu_kernel(kind, _types(attributes)):
            found.add(" ".join([kind, *sorted(results)]))

    op_callbacks.add_op_callback(look)
    try:
        yield found
    finally:
        op_callbacks.remove_op_callback(look)


def _types(attributes: tuple[Any, ...] | None) -> dict[str, set[int]]:
    """The types among an operation's attributes: names and values in turn."""
    given = attributes or ()
    types = {}
    for name, value in zip(given[::2], given[1::2], strict=True):
        if isinstance(value, tf.compat.v1.AttrValue):
            value = [value.type, *value.list.type]
        values = value if isinstance(value, list | tuple) else [value]
        with contextlib.suppress(TypeError, ValueError):
            types[name] = {tf.as_dtype(v).as_datatype_enum for v in values if v}
    return types


def _has_gpu_kernel(kind: str, types: dict[str, set[int]]) -> bool:
    return any(
        kernel.device_type in _ON_GPU
        and all(
            types.get(rule.name, set()) <= set(rule.allowed_values.list.type)
            for rule in kernel.constraint
        )
        for kernel in _kernels(kind)
    )


@functools.cache
def _kernels(kind: str) -> list[Any]:
    return list(kernels.get_registered_kernels_for_op(kind).kernel)

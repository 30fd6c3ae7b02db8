"""Strategies over parts of the processor, for tests."""

import numpy as np
import tensorflow as tf

MOST = 4


def divide_processor():
    """Divides the processor into logical devices; before anything else runs."""
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * MOST,
    )
    # With fewer, devices that wait for each other's data keep all of them busy.
    tf.config.threading.set_inter_op_parallelism_threads(4 * MOST)


def strategy(replicas):
    """A strategy over so many devices; TensorFlow's default for one."""
    if replicas == 1:
        return tf.distribute.get_strategy()
    return tf.distribute.MirroredStrategy(
        [f"CPU:{index}" for index in range(replicas)],
        tf.distribute.ReductionToOneDevice(),
    )


def pieces(strategy, *tensors):
    """Cuts tensors into consecutive pieces, one a replica, the last ones smaller."""
    count = strategy.num_replicas_in_sync

    def own(context):
        size = -(-len(tensors[0]) // count)
        first = context.replica_id_in_sync_group * size
        return tuple(tf.convert_to_tensor(x[first : first + size]) for x in tensors)

    return strategy.experimental_distribute_values_from_function(own)


def on_each(strategy, function, *arguments):
    """Returns a function's values on all replicas, computed as a graph."""
    results = tf.function(strategy.run, autograph=False)(function, arguments)
    leaves = map(strategy.experimental_local_results, tf.nest.flatten(results))
    return [
        tf.nest.pack_sequence_as(results, [np.asarray(leaf) for leaf in each])
        for each in zip(*leaves, strict=True)
    ]

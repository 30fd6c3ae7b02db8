"""What the HParams tab of TensorBoard reads."""

import tensorflow as tf
from tensorboard.plugins.hparams import metadata


def hparams(folder):
    """Starts and experiments of all files of a folder."""
    starts, experiments = [], []
    for path in sorted(folder.iterdir()):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                content = value.metadata.plugin_data.content
                if value.tag == metadata.SESSION_START_INFO_TAG:
                    starts.append(
                        metadata.parse_session_start_info_plugin_data(content)
                    )
                if value.tag == metadata.EXPERIMENT_TAG:
                    experiments.append(metadata.parse_experiment_plugin_data(content))
    return starts, experiments

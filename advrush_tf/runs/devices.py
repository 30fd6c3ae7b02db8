"""The devices of a run: one, all of this machine, or those of many machines.

Batches are global: whatever the devices, a step uses `batch_size` images, of which each
replica takes an equal, consecutive piece.
"""

import contextlib
import enum
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import tensorflow as tf

from advrush_tf.data.examples import ALL, Shard, endless
from advrush_tf.errors import UserError, WorkerLostError
from advrush_tf.files import parse_json
from advrush_tf.runs.progress import print_line


class StrategyName(enum.StrEnum):
    """The ways to spread a run: not at all, over this machine's GPUs, over machines."""

    NONE = "none"
    MIRRORED = "mirrored"
    MULTIWORKER = "multiworker"


_EXAMPLE = (
    '{"cluster": {"worker": ["host0:12345", "host1:12345"]}, '
    '"task": {"type": "worker", "index": 0}}'
)
# How TensorFlow's errors name what a lost worker leads to in the others.
_LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
)
_ABORTED = re.compile(r"aborted by: (.*)|(Connection reset.*)|(stopped sending .*)")
# Schedulers may start machines minutes apart.
_JOIN_SECONDS = 1800.0


class Devices:
    """The devices of a run.

    To be made before anything else of TensorFlow is used.

    Args:
        name: how the run is spread.
        virtual_cpus: into how many devices to divide the processor, to try a strategy
            without GPUs; 0 leaves it as it is.

    Attributes:
        strategy: TensorFlow's strategy.
        chief: True for the process that writes files and logs.
        worker: (index, count), which of how many processes this one is.

    Raises:
        UserError: the cluster is not described, or the processor cannot be divided.
    """

    def __init__(
        self, name: StrategyName = StrategyName.NONE, virtual_cpus: int = 0
    ) -> None:
        if virtual_cpus:
            _divide_processor(virtual_cpus)
        self.strategy: tf.distribute.Strategy = tf.distribute.get_strategy()
        self.chief, self.worker = True, (0, 1)
        if name is not StrategyName.NONE:
            # TensorFlow logs every sum over devices.
            tf.get_logger().setLevel("ERROR")
        if name is StrategyName.MIRRORED:
            self.strategy = _mirrored(on_gpus=not virtual_cpus)
        elif name is StrategyName.MULTIWORKER:
            self.worker = _place_in_cluster()
            self.chief = self.worker[0] == 0
            self.strategy = _connect(self.chief, self.worker[1])

    @property
    def num_replicas(self) -> int:
        """The number of replicas that share a batch."""
        return self.strategy.num_replicas_in_sync

    @property
    def local(self) -> dict[str, tuple[int, int]]:
        """This process' devices by name: each one's place (index, count) among all.

        The only one has no name: `tf.device("")` changes nothing.
        """
        count = self.num_replicas
        if count == 1:
            return {"": (0, 1)}
        names = self.strategy.extended.worker_devices
        first = self.worker[0] * len(names)
        return {name: (first + i, count) for i, name in enumerate(names)}

    @property
    def description(self) -> str:
        """The devices in words."""
        gpus = tf.config.list_physical_devices("GPU")
        details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus[:1]]
        names = [each.get("device_name", "GPU") for each in details]
        name = names[0] if names else f"CPU with {os.cpu_count()} cores"
        count = self.num_replicas
        return name if count == 1 else f"{count} replicas on {name}"

    def scope(self) -> AbstractContextManager:
        """Where models are made and compiled."""
        return self.strategy.scope()

    def check(self, batch_size: int, jit_compile: bool) -> None:
        """Raises UserError where settings do not go with so many replicas.

        Args:
            batch_size: of which the replicas must have equal pieces.
            jit_compile: XLA does not add up over devices.
        """
        if jit_compile and self.num_replicas > 1:
            raise UserError(
                f"--jit_compile works on one replica, not on {self.num_replicas}; "
                "leave it out, or --strategy."
            )
        if batch_size % self.num_replicas:
            raise UserError(
                f"--batch_size is {batch_size}; it must be a multiple of the "
                f"{self.num_replicas} replicas, which share it."
            )

    def distribute(self, make: Callable[[Shard], tf.data.Dataset]) -> Any:
        """Batches for `fit` and `evaluate`; with several replicas they never end.

        Args:
            make: makes the pieces (index, count) of all global batches: the index-th
                of `count` equal, consecutive ones. Each process makes its own alone.
        """
        count = self.num_replicas
        if count == 1:
            return make(ALL)
        local = count // self.worker[1]
        first = self.worker[0] * local

        def own(context):
            # TensorFlow hands one element after the other to the process' replicas.
            pieces = [make((first + i, count)).repeat() for i in range(local)]
            turns = tf.data.Dataset.range(local).repeat()
            return endless(tf.data.Dataset.choose_from_datasets(pieces, turns))

        return self.strategy.distribute_datasets_from_function(own)

    def chief_log(self, log: Callable[[str], None]) -> Callable[[str], None]:
        """Returns `log` on the chief and a function that does nothing elsewhere."""
        return log if self.chief else lambda line: None

    def on_chief(self, act: Callable[[], object]) -> None:
        """Lets the chief act while all others wait; raises as `together`.

        It begins when all have come here: none still reads what it is about to write.
        """
        self.gather(0)
        self.together(act if self.chief else lambda: None)

    def together(self, act: Callable[[], object]) -> None:
        """Acts on every worker, each of which then waits for all others.

        Raises:
            UserError: a worker met a mistake of the user's; on every worker.
        """
        refusal = None
        try:
            act()
        except UserError as error:
            refusal = error
        refused = self.gather(int(refusal is not None))
        if refusal:
            raise refusal
        if any(refused):
            raise UserError(
                f"Worker {refused.index(1)} has refused the run; its output says why."
            )

    def from_chief(self, make: Callable[[], int]) -> int:
        """Returns the number that the chief makes, on every worker."""
        return self.gather(int(make()) if self.chief else 0)[0]

    def gather(self, number: int) -> list[int]:
        """Returns the numbers of all workers, in their order, once all are here."""
        if self.worker[1] == 1:
            return [number]
        gathered = self._exchange(number)
        # Who ended now would cut off those that do not have all numbers yet.
        with contextlib.suppress(*_LOST):
            self._exchange(0)
        return gathered

    def _exchange(self, number: int) -> list[int]:
        values = self.strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant([number], tf.int64)
        )
        gathered = self.strategy.gather(values, axis=0).numpy().tolist()
        # All of a worker's replicas gave the same.
        return gathered[:: len(gathered) // self.worker[1]]

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Turns the errors that a lost worker leads to into one sentence.

        Raises:
            WorkerLostError: TensorFlow's error within was another worker's end.
        """
        try:
            yield
        except _LOST as error:
            # Devices of this machine fail with some of these errors as well.
            cause = _ABORTED.search(str(error.message))
            if self.worker[1] == 1 or not cause:
                raise
            raise _lost_worker(cause[0]) from error


def _lost_worker(cause: str) -> WorkerLostError:
    return WorkerLostError(
        f"another worker has stopped, so that this one cannot go on ({cause[:200]}); "
        "look at that worker's output, then run the same command on all workers: it "
        "resumes where it was last saved, if it was"
    )


def _divide_processor(count: int) -> None:
    processor = tf.config.list_physical_devices("CPU")[0]
    try:
        tf.config.set_logical_device_configuration(
            processor, [tf.config.LogicalDeviceConfiguration()] * count
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"The processor cannot be divided into {count} devices any more: {error}."
        ) from None


def _mirrored(on_gpus: bool) -> tf.distribute.Strategy:
    """Over all GPUs; without any over the logical devices of the processor."""
    if on_gpus and tf.config.list_logical_devices("GPU"):
        return tf.distribute.MirroredStrategy()
    processors = [device.name for device in tf.config.list_logical_devices("CPU")]
    # Plain additions: what is made for GPUs only costs here.
    additions = tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy(processors, additions)


def _place_in_cluster() -> tuple[int, int]:
    """This worker's place among the workers, the chief first, and their number.

    Raises:
        UserError: TF_CONFIG does not say.
    """
    text = os.environ.get("TF_CONFIG", "")
    try:
        config = parse_json(text)
        cluster, task = config["cluster"], config["task"]
        if unknown := set(cluster) - {"chief", "worker"}:
            raise ValueError(f"its jobs are chief and worker, not {sorted(unknown)}")
        if not all(_are_addresses(jobs) for jobs in cluster.values()):
            raise ValueError("each job is a list of addresses")
        members = [
            (job, index)
            for job in ("chief", "worker")
            for index in range(len(cluster.get(job, [])))
        ]
        place = members.index((task["type"], int(task["index"])))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        problem = "is not set" if not text else f"is of no use ({error!r})"
        raise UserError(
            f"--strategy=multiworker needs the environment variable TF_CONFIG, which "
            f"{problem}; on the first machine it looks like {_EXAMPLE}."
        ) from None
    return place, len(members)


def _are_addresses(job: Any) -> bool:
    return isinstance(job, list) and all(isinstance(each, str) for each in job)


def _connect(chief: bool, workers: int) -> tf.distribute.Strategy:
    if chief:
        print_line(f"Waiting for all {workers} workers to start.")
    # TensorFlow itself waits for ever.
    alarm = threading.Timer(_JOIN_SECONDS, _give_up)
    alarm.start()
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except (tf.errors.OpError, RuntimeError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(
            f"The workers that TF_CONFIG names could not be joined ({first[:200]}); "
            "start all of them, with addresses that they can reach."
        ) from None
    finally:
        alarm.cancel()


def _give_up() -> None:
    """Ends the program, whose main thread nothing else can reach."""
    sentence = f"not all workers have started within {_JOIN_SECONDS / 60:.0f} minutes."
    print(f"error: {sentence}", file=sys.stderr, flush=True)
    os._exit(1)

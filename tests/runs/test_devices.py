import json
import threading

import numpy as np
import pytest
import tensorflow as tf

from advrush_tf.data.pipeline import evaluation_batches
from advrush_tf.errors import UserError, WorkerLostError
from advrush_tf.runs import devices as devices_module
from advrush_tf.runs.devices import Devices, StrategyName
from support.meetings import on_two_workers
from support.replicas import MOST


@pytest.fixture
def cluster(monkeypatch):
    """Sets TF_CONFIG to a cluster and a task of it."""

    def describe(jobs, kind, index):
        config = {"cluster": jobs, "task": {"type": kind, "index": index}}
        monkeypatch.setenv("TF_CONFIG", json.dumps(config))

    return describe


def test_one_device_changes_nothing():
    devices = Devices()
    assert devices.num_replicas == 1
    assert devices.chief
    assert devices.worker == (0, 1)
    assert devices.distribute(lambda part: part) == (0, 1)
    assert devices.local == {"": (0, 1)}
    devices.check(7, jit_compile=True)
    assert devices.gather(5) == [5]
    assert devices.from_chief(lambda: 5) == 5


def test_mirrored_uses_all_parts_of_a_processor():
    devices = Devices(StrategyName.MIRRORED)
    assert devices.num_replicas == MOST
    assert devices.chief
    with devices.scope():
        assert tf.distribute.get_strategy() is devices.strategy
    assert list(devices.local.values()) == [(index, MOST) for index in range(MOST)]
    for name, (index, _) in devices.local.items():
        with tf.device(name):
            assert tf.constant(0).device.endswith(f"CPU:{index}")


def test_each_replica_gets_its_piece_of_every_batch_over_and_over():
    devices = Devices(StrategyName.MIRRORED)
    images = np.arange(11, dtype=np.uint8).reshape(11, 1, 1, 1)

    def make(part):
        index, count = part
        assert count == MOST
        batches = evaluation_batches(images, images.ravel().astype(np.int32), 8)
        return batches.map(lambda x, y: y[2 * index : 2 * index + 2])

    batches = devices.distribute(make)
    assert batches.cardinality == tf.data.INFINITE_CARDINALITY
    found = []
    for _, values in zip(range(3), batches, strict=False):
        pieces = devices.strategy.experimental_local_results(values)
        found.append([piece.numpy().tolist() for piece in pieces])
    first = [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert found == [first, [[8, 9], [10], [], []], first]


def test_replicas_need_equal_pieces_and_no_xla():
    devices = Devices(StrategyName.MIRRORED)
    devices.check(MOST, jit_compile=False)
    with pytest.raises(
        UserError, match=rf"--batch_size is 6; .* multiple of the {MOST}"
    ):
        devices.check(6, jit_compile=False)
    with pytest.raises(UserError, match=f"--jit_compile .* one replica, not on {MOST}"):
        devices.check(MOST, jit_compile=True)


def test_a_processor_in_use_cannot_be_divided():
    tf.config.list_logical_devices()
    with pytest.raises(UserError, match="cannot be divided into 3 devices any more"):
        Devices(StrategyName.MIRRORED, virtual_cpus=3)


@pytest.mark.parametrize(
    "text, problem",
    [
        (None, "is not set"),
        ("nonsense", "is of no use .*JSONDecodeError"),
        ("[]", "is of no use"),
        ('{"cluster": {"worker": ["a:1"]}}', "is of no use .*task"),
        (
            '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}',
            "is of no use .*'worker', 1",
        ),
        (
            '{"cluster": {"worker": "a:1"}, "task": {"type": "worker", "index": 0}}',
            "is of no use .*list of addresses",
        ),
        (
            '{"cluster": {"ps": ["a:1"]}, "task": {"type": "ps", "index": 0}}',
            "is of no use .*chief and worker",
        ),
    ],
)
def test_a_cluster_must_be_described(text, problem, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if text is not None:
        monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(UserError, match=f"TF_CONFIG, which {problem}.*host0:12345"):
        Devices(StrategyName.MULTIWORKER)


@pytest.mark.parametrize(
    "jobs, task, place",
    [
        ({"worker": ["a:1", "b:1"]}, ("worker", 0), (0, 2)),
        ({"worker": ["a:1", "b:1"]}, ("worker", 1), (1, 2)),
        ({"chief": ["c:1"], "worker": ["a:1", "b:1"]}, ("chief", 0), (0, 3)),
        ({"chief": ["c:1"], "worker": ["a:1", "b:1"]}, ("worker", 1), (2, 3)),
    ],
)
def test_places_in_a_cluster(jobs, task, place, cluster, monkeypatch, capsys):
    cluster(jobs, *task)
    monkeypatch.setattr(
        tf.distribute, "MultiWorkerMirroredStrategy", tf.distribute.get_strategy
    )
    devices = Devices(StrategyName.MULTIWORKER)
    told = f"Waiting for all {place[1]} workers to start.\n" if place[0] == 0 else ""
    assert capsys.readouterr().out == told
    assert devices.worker == place
    assert devices.chief == (place[0] == 0)
    heard = []
    devices.chief_log(heard.append)("line")
    assert heard == ["line"] * devices.chief


def test_workers_that_cannot_be_joined_are_told_of(cluster, monkeypatch):
    def fail():
        raise tf.errors.DeadlineExceededError(None, None, "nobody\nanswers")

    cluster({"worker": ["a:1", "b:1"]}, "worker", 0)
    monkeypatch.setattr(tf.distribute, "MultiWorkerMirroredStrategy", fail)
    with pytest.raises(UserError, match=r"could not be joined \(nobody\); start all"):
        Devices(StrategyName.MULTIWORKER)


def test_a_refusal_on_one_worker_is_one_on_all():
    def refuse():
        raise UserError("No such file.")

    def run(devices):
        devices.together(lambda: None)
        sentences = []
        for act in (
            lambda: devices.on_chief(refuse),
            lambda: devices.together(lambda: devices.chief or refuse()),
        ):
            with pytest.raises(UserError) as caught:
                act()
            sentences.append(str(caught.value))
        return sentences

    told = "Worker {} has refused the run; its output says why."
    here = "No such file."
    assert on_two_workers(run) == [[here, told.format(1)], [told.format(0), here]]


def test_the_chief_acts_once_all_have_come_and_before_any_goes_on():
    events = []

    def run(devices):
        events.append("come")
        devices.on_chief(lambda: events.append("act"))
        events.append("gone")
        return devices.from_chief(lambda: 7 + devices.worker[0])

    assert on_two_workers(run) == [7, 7]
    assert events == ["come", "come", "act", "gone", "gone"]


def test_waiting_for_workers_ends(cluster, monkeypatch, capsys):
    ended = threading.Event()
    codes = []

    def end(code):
        codes.append(code)
        ended.set()

    cluster({"worker": ["a:1", "b:1"]}, "worker", 1)
    monkeypatch.setattr(devices_module, "_JOIN_SECONDS", 0.01)
    monkeypatch.setattr(devices_module.os, "_exit", end)
    monkeypatch.setattr(
        tf.distribute, "MultiWorkerMirroredStrategy", lambda: ended.wait(60)
    )
    Devices(StrategyName.MULTIWORKER)
    assert codes == [1]
    assert "error: not all workers have started within" in capsys.readouterr().err


def test_a_lost_worker_is_told_of_in_one_sentence():
    devices = Devices()
    message = "Graph execution error:\n\nCollective ops is aborted by: it died\nmore"
    error = tf.errors.UnavailableError(None, None, message)
    with pytest.raises(tf.errors.UnavailableError), devices.watched():
        raise error
    devices.worker = (0, 2)
    with pytest.raises(WorkerLostError) as caught, devices.watched():
        raise error
    assert "(aborted by: it died)" in str(caught.value)
    assert "\n" not in str(caught.value)
    own = tf.errors.InternalError(None, None, "out of something")
    with pytest.raises(tf.errors.InternalError), devices.watched():
        raise own

import random

from advrush_tf.attacks.queue import Attempt, Queue


def test_all_runs_on_an_image_come_before_those_on_the_next():
    queue = Queue(images=2, runs=2)
    expected = [Attempt(0, 0), Attempt(0, 1), Attempt(1, 0), Attempt(1, 1), None]
    assert [queue.next() for _ in range(5)] == expected


def test_an_image_is_finished_by_its_last_run():
    queue = Queue(images=1, runs=2)
    first, second = queue.next(), queue.next()
    assert not queue.end(second, broken=False)
    assert queue.end(first, broken=False)


def test_the_first_run_in_order_that_breaks_an_image_counts():
    queue = Queue(images=2, runs=4)
    first, second, third = (queue.next() for _ in range(3))
    # The fourth is not begun any more, and the first may still be the one.
    assert not queue.end(third, broken=True)
    assert queue.next() == Attempt(1, 0)
    assert not queue.end(first, broken=False)
    assert queue.is_needed(second)
    assert queue.end(second, broken=True)
    assert not queue.is_needed(third)


def test_images_finish_once_whatever_the_order_in_which_runs_end():
    breaking = {image: image % 5 for image in range(20) if image % 3 == 0}
    for seed in range(20):
        choose = random.Random(seed)
        queue, counted, finished = Queue(20, runs=4), {}, []
        slots = [queue.next() for _ in range(7)]
        while slots:
            job = slots.pop(choose.randrange(len(slots)))
            if queue.is_needed(job):
                # This run breaks the image, and so do those after it.
                broken = job.run >= breaking.get(job.image, 4)
                if broken:
                    counted[job.image] = job.run
                if queue.end(job, broken):
                    finished.append(job.image)
            if following := queue.next():
                slots.append(following)
        assert sorted(finished) == list(range(20))
        assert counted == {i: run for i, run in breaking.items() if run < 4}

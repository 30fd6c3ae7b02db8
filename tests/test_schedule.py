import random

from advrush_tf.attacks.schedule import Job, Schedule


def test_an_image_gets_its_runs_in_order_before_another_begins():
    schedule = Schedule(images=2, runs=2)
    assert schedule.next() == Job(0, 0)
    assert not schedule.end(Job(0, 0), broken=False)
    assert schedule.next(0) == Job(0, 1)
    assert schedule.end(Job(0, 1), broken=False)
    assert schedule.next(0) == Job(1, 0)


def test_a_broken_image_needs_no_more_runs():
    schedule = Schedule(images=2, runs=3)
    assert schedule.end(schedule.next(), broken=True)
    assert schedule.is_finished(0)
    assert schedule.next(0) == Job(1, 0)


def test_runs_of_the_last_image_go_on_side_by_side():
    schedule = Schedule(images=1, runs=3)
    assert [schedule.next() for _ in range(4)] == [
        Job(0, 0),
        Job(0, 1),
        Job(0, 2),
        None,
    ]
    assert not schedule.end(Job(0, 1), broken=False)
    assert schedule.end(Job(0, 2), broken=True)
    # Too late to matter.
    assert not schedule.end(Job(0, 0), broken=True)


def test_every_run_is_handed_out_once_and_every_image_finished_once():
    choose = random.Random(0)
    schedule, slots = Schedule(images=20, runs=4), []
    given, finished = [], []
    slots = [job for _ in range(7) if (job := schedule.next())]
    given += slots
    while slots:
        job = slots.pop(choose.randrange(len(slots)))
        # Every third image can be broken, by its third run.
        broken = job.image % 3 == 0 and job.run == 2
        if schedule.end(job, broken):
            finished.append(job.image)
        if following := schedule.next(job.image):
            slots.append(following)
            given.append(following)
    assert len(set(given)) == len(given)
    assert sorted(finished) == list(range(20))
    robust = {job for job in given if job.image % 3}
    assert robust == {Job(i, r) for i in range(20) if i % 3 for r in range(4)}

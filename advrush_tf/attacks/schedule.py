"""Which image is attacked next, and by which of an attack's runs."""

from typing import NamedTuple


class Job(NamedTuple):
    """One run (restart or target) of an attack on one image."""

    image: int
    run: int


class Schedule:
    """Hands out the runs on each image until one of them breaks it.

    The runs on an image follow each other. Once every image is begun, runs of the
    same image go on side by side, so that no place in a batch stays empty.

    Args:
        images: how many there are.
        runs: how many each may need.
    """

    def __init__(self, images: int, runs: int):
        self._runs = runs
        self._waiting = iter(range(images))
        # Of each image that was begun and is not finished: its runs handed out, ended.
        self._begun: dict[int, list[int]] = {}

    def next(self, image: int | None = None) -> Job | None:
        """The next job, on `image` if it has one left; None if none is left at all."""
        candidates = [image] if image in self._begun else []
        for candidate in candidates:
            if job := self._hand_out(candidate):
                return job
        if (fresh := next(self._waiting, None)) is not None:
            self._begun[fresh] = [0, 0]
            return self._hand_out(fresh)
        for candidate in self._begun:
            if job := self._hand_out(candidate):
                return job
        return None

    def _hand_out(self, image: int) -> Job | None:
        counts = self._begun[image]
        if counts[0] == self._runs:
            return None
        counts[0] += 1
        return Job(image, counts[0] - 1)

    def end(self, job: Job, broken: bool) -> bool:
        """Notes that a run ended; True if its image is thereby finished.

        A run of a finished image, which another run broke, is ignored.
        """
        counts = self._begun.get(job.image)
        if counts is None:
            return False
        counts[1] += 1
        if broken or counts[1] == self._runs:
            del self._begun[job.image]
            return True
        return False

    def is_finished(self, image: int) -> bool:
        """Whether an image that was begun needs no more runs."""
        return image not in self._begun

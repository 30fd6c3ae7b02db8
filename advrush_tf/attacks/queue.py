"""The order in which an attack's runs on images are taken up."""

from typing import NamedTuple


class Attempt(NamedTuple):
    """One run (restart or target) of an attack on one image."""

    image: int
    run: int


class Queue:
    """Hands out all runs on the first image, then those on the next, and so on.

    The runs on an image go on side by side: images are finished one by one, which
    shows progress and can be saved, and no slot of a batch stays empty before the end.
    The first run, in order, that breaks the image counts, as if the runs followed each
    other; the later ones are then given up.

    Args:
        images: how many there are.
        runs: how many each may need.
    """

    def __init__(self, images: int, runs: int):
        self._jobs = (
            Attempt(image, run) for image in range(images) for run in range(runs)
        )
        self._first_broken = [runs] * images
        self._ended: list[set[int]] = [set() for _ in range(images)]

    def next(self) -> Attempt | None:
        """The next job, None if none is left."""
        return next((job for job in self._jobs if self.is_needed(job)), None)

    def is_needed(self, job: Attempt) -> bool:
        """True if no run before this one broke the image."""
        return job.run < self._first_broken[job.image]

    def end(self, job: Attempt, broken: bool) -> bool:
        """Records the end of a needed run; True if the image is thereby finished.

        Args:
            job: the run and its image.
            broken: whether it broke the image.
        """
        ended = self._ended[job.image]
        ended.add(job.run)
        if broken:
            self._first_broken[job.image] = job.run
        return all(run in ended for run in range(self._first_broken[job.image]))

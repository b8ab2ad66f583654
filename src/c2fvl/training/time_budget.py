"""The time of a run, `train.minutes`: what is used, what is kept for its end, and how far training is by it."""

from time import monotonic


class TimeBudget:
    """The time of one run over all its calls; everything counts: start-up, training, validation, saving.

    A part is kept for the last validation and saving, so that the run ends in time.
    """

    def __init__(self, minutes: float) -> None:
        self.seconds = 60 * minutes
        self.fraction = 0.0
        """Of the time to train in, used at the last `update`: what the learning rate follows."""
        self.used_before = 0.0
        """Seconds of the calls before this one."""
        self.first_step: float | None = None
        """Seconds used when training began."""
        self.kept = 0.0
        """Seconds kept for the last validation and saving."""
        self.window = 0.0
        """Seconds from one reading of the clock in an epoch to the next: so much later the end may be noticed."""
        self.has_ended = False
        """Whether a call before used all of the time, so that a resumed run has nothing left to do."""
        self._began = monotonic()

    @property
    def is_set(self) -> bool:
        """Tell whether there is a limit."""
        return self.seconds > 0

    @property
    def is_used(self) -> bool:
        """Tell whether the time to train in was used at the last `update`."""
        return self.is_set and self.fraction >= 1

    def keep(self, seconds: float) -> None:
        """Keep time for the end, by how long the last validation and saving took."""
        self.kept = 1.3 * seconds + 0.005 * self.seconds

    def used(self) -> float:
        """Return the seconds used so far, over all calls."""
        return self.used_before + monotonic() - self._began

    def now(self) -> float:
        """Return the fraction of the time to train in that is used, from 0 to 1."""
        if self.has_ended:
            return 1.0
        used = self.used()
        if self.first_step is None:
            self.first_step = used
        to_train_in = self.seconds - self.kept - self.window - self.first_step
        return min((used - self.first_step) / to_train_in, 1.0) if to_train_in > 0 else 1.0

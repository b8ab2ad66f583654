"""A `Progress` that keeps what it is told."""


class Steps:
    def __init__(self):
        self.stages: list[str] = []
        self.steps: list[tuple[int, int]] = []

    def stage(self, text):
        self.stages.append(text)

    def advance(self, done, total):
        self.steps.append((done, total))

"""The worker of a kernel without its process: for what does not hang and does not crash."""

import threading


class InThread:
    """As Worker. `prepare` gives what loads the solver; both run in a thread of this process."""

    def __init__(self, prepare, tell, strict):
        self._prepare, self._tell, self.strict = prepare, tell, strict
        self._solver = self._fault = None
        self._thread = threading.Thread(target=self._load, daemon=True)

    def _load(self):
        try:
            self._solver = self._prepare()()
        except BaseException as fault:
            self._fault = fault
            self._tell("fault", cause=f"loading: {fault}")
        else:
            self._tell("loaded", seconds=0.0)

    def start(self):
        self._thread.start()

    def wait_until_loaded(self):
        self._thread.join()
        if self._fault is not None:
            raise self._fault

    def solve(self, identifier, problem, seconds):
        return self._solver.solve(identifier, problem, seconds)

    def close(self):
        """Two models must not be loaded at the same moment: transformers patches itself for it."""
        if self._thread.ident is not None:
            self._thread.join(120)

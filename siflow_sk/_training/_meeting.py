"""Where threads that fit meet, and have done together what each would do alone."""

import contextlib
import copy
import hashlib
import threading

_HERE = threading.local()
_PACKAGE = __name__.split(".")[0]


class Meeting:
    """Where trainers in several threads wait until all of them do, and have their requests served at once.

    A thread takes part inside :meth:`attend`, from there to :meth:`leave`.  Requests are served by one thread
    of the meeting's own while no other takes part.  Whatever threads do between two requests, before the
    first and after the last, they do in turn, and do not fight for the interpreter.

    Where it is known how many threads will attend, ``n_expected``, who asks first waits until all have come.
    """

    def __init__(self, n_expected=0):
        self._changed = threading.Condition()
        self._expects, self._busy, self._waiting, self._open = n_expected > 0, n_expected, [], True
        self._turn = threading.Lock()
        self.stacks, self.keys, self.fitted = {}, {}, {}
        self._thread = threading.Thread(target=self._serve, name="siflow_sk meeting", daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.close()
        self._thread.join()

    def close(self):
        """Nothing is served any more: whoever asks gets an error."""
        with self._changed:
            self._open = False
            self._changed.notify_all()

    @contextlib.contextmanager
    def attend(self):
        """The calling thread takes part; its trainers ask here."""
        _HERE.meeting, _HERE.counted = self, self._expects
        self._count()
        with self._turn:
            try:
                yield
            finally:
                leave()
                _HERE.meeting = None

    def ask(self, request):
        """Have a request served; returns what the service answers."""
        self._count()
        with self._changed:
            if not self._open:
                raise RuntimeError("The search has ended.")
            self._waiting.append(request)
            self._busy -= 1
            self._changed.notify_all()
        self._turn.release()
        request.served.wait()
        self._turn.acquire()
        if request.error is not None:
            raise request.error
        return request.answer

    def _count(self, take_part=True):
        if _HERE.counted != take_part:
            _HERE.counted = take_part
            with self._changed:
                self._busy += 1 if take_part else -1
                self._changed.notify_all()

    def _serve(self):
        while True:
            with self._changed:
                self._changed.wait_for(lambda: not self._open or (self._waiting and not self._busy))
                requests, self._waiting = self._waiting, []
                if not self._open:
                    break
            first = min(r.comes for r in requests)
            now = [r for r in requests if r.comes == first]
            with self._changed:
                self._waiting += [r for r in requests if r.comes != first]
            for group in _alike(now):
                try:
                    group[0].serve(group, self, len(requests))
                except Exception as error:  # belongs to those who asked
                    for request in group:
                        request.error = error
            with self._changed:
                self._waiting += [r for r in now if not r.is_served()]
            for request in now:
                if request.is_served():
                    self._let_go(request)
        for request in requests:
            request.error = RuntimeError("The search has ended.")
            self._let_go(request)

    def _let_go(self, request):
        with self._changed:
            self._busy += 1
            request.served.set()
            self._changed.wait_for(lambda: not (self._open and self._busy))


def here():
    """The meeting that the calling thread takes part in, or None."""
    return getattr(_HERE, "meeting", None)


def leave():
    """The thread's trainers ask no more; what it does from here on nobody waits for."""
    if here() is not None:
        here()._count(False)


def fitted(part, x, weight):
    """The part fitted to the rows, as a copy where another trainer has already asked for the same."""
    meeting, alike = here(), likeness(part)
    if meeting is None or alike is None:
        return part.fit(x, weight)
    digest = hashlib.blake2b(usedforsecurity=False)
    for table in (x, weight):
        digest.update(table.contiguous().numpy())
    key = (alike, tuple(x.shape), digest.digest())
    if key not in meeting.fitted:
        meeting.fitted[key] = part.fit(x, weight)
    return copy.deepcopy(meeting.fitted[key])


def likeness(part):
    """What parts that do the same agree in; None where that cannot be told."""
    if isinstance(part, float | int | str):
        return part
    state = tuple(sorted(vars(part).items()))
    ours = type(part).__module__.split(".")[0] == _PACKAGE
    plain = all(isinstance(value, float | int | str | None) for _, value in state)
    return (type(part), state) if ours and plain else None


def _alike(requests):
    """Lists of requests with equal keys, each in the order of who asks."""
    groups = {}
    for request in sorted(requests, key=lambda r: r.number):
        groups.setdefault(request.key, []).append(request)
    return groups.values()


class Request:
    """What a thread asks for; those with equal keys are served as one.

    ``serve(group, meeting, n_present)`` of the first sets the ``answer`` of each.  Kinds that come later wait
    until nobody asks for one that comes before.
    """

    comes = 0

    def __init__(self, number, key, inputs):
        self.number, self.key, self.inputs = number, key, inputs
        self.served, self.answer, self.error = threading.Event(), None, None

    def is_served(self):
        return True

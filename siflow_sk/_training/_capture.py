"""A training step as one CUDA graph instead of a thousand launches."""

import contextlib

import torch


@contextlib.contextmanager
def rounded_products():
    """Matrix products of float32 in TF32: 10 bits of mantissa, several times the rate.

    For steps of training alone, which are noisy anyway: their graph keeps the kernels that were chosen while
    it was recorded, and the setting of the process is back after that.  Until then it holds for products of
    float32 in other threads too: torch has no narrower one.
    """
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:  # set by torch's newer switches, which are left alone
        yield
        return
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


class Recorded:
    """A function of tensors, of fixed shapes, that is recorded on CUDA and replayed from then on.

    A step on the likelihood is about 1,500 small kernels; started one by one they keep a GPU waiting for
    Python: 26 ms on an H200 (width 256, 128 rows, 63 columns), 4 ms with no more than loss and gradient
    recorded.  The first calls run as they
    are, on a stream of their own, because libraries and optimisers allocate at their first use what no graph
    may hold; then the work is recorded.  Where that is impossible (a user's part that looks at a value on the
    host, say) every call runs as on the CPU.

    Parameters
    ----------
    function : callable
        Takes tensors, returns a tensor.  It may change tensors in place, but draws nothing random and keeps
        no state on the host.
    """

    warm_up = 3

    def __init__(self, function):
        self.function = function
        self.calls, self.graph, self.recordable = 0, None, True

    def __call__(self, *inputs):
        """What the function returns."""
        if not (self.recordable and getattr(inputs[0], "is_cuda", False)):
            return self.function(*inputs)
        if self.calls == 0:
            self.inputs = [torch.empty_like(value) for value in inputs]
        for place, value in zip(self.inputs, inputs, strict=True):
            place.copy_(value)
        self.calls += 1
        if self.calls <= self.warm_up:
            return self._beside()
        if self.graph is None and not self._record():
            return self.function(*inputs)
        self.graph.replay()
        return self.value.clone()

    def _beside(self):
        stream, present = torch.cuda.Stream(), torch.cuda.current_stream()
        stream.wait_stream(present)
        with torch.cuda.stream(stream), rounded_products():
            value = self.function(*self.inputs)
        present.wait_stream(stream)
        return value

    def _record(self):
        """Whether the function could be recorded; recording runs nothing."""
        try:
            graph = torch.cuda.CUDAGraph()
            # others may use the device
            with torch.cuda.graph(graph, capture_error_mode="thread_local"), rounded_products():
                self.value = self.function(*self.inputs)
        except RuntimeError:  # in CUDA's own words; a true error comes again from the plain call
            self.recordable = False
            torch.cuda.synchronize()
        else:
            self.graph = graph
        return self.recordable

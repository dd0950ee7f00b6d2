"""PyTorch peer of `u2pl-engine bench`: single operations, each as PyTorch does it best.

A case of the engine's table comes in as JSON (operation, attributes, shapes and types of its
operands); the peer makes operands of its own, on as many copies as the engine uses, so that no
cache holds them from call to call.
"""

import common  # first: it says what is missing
import protocol
import torch
import torch._functorch.config
from operations import NoPeer, build


class Prepared:
    """The copies of a case's operands, each run once."""

    def __init__(self, request, args):
        self.args, self.next, self.graph, self.graphed = args, 0, None, 0
        self.calls = [build(request["case"], args) for _ in range(request.get("copies", 1))]
        for call in self.calls:
            call()

    def row(self, count):
        """`count` calls, each on the copy that was used longest ago."""
        for _ in range(count):
            self.calls[self.next]()
            self.next = (self.next + 1) % len(self.calls)

    def capture(self, count):
        """The calls as one CUDA graph, as the engine launches its own: what Python takes to launch
        them is no part of an operation. None where a call waits for the device."""
        if self.graphed == count:
            return self.graph
        self.graph, self.graphed = None, count
        common.synchronize(self.args)
        try:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self.row(count)
            self.graph = graph
        except RuntimeError:
            common.synchronize(self.args)
        return self.graph

    def ms(self, count):
        if self.args.device == "cpu":
            return common.host_ms(lambda: self.row(count), 1, self.args) / count
        graph = self.capture(count)
        return common.event_ms(graph.replay if graph else lambda: self.row(count)) / count


def prepared(request, args):
    """A case, or why there is none."""
    try:
        return Prepared(request, args), {"ready": {}}
    except NoPeer as reason:
        return None, {"unavailable": str(reason)}
    except (RuntimeError, NotImplementedError) as error:
        return None, {"unavailable": str(error).splitlines()[0]}


def main():
    args = common.arguments(protocol.parser(__doc__))
    if args.compile:
        # Backward graphs are kept and run again and again.
        torch._functorch.config.donated_buffer = False
    protocol.reply({"ready": common.about(args)})
    current = None
    for request in protocol.requests():
        if "case" in request:
            current = None  # its memory goes first
            torch.compiler.reset()
            current, answer = prepared(request, args)
            protocol.reply(answer)
        else:
            protocol.reply({"ms": current.ms(request["run"])})
    protocol.reply(common.memory(args))


main()

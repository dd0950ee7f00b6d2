"""PyTorch peer of the training benchmark: one U2PL step, as benches/README.md lists it.

Mode `paper`, teacher in eval mode with averaged buffers, in one of two styles: `authors`, the
habits of the released code, and `good`, as an engineer who knows PyTorch would write it. Both
compute the same losses from u8 images and labels in memory, as the engine's step does.
"""

import common  # first: it says what is missing
import protocol
import torch
from network import BLOCKS
from step_authors import AuthorsStep
from step_good import GoodStep

parser = protocol.parser(__doc__)
parser.add_argument("--style", choices=["good", "authors"], default="good")
parser.add_argument("--encoder", choices=list(BLOCKS), default="resnet50")
parser.add_argument("--crop", type=int, default=129)
parser.add_argument("--batch", type=int, default=2, help="labelled images, and as many unlabelled")
parser.add_argument("--classes", type=int, default=21)
parser.add_argument("--bank", type=int, default=3000, help="negatives kept per class")
parser.add_argument("--delta-p", type=float, default=0.0)
args = common.arguments(parser)

trainer = {"good": GoodStep, "authors": AuthorsStep}[args.style](args)


def check():
    loss = trainer.step().item()
    return {"conv_flops": None if args.compile else common.convolution_flops(trainer.step), "loss": loss}


parameters = sum(p.numel() for p in trainer.student.parameters())
common.serve(trainer.step, args, {"parameters": parameters, "batch": args.batch}, check)

"""PyTorch peer of the inference benchmark: one u8 image in, entropy, argmax and confidence out."""

import argparse

import torch

import protocol
from network import Network, fold_batch_norm, resize

parser = argparse.ArgumentParser()
parser.add_argument("--height", type=int, default=360)
parser.add_argument("--width", type=int, default=480)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--format", choices=["nchw", "nhwc"], default="nchw")
parser.add_argument("--fold", action="store_true", help="fold batch norms into convolutions")
parser.add_argument("--steps", type=int, help="run this many and end; default: one per line of stdin")
args = parser.parse_args()

torch.set_num_threads(args.threads)
torch.manual_seed(0)
base_mib = protocol.status_mib("VmRSS")

layout = torch.channels_last if args.format == "nhwc" else torch.contiguous_format
image = torch.randint(0, 256, (1, args.height, args.width, 3), dtype=torch.uint8)
mean = torch.tensor([123.675, 116.28, 103.53])
std = torch.tensor([58.395, 57.12, 57.375])
net = Network().eval()
if args.fold:
    net = fold_batch_norm(net)
net = net.to(memory_format=layout)


@torch.inference_mode()
def step():
    x = ((image.float() - mean) / std).permute(0, 3, 1, 2).contiguous(memory_format=layout)
    logits, _ = net(x, rep=False)
    p = resize(logits, (args.height, args.width)).softmax(1)
    confidence, argmax = p.max(1)
    return torch.special.entr(p).sum(1), argmax.byte(), confidence


protocol.serve(step, base_mib, args.steps)

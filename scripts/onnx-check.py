"""Compares an exported ONNX network with the engine on one image.

    u2pl-engine export --weights W --out model.onnx
    u2pl-engine infer  --weights W --input IMAGE.png --out OUT --save-logits
    python scripts/onnx-check.py model.onnx IMAGE.png OUT/logits/IMAGE.safetensors

Give a PNG: libraries decode JPEG files to slightly different pixels. Needs numpy, onnx, onnxruntime,
pillow and safetensors. Prints the largest difference of a logit and fails above 1e-4, or above 1e-4 of
the largest logit where that is more than 1.
"""

import sys

import numpy as np
import onnx
import onnxruntime
from PIL import Image
from safetensors.numpy import load_file


def upsample(x, size):
    """Bilinear with aligned corners, [h, w, c] to size, in double precision."""
    for axis, n in enumerate(size):
        m = x.shape[axis]
        at = np.arange(n) * ((m - 1) / max(n - 1, 1))
        low = np.minimum(at.astype(int), m - 1)
        high = np.minimum(low + 1, m - 1)
        weight = np.expand_dims(at - low, tuple(range(1, 3 - axis)))
        x = x.take(low, axis) * (1 - weight) + x.take(high, axis) * weight
    return x


def main(model, image, logits):
    onnx.checker.check_model(onnx.load(model), full_check=True)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    pixels = np.asarray(Image.open(image).convert("RGB"), np.float32) / 255
    feed = pixels.transpose(2, 0, 1)[None]
    # Twice in a batch, and alone: sizes and batch are free.
    (pair,) = session.run(None, {"image": np.concatenate([feed, feed])})
    (alone,) = session.run(None, {"image": feed})
    # On the network's own grid, or, where data.image_scale is not 1, of the picture's size already.
    engine = load_file(logits)["logits"].astype(np.float64)
    expected = upsample(engine, pixels.shape[:2]).transpose(2, 0, 1)
    scale = max(1.0, np.abs(expected).max())
    apart = max(np.abs(got - expected).max() for got in [pair[0], pair[1], alone[0]])
    print(f"largest logit {scale:.3f}, furthest apart {apart:.2e}, relative {apart / scale:.2e}")
    return 0 if apart <= 1e-4 * scale else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

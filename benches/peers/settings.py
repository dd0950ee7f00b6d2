"""Constants that the peers share (the engine's defaults)."""

# Of u8 images, by channel.
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)

REP = 256
ANCHORS, NEGATIVES, TEMPERATURE = 256, 50, 0.5
LOW_RANK, HIGH_RANK = 3, 20
LR, HEAD_LR_MULT, MOMENTUM, DECAY, EMA = 0.001, 10.0, 0.9, 1e-4, 0.99
# α of the first epoch: the most uncertain 20 % of pixels are unreliable.
PERCENT = 80.0
CONTRAST_WEIGHT = 0.1


def groups(network):
    """Parameter groups for SGD: the encoder, and the heads with a higher rate."""
    encoder = network.encoder_parameters()
    ids = {id(p) for p in encoder}
    heads = [p for p in network.parameters() if id(p) not in ids]
    return [{"params": encoder}, {"params": heads, "lr": HEAD_LR_MULT * LR}]

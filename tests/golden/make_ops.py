"""Writes the operation fixtures: `python tests/golden/make_ops.py`."""

import ops_contrast
import ops_data
import ops_loss
import ops_network

if __name__ == "__main__":
    for family in (ops_network, ops_loss, ops_contrast, ops_data):
        family.make()

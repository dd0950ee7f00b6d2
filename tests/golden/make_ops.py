"""Writes the operation fixtures: `python tests/golden/make_ops.py`."""

import ops_network

if __name__ == "__main__":
    ops_network.make()

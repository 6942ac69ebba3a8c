"""How to find a good set: batched greedy searches that never wait for the device."""

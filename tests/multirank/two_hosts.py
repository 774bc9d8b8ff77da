"""A training run, for two_hosts_test.py: `step N loss HEX` of rank 0; whose host each rank is on.

train two_hosts.py FOLDER   (any number of ranks that divides 4)
"""

import os
import sys
import time

import fmoe

WORLD = fmoe.world_size()
fmoe.manual_seed(5)
mesh = fmoe.Mesh(ep=min(2, WORLD))
data = fmoe.ByteDataset(os.path.join(sys.argv[1], "text.txt"))
loader = fmoe.DataLoader(data, batch_size=8, seq_len=32, seed=3, mesh=mesh)
moe = fmoe.MoE(num_experts=4, d_hidden=64)
model = fmoe.GPT(
    vocab_size=256, n_layer=2, d_model=32, n_head=2, seq_len=32, moe=moe, mesh=mesh, dropout=0.1
)
optimizer = fmoe.AdamW(model, lr=3e-3)
print(f"rank {fmoe.rank()} of {WORLD} is on {os.uname().nodename}", flush=True)
for _ in range(10):
    tokens, targets = next(loader)
    model(tokens, targets).loss.backward()
    info = optimizer.step()
    if fmoe.rank() == 0:
        print(f"step {optimizer.steps} loss {info.loss.hex()}", flush=True)
# Something large, and how long it takes.
x = fmoe.tensor([1.0] * (1 << 20))
started = time.perf_counter()
for _ in range(5):
    y = fmoe.all_reduce(x)
assert y.tolist()[-1] == WORLD
if fmoe.rank() == 0:
    print(f"all_reduce of 4 MiB: {(time.perf_counter() - started) / 5:.4f} s", flush=True)

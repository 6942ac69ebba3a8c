#!/usr/bin/env bash
# POT 0.9.7.post1: the transport cost of two different sets in float16 comes out as 0. ot.dist keeps the
# number format, so squared distances of points with norms above 256 leave float16's range and become inf
# or NaN, and ot.emd2 of such a matrix returns 0.0: it warns of a problem that is infeasible because of a
# and b, which are fine, and raises nothing. In float64 the cost of the same points is above a million.
# 144 points of 16 normal features times 300, and the first 36 of them; numpy 2.4.6, a CPU. Seen:
#   float16: 0.0, warned 'Problem infeasible. Check that a and b are in the simplex'
#   float64: 1129357
# Exits non-zero if that changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

cat > "$folder/cost.py" <<'PYTHON'
import warnings

import numpy as np
import ot

rng = np.random.default_rng(0)
points = 300 * rng.normal(size=(144, 16))
for dtype in (np.float16, np.float64):
    full = points.astype(np.float16).astype(dtype)
    with warnings.catch_warnings(record=True) as seen, np.errstate(all="ignore"):
        warnings.simplefilter("always")
        cost = ot.emd2([], [], ot.dist(full, full[:36]))
    said = [repr(str(one.message)) for one in seen if "infeasible" in str(one.message)]
    warned = f", warned {said[0]}" if said else ""
    print(f"{np.dtype(dtype)}: {cost if cost < 1 else round(float(cost))}{warned}")
PYTHON

python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check POT==0.9.7.post1 numpy==2.4.6 scipy
"$folder/venv/bin/python" "$folder/cost.py" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
float16: 0.0, warned 'Problem infeasible. Check that a and b are in the simplex'
float64: 1129357
SEEN

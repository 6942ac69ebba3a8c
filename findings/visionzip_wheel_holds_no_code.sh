#!/usr/bin/env bash
# visionzip 0.1.3 (the newest on PyPI, and what its README says to install): the wheel holds no code.
#
# pip installs it without a warning and lists it, since the metadata is whole. No module comes with
# it: every file of the distribution lies in its dist-info folder, so `import visionzip` fails. A
# comparison that installs the published package and catches ImportError compares with nothing.
#
# Seen: files outside of dist-info: []; import visionzip: ModuleNotFoundError.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q --disable-pip-version-check --no-deps visionzip==0.1.3
"$dir/venv/bin/python" - <<'PYTHON'
from importlib.metadata import files, version

assert version("visionzip") == "0.1.3"
# pip's own caches and records aside, what the distribution brought:
code = [str(f) for f in files("visionzip") if ".dist-info" not in f.parts[0]]
try:
    import visionzip
    found = "a module"
except ModuleNotFoundError as error:
    found = type(error).__name__
print("files outside of dist-info:", code, "import visionzip:", found)
assert code == [] and found == "ModuleNotFoundError"
PYTHON

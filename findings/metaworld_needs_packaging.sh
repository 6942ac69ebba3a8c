#!/usr/bin/env bash
# metaworld 3.1.1: cannot be imported after `pip install metaworld`. It imports gymnasium's MuJoCo
# environments, and gymnasium 1.4.0 declares what those import, `packaging`, only in its extra
# "mujoco". metaworld depends on plain gymnasium. Packages that bring packaging along hide it.
# With packaging installed by hand it works.
#
# Seen: ModuleNotFoundError: No module named 'packaging'; then: imported.
# Exits non-zero if that changes.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q --disable-pip-version-check metaworld==3.1.1 gymnasium==1.4.0
if said=$("$dir/venv/bin/python" -c "import metaworld" 2>&1); then
  echo "metaworld can be imported now"
  exit 1
fi
echo "${said##*$'\n'}"
[[ "$said" == *"No module named 'packaging'"* ]]
"$dir/venv/bin/pip" install -q --disable-pip-version-check packaging
"$dir/venv/bin/python" -c "import metaworld; print('imported')"

#!/usr/bin/env bash
# Teach this checkout to merge: notebooks by nbdev's driver, generated files by writing them again. Git settings do not travel, so run it once a clone.
set -euo pipefail
cd "$(git rev-parse --show-toplevel)"
git config --local include.path ../.gitconfig
hook="$(git rev-parse --git-path hooks)/post-merge"
mkdir -p "$(dirname "$hook")"
cat > "$hook" <<'HOOK'
#!/usr/bin/env bash
# Generated files kept one side in the merge; write them again from the merged notebooks.
command -v nbdev-export >/dev/null || { echo "nbdev-export is not on the path: run it before you commit"; exit 0; }
nbdev-export && python tools/readme.py
HOOK
chmod +x "$hook"
echo "Notebook and generated files now merge by .gitconfig; $hook writes modules and README again after a merge."

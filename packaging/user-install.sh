#!/bin/sh
# `make install` and `make uninstall`: the program of this checkout on the user's PATH, in an environment of its own.
#
# Each installation is a new directory beside the one before, and the link is switched when it is whole: one that fails
# leaves the old one in place, and a proxy that is running keeps the files that it was started from.
#
# `uv tool install` and pipx would do most of this, but neither checks a hash: of `uv tool install --constraints` the
# versions count alone (findings/uv-tool-ignores-hashes.sh). Here nothing is unpacked that requirements.lock does not name.
set -eu

name=cloned-proxy
data=${XDG_DATA_HOME:-$HOME/.local/share}
bin=${XDG_BIN_HOME:-$HOME/.local/bin}
home=$data/$name
link=$bin/$name
page=$data/man/man1/$name.1
bash_completion=$data/bash-completion/completions/$name
fish_completion=$data/fish/vendor_completions.d/$name.fish

fail() {
  echo "$1" >&2
  exit 1
}

# A link of somebody else's making, such as that of `uv tool` or pipx, is theirs to remove.
ours() {
  case $(readlink "$link" 2>/dev/null) in "$home"/*) true ;; *) false ;; esac
}

install_here() {
  uv=.uv/bin/uv
  wheel=$(ls dist/*.whl)
  if [ -e "$link" ] || [ -L "$link" ]; then
    ours || fail "$link is there already, and not of \`make install\`; remove it first (uv tool uninstall $name, pipx uninstall $name, or rm)"
  fi
  mkdir -p "$home" "$bin"
  before=$(readlink "$link" 2>/dev/null || true)
  new=$(mktemp -d "$home/XXXXXXXX")
  trap 'rm -rf "$new"' EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM

  echo "installing $(basename "$wheel") into $new"
  python=$(.venv/bin/python -c 'import sys; print(sys._base_executable)')
  "$uv" venv --quiet --allow-existing --python "$python" "$new"
  # Compiled now: the first start of each command would wait for it otherwise.
  export UV_COMPILE_BYTECODE="${UV_COMPILE_BYTECODE-1}"
  "$uv" pip sync --quiet --python "$new/bin/python" --require-hashes compose/requirements.lock
  "$uv" pip install --quiet --python "$new/bin/python" --no-deps "$wheel"
  version=$("$new/bin/$name" --version)

  for file in "$page" "$bash_completion" "$fish_completion"; do mkdir -p "$(dirname "$file")"; done
  "$new/bin/python" -P -m cloned_proxy.cli.start.manual >"$page"
  _CLONED_PROXY_COMPLETE=source_bash "$new/bin/$name" >"$bash_completion"
  _CLONED_PROXY_COMPLETE=source_fish "$new/bin/$name" >"$fish_completion"
  ln -s "$new/bin/$name" "$new/link"
  mv -T "$new/link" "$link"
  trap - EXIT

  # The one before stays: a proxy may still be running from it. Those that are older go.
  for old in "$home"/*; do
    case $old in "$new" | "${before%/bin/$name}") ;; *) rm -rf "$old" ;; esac
  done
  [ -z "$before" ] || echo "a proxy that is running goes on as it was started; start it again to use this one"
  echo "installed $version: $link"
  found=$(command -v "$name" || true)
  if [ -z "$found" ]; then
    echo "$bin is not on the PATH; for this shell, and in ~/.profile for the next: export PATH=\"$bin:\$PATH\""
  elif [ "$found" != "$link" ]; then
    echo "the PATH leads to $found first; put $bin before it, or remove that one"
  fi
}

uninstall() {
  if [ -e "$link" ] || [ -L "$link" ]; then
    ours || fail "$link is not of \`make install\`; whoever put it there takes it away (uv tool uninstall $name, pipx uninstall $name)"
  elif [ ! -d "$home" ]; then
    echo "$name is not installed in $bin"
    return
  fi
  rm -f "$link" "$page" "$bash_completion" "$fish_completion"
  rm -rf "$home" "${XDG_CACHE_HOME:-$HOME/.cache}/$name"
  echo "removed $link; the .cloned directories of your projects stay"
}

case ${1:-} in
  install) install_here ;;
  uninstall) uninstall ;;
  *) fail "usage: $0 install|uninstall" ;;
esac

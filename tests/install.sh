#!/bin/sh
# What the tests drive and this machine lacks: a container engine, a browser and an editor, from the distribution, as root on
# Debian or Ubuntu. Anywhere else nothing happens here, and the tests say in one line each how many they skip.
set -eu

[ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || exit 0

missing=
docker version >/dev/null 2>&1 || { command -v dockerd && command -v mmdebstrap; } >/dev/null || missing="docker.io mmdebstrap"
command -v chromium >/dev/null || command -v chromium-browser >/dev/null || missing="$missing chromium"
command -v vim.tiny >/dev/null || missing="$missing vim-tiny"
[ -n "$missing" ] || exit 0

# The engine's own service must not start: it would change the packet filter and forwarding of this host.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod +x "$policy"
  trap 'rm -f "$policy"' EXIT
fi
apt-get update -qq
for package in $missing; do
  echo "the tests need $package: installing the distribution's" >&2
  # One that the distribution does not have must not keep the others away.
  DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$package" >/dev/null ||
    echo "$package could not be installed; what needs it is skipped" >&2
done

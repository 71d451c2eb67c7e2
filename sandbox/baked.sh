#!/bin/sh
# npx and uvx in an image with packages baked in: what is baked in runs from the image, for which npx and uvx would ask
# a registry first. Everything else is their own business. Each line of the table is a way to write a package, and its
# program.
name=$(basename "$0")
skipped=0
for word in "$@"; do
  case $word in
    -y | --yes | -q | --quiet) skipped=$((skipped + 1)) ;;
    *) break ;;
  esac
done
while read -r written program <&3; do
  if [ "$word" = "$written" ]; then
    shift $((skipped + 1))
    exec "$program" "$@" 3<&-
  fi
done 3<"/opt/cloned/baked/$name"
exec 3<&-
case $name in
  npx) exec node /usr/local/lib/node_modules/npm/bin/npx-cli.js "$@" ;;
  uvx) exec uv tool uvx "$@" ;;
esac

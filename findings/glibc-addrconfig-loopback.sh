#!/bin/sh
# glibc: with AI_ADDRCONFIG and no address but 127.0.0.1, getaddrinfo(AF_INET) asks no name server and says EAI_NONAME.
#
# getaddrinfo(3) speaks of "at least one IPv4 address configured"; RFC 3493, section 6.1, leaves loopback out. One would
# expect that a resolver on 127.0.0.1 is asked all the same, as without the flag, and as musl, Go, Java and c-ares do.
# A second loopback address, 127.0.0.2/32, counts as one: only 127.0.0.1 itself is left out.
# Needs: Linux with user namespaces or root, glibc, python3, iproute2. Touches nothing outside of a namespace of its own.
set -eu
[ "${1:-}" = inside ] || {
  directory=$(mktemp -d)
  trap 'rm -rf "$directory"' EXIT
  echo "nameserver 127.0.0.1" >"$directory/resolv.conf"
  echo "hosts: dns" >"$directory/nsswitch.conf"
  unshare --map-root-user --net --mount sh "$0" inside "$directory"
  exit
}
mount --bind "$2/resolv.conf" "$(readlink -f /etc/resolv.conf)"
mount --bind "$2/nsswitch.conf" /etc/nsswitch.conf
ip link set lo up
python3 - <<'END'
import os, platform, socket, struct, subprocess, threading

asked = []
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 53))

def serve():
    while True:
        query, peer = server.recvfrom(512)
        asked.append(query)
        head = query[:2] + b"\x84\x80" + b"\0\1\0\1\0\0\0\0"
        question = query[12 : query.index(b"\0", 12) + 5]
        server.sendto(head + question + b"\xc0\x0c\0\1\0\1\0\0\0\5\0\4" + socket.inet_aton("192.0.2.1"), peer)

threading.Thread(target=serve, daemon=True).start()

def look_up(flags):
    before = len(asked)
    try:
        found = socket.getaddrinfo("host.example", 443, socket.AF_INET, socket.SOCK_STREAM, 0, flags)[0][4][0]
    except socket.gaierror as error:
        found = "EAI_NONAME" if error.errno == socket.EAI_NONAME else str(error)
    return found, len(asked) > before

plain, configured = look_up(0), look_up(socket.AI_ADDRCONFIG)
subprocess.run(["ip", "addr", "add", "127.0.0.2/32", "dev", "lo"], check=True)
healed = look_up(socket.AI_ADDRCONFIG)
print(" ".join(platform.libc_ver()))
print("no flag:", *plain, "| AI_ADDRCONFIG:", *configured, "| with 127.0.0.2/32 as well:", *healed)
assert plain == ("192.0.2.1", True), plain
assert configured == ("EAI_NONAME", False), configured
assert healed == ("192.0.2.1", True), healed
END
echo "as described"

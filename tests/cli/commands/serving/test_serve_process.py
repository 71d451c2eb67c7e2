from __future__ import annotations

import subprocess
import sys


def test_memory_is_private_for_a_process_and_what_it_forks() -> None:
    program = (
        "import ctypes, os, resource\n"
        "from cloned_proxy.store.files.private_memory import keep_memory_private\n"
        "libc = ctypes.CDLL(None)\n"
        "print(libc.prctl(3, 0, 0, 0, 0))\n"  # PR_GET_DUMPABLE
        "keep_memory_private()\n"
        "print(libc.prctl(3, 0, 0, 0, 0), resource.getrlimit(resource.RLIMIT_CORE), flush=True)\n"
        "if os.fork() == 0:\n"
        "    print(libc.prctl(3, 0, 0, 0, 0), flush=True)\n"
        "    os._exit(0)\n"
        "os.wait()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=90, check=True)
    assert done.stdout.splitlines() == ["1", "0 (0, 0)", "0"]

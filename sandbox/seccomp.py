"""Writes seccomp.json, the sandbox's system-call filter, and says why each group is in it.

    python sandbox/seccomp.py > sandbox/seccomp.json

An allow list: what is not named fails with EPERM. It is meant to run `sh`, Python, Node, git, pip and curl, and to
leave out what those never need. Compared with the engines' default profile it also closes:

- every socket family but UNIX, INET, INET6 and NETLINK: AF_VSOCK ignores network namespaces, so a network of `none`
  does not hold it; AF_ALG, AF_PACKET, Bluetooth and the rest are attack surface and nothing else;
- NETLINK but for NETLINK_ROUTE, which `getaddrinfo` asks for the list of interfaces;
- `socketcall` and all 32-bit system calls: they carry their arguments in memory, where no filter can look;
- `io_uring_*`: it opens sockets and files without a system call that a filter would see;
- new namespaces, mounts, keys, bpf, ptrace, perf, handles, module loading: the way into other people's kernel bugs.
"""

from __future__ import annotations

import json
import sys
from typing import Any, Final

ENOSYS: Final = 38
AF_UNIX: Final = 1
AF_INET: Final = 2
AF_INET6: Final = 10
AF_NETLINK: Final = 16
NETLINK_ROUTE: Final = 0
NEW_NAMESPACES: Final = 0x7E020000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET; clone3 hides its flags, see below."""

GROUPS: Final[dict[str, str]] = {
    "processes: start, wait, end, limits, identity (no capability is left that identity calls could use)": """
        arch_prctl capget capset execve execveat exit exit_group fork vfork wait4 waitid waitpid getpgid getpgrp getpid
        getppid getpriority getresgid getresgid32 getresuid getresuid32 getrlimit ugetrlimit getrusage getsid gettid
        getuid getuid32 geteuid geteuid32 getgid getgid32 getegid getegid32 getgroups getgroups32 getcpu kill tkill
        tgkill prctl prlimit64 setfsgid setfsuid setgid setgroups setpgid setpriority setregid setresgid setresuid
        setreuid setrlimit setsid setuid set_tid_address times umask uname sysinfo pidfd_open pidfd_send_signal""",
    "scheduling": """
        nanosleep clock_nanosleep pause sched_getaffinity sched_getattr sched_getparam sched_get_priority_max
        sched_get_priority_min sched_getscheduler sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam
        sched_setscheduler sched_yield ioprio_get ioprio_set""",
    "memory": """
        brk madvise membarrier mincore mlock mlock2 mlockall mmap mmap2 mprotect mremap mseal msync munlock munlockall
        munmap pkey_alloc pkey_free pkey_mprotect map_shadow_stack memfd_create""",
    "threads and locks": """
        futex futex_waitv futex_wait futex_wake futex_requeue get_robust_list set_robust_list rseq set_thread_area
        get_thread_area""",
    "signals and timers": """
        alarm getitimer setitimer restart_syscall rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo
        rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo sigaltstack sigreturn signalfd signalfd4
        timer_create timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime
        timerfd_settime clock_getres clock_gettime gettimeofday time""",
    "files and directories": """
        access chdir chmod chown close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2 fadvise64
        fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock
        fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futimesat getcwd
        getdents getdents64 getxattr inotify_add_watch inotify_init inotify_init1 inotify_rm_watch ioctl lchown
        lgetxattr link linkat listxattr llistxattr lremovexattr lseek lsetxattr lstat lstat64 mkdir mkdirat newfstatat
        open openat openat2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv
        removexattr rename renameat renameat2 rmdir sendfile sendfile64 setxattr splice stat stat64 statfs statfs64
        statx symlink symlinkat sync sync_file_range syncfs tee truncate truncate64 unlink unlinkat utime utimensat
        utimes write writev cachestat landlock_add_rule landlock_create_ruleset landlock_restrict_self seccomp""",
    "FIFOs and device nodes of kind regular, FIFO or socket (devices need a capability that is dropped)": """
        mknod mknodat""",
    "waiting for many descriptors, pipes": """
        epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2 pipe pipe2 poll ppoll
        pselect6 select _newselect""",
    "sockets that exist (which kinds may come to exist is decided below)": """
        accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg recvmsg send
        sendmmsg sendmsg sendto setsockopt shutdown""",
    "System V memory and semaphores, in the container's own IPC namespace (NumPy, PostgreSQL clients)": """
        semctl semget semop semtimedop shmat shmctl shmdt shmget""",
    "random numbers": "getrandom",
}


def _allow(names: str | list[str], comment: str, args: list[dict[str, int | str]] | None = None) -> dict[str, Any]:
    words = names.split() if isinstance(names, str) else names
    return {"names": sorted(words), "action": "SCMP_ACT_ALLOW", "args": args or [], "comment": comment}


def _equals(index: int, value: int) -> dict[str, int | str]:
    return {"index": index, "value": value, "op": "SCMP_CMP_EQ"}


def profile() -> dict[str, Any]:
    """The whole filter, in the form that engines read."""
    rules = [_allow(names, group) for group, names in GROUPS.items()]
    for family, name in ((AF_UNIX, "UNIX"), (AF_INET, "INET"), (AF_INET6, "INET6")):
        rules.append(_allow("socket", f"AF_{name} sockets", [_equals(0, family)]))
    route = [_equals(0, AF_NETLINK), _equals(2, NETLINK_ROUTE)]
    rules.append(_allow("socket", "AF_NETLINK, only NETLINK_ROUTE: the C library lists interfaces with it", route))
    rules.append(_allow("socketpair", "pairs only within the process: AF_UNIX", [_equals(0, AF_UNIX)]))
    masked: dict[str, int | str] = {"index": 0, "value": NEW_NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
    rules.append(_allow("clone", "threads and processes, but no new namespace", [masked]))
    rules.append(
        {
            "names": ["clone3"],
            "action": "SCMP_ACT_ERRNO",
            "errnoRet": ENOSYS,
            "args": [],
            "comment": "its flags lie in memory, out of a filter's sight; C libraries fall back to clone on ENOSYS",
        }
    )
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        # Only the native calls: with no sub-architecture a 32-bit call kills the process.
        "archMap": [
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": []},
            {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": []},
        ],
        "syscalls": rules,
    }


if __name__ == "__main__":
    json.dump(profile(), sys.stdout, indent=1)
    sys.stdout.write("\n")

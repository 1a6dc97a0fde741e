"""Runs a command in namespaces of its own: unshare.py mC COMMAND…, m for mounts and C for control groups."""

import ctypes
import os
import sys

FLAGS = {"m": 0x00020000, "C": 0x02000000}
MS_REC_PRIVATE = 0x4000 | 0x40000

libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: object) -> None:
    if getattr(libc, name)(*arguments) != 0:
        sys.exit(f"{name}: {os.strerror(ctypes.get_errno())}")


call("unshare", sum(FLAGS[letter] for letter in sys.argv[1]))
# What is mounted from here on stays in here.
call("mount", None, b"/", None, MS_REC_PRIVATE, None)
os.execvp(sys.argv[2], sys.argv[2:])

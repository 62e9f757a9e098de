"""Kernels that Triton compiles and launches on softgpu, without torch; numpy is the oracle.

usage: run.py --list       prints the tests
       run.py TEST…        runs them and fails with the first
"""

import sys

import device
import elementwise
import products

TESTS = {**elementwise.TESTS, **products.TESTS}

if __name__ == "__main__":
    if sys.argv[1:] == ["--list"]:
        print(*TESTS, sep="\n")
        sys.exit()
    device.start()
    for name in sys.argv[1:]:
        test, *arguments = TESTS[name]
        test(*arguments)
        print(name, "passed")

"""Runs one module of numba-cuda's own tests with numba's own runner and records the outcomes.

usage: run.py --list                           prints the test modules of cudadrv and cudapy
       run.py MODULE RECORD                    runs one of them
       run.py MODULE RECORD only TEST...       runs these tests of it
       run.py MODULE RECORD without TEST...    runs the others

RECORD gets one line per event, written at once, so that a crash or a time-out leaves what was
reached: `plan ID` for every test before the first runs, then `pass ID`, `fail ID` or `skip ID`.
The fields are divided by tabs; a third one has the reason.
"""

import pkgutil
import sys
import unittest

PACKAGES = ["numba.cuda.tests.cudadrv", "numba.cuda.tests.cudapy"]


def modules():
    for package in PACKAGES:
        path = __import__(package, fromlist=["_"]).__path__
        for info in pkgutil.iter_modules(path):
            if info.name.startswith("test_"):
                yield f"{package}.{info.name}"


class Record:
    """Writes outcomes; a test with several failed parts counts once."""

    def __init__(self, path):
        self.file = open(path, "w", buffering=1, encoding="utf-8")
        self.failed = set()

    def write(self, outcome, name, reason=""):
        reason = " ".join(str(reason).split())[:300]
        print(outcome, name, reason, sep="\t", file=self.file)

    def fail(self, test, reason):
        name = getattr(test, "test_case", test).id()
        if name not in self.failed:
            self.failed.add(name)
            self.write("fail", name, reason)

    def passed(self, test):
        if test.id() not in self.failed:
            self.write("pass", test.id())


def tests_of(suite):
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from tests_of(item)
        else:
            yield item


def last_line(error):
    return f"{error[0].__name__}: {error[1]}"


def observe(record, chosen):
    """Has the runner that numba uses run the chosen tests and tell their outcomes."""

    class Result(unittest.TextTestResult):
        def addSuccess(self, test):
            super().addSuccess(test)
            record.passed(test)

        def addExpectedFailure(self, test, error):
            super().addExpectedFailure(test, error)
            record.passed(test)

        def addError(self, test, error):
            super().addError(test, error)
            # What pytest.importorskip raises is an error to unittest.
            if error[0].__name__ == "Skipped":
                record.write("skip", test.id(), error[1])
                return
            record.fail(test, last_line(error))

        def addFailure(self, test, error):
            super().addFailure(test, error)
            record.fail(test, last_line(error))

        def addUnexpectedSuccess(self, test):
            super().addUnexpectedSuccess(test)
            record.fail(test, "passes, but its author expects it to fail")

        def addSubTest(self, test, subtest, error):
            super().addSubTest(test, subtest, error)
            if error is not None:
                record.fail(test, last_line(error))

        def addSkip(self, test, reason):
            super().addSkip(test, reason)
            record.write("skip", test.id(), reason)

    plain = unittest.TextTestRunner.run

    def run(self, suite):
        suite = unittest.TestSuite(test for test in tests_of(suite) if chosen(test.id()))
        for test in suite:
            record.write("plan", test.id())
        self.resultclass = Result
        return plain(self, suite)

    unittest.TextTestRunner.run = run


def main(module, path, which="without", *tests):
    record = Record(path)
    observe(record, lambda test: (test in tests) == (which == "only"))
    from numba.testing import run_tests

    try:
        run_tests([sys.argv[0], "-v", module], defaultTest="numba.tests")
    except SystemExit:
        pass
    except BaseException as why:
        # pytest's `Skipped`, raised while the module is imported, is no Exception.
        outcome = "skip" if type(why).__name__ == "Skipped" else "fail"
        record.write(outcome, module, why)


if __name__ == "__main__":
    if sys.argv[1:] == ["--list"]:
        print(*modules(), sep="\n")
    else:
        main(*sys.argv[1:])

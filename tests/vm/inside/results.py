"""What is found, one JSON object a line on standard output: the rows of tables, with what is wrong in each."""

import json
import time
import traceback


class Row:
    """One case: what was found in it. An exception in it is a fault of the case, and the next case goes on."""

    def __init__(self, table: str, case: str):
        self.table, self.case = table, case
        self.cells: dict[str, str] = {}
        self.faults: list[str] = []
        self._started = time.monotonic()

    def show(self, column: str, value: object) -> None:
        self.cells[column] = str(value)

    def expect(self, what: str, found: object, right: object) -> None:
        """`right` is the value that it must have, or says whether it will do."""
        if not (right(found) if callable(right) else found == right):
            self.faults.append(f"{what}: {found}" + ("" if callable(right) else f", not {right}"))

    def show_and_expect(self, column: str, found: object, right: object) -> None:
        self.show(column, found)
        self.expect(column, found, right)

    def __enter__(self) -> "Row":
        return self

    def __exit__(self, kind, error, trace) -> bool:
        if error is not None and not isinstance(error, Exception):
            return False
        if error is not None:
            where = traceback.extract_tb(trace)[-1]
            self.faults.append(f"{kind.__name__} at {where.name}, line {where.lineno}: {error}")
        row = {"table": self.table, "case": self.case, "cells": self.cells, "faults": self.faults}
        print(json.dumps(row | {"seconds": round(time.monotonic() - self._started, 1)}), flush=True)
        return True

"""Run the examples of doc/clients.md, and compare what they print with what is shown.

examples.py DOC LANGUAGE WORK: LANGUAGE is go, python or js; WORK is a directory in which that
language's packages are found. Each block of the language is a program, and the block `text` behind
it what it prints. The tables of the block `sql` are made anew for each.

The last line is "N passed, N failed".
"""

import os
import re
import subprocess
import sys
from pathlib import Path

SUFFIX = {"go": "go", "python": "py", "js": "mjs"}
COMMAND = {"go": ["go", "run"], "python": [sys.executable], "js": ["node"]}


def psql(sql: str) -> None:
    """Run a script."""
    subprocess.run(
        ["psql", "-X", "-q", "-o", "/dev/null", "-v", "ON_ERROR_STOP=1", "-d", os.environ["DATABASE_URL"]],
        input=sql,
        text=True,
        check=True,
    )


def main(doc: Path, language: str, work: Path) -> int:
    """Run all; how many failed."""
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", doc.read_text(), re.DOTALL | re.MULTILINE)
    schema = next(body for kind, body in blocks if kind == "sql")
    passed = failed = 0
    for (kind, program), (after, expected) in zip(blocks, blocks[1:], strict=False):
        if kind != language or after != "text":
            continue
        psql("SET client_min_messages = warning; DROP TABLE IF EXISTS orders, totals;" + schema)
        folder = work / f"example{passed + failed + 1}"
        folder.mkdir(parents=True, exist_ok=True)
        source = folder / f"main.{SUFFIX[language]}"
        source.write_text(program)
        result = subprocess.run(
            [*COMMAND[language], source],
            cwd=work,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if result.returncode == 0 and result.stdout == expected:
            passed += 1
        else:
            failed += 1
            print(f"{source}: {result.returncode}\n{result.stdout}{result.stderr}\nwanted:\n{expected}")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]).resolve()))

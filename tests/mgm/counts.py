"""Adds up what the runs in MGM's environments found, and prints what they measured.

counts.py RESULTS.xml..., as pytest's --junit-xml writes them.
"""

import sys
import xml.etree.ElementTree as ElementTree

counts = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
for path in sys.argv[1:]:
    for suite in ElementTree.parse(path).getroot().iter("testsuite"):
        for key in counts:
            counts[key] += int(suite.get(key))
        for figures in suite.iter("property"):
            print(f"{figures.get('name'):12} {figures.get('value')}")
passed = counts["tests"] - counts["failures"] - counts["errors"] - counts["skipped"]
print(
    f"MGM's loader in {len(sys.argv) - 1} environments: {passed} passed, {counts['failures'] + counts['errors']} failed, "
    f"{counts['skipped']} skipped"
)
sys.exit(0 if passed == counts["tests"] > 0 else 1)

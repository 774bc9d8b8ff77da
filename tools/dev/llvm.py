"""clang-format and clang-tidy, of the one version whose opinion counts."""

import re
import shutil
import subprocess

VERSION = 14  # Debian 12 and Ubuntu 22.04; another lays out and warns differently


def find(tool: str) -> tuple[str | None, str]:
    """The program, or None and why it is not used."""
    for name in (f"{tool}-{VERSION}", tool):
        if shutil.which(name):
            told = subprocess.run([name, "--version"], capture_output=True, text=True).stdout
            version = re.search(r"version (\d+)", told)
            if version and int(version.group(1)) == VERSION:
                return name, ""
            seen = version.group(1) if version else "no version"
            return None, f"{tool} {VERSION} is wanted, {name} is {seen}"
    return None, f"{tool} {VERSION} not installed"

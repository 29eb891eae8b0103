"""Writes what Debian wants to know of licences, and those of the crates that are in the program.

    cargo metadata … | licences.py LICENSE FOLDER

FOLDER/copyright names every crate with its licence; FOLDER/crates has the texts, each once.
"""

import json
import os
import re
import sys

metadata = json.load(sys.stdin)
own_licence, folder = sys.argv[1:]
packages = {package["id"]: package for package in metadata["packages"]}
nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
root = metadata["resolve"]["root"]

# Everything that ends up in the program: no dependencies for tests, for building or of macros.
inside, waiting = set(), [root]
while waiting:
    for dependency in nodes[waiting.pop()]["deps"]:
        normal = any(kind["kind"] is None for kind in dependency["dep_kinds"])
        macro = any("proc-macro" in target["kind"] for target in packages[dependency["pkg"]]["targets"])
        if normal and not macro and dependency["pkg"] not in inside:
            inside.add(dependency["pkg"])
            waiting.append(dependency["pkg"])
crates = sorted((packages[id] for id in inside), key=lambda crate: (crate["name"], crate["version"]))
assert crates

texts, rows = {}, []
for crate in crates:
    where = os.path.dirname(crate["manifest_path"])
    found = sorted(name for name in os.listdir(where) if re.match(r"(?i)(licen[cs]e|copying|notice|copyright)", name))
    title = f"{crate['name']} {crate['version']}"
    for name in found:
        path = os.path.join(where, name)
        if os.path.isfile(path):
            with open(path, encoding="utf-8", errors="replace") as file:
                text = "\n".join(line.rstrip() for line in file.read().strip().splitlines())
            texts.setdefault(text, []).append(f"{title}: {name}")
    rows.append(f"{title} ({crate['license'] or 'see crates.gz'})")

with open(own_licence, encoding="utf-8") as file:
    licence = file.read().strip().splitlines()
holder = next(line for line in licence if line.startswith("Copyright"))
body = "\n".join(licence[licence.index(holder) + 1 :]).strip().splitlines()
paragraphs = "\n".join(" " + (line.strip() or ".") for line in body)
with open(os.path.join(folder, "copyright"), "w", encoding="utf-8") as out:
    out.write("Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n")
    out.write("Comment: The program contains these crates; crates.gz has the texts of their licences.\n")
    out.writelines(f" {row}\n" for row in rows)
    out.write(f"\nFiles: *\nCopyright: {holder.removeprefix('Copyright (c) ')}\nLicense: Expat\n{paragraphs}\n")
with open(os.path.join(folder, "crates"), "w", encoding="utf-8") as out:
    for text, names in sorted(texts.items(), key=lambda item: item[1]):
        out.write("=" * 80 + "\n" + "\n".join(names) + "\n\n" + text + "\n\n")

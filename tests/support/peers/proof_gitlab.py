"""Drives the stand-in with python-gitlab (PyPI), which was not written by us and knows the real GitLab.

usage: proof_gitlab.py URL TOKEN CA_FILE|- PART
"""

import io
import sys
import tarfile
import time

import gitlab

URL, TOKEN, CA_FILE, PART = sys.argv[1:5]


def client(token=TOKEN, **arguments):
    verify = CA_FILE if CA_FILE != "-" else True
    return gitlab.Gitlab(URL, private_token=token, ssl_verify=verify, retry_transient_errors=False, **arguments)


def listing():
    """5 groups in 3 levels, 45 projects in `top`, 3 shared into it, 2 of them archived; see tests/gitlab_api.rs."""
    gl = client(per_page=20)
    gl.auth()
    assert gl.user.username == "backup"
    assert gl.version()[0] == "18.6.2-ee", gl.version()
    assert gl.personal_access_tokens.get("self").scopes == ["api"]
    groups = gl.groups.list(get_all=True)
    assert [g.full_path for g in groups] == ["top/a", "top/b", "top/a/deep", "other", "top"], "by name"
    top = gl.groups.get("top")
    assert gl.groups.get(top.id).full_path == "top"
    assert [g.full_path for g in top.subgroups.list(get_all=True)] == ["top/a", "top/b"]
    assert len(top.descendant_groups.list(get_all=True)) == 3
    assert gl.groups.get("top/a/deep").parent_id == gl.groups.get("top/a").id

    first = top.projects.list(include_subgroups=True, iterator=True, order_by="id", sort="asc")
    assert (first.total, first.total_pages, first.per_page, first.current_page) == (48, 3, 20, 1)
    found = list(first)
    assert len(found) == 48 and len({p.id for p in found}) == 48
    assert [p.id for p in found] == sorted(p.id for p in found)
    assert len(top.projects.list(include_subgroups=True, with_shared=False, get_all=True)) == 45
    assert len(top.projects.list(get_all=True)) == 10 + 3
    assert len(top.projects.list(include_subgroups=True, archived=True, get_all=True)) == 2
    assert len(top.projects.list(include_subgroups=True, search="p1", with_shared=False, get_all=True)) == 9
    assert len(top.projects.list(include_subgroups=True, page=3, per_page=20)) == 8

    keyset = gl.projects.list(membership=True, pagination="keyset", order_by="id", sort="asc", get_all=True)
    assert [p.id for p in keyset] == sorted(p.id for p in keyset) and len(keyset) == 48, len(keyset)
    down = gl.projects.list(membership=True, pagination="keyset", order_by="id", sort="desc", per_page=7, get_all=True)
    assert [p.id for p in down] == [p.id for p in reversed(keyset)]
    app = gl.projects.get("top/a/deep/p1")
    assert app.namespace["full_path"] == "top/a/deep" and app.id == gl.projects.get(app.id).id


def export():
    gl = client()
    project = gl.projects.get("top/a/deep/p1")
    task = project.exports.create()
    seen = []
    while not seen or task.export_status != "finished":
        task.refresh()
        seen.append(task.export_status)
        assert len(seen) < 20, seen
    assert seen == ["queued", "started", "finished"], seen
    body = b"".join(task.download(iterator=True, chunk_size=1000))
    names = tarfile.open(fileobj=io.BytesIO(body), mode="r:gz").getnames()
    assert "./tree/project.json" in names and "./project.bundle" in names, names
    print(len(body), file=sys.stderr)


PARTS = {"listing": listing, "export": export}
PARTS[PART]()
print("ok", PART)

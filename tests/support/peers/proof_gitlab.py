"""Drives the stand-in with python-gitlab (PyPI), which was not written by us and knows the real GitLab.

usage: proof_gitlab.py URL TOKEN CA_FILE|- PART [more]

`upload` wants to know an S3 server besides: its address, a key's id, its secret and a bucket. `errors` is told the
tokens of a guest, one without the scope `api`, an expired and a revoked one.
"""

import datetime
import hashlib
import hmac
import io
import sys
import tarfile
import time
import urllib.parse

import gitlab
import requests
from gitlab.exceptions import (
    GitlabAuthenticationError,
    GitlabCreateError,
    GitlabGetError,
    GitlabImportError,
    GitlabListError,
)

URL, TOKEN, CA_FILE, PART = sys.argv[1:5]
MORE = sys.argv[5:]


def client(token=TOKEN, **arguments):
    return gitlab.Gitlab(URL, private_token=token, ssl_verify=verify(), retry_transient_errors=False, **arguments)


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
    wanted = {"./VERSION", "./GITLAB_VERSION", "./tree/project.json", "./tree/project/issues.ndjson", "./project.bundle"}
    assert wanted <= set(names), names

    # A part of it, as GitLab's front end serves parts.
    headers = {"PRIVATE-TOKEN": TOKEN, "Range": "bytes=100-"}
    part = requests.get(f"{URL}/api/v4/projects/{project.id}/export/download", headers=headers, verify=verify())
    assert part.status_code == 206 and part.content == body[100:]
    assert part.headers["Content-Range"] == f"bytes 100-{len(body) - 1}/{len(body)}"
    headers["If-Range"] = part.headers["Last-Modified"]
    again = requests.get(part.url, headers=headers, verify=verify())
    assert again.status_code == 206
    headers["If-Range"] = "Thu, 01 Jan 2015 00:00:00 GMT"
    whole = requests.get(part.url, headers=headers, verify=verify())
    assert whole.status_code == 200 and whole.content == body


def presigned(base, key_id, secret, bucket, key, method="PUT", seconds=600):
    """An address that is signed as S3 wants it (Signature Version 4), with nothing but the host in it."""
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    scope = f"{now[:8]}/us-east-1/s3/aws4_request"
    host = urllib.parse.urlsplit(base).netloc
    path = "/" + urllib.parse.quote(f"{bucket}/{key}")
    query = {
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": f"{key_id}/{scope}",
        "X-Amz-Date": now,
        "X-Amz-Expires": str(seconds),
        "X-Amz-SignedHeaders": "host",
    }
    query = urllib.parse.urlencode(sorted(query.items()), quote_via=urllib.parse.quote, safe="")
    request = f"{method}\n{path}\n{query}\nhost:{host}\n\nhost\nUNSIGNED-PAYLOAD"
    text = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    signing = f"AWS4{secret}".encode()
    for part in (*scope.split("/"), text):
        signing = hmac.new(signing, part.encode(), hashlib.sha256).digest()
    return f"{base}{path}?{query}&X-Amz-Signature={signing.hex()}"


def verify():
    return CA_FILE if CA_FILE != "-" else True


def poll(project):
    """The last status, once it stays."""
    for _ in range(500):
        status = project.exports.get().export_status
        if status not in ("queued", "started"):
            return status
        time.sleep(0.01)
    raise AssertionError(f"still {status}")


def upload():
    gl = client()
    project = gl.projects.get("top/a/deep/p1")
    base, key_id, secret, bucket = MORE[:4]
    url = presigned(base, key_id, secret, bucket, "top/a/deep/p1/1.tar.gz")
    project.exports.create({"upload": {"url": url, "http_method": "PUT"}})
    assert poll(project) == "finished"
    store = MORE[4] if len(MORE) > 4 else True
    got = presigned(base, key_id, secret, bucket, "top/a/deep/p1/1.tar.gz", method="GET")
    stored = requests.get(got, verify=store)
    assert stored.status_code == 200, stored.text
    assert stored.content == project.exports.get().download()
    assert "./tree/project.json" in tarfile.open(fileobj=io.BytesIO(stored.content), mode="r:gz").getnames()

    # A signature that is wrong: the status does not tell, and nothing is there.
    wrong = presigned(base, key_id, "another secret", bucket, "top/a/deep/p1/2.tar.gz")
    project.exports.create({"upload": {"url": wrong}})
    assert poll(project) == "finished"
    got = presigned(base, key_id, secret, bucket, "top/a/deep/p1/2.tar.gz", method="GET")
    assert requests.get(got, verify=store).status_code == 404

    error = refused(GitlabCreateError, project.exports.create, {"upload": {"url": "ftp://example.org/x"}})
    assert error.response_code == 400 and "url" in error.error_message, error
    error = refused(GitlabCreateError, project.exports.create, {"upload": {"url": url, "http_method": "DELETE"}})
    assert error.response_code == 400, error


def imports():
    gl = client()
    project = gl.projects.get("top/a/deep/p1")
    task = project.exports.create()
    assert poll(project) == "finished"
    body = task.download()
    told = gl.projects.import_project(io.BytesIO(body), path="back", namespace="top/b", name="Back")
    assert told["path_with_namespace"] == "top/b/back" and told["import_status"] == "scheduled", told
    status = gl.projects.get(told["id"], lazy=True).imports.get()
    seen = [status.import_status]
    while seen[-1] not in ("finished", "failed"):
        status.refresh()
        seen.append(status.import_status)
        assert len(seen) < 10, seen
    assert seen == ["scheduled", "started", "finished"] and status.import_error is None, seen
    assert gl.projects.get("top/b/back").import_status == "finished"

    error = refused(GitlabImportError, gl.projects.import_project, io.BytesIO(body), path="back", namespace="top/b")
    assert error.response_code == 400 and "already been taken" in str(error), error
    error = refused(GitlabImportError, gl.projects.import_project, io.BytesIO(body), path="x", namespace="nothing")
    assert error.response_code == 404, error
    for name, broken in (("cut", body[:-100]), ("text", b"no archive")):
        told = gl.projects.import_project(io.BytesIO(broken), path=name, namespace="top/b")
        imported = gl.projects.get(told["id"], lazy=True).imports
        while imported.get().import_status in ("scheduled", "started"):
            pass
        assert imported.get().import_status == "failed" and imported.get().import_error


def refused(kind, call, *arguments, **named):
    """The error a call ends with, which has to be of this kind."""
    try:
        call(*arguments, **named)
    except kind as error:
        return error
    raise AssertionError(f"{call} was not refused")


def errors():
    guest, reader, expired, revoked = MORE
    error = refused(GitlabAuthenticationError, client("glpat-unknown").auth)
    assert error.response_code == 401, error
    for token, word in ((expired, "expired"), (revoked, "revoked")):
        error = refused(GitlabAuthenticationError, client(token).auth)
        assert word in str(error.response_body), error.response_body
    project = client(reader).projects.get("top/a/deep/p1")
    error = refused(GitlabCreateError, project.exports.create)
    assert error.response_code == 403 and "insufficient_scope" in str(error.response_body), error
    project = client(guest).projects.get("top/a/deep/p1")
    error = refused(GitlabCreateError, project.exports.create)
    assert error.response_code == 403 and error.error_message == "403 Forbidden", error
    error = refused(GitlabGetError, client(guest).projects.get, "apart/app")
    assert error.response_code == 404 and error.error_message == "404 Project Not Found", error
    error = refused(GitlabGetError, client().groups.get, "nothing")
    assert error.response_code == 404 and error.error_message == "404 Group Not Found", error
    error = refused(GitlabGetError, client().projects.get("top/p1").exports.get().download)
    assert error.response_code == 404 and "expired" in error.error_message, error
    assert client().namespaces.get("backup").kind == "user"
    error = refused(GitlabGetError, client().groups.get, "backup")
    assert error.response_code == 404, "a user's namespace is no group"
    error = refused(GitlabListError, client().groups.list, pagination="keyset", get_all=True)
    assert error.response_code == 405, error
    error = refused(GitlabListError, client().projects.list, page=501, per_page=100)
    assert error.response_code == 405 and "50000" in error.error_message, error

    # 6 exports of a minute: the seventh is refused, and nothing says how long.
    gl = client()
    for number in range(6):
        gl.projects.get(f"top/p{number}").exports.create()
    seventh = gl.projects.get("top/p6")
    reply = requests.post(f"{URL}/api/v4/projects/{seventh.id}/export", headers={"PRIVATE-TOKEN": TOKEN}, verify=verify())
    assert reply.status_code == 429 and "Retry-After" not in reply.headers, reply.headers
    assert reply.json()["message"]["error"].startswith("This endpoint has been requested too many times")


PARTS = {"listing": listing, "export": export, "upload": upload, "imports": imports, "errors": errors}
PARTS[PART]()
print("ok", PART)
